"""Feedback in notebooks: says what was compared, never how far off it was by chance, and never stops a notebook."""

import doctest
from collections import namedtuple

import numpy as np
import pytest
import torch

from utils.page import checks
from utils.page.checks import agree, check, exercise, on_all

Estimate = namedtuple("Estimate", "value low high")


def said(capsys) -> str:
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("residual", "line"),
    [(0, "✓ it (within 1e-06)"), (3e-10, "✓ it (within 1e-06)"), (0.9e-6, "✓ it (within 1e-06)"),
     (1.1e-6, "✗ it (within 1e-06)")],
)  # fmt: skip
def test_a_check_passes_within_its_tolerance_and_prints_the_same_line_whatever_the_residual(residual, line, capsys):
    check("it", np.ones(3) + residual, np.ones(3), atol=1e-6)
    assert said(capsys) == line


def test_a_claim_alone_must_be_true_everywhere(capsys):
    check("all", np.array([True, True]))
    check("some", np.array([True, False]))
    check("tensor", torch.tensor([True, True]))
    assert said(capsys).splitlines() == ["✓ all", "✗ some", "✓ tensor"]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (torch.tensor([1.0, 2.0]), [1, 2], True),
        (torch.tensor([1.0, 2.0], requires_grad=True), np.array([1.0, 2.0]), True),
        ([1.0, 1.0], 1.0, True),  # a number is compared with each entry
        ([1.0, 2.0], 1.0, False),
        ([1.0, 2.0], [[1.0, 2.0]], False),  # shapes must be those that were meant
        ([1.0, 2.0, 3.0], [1.0, 2.0], False),
        ([np.nan], [np.nan], True),  # a missing Term 1 in both
        ([np.nan], [1.0], False),
        ([np.inf], [np.inf], True),
        ([1e6], [1e6 + 1], False),  # absolute, not relative
    ],
)
def test_agreement_is_absolute_and_of_one_shape(a, b, same):
    assert agree(a, b, atol=1e-9) is same


@pytest.mark.parametrize(
    ("answer", "expected", "line"),
    [
        (None, 2.0, "E: not attempted yet"),
        (2.0, 2.0, "E: correct ✓"),
        ([1, 2], [1, 2], "E: correct ✓"),
        (3.0, 2.0, "E: not yet. Hint: look again"),
        ([1, 2, 3], [1, 2], "E: not yet. The shape is [3], asked for is [2]. Hint: look again"),
        ([2, 2], 3, "E: not yet. The shape is [2], asked for is []. Hint: look again"),
        (4, lambda value: value % 2 == 0, "E: correct ✓"),
        (np.float64(4), lambda value: value % 2 == 0, "E: correct ✓"),  # a numpy bool
        (5, lambda value: value % 2 == 0, "E: not yet. Hint: look again"),
        (5, lambda value: "This is odd", "E: not yet. This is odd. Hint: look again"),
        (0.0, 0.0, "E: correct ✓"),  # zero and False are attempts
        (False, lambda value: value is False, "E: correct ✓"),
        (Estimate(0.9, 0.8, 1.0).value, 0.9, "E: correct ✓"),
        (Estimate(0.9, 0.8, 1.0), 0.9,
         "E: not yet. This is a whole Estimate (value, low, high): return the part asked for. Hint: look again"),
    ],
)  # fmt: skip
def test_an_exercise_says_one_of_three_things(answer, expected, line, capsys):
    exercise("E", lambda: answer, expected, hint="look again")
    assert said(capsys) == line


@pytest.mark.parametrize(
    ("attempt", "expected", "error"),
    [
        (lambda: 1 / 0, 2.0, "ZeroDivisionError"),
        (lambda: [][1], 2.0, "IndexError"),
        (lambda: undefined_name, 2.0, "NameError"),  # noqa: F821
        (2.0, 2.0, "TypeError"),
        (None, 2.0, "TypeError"),
        (lambda: 3, lambda value: value[0] == 1, "TypeError"),  # the checker cannot read the attempt
    ],
)
def test_an_exercise_never_raises_and_names_the_error(attempt, expected, error, capsys):
    exercise("E", attempt, expected, hint="look again")
    line = said(capsys)
    assert line.startswith(f"E: not yet. Your code stopped with {error}: ") and line.endswith("Hint: look again")


@pytest.mark.parametrize(
    ("hints", "line"),
    [
        (1, "Draw it. (Next hint: add hints=2.)"),
        (2, "Draw it. Look at the left. (Next hint: add hints=3.)"),
        (3, "Draw it. Look at the left. It is two."),
        (4, "Draw it. Look at the left. It is two."),
    ],
)
def test_hints_come_one_at_a_time(hints, line, capsys):
    exercise("E", lambda: 3.0, 2.0, ["Draw it.", "Look at the left.", "It is two."], hints=hints)
    assert said(capsys) == f"E: not yet. Hint: {line}"


def test_an_attempt_at_many_cases_is_a_list_or_not_an_attempt():
    assert on_all(lambda a, b: a - b, [(3, 1), (1, 3)]) == [2, -2]
    assert on_all(lambda a: None if a else 1, [(0,), (1,)]) is None


def test_examples_in_docstrings_are_true():
    assert doctest.testmod(checks) == (0, 1)
