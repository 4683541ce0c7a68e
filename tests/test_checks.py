"""Feedback in notebooks: says what was compared, never how far off it was by chance, and never stops a notebook."""

import numpy as np
import pytest
import torch

from utils.checks import agree, check, exercise


def said(capsys) -> str:
    return capsys.readouterr().out.strip()


def test_a_check_passes_within_its_tolerance_and_fails_beyond(capsys):
    check("close", 1.0, 1.0 + 0.9e-6, atol=1e-6)
    assert said(capsys) == "✓ close (within 1e-06)"
    check("far", 1.0, 1.0 + 1.1e-6, atol=1e-6)
    assert said(capsys) == "✗ far (within 1e-06)"


def test_a_check_prints_the_same_line_whatever_the_residual(capsys):
    lines = []
    for residual in (0.0, 1e-12, 3e-10):
        check("the same", np.ones(3) + residual, np.ones(3))
        lines.append(said(capsys))
    assert len(set(lines)) == 1


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
    ("attempt", "expected", "line"),
    [
        (None, 2.0, "E: not attempted yet"),
        (lambda: None, 2.0, "E: not attempted yet"),
        (2.0, 2.0, "E: correct ✓"),
        (lambda: [1, 2], [1, 2], "E: correct ✓"),
        (3.0, 2.0, "E: not yet. Hint: look again"),
        ([1, 2, 3], [1, 2], "E: not yet. Hint: look again"),
        (4, lambda value: value % 2 == 0, "E: correct ✓"),
        (5, lambda value: value % 2 == 0, "E: not yet. Hint: look again"),
        (0.0, 0.0, "E: correct ✓"),  # zero and False are attempts
        (False, lambda value: value is False, "E: correct ✓"),
    ],
)
def test_an_exercise_says_one_of_three_things(attempt, expected, line, capsys):
    exercise("E", attempt, expected, hint="look again")
    assert said(capsys) == line


@pytest.mark.parametrize("attempt", [lambda: 1 / 0, lambda: [][1], "text", lambda: undefined_name])  # noqa: F821
def test_an_exercise_never_raises_and_names_the_error(attempt, capsys):
    exercise("E", attempt, 2.0, hint="look again")
    line = said(capsys)
    assert line.startswith("E: not yet. Your code stopped with ") and line.endswith("Hint: look again")


def test_a_checker_that_cannot_read_the_attempt_does_not_raise(capsys):
    exercise("E", 3, lambda value: value[0] == 1, hint="return a list")
    assert "TypeError" in capsys.readouterr().out
