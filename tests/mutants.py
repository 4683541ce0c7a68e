"""The table of `make mutate`: how many small errors in the rooms the tests notice.

A mutant is a copy of a room with one error in it, made by mutmut (its settings are in pyproject.toml; the text of error
messages is left as it is). mutmut tries a mutant with the tests that it saw calling the function, which leaves out what
a fixture did once for many tests; so whatever survives is tried again here, with every test that imports the room.

A mutant that no test notices has either found a claim without a test, or does what the original does. The latter are
in `tests/equivalent.csv`, one a row, with the reason; whatever changes only the `strict=` of a `zip` is equivalent too,
because all these pair lists of one length.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
STRICT = re.compile(r",?\s*strict=\w+|,\s*(?=\))")
KILLED = (1, 3, 37)  # a test failed; one that was stopped is tried again


def changed_lines(diff: str) -> tuple[str, str]:
    """What a unified diff takes away and what it puts there, without indentation."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++", "@@"))]
    return tuple(" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")


def mutants() -> pd.DataFrame:
    """Every mutant: room, function, before, after (of survivors, the lines), name, killed."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    rows = []
    for room in (Path(path) for path in SETTINGS["only_mutate"]):
        tried = json.loads((ROOT / "mutants" / f"{room}.meta").read_text(encoding="utf-8"))["exit_code_by_key"]
        for name, code in tried.items():
            if code is None:
                sys.exit(f"{name} was not tried; run `make mutate` again, it goes on where it stopped")
            function = re.sub(r"^x_|^xǁ|__mutmut_\d+$", "", name.split(".")[-1]).replace("ǁ", ".")
            lines = ("", "") if code in KILLED else changed_lines(get_diff_for_mutant(name, path=str(room)))
            rows.append((room.stem, function, *lines, name, code in KILLED))
    return pd.DataFrame(rows, columns=["room", "function", "before", "after", "name", "killed"])


def excused(found: pd.DataFrame, listed: pd.DataFrame) -> pd.Series:
    """Whether each survivor is known to be equivalent."""
    columns = ["room", "function", "before", "after"]
    known = set(listed[columns].itertuples(index=False, name=None))
    exact = [row in known for row in found[columns].itertuples(index=False, name=None)]
    strict = [STRICT.sub("", a) == STRICT.sub("", b) for a, b in zip(found.before, found.after, strict=True)]
    return (pd.Series(exact) | pd.Series(strict)) & ~found.killed


def dies_after_all(room: str, name: str) -> bool:
    """Try one mutant with every test that imports its room. One that never ends is noticed, too."""
    imports = re.compile(rf"^from utils\.{room} import|^from utils import .*\b{room}\b", re.MULTILINE)
    files = {test.split("::")[0] for test in SETTINGS["pytest_add_cli_args_test_selection"]}
    tests = sorted(file for file in files if imports.search((ROOT / file).read_text(encoding="utf-8")))
    mutated = os.environ | {"MUTANT_UNDER_TEST": name, "PYTHONPATH": "."}
    run = [sys.executable, "-m", "pytest", "-q", "-x", *tests]
    try:
        done = subprocess.run(run, cwd=ROOT / "mutants", env=mutated, capture_output=True, timeout=300)
        return done.returncode in KILLED or done.returncode < 0  # it crashes
    except subprocess.TimeoutExpired:  # it runs for ever
        return True


def table(found: pd.DataFrame, equivalent: pd.Series) -> pd.DataFrame:
    """One row a room: mutants, killed, equivalent, alive, and the share killed of those that are not equivalent."""
    parts = found.assign(equivalent=equivalent, mutants=1, alive=~found.killed & ~equivalent).groupby("room")
    rooms = parts[["mutants", "killed", "equivalent", "alive"]].sum()
    return rooms.assign(share=(100 * rooms.killed / (rooms.mutants - rooms.equivalent)).round(1))


def main() -> None:
    found = mutants()
    equivalent = excused(found, pd.read_csv(ROOT / "tests" / "equivalent.csv", keep_default_na=False))
    alive = found[~found.killed & ~equivalent]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tried = pool.map(dies_after_all, alive["room"], alive["name"])
        found.loc[alive.index, "killed"] = list(tqdm(tried, desc="once more", total=len(alive)))
    for row in found[~found.killed & ~equivalent].itertuples():
        print(f"{row.room}.{row.function}\n  - {row.before}\n  + {row.after}")
    rooms = table(found, equivalent)
    print(rooms.to_string())
    sys.exit(int(rooms.share.min() < 90))


if __name__ == "__main__":
    main()
