"""Files that are whole or not there: a killed run or a full disk takes nothing away that was finished before."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, beside `path`, which takes the place of `path` when it was written without an error.

    OSError if it could not be written; what was at `path` before is then still there.
    """
    beside = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            yield file
        beside.replace(path)
    except Exception as error:  # torch, safetensors and pyarrow say "disk full" in three ways
        beside.unlink(missing_ok=True)
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise OSError(
            f"{path} could not be written ({why}); make room there and start again, what was finished is kept"
        ) from error
