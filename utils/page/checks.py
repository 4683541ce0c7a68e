"""One line under each derivation, and one line of feedback for each exercise."""

from collections.abc import Callable

import numpy as np

from .. import say

PASS, FAIL = "✓", "✗"


def as_array(value) -> np.ndarray:
    """Numbers or a tensor as float64."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=float)


def agree(a, b, atol: float) -> bool:
    """Whether two numbers or arrays have one shape (or broadcast from a number) and agree within `atol`.

    >>> agree([1.0, 1.0], 1.0, atol=1e-9), agree([1.0, 2.0], [[1.0, 2.0]], atol=1e-9)
    (True, False)
    """
    a, b = as_array(a), as_array(b)
    if a.shape != b.shape and a.ndim and b.ndim:
        return False
    return bool(np.allclose(a, b, rtol=0, atol=atol, equal_nan=True))


def check(claim: str, a, b=True, atol: float = 1e-9) -> None:
    """Print whether `a` and `b` agree within `atol` (a claim alone: whether `a` is true).

    Prints the tolerance, never the residual, so that the line is the same on every machine.
    """
    if b is True:
        say(f"{PASS if bool(np.all(np.asarray(a))) else FAIL} {claim}")
    else:
        say(f"{PASS if agree(a, b, atol) else FAIL} {claim} (within {atol:.0e})")


def exercise(name: str, attempt: Callable, expected, hint, atol: float = 1e-6, hints: int = 1) -> None:
    """Feedback on an attempt: not attempted yet, not yet with a hint, or correct. Never raises.

    `attempt` takes no arguments (an error in a mere value would stop the notebook before it came here). `expected` is
    what it should return, or a function that takes what it returned and gives True, False or words on what is
    wrong. `hint` is a text, or a list of texts of which the first `hints` are shown.
    """
    steps = [hint] if isinstance(hint, str) else list(hint)
    try:
        value = attempt()
        if value is None:
            say(f"{name}: not attempted yet")
            return
        good = expected(value) if callable(expected) else agree(value, expected, atol) or mismatch(value, expected)
        wrong = f" {good}." if isinstance(good, str) and good else ""
        good = not isinstance(good, str) and bool(good)
    except Exception as error:
        good, wrong = False, f" Your code stopped with {type(error).__name__}: {error}."
    more = f" (Next hint: add hints={hints + 1}.)" if hints < len(steps) else ""
    say(f"{name}: correct {PASS}" if good else f"{name}: not yet.{wrong} Hint: {' '.join(steps[:hints])}{more}")


def mismatch(value, expected) -> str:
    """What is wrong with the kind of an answer; "" where only its numbers are."""
    if hasattr(value, "_fields"):  # an Estimate, say
        return f"This is a whole {type(value).__name__} ({', '.join(value._fields)}): return the part asked for"
    got, asked = as_array(value).shape, as_array(expected).shape
    return "" if got == asked else f"The shape is {list(got)}, asked for is {list(asked)}"


def on_all(function: Callable, cases) -> list | None:
    """What an attempt answers in all cases; None, "not attempted yet", if it ever answers None."""
    answers = [function(*case) for case in cases]
    return None if any(answer is None for answer in answers) else answers
