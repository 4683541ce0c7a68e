"""Every measured number that a page says is tied to a stored output, and a test fails when one of the two drifts.

The table `claims.csv` has a row for each claim. It does not repeat the number:

- `page` and `phrase`: a few words of the page's prose, verbatim, with the number or numbers in them;
- `source`: the notebook whose stored outputs hold them, or a file of data/; or `arithmetic`, worked out in `at`;
  or `given`, for a setting, a definition, an invented example, somebody else's number;
- `line`: words that lead to a line of the source: `a > b` looks for a, and from there on for b, and `a | b` takes two
  lines, whose numbers are counted on; for a number that is given, why;
- `at`: for each number of the phrase its place among the numbers of that line, counted from 1, or a sum with such
  places in it: `n1-n4`, `n2/n1`, `-log(1536)`.

A number holds if the stored one rounds to it at the prose's decimals, as a fraction or in per cent; a minus in the
prose asks for one in the output. Not checked: words ("rises", "twice"), whole numbers below 100 that no row names, the
ends of a range (that nothing stored lies beyond), and whether the line is the right one: whoever writes a row reads it.

`python tests/test_numbers.py PAGE` proposes rows for the numbers of a page that have none.
"""

import csv
import json
import math
import re
import sys
from decimal import Decimal
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "notebooks"
TABLE = Path(__file__).with_name("claims.csv")

PATTERNS = ("[0-9]*.ipynb", "more/[0-9]*.ipynb", "solutions/[0-9]*.ipynb", "book/*.md")
FILES = [ROOT / "README.md", *(file for pattern in PATTERNS for file in sorted(BOOK.glob(pattern)))]
PAGES = {("README" if f.parent == ROOT else f.relative_to(BOOK).with_suffix("").as_posix()): f for f in FILES}
CLAIMS = list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))
TIED = [claim for claim in CLAIMS if claim["source"] != "given"]

NUMBER = re.compile(
    r"(?<![\w.,^])(?<!\w-)[-+]?"  # not inside a word, a version, a name such as GPT-2
    r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]\d+)?(?![\w^]|\.\d)(?: ?(?:%|per cent))?"
)
SILENT = re.compile(
    r"^```.*?^```|`[^`\n]*`"  # code
    r"|(?<=\])\([^)\n]*\)|https?://[^\s)]+|\b(?:src|srcset|width|height)=\"[^\"]*\""  # where links and pictures lead
    r"|arXiv[: ]\d{4}\.\d{4,5}|doi 10\.\S+|#\d+|\bissue \d+|CC BY \d\.\d"  # names of sources
    r"|^#+ \d[\d.]*|^\*\*\d+\.\d+\b(?:[^\n]*?minutes)?"  # numbers of headings and exercises
    r"|(?:[Ee]xercises?|each for|mini-project|registration) \(?\d\.\d(?:, \d\.\d)*"
    r"|\b\d\.\d(?= (?:\(\d+\)|in pairs|as a debate|has a rubric))",
    re.DOTALL | re.MULTILINE,
)


def plain(text: str) -> str:
    """With hyphens for minus signs, and no braces about a comma of thousands."""
    return text.replace("−", "-").replace("{,}", ",")


