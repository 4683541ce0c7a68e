"""Settings of the reading edition (`make book`): the stored notebooks as pages that ask nothing of any other host.

Sphinx reads the repository's root, so links between pages are the same here, on GitHub and in JupyterLab.
"""

import ast
import json
import re
from importlib.metadata import distribution
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FRONT = "notebooks/book/index"
MOVES = "<p><em>This part moves in JupyterLab, where a kernel runs; the still picture is above.</em></p>"
EXPLORABLE = '<div class="explorable"'

project = "Spilled energy"
author = "The authors of Spilled Energy Notebooks"
copyright = "2026, the authors. Text: CC BY 4.0, code: MIT"
language = "en"

root_doc = FRONT
extensions = ["myst_nb"]
include_patterns = ["notebooks/**.ipynb", "notebooks/book/*.md", "data/README.md"]
exclude_patterns = [".*", "**/.ipynb_checkpoints", "build", "tests", "utils"]
nb_execution_mode = "off"  # the outputs are those stored in the notebooks
nb_code_prompt_show, nb_code_prompt_hide = "Show code", "Hide code"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "sphinx_book_theme"
html_title = "Spilled energy"
html_context = {"default_mode": "auto"}  # light or dark as the reader's system is, until a button says otherwise
html_theme_options = {
    "logo": {"text": "Spilled energy"},
    "home_page_in_toc": True,
    "show_toc_level": 1,
    "navbar_persistent": [],  # one search button is enough, in the sidebar
    "use_fullscreen_button": False,
    "use_download_button": False,
}
html_copy_source = False
html_show_sphinx = False
html_css_files, html_js_files = ["book.css"], ["book.js"]

# MathJax from a package on the index. The SVG build is one file, fonts and all.
mathjax = distribution("django-static-mathjax").locate_file("mathjax/static/mathjax/es5/tex-svg.js")
mathjax_path = "tex-svg.js"
html_static_path = ["book.css", "book.js", str(mathjax)]

HEAD = ("| page | you will show that | minutes |", "|---|---|--:|")
CONTENTS = """
```{toctree}
:hidden:
:glob:
:caption: The course
/notebooks/[0-9]*
```
```{toctree}
:hidden:
:glob:
:caption: More depth
/notebooks/more/*
```
```{toctree}
:hidden:
:glob:
:caption: Solutions
/notebooks/solutions/*
```
```{toctree}
:hidden:
:caption: Beside the course
OTHERS
/data/README
```
"""
OTHERS = [f"/notebooks/book/{path.stem}" for path in sorted(HERE.glob("*.md")) if path.stem != Path(FRONT).name]


def stored_html(cell) -> list[str]:
    return ["".join(output.get("data", {}).get("text/html", "")) for output in cell.get("outputs", [])]


def first_explorable() -> str:
    """The picture to move with which the course begins, as its first notebook stores it."""
    cells = json.loads((ROOT / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8"))["cells"]
    return next(html for cell in cells for html in stored_html(cell) if html.startswith(EXPLORABLE))


def answer_in_the_readme() -> str:
    """The README's short answer, a list of three."""
    return re.search(r"\*\*The short answer\.\*\*\n\n((?:- .*\n)+)", README)[1]


def pages_in_the_readme() -> str:
    """The README's table of notebooks, its first three columns: page, claim, minutes."""
    rows = re.findall(r"^\| \[.*\.ipynb\).*$", README, re.MULTILINE)
    cells = [row.replace("](notebooks/", "](../").split(" | ")[:3] for row in rows]
    return "\n".join([*HEAD, *(" | ".join(row) + " |" for row in cells)])


def is_widget(output) -> bool:
    """Whether an output is a widget, of which only words are stored: `widgets.STILL`."""
    return "".join(output.get("data", {}).get("text/plain", "")).startswith("Run this notebook to move")


def fold(notebook, solution: bool) -> None:
    """Tag code to be folded: set-up, imports, what draws, all of a solution. Say in words where a widget was."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in code:
        draws = any("<img" in html or html.startswith(EXPLORABLE) for html in stored_html(cell))
        imports = {type(node) for node in ast.parse("".join(cell["source"])).body} <= {ast.Import, ast.ImportFrom}
        tag = "hide-cell" if cell is code[0] else "hide-input" if solution or draws or imports else None
        cell["metadata"].setdefault("tags", []).extend([tag] if tag else [])
        for output in filter(is_widget, cell["outputs"]):
            output["data"] = {"text/html": MOVES}


def prepare(app, page, source) -> None:
    """What a page is read as. The files stay as they are."""
    if page == FRONT:
        picture = f"````{{raw}} html\n{first_explorable()}\n````"
        parts = {"the first explorable": picture, "the answer of the README": answer_in_the_readme(),
                 "the table of the README": pages_in_the_readme()}  # fmt: skip
        for name, text in parts.items():
            source[0] = source[0].replace(f"<!-- {name} -->", text)
        source[0] += CONTENTS.replace("OTHERS", "\n".join(OTHERS))
    elif Path(app.env.doc2path(page)).suffix == ".ipynb":
        notebook = json.loads(source[0])
        fold(notebook, "solutions" in page)
        source[0] = json.dumps(notebook)


def open_at_the_front(app, error) -> None:
    """`index.html` of the whole book leads to the front page."""
    if error is None and app.builder.name == "html":
        to = f'<!doctype html><meta charset="utf-8"><title>{project}</title><meta http-equiv="refresh" content="0; '
        link = f'url={FRONT}.html"><a href="{FRONT}.html">{html_title}</a>\n'
        (Path(app.outdir) / "index.html").write_text(to + link, encoding="utf-8")


def setup(app):
    app.connect("source-read", prepare)
    app.connect("build-finished", open_at_the_front)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
