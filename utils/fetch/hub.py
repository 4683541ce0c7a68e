"""Fetching a model or a data set from the hub without ever hanging on it.

A download runs in a process of its own, which can be stopped at any moment. This side watches the bytes arrive on disk
and gives up on a hub that is silent or trickles. Files that arrived whole stay in the cache, half a file does not.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, constants, errors, snapshot_download, utils
from tqdm.auto import tqdm

from .. import ROOT

PATIENCE = 6.0  # seconds that a silent or trickling hub may cost
SLOW = 50_000  # bytes a second, over PATIENCE, below which a hub counts as unusable
FILES = {  # what is fetched of a repository
    "model": {"allow_patterns": ["*.json", "*.safetensors", "*.txt", "*.model"], "ignore_patterns": ["*/*"]},
    "dataset": {"allow_patterns": ["*.parquet"]},
}


def cached(hub_id: str, revision: str | None, kind: str = "model") -> Path | None:
    """The complete snapshot in the local cache, or None. Touches no network. `kind`, "model" or "dataset"."""
    try:
        found = snapshot_download(hub_id, repo_type=kind, revision=revision, local_files_only=True, **FILES[kind])
    except errors.LocalEntryNotFoundError:
        return None
    return Path(found) if complete(Path(found), kind) else None


def complete(folder: Path, kind: str) -> bool:
    """Whether a snapshot has a table, or its configuration, a tokenizer and every shard of its weights."""
    if kind == "dataset":
        return any(folder.rglob("*.parquet"))
    index = folder / "model.safetensors.index.json"
    weights = json.loads(index.read_text("utf-8"))["weight_map"].values() if index.is_file() else ["model.safetensors"]
    tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model"))
    return tokenizer and all((folder / name).is_file() for name in ["config.json", *weights])


def download(hub_id: str, revision: str | None, kind: str = "model") -> tuple[Path | None, str]:
    """Fetch a snapshot from the hub with a progress bar; returns (folder or None, one line on why not).

    Costs under ten seconds when the hub is not reachable, silent, or slower than `SLOW`. An interrupt stops it.
    """
    if constants.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE is set"
    storage = Path(constants.HF_HUB_CACHE) / f"{kind}s--{hub_id.replace('/', '--')}"
    others = _half_files(storage)
    command = [sys.executable, "-u", "-m", __name__, hub_id, revision or "main", kind]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    env = os.environ | {"HF_HUB_DISABLE_XET": "1", "PYTHONIOENCODING": "utf-8"}  # plain HTTP can be watched
    fetching = subprocess.Popen(command, cwd=ROOT, env=env, encoding="utf-8", **streams)
    try:
        return _watch(fetching, hub_id, storage)
    finally:
        fetching.kill()
        fetching.communicate()
        for file in _half_files(storage) - others:  # a killed process cannot tidy up
            file.unlink(missing_ok=True)


def _watch(fetching: subprocess.Popen, hub_id: str, storage: Path) -> tuple[Path | None, str]:
    """Follow a download until it ends, or until the next `SLOW * PATIENCE` bytes take over `PATIENCE` seconds."""
    heard, bar, mark = {}, None, None

    def listen() -> None:
        for line in fetching.stdout:
            key, _, value = line.rstrip("\n").partition(" ")
            heard[key] = value

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    while listener.is_alive():
        listener.join(0.1)
        if "asking" not in heard:
            continue
        now, arrived = time.monotonic(), _bytes_in(storage)
        if mark is None or arrived - mark >= SLOW * PATIENCE:
            mark, since = arrived, now
        if "size" in heard:
            bar = bar or tqdm(total=int(heard["size"]), desc=hub_id, unit="B", unit_scale=True)
            bar.update(min(arrived, bar.total) - bar.n)
        if now - since >= PATIENCE and listener.is_alive():
            slow = f"hub too slow (under {SLOW // 1000} kB/s for {PATIENCE:.0f} s)"
            heard["error"] = slow if "size" in heard else f"hub not reachable within {PATIENCE:.0f} s"
            break
    if bar:
        bar.close()
    return (Path(heard["folder"]), "") if "folder" in heard else (None, heard.get("error", "the download broke off"))


def _files_in(storage: Path) -> Iterator[Path]:
    """Every file below a folder. Unlike `rglob`, `os.walk` does not mind folders that go while it looks."""
    return (Path(folder, name) for folder, _, names in os.walk(storage) for name in names)


def _bytes_in(storage: Path) -> int:
    total = 0
    for file in _files_in(storage):
        with suppress(FileNotFoundError):  # it was renamed while we looked
            total += 0 if file.is_symlink() else file.lstat().st_size
    return total


def _half_files(storage: Path) -> set[Path]:
    return {file for file in _files_in(storage) if file.suffix == ".incomplete"}


def fetch(hub_id: str, revision: str, kind: str) -> None:
    """In the other process: download, and print what happens, a line each: asking, size N, folder PATH, error TEXT."""
    constants.DOWNLOAD_CHUNK_SIZE = 1 << 16  # the library's 10 MB would look like silence on a slow line
    print("asking")
    try:
        files = HfApi().repo_info(hub_id, repo_type=kind, revision=revision, files_metadata=True).siblings
        files = list(utils.filter_repo_objects(files, **FILES[kind], key=lambda file: file.rfilename))
        if kind == "model" and not any(file.rfilename.endswith(".safetensors") for file in files):
            return print("error the repository holds no safetensors weights")
        print("size", sum(file.size or 0 for file in files))
        folder = snapshot_download(hub_id, repo_type=kind, revision=revision, **FILES[kind])
        lacks = "error the repository lacks a configuration, a tokenizer or some of its weights"
        print(f"folder {folder}" if complete(Path(folder), kind) else lacks)
    except Exception as error:  # every failure of a download ends as one line for the user
        answers = [getattr(e, "response", None) for e in (error, error.__cause__)]  # of a file, it hides in the cause
        status = next((answer.status_code for answer in answers if answer is not None), None)
        if (name := type(error).__name__) == "RevisionNotFoundError":
            why = "the hub no longer has this revision"
        elif status:  # the hub does not tell missing, private and gated apart
            hidden = status in (401, 403, 404)
            why = "the hub has no such public repository" if hidden else f"the hub answered with HTTP status {status}"
        elif name in ("ConnectError", "ConnectTimeout", "ReadTimeout", "ConnectionError", "ProxyError"):
            why = "hub not reachable"
        else:
            why = f"the download failed ({name}: {(str(error).splitlines() or [''])[0]})"
        print("error", why)


if __name__ == "__main__":
    fetch(*sys.argv[1:])
