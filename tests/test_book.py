"""The reading edition: every page is there, every link leads somewhere, and a browser that reads it asks no other host.

Needs the environment that `make book` makes, and is skipped without it; a browser's tests also need Chromium.
"""

import ast
import json
import re
import subprocess
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urldefrag

import numpy as np
import pytest
from test_explorable import move, read
from test_notebooks import front_page

from utils import ROOT
from utils.page import widgets

NOTEBOOKS = sorted(path.relative_to(ROOT) for path in (ROOT / "notebooks").glob("**/*.ipynb")
                   if ".ipynb_checkpoints" not in path.parts)  # fmt: skip
TEXTS = [*(path.relative_to(ROOT) for path in (ROOT / "notebooks" / "book").glob("*.md")),
         (ROOT / "data" / "README.md").relative_to(ROOT)]  # fmt: skip
PAGES = sorted(str(path.with_suffix("")) for path in [*NOTEBOOKS, *TEXTS])
FRONT = "notebooks/book/index"
# Attributes that make a browser ask for something, without a click. (`href` does so on <link> only.)
ASKING = {"src", "srcset", "poster", "data"}
# What an explorable's slider moves from end to end and what it may not move: (elements, data- attribute).
MOVED = {
    "gaugeSlider": ((".card", "s"), (".card", "p")),
    "superimposition": ((".lane", "value"), (".lane", "below")),
    "contextTree": ((".branch", "s"), (".branch", "p")),
    "trainingTime": ((".dot", "v"), (".dot", "x")),
    "dissolving": ((".tray", "p"), None),
}


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The folder of the book, built as `make book` does: any warning is an error."""
    python = ROOT / "build" / "book-env" / "bin" / "python"
    if not (python.parents[1] / "installed").exists():
        pytest.skip("run `make book` first: it installs what pages are made with")
    made = tmp_path_factory.mktemp("book")
    command = re.search(r"bin/python (-m sphinx .*) --doctree-dir", (ROOT / "Makefile").read_text("utf-8"))[1].split()
    folders = ["--doctree-dir", str(made / "doctrees"), "-c", "notebooks/book", ".", str(made / "html")]
    run = subprocess.run([str(python), *command, *folders], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert run.returncode == 0 and "--fail-on-warning" in command, run.stderr
    return made / "html"


class Links(HTMLParser):
    """What a page names (`ids`), where it leads (`leads`), and what it makes a browser ask for (`asks`)."""

    def __init__(self, html: str):
        super().__init__()
        self.ids, self.leads, self.asks = set(), [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value)
            elif tag == "a" and name == "href":
                self.leads.append(value)
            elif name in ASKING or (tag == "link" and name == "href"):
                self.asks.append(value)
            elif name == "style":
                self.asks += re.findall(r"url\(\s*['\"]?([^'\")]+)", value or "")


@pytest.fixture(scope="session")
def links(book):
    """Of each page, by its path: its `Links`. (What lies in `_static` are the theme's templates.)"""
    pages = [path for path in book.rglob("*.html") if "_static" not in path.parts]
    return {path: Links(path.read_text(encoding="utf-8")) for path in pages}


def outside(address: str) -> bool:
    return re.match(r"(https?:)?//|mailto:", address) is not None


def stored(notebook) -> list[dict]:
    return json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"]


def explorables(page: str) -> list[tuple[str, str]]:
    """(which function draws it, key) of each explorable that a page should have, in order."""
    notebook = ROOT / f"{page}.ipynb" if page != FRONT else ROOT / NOTEBOOKS[0]
    cells = stored(notebook) if notebook.exists() else []
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    html = "\n".join("".join(output.get("data", {}).get("text/html", "")) for output in outputs)
    found = re.findall(r"^(\w+)\(mount\('(\w+)'\)", html, re.MULTILINE)
    return found[:1] if page == FRONT else found


MOVING = [page for page in PAGES if explorables(page)]


def test_every_notebook_and_text_is_a_page(book, links):
    made = {str(path.relative_to(book).with_suffix("")) for path in links}
    assert made == {*PAGES, "index", "search", "genindex"}
    assert f"url={FRONT}.html" in (book / "index.html").read_text("utf-8")


def test_every_link_inside_the_book_leads_to_a_page_or_file_and_to_a_place_on_it(links):
    broken, followed = [], 0
    for path, page in links.items():
        for address in page.leads + page.asks:
            if outside(address) or address.startswith("data:"):
                continue
            file, place = urldefrag(address)
            target = (path.parent / unquote(file.split("?")[0])).resolve() if file else path
            followed += 1
            if not target.is_file() or (place and target in links and unquote(place) not in links[target].ids):
                broken.append((path.name, address))
    assert broken == [] and followed > 1000


def test_no_page_and_no_style_sheet_makes_a_browser_ask_another_host(book, links):
    assert [(path.name, address) for path, page in links.items() for address in page.asks if outside(address)] == []
    sheets = {path: path.read_text(encoding="utf-8") for path in book.rglob("*.css")}
    assert sheets and [path.name for path, css in sheets.items()
                       if re.search(r"(url\(\s*['\"]?|@import\s+['\"])(https?:)?//", css)] == []  # fmt: skip


def test_the_front_page_has_each_notebook_with_the_minutes_of_the_readme(book):
    rows = [(file.removesuffix(".ipynb"), str(row.minutes)) for file, row in front_page().items()]
    assert [f"notebooks/{name}" for name, _ in rows] == [page for page in PAGES if re.match(r"notebooks/\d", page)]
    table = re.search(r"<table.*?</table>", (book / f"{FRONT}.html").read_text(encoding="utf-8"), re.DOTALL)[0]
    found = re.findall(r'href="\.\./(\w+)\.html".*?</td>\s*<td.*?</td>\s*<td[^>]*>\s*(?:<p>)?(\d+)', table, re.DOTALL)
    assert found == rows


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=str)
def test_set_up_imports_and_what_draws_are_folded_and_on_a_page_of_solutions_all_code(book, notebook):
    html = (book / notebook.with_suffix(".html")).read_text(encoding="utf-8")
    code = [cell for cell in stored(notebook) if cell["cell_type"] == "code"]
    quiet = [cell for cell in code if re.search("<img|class=.{1,2}explorable", json.dumps(cell["outputs"]))
             or {type(node) for node in ast.parse("".join(cell["source"])).body} <= {ast.Import, ast.ImportFrom}]
    folded = re.findall(r'<details class="[^"]*\bhide\b', html)
    assert len(folded) == (len(code) if "solutions" in notebook.parts else 1 + len(quiet))
    assert "hide-cell" in re.search(r'<div class="cell ([^"]*)"', html)[1]  # the first one, with what it printed


