"""Explorables in a real browser, without a kernel: what should move moves, what should stay stays, in exact numbers.

The browser tests need Chromium and the Python package `playwright`, and are skipped where one of them is missing.
"""

import json
import math
import re

import nbconvert
import nbformat
import numpy as np
import pytest
import torch
from pytest import approx

from utils import ROOT, gauge
from utils.energy import log_partition, potentials, spilled_energy
from utils.page import explorable
from utils.tabular import closed_form

TOKENS = ["The", " sun", " </script><script>boom()</script>", " 🌞", "\n", " & <b>rain</b>"]
NAMES = [*TOKENS, " snow", "<!--"]


def sentence():
    """Logits [T, |V|] and ids [T] of a text whose tokens are the worst that a page could meet."""
    f = 4 * torch.randn(7, len(NAMES), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return f, torch.tensor([6, 0, 1, 2, 3, 4, 5])


def numbers() -> dict:
    return explorable.sentence_numbers(*sentence(), NAMES.__getitem__, top=4)


DIE = {(): (2, 1, 3), ("sun",): (4, 1, 1), ("rain",): (2, 3, 1), ("snow",): (1, 2, 3)}  # notebook 01's language
DAYS = ("sun", "rain", "snow")


def p_next(x, c) -> float:
    return DIE[c[-1:]][DAYS.index(x)] / 6


def p(text) -> float:
    return math.prod(p_next(x, text[:t]) for t, x in enumerate(text))


BOOKS = {  # notebook 01's: entry of x on the page of c
    "counter": lambda c, x: 216 * p((*c, x)),
    "rater": lambda c, x: p_next(x, c),
    "doodler": lambda c, x: (2 + len("".join(c))) * p_next(x, c),
}


def stories() -> dict:
    c, x, y = ("sun",), "snow", "rain"
    cx = (*c, x)

    def lay_out(entry):
        total = [sum(entry(context, z) for z in DAYS) for context in (c, cx)]
        model = [total[0], entry(c, x), total[1], entry(cx, y)]
        rows = (model, [p(c), p(cx), p(cx), p((*cx, y))], [1, p_next(x, c), 1, p_next(y, cx)])
        return [[math.log(value) for value in row] for row in rows]

    return {name: lay_out(entry) for name, entry in BOOKS.items()}


def tree_logits(ids: tuple) -> torch.Tensor:
    """Logits that hang on the whole context, for a tree of tokens 0 … 7."""
    seed = sum((token + 1) * 10**place for place, token in enumerate(ids))
    return 3 * torch.randn(len(NAMES), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + len(ids)


def tree() -> dict:
    return explorable.grow_tree(tree_logits, NAMES.__getitem__, top=2, depth=3)


LOG_TAU, LOG_P = np.arange(-12.5, 15, 0.05), [-10.0, -5.0, 0.0]
SUPPORTS = (1, 5, 45)  # of 50 tokens


def ages(log_tau=LOG_TAU, **options) -> str:
    curves = {f"k = {k}": closed_form(np.exp(log_tau), 50, k) for k in SUPPORTS}
    return explorable.training_time(log_tau, curves, LOG_P, decades=(-1, 6), start=2, **options)


PICTURE, NOISE = torch.randint(0, 256, (2, 3, 5, 4), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
STEPS = 3 * torch.randn(2, 21, len(NAMES), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
PICTURES = {"a <b>": (PICTURE, STEPS[0]), "its negative": (255 - PICTURE, STEPS[1])}

PAGES = {
    "gauge": lambda: explorable.gauge_slider(numbers()),
    "super": lambda: explorable.superimposition(stories(), "snow"),
    "tree": lambda: explorable.context_tree(tree()),
    "time": ages,
    "noise": lambda: explorable.dissolving(PICTURES, NOISE, NAMES, 4.2),
}
every_page = pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)


@every_page
def test_an_explorable_is_the_same_string_every_time_and_asks_nobody(make):
    page = make()
    assert page == make()
    assert not re.search(r"\b(src|href)=|@import|url\(|fetch\(|XMLHttp|import\(", page)
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}  # a name, never fetched


def test_tokens_are_inert_in_the_script_and_in_the_text_around_it():
    page = PAGES["gauge"]()
    assert page.count("<script>") == page.count("</script") == 1 and "<!--" not in page and "<b>" not in page
    hostile = "</script><!-- & é 🌞 \u2028"
    text = explorable.as_script([hostile])
    assert text.isascii() and not set("<>&") & set(text) and json.loads(text) == [hostile]


def test_other_numbers_have_another_key():
    other = numbers()
    other["logit"][0] += 1e-6
    pages = [*(make() for make in PAGES.values()), explorable.gauge_slider(other)]
    assert len({re.search(r'data-key="(\w+)"', page)[1] for page in pages}) == len(pages)


def test_numbers_of_a_sentence_are_those_of_the_energies_and_survive_json():
    f, ids = sentence()
    found = json.loads(json.dumps(numbers()))
    assert found["tokens"] == TOKENS
    s = np.array(found["logit"]) - found["log_partition"][1:]
    assert s == approx(spilled_energy(f, ids).numpy(), abs=1e-8)
    assert found["mean_logit"] == approx(potentials(f).mean_logit.tolist(), abs=1e-8)
    for step, row in zip(found["candidates"], f[:-1], strict=True):
        assert [NAMES.index(name) for name, _ in step] == row.topk(4).indices.tolist()


def test_a_tree_holds_the_likeliest_tokens_and_their_log_probabilities():
    nodes = tree()
    assert len(nodes) == 1 + 2 + 4 + 8 and nodes[()]["logprob"] == 0
    for context in filter(None, nodes):
        log_p = tree_logits(context[:-1]).log_softmax(-1)
        assert context[-1] in log_p.topk(2).indices
        assert nodes[context]["logprob"] == approx(log_p[context[-1]].item(), abs=1e-12)


def test_show_leaves_a_sentence_where_no_html_is_shown(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    explorable.show("<p>page</p>", "Bars.")
    assert shown[0]["text/html"] == "<p>page</p>" and shown[0]["text/plain"].startswith("Bars. (")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: explorable.gauge_slider(numbers() | {"logit": [1.0]}), "logit"),
        (lambda: explorable.gauge_slider(numbers(), shown=6), "shown"),
        (lambda: explorable.gauge_slider(numbers() | {"mean_logit": [math.nan] * 7}), "finite"),
        (lambda: explorable.gauge_slider({key: [] for key in numbers()}), "entries"),
        (lambda: explorable.sentence_numbers(*sentence(), str, top=0), "top"),
        (lambda: explorable.superimposition({}), "empty"),
        (lambda: explorable.superimposition({"a": [[0, 0, 0]] * 3}), "quadruples"),
        (lambda: ages(LOG_TAU[::-1]), "log_tau must increase"),
        (lambda: ages(LOG_TAU[LOG_TAU > -12]), "log_tau must reach"),
        (lambda: ages(LOG_TAU[LOG_TAU < 13]), "log_tau must reach"),
        (lambda: explorable.training_time(LOG_TAU, {"k": LOG_TAU[1:]}, LOG_P), "one V for each"),
        (lambda: explorable.training_time(LOG_TAU, {"k": LOG_TAU}, LOG_P, (-1, 6), start=7), "log_tau must reach"),
        (lambda: explorable.dissolving(PICTURES, NOISE[:, 1:], NAMES, 4.2), "uint8"),
        (lambda: explorable.dissolving(PICTURES, NOISE, NAMES[1:], 4.2), "one column a class"),
        (lambda: explorable.context_tree({}), "one tree"),
        (lambda: explorable.context_tree({k: v for k, v in tree().items() if len(k) != 1}), "one tree"),
        (lambda: explorable.context_tree({k: v | {"log_partition": math.inf} for k, v in tree().items()}), "finite"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_with_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture
def visit(browser, tmp_path):
    """Open explorables as a stored page; at the end, nothing was said on the console and no request had left."""
    trouble, pages = [], []

    def open_page(*parts: str, width: int = 800, document: str | None = None, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        pages.append(page)
        page.set_default_timeout(8000)
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.route(re.compile(r"^(?!file:|data:)"), lambda route: (trouble.append(route.request.url), route.abort()))
        file = tmp_path / f"page{len(pages)}.html"
        head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        dark = "<style>body{margin:12px}@media(prefers-color-scheme:dark){body{background:#111;color:#eee}}</style>"
        file.write_text(document or head + dark + "".join(parts), encoding="utf-8")
        page.goto(file.as_uri())
        return page

    yield open_page
    for page in pages:
        page.close()
    assert trouble == []


def slider(page, nth: int = 0):
    return page.locator("input[type=range]").nth(nth)


def move(page, value, nth: int = 0) -> float:
    """Put a slider to a value ("min" and "max" are its ends) as a hand does: the browser rounds it to the slider's
    step and tells the script. The value it has come to."""
    js = "(input, v) => { input.value = input[v] ?? v; input.dispatchEvent(new Event('input')); return input.value; }"
    return float(slider(page, nth).evaluate(js, value))


def read(page, selector: str, name: str) -> np.ndarray:
    """A data- attribute of all elements that match, as numbers."""
    return np.array([float(v) for v in page.locator(selector).evaluate_all(f"all => all.map(e => e.dataset.{name})")])


def boxes(page, selector: str, name: str) -> np.ndarray:
    """A number of the bounding boxes of all elements that match."""
    return np.array(page.locator(selector).evaluate_all(f"all => all.map(e => e.getBoundingClientRect().{name})"))


def choose(page, nth: int = 0, **option) -> None:
    page.locator("select").nth(nth).select_option(**option)


def status(page) -> str:
    return page.locator("[aria-live]").inner_text()


def assert_moves(page) -> None:
    before = read(page, ".card", "s")
    move(page, 1.0)
    assert (read(page, ".card", "s") != before).all()


def test_the_gauge_slider_does_the_arithmetic_of_utils_energy_at_both_ends_and_moves_no_probability(visit):
    f, ids = sentence()
    page, h = visit(PAGES["gauge"]()), explorable.potentials_to_turn(numbers())
    p_true = f[:-1].softmax(-1).gather(-1, ids[1:, None]).squeeze(-1).numpy()
    bars = boxes(page, ".cup i", "height")
    for number, values in enumerate(h.values()):
        choose(page, index=number)
        for turn in (-1.0, 0.36, 1.0):
            move(page, turn)
            shifted = gauge.shift(f, turn * torch.tensor(values, dtype=torch.float64))
            assert read(page, ".card", "s") == approx(spilled_energy(shifted, ids).numpy(), abs=1e-6)
            assert read(page, ".card", "p") == approx(p_true, abs=1e-6)
            assert read(page, ".stage", "moved") < 1e-12 and "No probability has moved" in status(page)
            assert (boxes(page, ".cup i", "height") == bars).all()


def test_the_named_places_of_the_gauge_slider_are_what_they_are_called(visit):
    f, ids = sentence()
    page = visit(PAGES["gauge"]())
    known = {"mean logit m(c)": gauge.center(f), "log-partition V(c)": gauge.to_conditional(f),
             "log p(c) − V(c)": gauge.to_joint(f, ids)}  # fmt: skip
    for name, logits in known.items():
        choose(page, label=name)
        page.locator(".row button").nth(1).click()
        assert read(page, ".card", "s") == approx(spilled_energy(logits, ids).numpy(), abs=1e-6)
        assert explorable.NAMED[name][1] in status(page)
    page.locator(".row button").nth(0).click()
    assert read(page, ".card", "s") == approx(spilled_energy(f, ids).numpy(), abs=1e-6)


def test_bars_of_spill_are_as_long_as_their_numbers_and_on_the_right_side_of_zero(visit):
    page = visit(PAGES["gauge"]())
    move(page, 0.5)
    s = read(page, ".card", "s")
    scale = boxes(page, ".well i", "height") / np.abs(s)
    assert scale == approx(np.full(len(s), scale.mean()), rel=0.05)
    assert ((boxes(page, ".well i", "y") < boxes(page, ".well u", "y") - 0.5) == (s > 0)).all()


def test_rivals_of_a_token_keep_their_probabilities_while_their_logits_move(visit):
    f, _ = sentence()
    page = visit(PAGES["gauge"]())
    choose(page, label="log-partition V(c)")
    for t in (0, 3):
        page.locator(".card").nth(t).click()
        move(page, 0.0)
        best = f[t].topk(4)
        assert read(page, ".tray", "f") == approx(best.values.numpy(), abs=1e-6)
        move(page, -1.0)
        log_p = best.values - log_partition(f)[t]
        assert read(page, ".tray", "f") == approx(log_p.numpy(), abs=1e-6)
        assert read(page, ".tray", "p") == approx(log_p.exp().numpy(), abs=1e-6)
        assert page.locator(".card").nth(t).get_attribute("aria-pressed") == "true"


def choose_story(page, book: str, reading: int) -> None:
    choose(page, 0, label=book)
    choose(page, 1, index=reading)


def test_one_constant_fits_the_joint_only_for_the_counter_and_two_fit_the_conditional_for_all(visit):
    page = visit(PAGES["super"]())
    for book, (model, _, _) in stories().items():
        spill = model[1] - model[2]
        for reading, left, fits in ((0, [spill / 2, -spill / 2], book == "counter"), (1, [0, 0], True)):
            choose_story(page, book, reading)
            page.get_by_text("put it where it fits best").click()
            assert [*read(page, ".stage", "first"), *read(page, ".stage", "second")] == approx(left, abs=1e-6)
            assert (page.locator(".lane.fits").count() == 4) == fits


def test_sliding_all_four_never_changes_the_difference_of_what_is_left_over(visit):
    page = visit(PAGES["super"]())
    for book, (model, joint, _) in stories().items():
        choose_story(page, book, 0)
        seen = []
        for end in ("min", "max"):
            shift = move(page, end)
            seen.append(read(page, ".lane", "value"))
            assert seen[-1] == approx(np.add(model, shift), abs=1e-6)
            assert read(page, ".lane", "below") == approx(joint, abs=1e-6)
            left = read(page, ".stage", "first") - read(page, ".stage", "second")
            assert left == approx(model[1] - model[2], abs=1e-6)
        assert (np.abs(seen[1] - seen[0]) > 1).all()


def test_two_sliders_move_a_factor_each_and_the_spill_is_still_named(visit):
    page = visit(PAGES["super"]())
    choose_story(page, "doodler", 1)
    shift = move(page, -1.0, nth=1)
    assert shift == approx(-1, abs=0.01)
    assert read(page, ".lane", "value") == approx(np.add(stories()["doodler"][0], [0, 0, shift, shift]), abs=1e-6)
    assert "Term 1 − Term 2: −2.38 = −1.38 in the boxes, −1.00 in the sliders" in page.locator(".strip").inner_text()
    choose_story(page, "doodler", 0)
    assert not slider(page, 1).is_visible()


def widths_of_branches(page) -> np.ndarray:
    return np.array(page.locator(".branch").evaluate_all("all => all.map(e => Number(e.getAttribute('stroke-width')))"))


def spill_of(context: tuple, g: dict) -> float:
    """The spill of a context's last token from logits to which g has been added, by `utils.energy`."""
    rows = torch.stack([tree_logits(context[:-1]) + g[context[:-1]], tree_logits(context) + g[context]])
    return spilled_energy(rows, torch.tensor([0, context[-1]])).item()


def test_the_tree_walks_through_the_four_gauges_with_the_spills_of_utils_energy(visit):
    nodes, page = tree(), visit(PAGES["tree"]())
    order = sorted(nodes, key=len)[1:]
    widths = widths_of_branches(page)
    assert (np.argsort(widths) == np.argsort([nodes[c]["logprob"] for c in order])).all()
    log_p = {context: sum(nodes[context[:n]]["logprob"] for n in range(len(context) + 1)) for context in nodes}
    gauges = [lambda c: 0.0, lambda c: -nodes[c]["mean_logit"], lambda c: -nodes[c]["log_partition"],
              lambda c: log_p[c] - nodes[c]["log_partition"]]  # fmt: skip
    for place in (0, 0.25, 1, 2, 2.5, 3):
        move(page, place)
        k = min(int(place), 2)
        g = {c: (1 - place + k) * gauges[k](c) + (place - k) * gauges[k + 1](c) for c in nodes}
        assert read(page, ".branch", "s") == approx([spill_of(context, g) for context in order], abs=1e-6)
        assert read(page, ".branch", "p") == approx([math.exp(nodes[c]["logprob"]) for c in order], abs=1e-6)
        assert widths_of_branches(page) == approx(widths, abs=1e-9)
    assert read(page, ".branch", "s") == approx(np.zeros(len(order)), abs=1e-6)  # the joint gauge


def test_a_walk_to_any_leaf_adds_up_to_log_p_and_two_potentials_in_every_gauge(visit):
    nodes, page = tree(), visit(PAGES["tree"]())
    leaves = sorted((c for c in nodes if len(c) == 3), key=list(nodes).index)
    for place in (0, 1.5, 3):
        move(page, place)
        for number in (0, 5, len(leaves) - 1):
            page.locator(".knot circle").nth(list(nodes).index(leaves[number])).click()
            assert page.locator("select").input_value() == str(number)
            total, walk = read(page, ".stage", "total")[0], read(page, ".stage", "walk")[0]
            assert total == approx(walk, abs=1e-6)
            if place == 0:
                s = sum(spill_of(leaves[number][:n], dict.fromkeys(nodes, 0.0)) for n in (1, 2, 3))
                assert total == approx(s, abs=1e-6)
    choose(page, index=2)
    assert page.locator(".branch.on").count() == 3


def test_a_button_glides_to_its_gauge_and_jumps_for_those_who_want_no_motion(visit):
    calm, lively = (visit(PAGES["tree"](), reduced_motion=wish) for wish in ("reduce", "no-preference"))
    places = "button => { button.click(); return button.closest('.stage').dataset.place; }"
    assert calm.locator(".stops button").nth(3).evaluate(places) == "3"
    lively.evaluate("""() => {
      window.seen = [];
      const stage = document.querySelector('.stage');
      new MutationObserver(() => seen.push(Number(stage.dataset.place))).observe(stage, { attributes: true });
    }""")
    assert float(lively.locator(".stops button").nth(3).evaluate(places)) < 3
    lively.wait_for_function("document.querySelector('.stage').dataset.place === '3'", timeout=5000)
    assert any(0 < place < 3 for place in lively.evaluate("seen"))


def paths(page) -> list[str]:
    return page.locator(".branch").evaluate_all("all => all.map(e => e.getAttribute('d'))")


def test_contexts_grow_with_training_time_as_the_closed_form_says_and_one_that_never_comes_stays(visit):
    page = visit(PAGES["time"]())
    order = [*SUPPORTS[1:], SUPPORTS[0]]  # the one that is watched is drawn last
    for turn in ("min", 2.5, "max"):
        decade = move(page, turn)
        V = [closed_form(np.exp(LOG_P) * 10**decade, 50, k) for k in order]
        assert read(page, ".dot", "v") == approx(np.ravel(V), abs=1e-3)
        assert read(page, ".dot", "x") == approx(LOG_P * 3)  # they do not move sideways
        assert read(page, ".stage", "never") == approx([math.log(50)], abs=1e-3)
        worth = closed_form(np.exp([0.0, -1.0]) * 10**decade, 50, 1)
        assert read(page, ".stage", "slope") == approx([worth[0] - worth[1]], abs=1e-3)
    assert decade == 6 and f"{V[-1][0]:.1f} at log p = −10 to {V[-1][-1]:.1f} at log p = 0" in status(page)


def test_against_their_clocks_the_curves_stand_still_and_the_contexts_walk_along_them(visit):
    page = visit(PAGES["time"]())
    for across, still in ((0, False), (1, True)):
        choose(page, 1, index=across)
        seen = []
        for end in ("min", "max"):
            decade = move(page, end)
            seen.append((paths(page), boxes(page, ".dot", "left"), read(page, ".dot", "v")))
            if across:
                assert read(page, ".dot", "x") == approx(np.tile(np.add(LOG_P, decade * math.log(10)), 3))
        (before, left, V), (after, right, W) = seen
        assert (before == after) == still and (right == left).all() != still and (W >= V).all() and (W > V + 1).any()


def test_the_watched_contexts_are_marked_and_named(visit):
    page = visit(PAGES["time"]())
    for number, k in enumerate(SUPPORTS):
        choose(page, 0, index=number)
        assert page.locator(".dot.on").count() == len(LOG_P) and page.locator(".branch.on").count() == 1
        assert page.locator(".side.on").text_content() == f"k = {k}" and f"k = {k}:" in status(page)
        V = closed_form(np.exp(LOG_P) * 100, 50, k)
        assert read(page, ".dot.on", "v") == approx(V, abs=1e-3)


@pytest.mark.parametrize("number", [0, 1])
def test_a_dissolving_picture_is_the_corrupted_one_and_its_numbers_those_of_its_logits(visit, number):
    page = visit(PAGES["noise"]())
    choose(page, 0, index=number)
    script = "e => [...e.getContext('2d').getImageData(0, 0, e.width, e.height).data]"
    name, (picture, steps) = list(PICTURES.items())[number]
    for turn, amount in (("min", 0.0), (0.35, 0.35), ("max", 1.0)):
        assert move(page, turn) == approx(amount)
        v = potentials(steps[round(20 * amount)])
        assert read(page, ".tray", "p") == approx(steps[round(20 * amount)].softmax(0).numpy(), abs=1e-6)
        for key, value in (("v", v.log_partition), ("k", v.self_certainty), ("m", v.mean_logit)):
            assert read(page, ".stage", key) == approx([float(value)], abs=1e-6)
        pixels = np.array(page.locator("canvas").evaluate(script)).reshape(5, 4, 4)
        mixed = (1 - amount) * picture.double() + amount * NOISE.double()
        assert pixels[..., :3] == approx(mixed.permute(1, 2, 0).numpy(), abs=0.51) and (pixels[..., 3] == 255).all()
        assert f"{name}, {round(100 * amount)} % noise" in status(page)


@every_page
def test_a_keyboard_is_enough_even_where_the_page_wants_the_keys_for_itself(visit, make):
    page = visit(make())
    page.evaluate("addEventListener('keydown', event => event.key.startsWith('Arrow') && event.preventDefault())")
    assert page.locator(".stage").get_attribute("data-lm-suppress-shortcuts") == "true"  # how one tells JupyterLab
    slider(page).focus()
    before, value = status(page), float(slider(page).input_value())
    for _ in range(20):
        page.keyboard.press("ArrowRight" if "gauge" in page.locator(".slide span").first.inner_text() else "ArrowLeft")
    assert abs(float(slider(page).input_value()) - value) > 0.05 and status(page) != before
    page.keyboard.press("Tab")
    assert page.evaluate("['BUTTON', 'SELECT'].includes(document.activeElement.tagName)")


def test_hostile_tokens_are_shown_as_text_and_run_nothing(visit):
    page = visit(PAGES["gauge"](), PAGES["tree"]())
    assert page.evaluate("typeof boom") == "undefined" and page.locator("script").count() == 2
    words = page.locator(".card .token").all_inner_texts()
    assert words == ["The", "sun", "</script><script>boom()</script>", "🌞", "⏎", "& <b>rain</b>"]


def test_two_copies_on_one_page_are_independent_and_each_gets_its_own_drawing(visit):
    page = visit(*[make() for make in PAGES.values()], PAGES["gauge"]())
    assert page.locator(".stage").count() == len(PAGES) + 1 and page.locator(".explorable:has(.card)").count() == 2
    before = read(page, f".explorable:nth-of-type({len(PAGES) + 1}) .card", "s")
    assert len(before) == len(TOKENS)
    move(page, 1.0)
    assert (read(page, f".explorable:nth-of-type({len(PAGES) + 1}) .card", "s") == before).all()
    assert (read(page, ".explorable:nth-of-type(1) .card", "s") != before).all()


FRONT_ENDS = {  # each puts the HTML in first, where scripts are dead, and then
    "replaces each script by a copy that runs, as JupyterLab": """script => {
        const copy = document.createElement('script');
        copy.textContent = script.textContent;
        script.replaceWith(copy); }""",
    "runs each script without telling it its element": "script => (0, eval)(script.textContent)",
}


@pytest.mark.parametrize("revive", FRONT_ENDS.values(), ids=FRONT_ENDS)
def test_the_script_finds_an_element_of_its_own_when_a_front_end_runs_it_later(visit, revive):
    page = visit("<main></main>")
    js = f"""html => {{ document.querySelector('main').innerHTML = html;
                        document.querySelectorAll('script').forEach({revive}); }}"""
    page.evaluate(js, PAGES["gauge"]() * 2)
    assert page.locator(".explorable > .stage").count() == 2 and page.locator(".still").count() == 0


def test_a_page_saved_after_it_has_moved_still_moves(visit):
    page = visit(document=visit(PAGES["gauge"](), PAGES["tree"]()).content())
    assert page.locator(".explorable > .stage").count() == 2
    assert_moves(page)


def test_it_moves_in_a_page_that_nbconvert_made_from_a_stored_notebook(visit):
    v4 = nbformat.v4
    outputs = [v4.new_output("display_data", {"text/html": make(), "text/plain": "-"}) for make in PAGES.values()]
    notebook = v4.new_notebook(cells=[v4.new_code_cell("show()", outputs=outputs, execution_count=1)])
    # The full templates ask a CDN for MathJax, which is theirs to do; "basic" holds the cells alone.
    document, _ = nbconvert.HTMLExporter(template_name="basic").from_notebook_node(notebook)
    page = visit(document='<!doctype html><meta charset="utf-8"><body>' + document)
    assert page.locator(".stage").count() == len(PAGES)
    assert_moves(page)


@every_page
@pytest.mark.parametrize("width", [320, 390, 800, 1280])
def test_nothing_sticks_out_of_the_page(visit, make, width):
    page = visit(make(), width=width)
    parts = ".stage button, .stage select, .grey, .hollow, .stage p, .knot circle, .tray, .dot, .side"
    for end in (None, "min", "max"):
        if end:
            move(page, end)
            assert boxes(page, parts, "left").min() >= boxes(page, ".stage", "left") - 1
            assert boxes(page, parts, "right").max() <= boxes(page, ".stage", "right") + 1
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def contrast(a: str, b: str) -> float:
    """Contrast of two CSS colours `rgb(…)` (WCAG 2)."""

    def luminance(css: str) -> float:
        v = np.array([float(number) for number in re.findall(r"[\d.]+", css)[:3]]) / 255
        return float(np.dot([0.2126, 0.7152, 0.0722], np.where(v < 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)))

    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@every_page
@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(17, 17, 17)")])
def test_words_controls_and_bars_stand_out_from_light_and_dark_pages(visit, make, scheme, ground):
    page = visit(make(), color_scheme=scheme)
    assert page.locator(".stage").evaluate("e => e.style.colorScheme") == scheme

    def color(selector: str, kind: str) -> str:
        return page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{kind}")

    assert contrast(color(".stage p", "color"), ground) > 7
    assert contrast(color("select", "color"), color("select", "backgroundColor")) > 7
    for selector, kind in ((".above", "backgroundColor"), (".below", "backgroundColor"), (".prob", "backgroundColor"),
                           (".branch.on", "stroke"), (".grey", "backgroundColor"), ("svg text", "fill")):  # fmt: skip
        if page.locator(selector).count():
            assert contrast(color(selector, kind), ground) > (2.3 if selector == ".grey" else 3)


STORED = {  # notebook → what moves, what stays, as (selector, data- attribute)
    "00_start_here": (("[data-s]", "s"), ("[data-p]", "p")),
    "01_two_decompositions": (("[data-first]", "first"), ("[data-spill]", "spill")),
    "02_gauge_freedom": ((".branch", "s"), (".branch", "p")),
    "06_gradient_descent": ((".dot", "v"), (".stage", "never")),
}


@pytest.mark.parametrize("name", STORED)
def test_on_the_stored_pages_of_the_course_what_should_move_moves_and_the_rest_stays(visit, name):
    """The outputs that lie in the notebooks, opened without a kernel, at both ends of the first slider."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = [o.data["text/html"] for o in outputs if 'class="explorable"' in o.get("data", {}).get("text/html", "")]
    page, (moves, stays) = visit(*pages), STORED[name]
    seen = []
    for end in ("min", "max"):
        move(page, end)
        seen.append((read(page, *moves), read(page, *stays)))
    assert len(pages) == 1 and len(seen[0][1]) > 0
    assert np.abs(seen[0][0] - seen[1][0]).max() > 1 and np.abs(seen[0][1] - seen[1][1]).max() < 1e-9
