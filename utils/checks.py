"""One line under each derivation, and one line of feedback for each exercise."""

from collections.abc import Callable

import numpy as np

PASS, FAIL = "✓", "✗"


def agree(a, b, atol: float) -> bool:
    """Whether two numbers or arrays have one shape (or broadcast from a number) and agree within `atol`."""
    a, b = (np.asarray(v.detach().cpu() if hasattr(v, "detach") else v, dtype=float) for v in (a, b))
    if a.shape != b.shape and a.ndim and b.ndim:
        return False
    return bool(np.allclose(a, b, rtol=0, atol=atol, equal_nan=True))


def check(claim: str, a, b=True, atol: float = 1e-9) -> None:
    """Print whether `a` and `b` agree within `atol` (a claim alone: whether `a` is true).

    Prints the tolerance, never the residual, so that the line is the same on every machine.
    """
    if b is True:
        print(f"{PASS if bool(np.all(np.asarray(a))) else FAIL} {claim}")
    else:
        print(f"{PASS if agree(a, b, atol) else FAIL} {claim} (within {atol:.0e})")


def exercise(name: str, attempt, expected, hint: str, atol: float = 1e-6) -> None:
    """Feedback on an attempt: not attempted yet, not yet with a hint, or correct. Never raises.

    Args: `attempt`, a value, or a function of no arguments that returns it; `expected`, a value to agree
    with, or a function that takes the attempt and returns True or False.
    """
    try:
        value = attempt() if isinstance(attempt, Callable) else attempt
        if value is None:
            print(f"{name}: not attempted yet")
            return
        good = expected(value) if isinstance(expected, Callable) else agree(value, expected, atol)
    except Exception as error:
        print(f"{name}: not yet. Your code stopped with {type(error).__name__}: {error}. Hint: {hint}")
        return
    print(f"{name}: correct {PASS}" if good else f"{name}: not yet. Hint: {hint}")