def test_where_a_widget_was_the_page_says_where_it_moves(book):
    told = 0
    for notebook in NOTEBOOKS:
        html = (book / notebook.with_suffix(".html")).read_text(encoding="utf-8")
        source = json.dumps(stored(notebook))
        assert widgets.STILL not in html and "VBox(" not in html
        assert html.count("This part moves in JupyterLab") == source.count(widgets.STILL)
        told += source.count(widgets.STILL)
    assert told


# In a browser


@pytest.fixture
def visit(browser, book):
    """Open a page of the book as a file; at the end, no error was on the console and no request had left for a host."""
    trouble, pages = [], []

    def open_page(page: str, address: str | None = None, **options):
        tab = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        pages.append(tab)
        tab.set_default_timeout(20_000)
        tab.on("console", lambda said: said.type in ("error", "warning") and trouble.append(f"console: {said.text}"))
        tab.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        tab.on("requestfailed", lambda request: trouble.append(f"failed: {request.url}"))
        allowed = rf"^(?!file:|data:{'|' + re.escape(address) if address else ''})"
        tab.route(re.compile(allowed), lambda route: (trouble.append(route.request.url), route.abort()))
        tab.goto(f"{address}/{page}" if address else (book / f"{page}.html").as_uri())
        return tab

    yield open_page
    for tab in pages:
        tab.close()
    assert trouble == []


def typeset(tab) -> None:
    """Wait until MathJax, where a page has formulas, is done."""
    tab.evaluate("async () => { if (document.querySelector('.math')) await MathJax.startup.promise; }")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole_in_a_browser_from_phone_to_desktop(visit, page):
    """Formulas are set, pictures are there, nothing dead is left, and even unfolded nothing sticks out."""
    tab = visit(page, viewport={"width": 390, "height": 900})
    typeset(tab)
    formulas = tab.locator("article .math")
    assert tab.locator("article .math mjx-container").count() == formulas.count()
    assert tab.locator("mjx-merror, .merror, [data-mml-node=merror]").count() == 0
    tab.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    words = tab.inner_text("article")
    assert "$$" not in words and r"\underbrace" not in words and "Widget" not in words
    broken = "all => all.filter(i => !(i.complete && i.naturalWidth)).map(i => i.alt)"
    assert tab.locator("img").evaluate_all(broken) == []
    assert tab.evaluate("document.cookie") == ""
    for width in (390, 800, 1280):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("page", MOVING)
