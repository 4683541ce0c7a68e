"""Slides of notebooks 0 to 2, from their stored outputs: `make slides`. They need no network when shown.

What becomes a slide is said by the notebooks themselves, in the cell metadata `slideshow.slide_type` (in JupyterLab:
View, Right Sidebar, Property Inspector). A heading inside a cell begins another slide, references are left out, and a
picture stands without its code. reveal.js and MathJax come from two packages of which only these files are wanted;
they are laid beside the pages.
"""

import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter

from .. import ROOT

NOTEBOOKS = ("00_start_here", "01_two_decompositions", "02_gauge_freedom")
FILES = {  # what lies beside the pages: (package, path in it)
    "reveal": ("sphinx-revealjs", "sphinx_revealjs/_static/revealjs"),
    "mathjax.js": ("django-static-mathjax", "mathjax/static/mathjax/es5/tex-svg.js"),
}
# nbconvert's own page fetches jQuery, RequireJS, Mermaid and an old MathJax from other hosts: none is needed.
PAGE = r"""{% extends 'reveal/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}
<script>MathJax = {tex: {inlineMath: [["$", "$"]], displayMath: [["$$", "$$"]]}}</script>
<script src="mathjax.js"></script>
{% endblock %}
{% block html_head_css %}
<style>
.reveal .slides section { text-align: left; box-sizing: border-box; padding: 8px 40px; }
.reveal .slides section section { max-height: 712px; overflow: hidden auto; }  /* an unfolded answer can be scrolled */
.reveal { --r-heading-text-transform: none; --r-heading1-size: 1.6em; --r-heading2-size: 1.2em; }
.reveal .jp-RenderedHTMLCommon, .reveal .jp-Cell { font-size: 23px; line-height: 1.4; }
.reveal .highlight pre, .reveal .jp-OutputArea pre { font-size: 17px; line-height: 1.3; }
.jp-InputPrompt, .jp-OutputPrompt { display: none; }
.reveal .jp-OutputArea img { max-height: 570px; width: auto !important; height: auto; }
</style>
{% endblock %}
{% block footer_js %}
<script src="reveal/dist/reveal.js"></script>
<script>
Reveal.initialize({width: 1280, height: 720, margin: 0.02, center: false, hash: true, transition: "none"});
</script>
{% endblock %}
"""


def parts(cell) -> list:
    """A cell as it goes on slides: split at its headings, without references; a picture without its code."""
    if cell.cell_type == "code":
        if any("text/html" in o.get("data", {}) and o.output_type == "display_data" for o in cell.outputs):
            cell.metadata["transient"] = {"remove_source": True}
        return [cell]
    if cell.metadata.get("slideshow", {}).get("slide_type") == "skip":
        return [cell]
    source = re.sub(r"^\[(?:←|next).*$", "", cell.source, flags=re.MULTILINE)  # the row of links at the end
    source = re.sub(r"\[([^\]]*)\]\((?!http)[^)]*\)", r"\1", source)  # links to files lead nowhere from here
    first, *later = [text for text in re.split(r"\n(?=##+ )", source) if not text.startswith("## References")]
    kinds = ["slide" if text.startswith("## ") else "subslide" for text in later]
    new = nbformat.v4.new_markdown_cell
    return [new(first, metadata=cell.metadata)] + [
        new(text, metadata={"slideshow": {"slide_type": kind}}) for text, kind in zip(later, kinds, strict=True)
    ]


def slides(path: Path) -> str:
    """The HTML of a notebook's slides; `reveal/` and `mathjax.js` have to lie beside it."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [part for cell in notebook.cells for part in parts(cell)]
    exporter = SlidesExporter(reveal_url_prefix="reveal", reveal_theme="white", raw_template=PAGE)
    return exporter.from_notebook_node(notebook)[0]


def build(folder: Path) -> None:
    """Write the slides and what they need into `folder`; PackageNotFoundError if one of the two is not installed."""
    sources = {name: Path(distribution(package).locate_file(path)) for name, (package, path) in FILES.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name, **({"dirs_exist_ok": True} if source.is_dir() else {}))
    for name in NOTEBOOKS:
        (folder / f"{name}.html").write_text(slides(ROOT / "notebooks" / f"{name}.ipynb"), encoding="utf-8")
    print(f"{folder}: {', '.join(NOTEBOOKS)}")


if __name__ == "__main__":
    try:
        build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "slides")
    except PackageNotFoundError as missing:
        sys.exit(f"slides are shown with {missing.name}, which is not installed; `make slides` installs it")