def cells(page: str, kind: str) -> list:
    return [cell for cell in json.loads(PAGES[page].read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@cache
def prose(page: str) -> str:
    """What a page says, on one line, with spaces for what is no prose."""
    text = PAGES[page].read_text(encoding="utf-8")
    if PAGES[page].suffix == ".ipynb":
        text = "\n\n".join("".join(cell["source"]) for cell in cells(page, "markdown"))
    return SILENT.sub(lambda found: " " * len(found[0]), plain(text)).replace("\n", " ")


@cache
def output(source: str) -> str:
    """All that a notebook printed, tables and descriptions of figures included, or a table of data/ as text."""
    if source.endswith(".csv"):
        text = pd.read_csv(ROOT / source, comment="#").to_string(max_colwidth=None)
    elif source not in PAGES:
        text = (ROOT / source).read_text(encoding="utf-8")
    else:
        found = [o for cell in cells(source, "code") for o in cell["outputs"]]
        text = "\n".join("".join(o.get("text", []) or o["data"].get("text/plain", [])) for o in found)
    return re.sub(" +", " ", plain(text))


def value(written: str) -> Decimal:
    return Decimal(re.sub(r"[^-\d.e]", "", written.replace("per cent", "")))


def decimals(number: Decimal) -> int:
    return max(0, -number.as_tuple().exponent)


def per_cent(written: str) -> bool:
    return written.endswith(("%", "cent"))


def last_digit(written: str) -> Decimal:
    return Decimal(1).scaleb(-decimals(value(written)))


def is_measured(written: str) -> bool:
    """Whether a number needs a row: one with decimals, in per cent, or from 100 on that is no year."""
    number = value(written)
    return decimals(number) > 0 or per_cent(written) or "," in written or (number >= 100 and not 1900 < number < 2050)


def same(said: str, shown: str) -> bool:
    """Whether the number shown rounds, half away from zero, to the number said."""
    want, got = value(said), value(shown)
    if said.startswith("-") and got > 0:
        return False
    scales = {0, 2 * (per_cent(said) - per_cent(shown))}
    unit = Decimal(1).scaleb(-decimals(want))
    close = (abs(got).scaleb(scale) for scale in scales if decimals(got.scaleb(scale)) >= decimals(want))
    return any(number.quantize(unit, "ROUND_HALF_UP") == abs(want) for number in close)


def numbers_in(text: str, start: int = 0, stop: int | None = None) -> list[re.Match]:
    return [n for n in NUMBER.finditer(text) if start <= n.start() and n.end() <= (len(text) if stop is None else stop)]


def said(claim: dict) -> list[str]:
    """The numbers of a claim, as its page writes them; LookupError where the page does not have the phrase."""
    text, phrase = prose(claim["page"]), plain(claim["phrase"])
    if phrase not in text:
        raise LookupError("not on the page")
    start = text.index(phrase)
    return [number[0] for number in numbers_in(text, start, start + len(phrase))]


def stored(claim: dict) -> list[str]:
    """The numbers of the lines that a claim names; LookupError where the source has no such line."""
    numbers = []
    for path in plain(claim["line"]).split(" | ") if claim["source"] != "arithmetic" else []:
        text, end = output(claim["source"]), 0
        for words in path.split(" > "):
            found = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)").search(text, end)
            if not found:
                raise LookupError(f"no {words!r} in {claim['source']}")
            end = found.end()
        line = text[text.rfind("\n", 0, found.start()) + 1 :].split("\n")[0]
        numbers += [number[0] for number in numbers_in(line)]
    return numbers


def picked(item: str, numbers: list[str]) -> str:
    """The number at a place, as it is written there, or the outcome of a sum."""
    if numbers and item.isdigit():
        return numbers[int(item) - 1]
    worked = re.sub(r"n(\d+)", lambda place: f"({value(numbers[int(place[1]) - 1])})", item)
    return f"{eval(worked, {'__builtins__': {}}, {'log': math.log, 'exp': math.exp}):.9f}"


def held(ours: list[str], numbers: list[str], at: str) -> bool:
    """Whether the prose's numbers are those at the places named; one number may have several places."""
    theirs = [picked(item, numbers) for item in at.split()]
    if len(ours) == 1:
        ours = ours * len(theirs)
    return len(ours) == len(theirs) > 0 and all(map(same, ours, theirs))


def trouble(claim: dict) -> str:
    """What is wrong with a tied claim; nothing if it holds."""
    try:
        ours, numbers = said(claim), stored(claim)
        return "" if held(ours, numbers, claim["at"]) else f"{claim['phrase']!r} says {ours}, stored are {numbers}"
    except (LookupError, ValueError) as error:
        return f"{claim['phrase']!r}: {error}"


def uncovered(page: str) -> list[re.Match]:
    """The measured numbers of a page that no row covers."""
    text, covered = prose(page), set()
    for phrase in (plain(claim["phrase"]) for claim in CLAIMS if claim["page"] == page):
        for found in re.finditer(re.escape(phrase), text):
            covered |= {number.start() for number in numbers_in(text, *found.span())}
    return [n for n in numbers_in(text) if is_measured(n[0]) and n.start() not in covered]


def moved(numbers: list[str], place: int, by: Decimal) -> list[str]:
    """A copy with one of the numbers moved."""
    copy = numbers.copy()
    copy[place] = f"{value(copy[place]) + by:f}" + " %" * per_cent(copy[place])
    return copy


def drifts(claim: dict):
    """A claim's numbers, said and stored, with one of them moved by one in the prose's last digit; in a sum, by ten."""
    ours, numbers, items = said(claim), stored(claim), claim["at"].split()
    for i, written in enumerate(ours):
        for step in (-1, 1):
            yield moved(ours, i, step * last_digit(written)), numbers
    for written, item in zip(ours if len(ours) > 1 else ours * len(items), items, strict=True):
        for place in re.findall(r"^\d+$|(?<=n)\d+", item) if numbers else []:
            shown = numbers[int(place) - 1]
            unit = max(last_digit(written).scaleb(2 * (per_cent(shown) - per_cent(written))), last_digit(shown))
            for step in (-1, 1) if item.isdigit() else (-10, 10):
                yield ours, moved(numbers, int(place) - 1, step * unit)


pages = pytest.mark.parametrize("page", sorted(PAGES))


@pages
def test_every_measured_number_has_a_row(page):
    text = prose(page)
    assert not [f"{n[0]} in …{text[max(0, n.start() - 40) : n.end() + 20]}…" for n in uncovered(page)]


@pages
def test_every_tied_number_is_what_is_stored(page):
    assert not [wrong for claim in TIED if claim["page"] == page and (wrong := trouble(claim))]


@pages
def test_a_tied_number_that_moves_is_noticed(page):
    """On the page or in the output, up or down; else its row lets too much pass."""
    mine = [claim for claim in TIED if claim["page"] == page and not trouble(claim)]
    assert not [claim["phrase"] for claim in mine if any(held(*drift, claim["at"]) for drift in drifts(claim))]


@pages
def test_a_given_number_says_why_and_is_on_its_page(page):
    for claim in CLAIMS:
        if claim["page"] == page and claim["source"] == "given":
            assert said(claim) and claim["line"], claim


def test_the_readme_shows_what_its_first_lines_print():
    from utils.load import load_lm
    from utils.score import score

    block = r"^```python\nfrom utils.load .*?^```\n+```\n(.*?)^```"
    printed = re.search(block, PAGES["README"].read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[1]
    table = score(load_lm("llama", "bundled"), ["The capital of Australia is Sydney."])
    assert printed.rstrip() == str(table[["token", "logprob", "spilled"]].round(1))


def test_rows_are_of_pages_and_none_is_there_twice():
    assert {claim["page"] for claim in CLAIMS} <= set(PAGES)
    phrases = [(claim["page"], claim["phrase"]) for claim in CLAIMS]
    assert len(set(phrases)) == len(phrases)


def rows_for(page: str, number: re.Match, source: str):
    """Rows that could tie one number of a page to an output of `source`, one for each line that holds it."""
    text = prose(page)
    phrase = " ".join([*text[: number.start()].split()[-3:], number[0], *text[number.end() :].split()[:2]])
    for line in output(source).split("\n"):
        shown = numbers_in(line)
        at = [str(i) for i, found in enumerate(shown, 1) if same(number[0], found[0])]
        if at:
            yield [page, phrase, source, line[: shown[0].start()].strip(" [({'"), " or ".join(at)]


def propose(page: str) -> None:
    """Print rows for the numbers of a page that have none: from its own outputs, else from all. Choose, and read."""
    notebooks = [name for name, file in PAGES.items() if file.suffix == ".ipynb"]
    for number in uncovered(page):
        own = list(rows_for(page, number, page)) if page in notebooks else []
        rows = own or [row for source in notebooks for row in rows_for(page, number, source)]
        print(f"\n{number[0]}:" + " no output has it" * (not rows))
        csv.writer(sys.stdout).writerows(rows)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        propose(each)
