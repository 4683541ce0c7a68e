"""The table of `make mutate`: how many small errors in the rooms the tests notice.

A mutant is a copy of a room with one error in it, made by mutmut (its settings are in pyproject.toml). A mutant that
no test notices has either found a claim without a test, or does what the original does. The latter are in
`tests/equivalent.csv`, one a row with the reason; whatever changes `strict=` of a `zip` is equivalent too, because all
these pair lists of one length. The text of error messages is not mutated.
"""

import json
import re
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
STRICT = re.compile(r",?\s*strict=\w+|,\s*(?=\))")
KILLED = (1, 3, 36, 24, -24, 152, 255, 37)  # a test failed, or ran far longer than it does


def changed_lines(diff: str) -> tuple[str, str]:
    """What a unified diff takes away and what it puts there, without indentation."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++", "@@"))]
    return tuple(" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")


def mutants(root: Path) -> pd.DataFrame:
    """Every mutant that was tried under `root`: room, function, before, after, killed (the lines of survivors only)."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    rows = []
    for meta in sorted(root.glob("mutants/utils/*.py.meta")):
        path = Path("utils") / meta.name.removesuffix(".meta")
        for name, code in json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"].items():
            if code is None:
                sys.exit(f"{name} was not tried; run `make mutate` again, it goes on where it stopped")
            function = re.sub(r"^x_|^xǁ|__mutmut_\d+$", "", name.split(".")[-1]).replace("ǁ", ".")
            killed = code in KILLED
            before, after = ("", "") if killed else changed_lines(get_diff_for_mutant(name, path=str(path)))
            rows.append((path.stem, function, before, after, killed))
    return pd.DataFrame(rows, columns=["room", "function", "before", "after", "killed"])


def excuse(found: pd.DataFrame, listed: pd.DataFrame) -> pd.Series:
    """Whether each mutant is known to be equivalent."""
    known = set(listed[["room", "function", "before", "after"]].itertuples(index=False, name=None))
    exact = [row in known for row in found[["room", "function", "before", "after"]].itertuples(index=False, name=None)]
    strict = [STRICT.sub("", a) == STRICT.sub("", b) for a, b in zip(found.before, found.after, strict=True)]
    return (pd.Series(exact) | pd.Series(strict)) & ~found.killed


def table(found: pd.DataFrame, equivalent: pd.Series) -> pd.DataFrame:
    """One row a room: mutants, killed, equivalent, alive, and the share killed of those that are not equivalent."""
    parts = found.assign(equivalent=equivalent, mutants=1, alive=~found.killed & ~equivalent).groupby("room")
    rooms = parts[["mutants", "killed", "equivalent", "alive"]].sum()
    return rooms.assign(share=(rooms.killed / (rooms.mutants - rooms.equivalent)).map("{:.1%}".format))


def main() -> None:
    found = mutants(HERE.parent)
    equivalent = excuse(found, pd.read_csv(HERE / "equivalent.csv", keep_default_na=False))
    for row in found[~found.killed & ~equivalent].itertuples():
        print(f"{row.room}.{row.function}\n  - {row.before}\n  + {row.after}")
    rooms = table(found, equivalent)
    print(rooms.to_string())
    sys.exit(int((rooms.killed < 0.9 * (rooms.mutants - rooms.equivalent)).any()))


if __name__ == "__main__":
    main()
