"""Fetching a model from the hub without ever hanging on it."""

import os
import threading
import time
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

SLOW = 20_000  # bytes a second below which a hub counts as unusable
HUB_PATIENCE = 8.0  # seconds a silent or trickling hub may cost


class Abandoned(Exception):
    """Raised inside an abandoned download, at its next byte."""


class Watch:
    """Counts the bytes of a download; `too_slow` says when to give it up."""

    def __init__(self):
        self._lock = threading.Lock()
        self.started = time.monotonic()
        self.window_start, self.window_bytes = self.started, 0
        self.answered = self.abandoned = self.slow = False

    def beat(self, size: int = 0, answered: bool = False) -> None:
        with self._lock:
            if self.abandoned:
                raise Abandoned
            self.answered |= answered
            self.window_bytes += size

    def too_slow(self, patience: float) -> bool:
        """True once `patience` seconds brought no answer, or fewer than `SLOW` bytes a second."""
        with self._lock:
            elapsed = time.monotonic() - self.window_start
            if elapsed < patience:
                return False
            self.slow = self.window_bytes < SLOW * elapsed
            self.window_start, self.window_bytes = time.monotonic(), 0
            return self.slow

    def abandon(self) -> None:
        with self._lock:
            self.abandoned = True

    def verdict(self, patience: float) -> str:
        if not self.answered:
            return f"hub not reachable within {patience:.0f} s"
        return f"hub too slow (under {SLOW // 1000} kB/s for {patience:.0f} s)"


def watched_bars() -> tuple[Watch, type]:
    """A watch, and a tqdm class whose bars feed it."""
    watch = Watch()

    class Bar(tqdm):
        def update(self, n=1):
            watch.beat(int(n or 0))
            return super().update(n)

    return watch, Bar


def _snapshot_options(hub_id: str, revision: str | None) -> dict:
    return {
        "repo_id": hub_id,
        "revision": revision,
        "allow_patterns": ["*.json", "*.safetensors", "*.txt", "*.model"],
        "ignore_patterns": ["*/*"],
    }


def complete(folder: Path) -> bool:
    """Whether a snapshot has its configuration and every shard of its weights."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(pd.read_json(index)["weight_map"].dropna())
        return all((folder / shard).is_file() for shard in shards)
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def cached(hub_id: str, revision: str | None) -> Path | None:
    """The complete snapshot in the local cache, or None. Touches no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(**_snapshot_options(hub_id, revision), local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if complete(folder) else None


def download(hub_id: str, revision: str | None) -> tuple[Path | None, str]:
    """Fetch a snapshot from the hub with a progress bar; returns (folder or None, one line on why not).

    The work is done in a thread that is given up when the hub stays silent, or trickles, for
    `HUB_PATIENCE` seconds: a library's own time-outs restart with every byte that arrives.
    """
    from huggingface_hub import HfApi, snapshot_download

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return None, "HF_HUB_OFFLINE is set"
    watch, bar = watched_bars()
    outcome: list = []

    def work() -> None:
        try:
            HfApi().model_info(hub_id, revision=revision, timeout=HUB_PATIENCE)
            watch.beat(answered=True)
            outcome.append(snapshot_download(**_snapshot_options(hub_id, revision), tqdm_class=bar))
        except Abandoned:
            pass
        except Exception as error:  # every failure of a download ends as one line for the user
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive() and not watch.too_slow(HUB_PATIENCE):
        thread.join(0.1)
    if not outcome:
        watch.abandon()
        return None, watch.verdict(HUB_PATIENCE)
    if isinstance(outcome[0], Exception):
        return None, _one_line(outcome[0])
    folder = Path(outcome[0])
    return (folder, "") if complete(folder) else (None, "the repository holds no safetensors weights")


def _one_line(error: Exception) -> str:
    name = type(error).__name__
    if name in ("RepositoryNotFoundError", "GatedRepoError"):
        return "the hub has no such public repository"
    if name == "RevisionNotFoundError":
        return "the hub no longer has this revision"
    if name in (
        "ConnectError",
        "ConnectTimeout",
        "ReadTimeout",
        "ConnectionError",
        "OfflineModeIsEnabled",
        "ProxyError",
    ):
        return "hub not reachable"
    return f"the download failed ({name})"
