"""What a class gets: copies without answers, slides, a plan that names what the notebooks hold."""

import re
from importlib.metadata import PackageNotFoundError

import nbformat
import pytest

from utils import ROOT
from utils.workshop import slides, student

NOTEBOOKS = ROOT / "notebooks"
PAGES = sorted([*NOTEBOOKS.glob("[0-9]*.ipynb"), *NOTEBOOKS.glob("more/[0-9]*.ipynb")])


def markdown(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def is_exercise(cell) -> bool:
    return cell.cell_type == "code" and "\nexercise(" in "\n" + cell.source


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The folder of student copies, and each page as (original, copy)."""
    folder, before = tmp_path_factory.mktemp("student"), [page.read_bytes() for page in PAGES]
    pairs = []
    for page in PAGES:
        copy = folder / page.relative_to(NOTEBOOKS)
        student.student_copy(page, copy)
        pairs.append((page, copy))
    assert [page.read_bytes() for page in PAGES] == before  # nothing happens to the originals
    return {page: tuple(nbformat.read(path, as_version=4) for path in (page, copy)) for page, copy in pairs}


def test_a_student_copy_holds_no_answer_and_no_link_to_a_solution(copied):
    boxes = 0
    for original, copy in copied.values():
        text = markdown(copy)
        assert "](solutions/" not in text and "](../solutions/" not in text
        for summary, body in re.findall(r"<summary>(.*?)</summary>(.*?)</details>", markdown(original), re.DOTALL):
            boxes += 1
            assert (body.strip() in text) == summary.startswith("Notation"), summary
    assert boxes > 20


def test_a_student_copy_is_a_valid_notebook_with_every_exercise_and_all_else_as_it_was(copied):
    exercises = 0
    for original, copy in copied.values():
        nbformat.validate(copy)
        assert [(c.cell_type, c.id) for c in original.cells] == [(c.cell_type, c.id) for c in copy.cells]
        for old, new in zip(original.cells, copy.cells, strict=True):
            exercises += is_exercise(old)
            if old.cell_type == "code":
                assert new.source == old.source and new.outputs == [] and new.execution_count is None
            elif not re.search(r"<details>|solutions/|\]\(\.\./", old.source):
                assert new == old
    asked = sum(is_exercise(cell) for path in NOTEBOOKS.glob("solutions/*.ipynb")
                for cell in nbformat.read(path, as_version=4).cells)  # fmt: skip
    assert exercises == asked > 20


def test_links_of_a_student_copy_in_build_student_lead_somewhere(copied):
    """To another copy, or to a file of the repository outside `notebooks`."""
    folder = ROOT / "build" / "student"
    for page in copied:
        here = folder / page.relative_to(NOTEBOOKS).parent
        text = student.without_answers(markdown(copied[page][0]), page.parent, here)
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            if not target.startswith("http"):
                lies = (here / target).resolve()
                lies = NOTEBOOKS / lies.relative_to(folder) if lies.is_relative_to(folder) else lies
                assert lies.exists(), f"{page.name}: {target}"


def test_slides_leave_out_set_up_and_ask_nothing_of_another_host():
    for name in slides.NOTEBOOKS:
        path = NOTEBOOKS / f"{name}.ipynb"
        cells = nbformat.read(path, as_version=4).cells
        kinds = [cell.metadata.get("slideshow", {}).get("slide_type", "-") for cell in cells]
        assert kinds[:3] == ["slide", "skip", "skip"] and kinds.count("slide") + kinds.count("subslide") >= 15
        assert all(kind == "skip" for cell, kind in zip(cells, kinds, strict=True) if is_exercise(cell))
        html = slides.slides(path)
        assert not re.findall(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>", html)
        assert not re.findall(r"import .* from ['\"]http|url\(['\"]?http", html)
        assert html.count("<details>") == markdown(nbformat.read(path, as_version=4)).count("<details>")


@pytest.fixture(scope="module")
def shown(tmp_path_factory, browser):
    """A page 1280 by 720 with a network that answers nothing, and the folder of the slides."""
    folder = tmp_path_factory.mktemp("slides")
    try:
        slides.build(folder)
    except PackageNotFoundError as missing:
        pytest.skip(f"{missing}: `make slides` installs what slides are shown with")
    page, said = browser.new_page(viewport={"width": 1280, "height": 720}), []
    page.route(re.compile("^(?!file:|data:|blob:)"), lambda route: said.append(route.request.url) or route.abort())
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page, folder, said
    assert said == []


@pytest.mark.parametrize("name", slides.NOTEBOOKS)
def test_no_slide_is_cut_off_and_every_formula_is_set(shown, name):
    page, folder, _ = shown
    page.goto((folder / f"{name}.html").as_uri())
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    page.evaluate("MathJax.startup.promise")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert page.locator("mjx-container").count() > 15 and page.locator("mjx-merror, [data-mjx-error]").count() == 0
    seen = page.evaluate("""() => Reveal.getSlides().map(slide => {
        const {h, v} = Reveal.getIndices(slide);
        Reveal.slide(h, v || 0, 99);  // with all its fragments
        return [slide.innerText.trim().slice(0, 60), slide.scrollHeight, slide.scrollWidth];
    })""")
    assert len(seen) >= 15 and all(text or height > 200 for text, height, _ in seen)
    assert not [one for one in seen if one[1] > 720 or one[2] > 1280]


def test_a_slider_on_a_slide_moves_its_picture_and_does_not_turn_the_page(shown):
    page, folder, _ = shown
    page.goto((folder / "00_start_here.html").as_uri())
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    [(h, v)] = page.evaluate("""() => Reveal.getSlides().filter(s => s.querySelector("input[type=range]"))
        .map(s => Reveal.getIndices(s)).map(i => [i.h, i.v])""")
    page.evaluate(f"Reveal.slide({h}, {v})")
    slider, here = page.locator("input[type=range]"), "section.present section.present"
    before = page.locator(here).inner_text()
    slider.focus()
    page.keyboard.press("End")
    assert page.evaluate("[Reveal.getIndices().h, Reveal.getIndices().v]") == [h, v]  # the key was the slider's
    assert page.locator(here).inner_text() != before


PLAN = (NOTEBOOKS / "book" / "teaching.md").read_text(encoding="utf-8")


def bare(heading: str) -> str:
    """A heading without its number."""
    return re.sub(r"^\d+(?:\.| ·) ", "", heading.strip())


def chapters() -> dict:
    """The plan's chapter for each notebook: {number: text}."""
    pieces = re.split(r"^## (\d)\. .*$", PLAN, flags=re.MULTILINE)[1:]
    return {int(n): text.split("\n## ")[0] for n, text in zip(pieces[::2], pieces[1::2], strict=True)}


def test_the_teaching_plan_is_short_and_plans_every_notebook():
    assert len(PLAN.split()) <= 2600 and [*chapters()] == [*range(10)]
    for text in chapters().values():
        for part in ("**50:**", "**90, also:**", "\n- *", "Misconceptions: ", "Exit: *"):
            assert part in text
        for question in re.findall(r"^(?:- |Exit: )\*(.+?[?.:])\*(.*)$", text, re.MULTILINE):
            assert len(question[1].split()) >= 1, question  # with its answer


@pytest.mark.parametrize("number", range(10))
def test_the_teaching_plan_names_what_the_notebook_has_and_its_minutes_add_up(number):
    [page] = NOTEBOOKS.glob(f"{number:02d}_*.ipynb")
    text = markdown(nbformat.read(page, as_version=4))
    headings = {bare(heading) for heading in re.findall(r"^##+ (.+)$", text, re.MULTILINE)}
    for start, minutes in (("**50:**", 50), ("**90, also:**", 40)):
        [line] = [line for line in chapters()[number].splitlines() if line.startswith(start)]
        assert sum(int(n) for n in re.findall(r"\((\d+)\)", line)) == minutes
        named = re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", line)
        assert set(named) <= headings, set(named) - headings
        for exercise in re.findall(r"\b\d\.\d\b", line):
            assert f"**{exercise}**" in text


def test_the_rubric_names_exactly_the_open_exercises():
    asked = set()
    for page in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        text = markdown(nbformat.read(page, as_version=4))
        asked |= set(re.findall(r"^\*\*(\d\.\d)\*\* ·[^.]* open\b", text, re.MULTILINE))
    rubric = PLAN.split("## A rubric")[1]
    assert set(re.findall(r"\b\d\.\d\b", rubric)) == asked and len(asked) >= 10