def test_the_explorables_of_a_page_move_from_end_to_end_and_what_should_stay_stays(visit, page):
    tab = visit(page)
    assert tab.locator(".explorable > .stage").count() == len(explorables(page)) and tab.locator(".still").count() == 0
    for draw, key in explorables(page):
        stage = tab.locator(f'.explorable[data-key="{key}"]')
        moving, staying = MOVED.get(draw, (None, None))
        seen = []
        for end in ("min", "max"):
            move(stage, end)
            look = stage.locator(".stage").inner_html()
            seen.append((look, *(read(stage, *what) if what else np.zeros(1) for what in (moving, staying))))
        (look, before, stay), (other, after, stayed) = seen
        assert look != other and len(before) == len(after)
        assert moving is None or (before != after).any()
        assert np.abs(stay - stayed).max() < 1e-9


def test_the_front_page_shows_the_spills_that_its_notebook_stored(visit):
    """Exact numbers: at both ends, s is Term 1 minus Term 2 of the logits to which λ·h has been added."""
    html = "".join("".join(o.get("data", {}).get("text/html", "")) for c in stored(NOTEBOOKS[0])
                   for o in c.get("outputs", []))  # fmt: skip
    data = json.loads(re.search(r"^gaugeSlider\(mount\('\w+'\), (.*)\);$", html, re.MULTILINE)[1])
    tab = visit(FRONT)
    for end, turn in (("min", -1), ("max", 1)):
        move(tab, end)
        h = turn * np.array(next(iter(data["h"].values())))
        s = (np.array(data["logit"]) + h[:-1]) - (np.array(data["V"]) + h)[1:]
        np.testing.assert_allclose(read(tab, ".card", "s"), s, atol=1e-6)


def luminance(tab, selector: str, name: str) -> float:
    """Of a CSS colour of the first element that matches: 0 is black, 1 white; a see-through one is its parent's."""
    js = """(e, name) => { const rgb = c => c.match(/[\\d.]+/g).map(Number);
      let [r, g, b, a] = rgb(getComputedStyle(e)[name]);
      while (a === 0 && (e = e.parentElement)) [r, g, b, a] = rgb(getComputedStyle(e)[name]);
      return (0.3 * r + 0.6 * g + 0.1 * b) / 255; }"""
    return tab.locator(selector).first.evaluate(js, name)


def test_the_switch_turns_the_page_dark_with_its_explorable_and_figures_keep_their_white(visit):
    tab = visit("notebooks/00_start_here", color_scheme="light")
    assert luminance(tab, "body", "backgroundColor") > 0.9 and luminance(tab, ".stage", "color") < 0.4
    tab.locator(".theme-switch-button").click()
    tab.locator(".theme-change-button[data-mode=dark]").click()
    assert luminance(tab, "body", "backgroundColor") < 0.2 and luminance(tab, ".stage", "color") > 0.6
    assert luminance(tab, ".stage", "backgroundColor") < 0.2
    assert tab.locator(".stage").first.evaluate("e => e.style.colorScheme") == "dark"
    figure = tab.locator(".cell_output img").first
    assert luminance(tab, ".cell_output img", "backgroundColor") == 1
    assert figure.evaluate("e => getComputedStyle(e).filter") == "none"


def test_a_printed_page_has_no_sidebars_and_its_answers_are_open(visit):
    tab = visit("notebooks/00_start_here")
    tab.emulate_media(media="print")
    is_open = "all => all.map(details => details.open)"
    assert not any(tab.locator("article details").evaluate_all(is_open))
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(tab.locator("article details").evaluate_all(is_open))
    for part in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", ".prev-next-area"):
        assert tab.locator(part).count() and not tab.locator(part).first.is_visible()
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not any(tab.locator("article details").evaluate_all(is_open))


@pytest.fixture(scope="module")
def served(book):
    """The book on a loopback address, as a web server hands it out."""
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(book)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("where", ["file", "server"])
def test_search_finds_spilled_and_nothing_where_nothing_is(visit, book, served, where):
    query = {"spilled": True, "zyzzyvas": False}
    for word, known in query.items():
        tab = visit("search.html", served) if where == "server" else visit("search")
        tab.goto(f"{tab.url}?q={word}")
        tab.wait_for_function("document.querySelector('#search-results p.search-summary')?.innerText.includes(' ')")
        tab.wait_for_function("!document.querySelector('#search-results h2')?.innerText.includes('ing')")
        found = tab.locator("#search-results li a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
        assert bool(found) == known
        assert not known or any("00_start_here.html" in address for address in found)


def test_the_address_of_the_book_leads_to_its_front_page(visit, served):
    tab = visit("", served)
    tab.wait_for_url(f"{served}/{FRONT}.html")
    assert tab.locator("h1").first.inner_text().startswith("What do a language model")
