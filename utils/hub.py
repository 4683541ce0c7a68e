"""Fetching a model or a data set from the hub without ever hanging on it.

A download runs in a process of its own, because a process can be stopped at any moment, whatever it is
waiting for. This side watches the bytes arrive on disk, draws the progress bar, and gives up on a hub that
is silent or trickles. Files that arrived whole stay in the cache; half a file is thrown away.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

from tqdm.auto import tqdm

from . import ROOT

PATIENCE = 6.0  # seconds that a silent or trickling hub may cost
SLOW = 50_000  # bytes a second, over PATIENCE, below which a hub counts as unusable
FILES = {  # what is fetched of a repository
    "model": {"allow_patterns": ["*.json", "*.safetensors", "*.txt", "*.model"], "ignore_patterns": ["*/*"]},
    "dataset": {"allow_patterns": ["*.parquet"]},
}


def cached(hub_id: str, revision: str | None, kind: str = "model") -> Path | None:
    """The complete snapshot in the local cache, or None. Touches no network. `kind`, "model" or "dataset"."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        options = {"repo_type": kind, "revision": revision, **FILES[kind]}
        folder = Path(snapshot_download(hub_id, **options, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if complete(folder, kind) else None


def complete(folder: Path, kind: str = "model") -> bool:
    """Whether a snapshot has a table, or its configuration, a tokenizer and every shard of its weights."""
    if kind == "dataset":
        return any(folder.rglob("*.parquet"))
    index = folder / "model.safetensors.index.json"
    weights = {"model.safetensors"}
    if index.is_file():
        weights = set(json.loads(index.read_text())["weight_map"].values())
    tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model"))
    return tokenizer and all((folder / name).is_file() for name in {"config.json", *weights})


def download(hub_id: str, revision: str | None, kind: str = "model") -> tuple[Path | None, str]:
    """Fetch a snapshot from the hub with a progress bar; returns (folder or None, one line on why not).

    Costs under ten seconds when the hub is not reachable, silent, or slower than `SLOW`. An interrupt
    stops the download.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE is set"
    storage = Path(constants.HF_HUB_CACHE) / f"{kind}s--{hub_id.replace('/', '--')}"
    others = set(storage.rglob("*.incomplete"))
    fetching = subprocess.Popen(
        [sys.executable, "-m", __name__, hub_id, revision or "main", kind],
        cwd=ROOT, env=os.environ | {"HF_HUB_DISABLE_XET": "1"}, text=True,  # plain HTTP can be watched
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        return _watch(fetching, hub_id, storage)
    finally:
        fetching.kill()
        fetching.communicate()
        for file in set(storage.rglob("*.incomplete")) - others:  # a killed process cannot tidy up
            file.unlink(missing_ok=True)


def _watch(fetching: subprocess.Popen, hub_id: str, storage: Path) -> tuple[Path | None, str]:
    """Follow a download until it ends, or until too few bytes have arrived in the last `PATIENCE` seconds."""
    heard: dict[str, str] = {}
    listener = threading.Thread(target=_listen, args=(fetching.stdout, heard), daemon=True)
    listener.start()
    recent: deque[tuple[float, int]] = deque()  # (time, bytes on disk)
    bar = None
    while listener.is_alive():
        listener.join(0.1)
        if "asking" not in heard:
            continue
        recent.append((time.monotonic(), _bytes_in(storage)))
        if "size" in heard:
            bar = bar or tqdm(total=int(heard["size"]), desc=hub_id, unit="B", unit_scale=True)
            bar.update(min(recent[-1][1], bar.total) - bar.n)
        if recent[-1][0] - recent[0][0] >= PATIENCE:
            if recent[-1][1] - recent.popleft()[1] < SLOW * PATIENCE and listener.is_alive():
                heard["error"] = _verdict("size" in heard)
                break
    if bar:
        bar.close()
    if "folder" in heard:
        return Path(heard["folder"]), ""
    return None, heard.get("error", "the download stopped without a word")


def _listen(lines, heard: dict[str, str]) -> None:
    for line in lines:
        key, _, value = line.rstrip("\n").partition(" ")
        heard[key] = value


def _bytes_in(storage: Path) -> int:
    total = 0
    for file in storage.rglob("*"):
        try:
            total += file.lstat().st_size if file.is_file() and not file.is_symlink() else 0
        except FileNotFoundError:  # it was renamed while we looked
            pass
    return total


def _verdict(answered: bool) -> str:
    if not answered:
        return f"hub not reachable within {PATIENCE:.0f} s"
    return f"hub too slow (under {SLOW // 1000} kB/s for {PATIENCE:.0f} s)"


# ------------------------------------------------------------------------------- in the other process


def fetch(hub_id: str, revision: str, kind: str = "model") -> None:
    """Download a snapshot, and print what happens, one line each: asking, size N, folder PATH or error TEXT."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    constants.DOWNLOAD_CHUNK_SIZE = 1 << 16  # the library's 10 MB would look like silence on a slow line
    print("asking", flush=True)
    try:
        files = HfApi().repo_info(hub_id, repo_type=kind, revision=revision, files_metadata=True).siblings
        files = list(filter_repo_objects(files, **FILES[kind], key=lambda file: file.rfilename))
        if kind == "model" and not any(file.rfilename.endswith(".safetensors") for file in files):
            print("error the repository holds no safetensors weights", flush=True)
            return
        print("size", sum(file.size or 0 for file in files), flush=True)
        folder = Path(snapshot_download(hub_id, repo_type=kind, revision=revision, **FILES[kind]))
        if complete(folder, kind):
            print("folder", folder, flush=True)
        else:
            print("error the repository lacks a configuration, a tokenizer or some of its weights", flush=True)
    except Exception as error:  # every failure of a download ends as one line for the user
        print("error", _one_line(error), flush=True)


def _one_line(error: Exception) -> str:
    name = type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if name == "RevisionNotFoundError":
        return "the hub no longer has this revision"
    if status in (401, 403, 404):  # the hub does not tell missing, private and gated apart
        return "the hub has no such public repository"
    if status:
        return f"the hub answered with HTTP status {status}"
    if name in ("ConnectError", "ConnectTimeout", "ReadTimeout", "ConnectionError", "ProxyError"):
        return "hub not reachable"
    return f"the download failed ({name}: {(str(error).splitlines() or [''])[0]})"


if __name__ == "__main__":
    fetch(*sys.argv[1:])
