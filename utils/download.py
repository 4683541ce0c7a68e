"""Watching a download: progress bars that also tell when the hub has gone silent or only trickles."""

import threading
import time

from tqdm.auto import tqdm

SLOW = 20_000  # bytes a second below which a hub counts as unusable


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
