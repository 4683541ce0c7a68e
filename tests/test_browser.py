"""What a reader's browser makes of a stored page and of JupyterLab: words for pictures, nothing cut, nothing dirty.

Needs Chromium and the Python package `playwright`, and is skipped where one of them is missing.
"""

import os
import subprocess
import sys

import nbformat
import pytest
from execute import execute
from nbconvert import HTMLExporter

from utils import ROOT
from utils.page import widgets

ALT = 'A line that rises, "quoted" & <b>bold</b>.'
CELLS = [
    "from utils.page import plots, widgets\nimport ipywidgets as w",
    "fig, ax = plots.figure(9.6, 2)\nax.plot([0, 1], [0, 1])\nplots.show(fig, '''" + ALT + "''')",
    """def draw(times, text):
    if len(text) > 9:
        raise ValueError(f"texts[0] has {len(text)} letters, the window is 9: shorten it")
    fig, ax = plots.figure(9.6, 2)
    ax.plot([0, times], [0, 1])
    return fig, f"{text} times {times:.0f}"

widgets.explorer(draw, times=widgets.knob(0, 5, 1, 1), text=w.Text(value="tea", continuous_update=False))""",
    "from IPython.display import HTML\nHTML(plots.token_html([' a long word'] * 60, range(60)))",
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A small notebook, executed and stored as `make notebooks` does."""
    path = tmp_path_factory.mktemp("course") / "page.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS]), path)
    execute(path)
    return path


def pictures(page) -> list:
    """Alt text, width on the page and natural width of every picture in an output."""
    seen = "all => all.map(i => [i.alt, i.getBoundingClientRect().width, i.naturalWidth])"
    return page.locator(".jp-OutputArea-output img").evaluate_all(seen)


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_a_stored_page_says_what_its_pictures_show_and_fits(browser, stored, width):
    html, _ = HTMLExporter().from_filename(str(stored))
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.route("**/*", lambda route: route.abort())  # no network
    page.set_content(html, wait_until="domcontentloaded")
    [(alt, shown, natural)] = pictures(page)
    assert alt == ALT and natural == 1056 and shown <= min(natural, width)
    overflow = "all => all.map(e => e.scrollWidth - e.clientWidth)"
    assert max(page.locator(".jp-RenderedHTML, .jp-RenderedHTMLCommon").evaluate_all(overflow)) <= 0
    text = page.inner_text("body")
    assert widgets.STILL in text and "VBox(" not in text
    page.close()


@pytest.fixture(scope="module")
def lab(stored):
    """JupyterLab on the stored notebook, with settings of its own; its address."""
    home = stored.parent / "home"
    folders = {f"JUPYTER_{name}_DIR": str(home / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = {**os.environ, **folders, "IPYTHONDIR": str(home), "PYTHONPATH": str(ROOT)}
    options = [f"--ServerApp.root_dir={stored.parent}", "--IdentityProvider.token=", "--ServerApp.password=",
               "--no-browser", "--allow-root", "--LabApp.news_url=None"]  # fmt: skip
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=environment, encoding="utf-8",
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    try:
        address = next(word for line in server.stderr for word in line.split() if word.startswith("http://"))
        yield address.split("/lab")[0]
    finally:
        server.terminate()
        server.wait(20)


def test_jupyterlab_opens_it_unchanged_and_its_widget_works(browser, lab):
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    page.set_default_timeout(60_000)
    page.goto(f"{lab}/lab/tree/page.ipynb")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")  # a kernel has said what it is
    page.wait_for_timeout(1500)
    assert page.locator(".jp-NotebookPanel").count() == 1 and page.locator(".jp-mod-dirty").count() == 0
    assert [alt for alt, _, _ in pictures(page)] == [ALT]
    assert widgets.STILL in page.inner_text(".jp-Notebook")

    page.keyboard.press("Escape")
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.wait_for_selector('img[alt="tea times 1"]')
    (_, shown, natural), *_ = [p for p in pictures(page) if p[0] == "tea times 1"]
    assert natural == 2 * 1056 and shown <= 1056  # sharp, and no wider than the page
    assert page.locator(".widget-slider, .widget-hslider").first.bounding_box()["width"] == pytest.approx(500, abs=10)
    page.locator(".noUi-handle").press("ArrowRight")
    page.wait_for_selector('img[alt="tea times 2"]')
    page.locator(".widget-text input").fill("a text that is too long")
    page.locator(".widget-text input").press("Enter")
    page.wait_for_selector("text=Not this one: the text has 23 letters, the window is 9: shorten it.")
    assert page.locator('img[alt^="tea"]').count() == 0
    page.close()
