"""Small tools of the course. Read them beside the notebooks: each line of code follows a formula.

Notation, everywhere in nats:

| symbol                       | name in code     | meaning                                                |
|------------------------------|------------------|--------------------------------------------------------|
| `c`                          | `context`        | the tokens so far                                      |
| `x`, `y`                     | `token`          | the token under suspicion, a next-token candidate      |
| `f(x; c)`                    | `logit`          | the raw logit of `x` after `c` (Term 1 of the post)    |
| `V(c) = log Σ_y exp f(y; c)` | `log_partition`  | log-partition function (`V(c, x)` is Term 2)           |
| `p(x | c) = exp(f − V)`      | `logprob`        | the next-token conditional (in code, its logarithm)    |
| `s(c, x) = f(x; c) − V(c,x)` | `spilled`        | spilled energy, in the blog post's sign                |
| `Δ = −s`                     | `delta`          | the same in the sign of the paper's released code      |
| `m(c) = mean_y f(y; c)`      | `mean_logit`     | the gauge coordinate                                   |
| `K(c) = KL(U ‖ p(·|c))`      | `self_certainty` | how far the next-token distribution is from uniform    |
| `|V|`                        | `vocab_size`     | number of tokens                                       |
| `q(y|c)`                     | `q`              | the true conditional, where it is known                |
| `k(c)`                       | `k`              | number of possible next tokens: those with `q > 0`     |
| `τ = p(c)·t`                 | `tau`            | a context's clock: training time, by how often it came |
|                              | `live_tokens`    | tokens that some training document asks to predict     |

Reading order of the rooms: `energy`, `gauge`; then `head`, `reading`, `load`, `score`, `write` (a model and a text
become a table); `detect`, `stats`; `almanac`, `tabular`, `kernel` (a language, and two learners that can be solved);
`images`, `ood`, `records`. What draws and checks on a page is in `page`, what fetches a model in `fetch`, what only a
maintainer runs in `workshop`. Data flows one way: text → `score` → tidy table → `detect` and `stats` → `page.plots` →
notebook.
"""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"


def data_file(name: str) -> Path:
    """The path of a file or folder under `data/`; FileNotFoundError, with the remedy, if it is not there."""
    if not (DATA / name).exists():
        raise FileNotFoundError(f"{DATA / name} is missing: clone the course and run `pip install --editable .` in it")
    return DATA / name


def versions() -> str:
    """One line on what this notebook runs on."""
    packages = " · ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return f"Python {platform.python_version()} · {packages} · {os.cpu_count()} CPU cores"


def say(line: str) -> None:
    """Print a line. A terminal that lacks a character gets its name, `\\N{CHECK MARK}`, where `print` would raise."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(line.encode(encoding, "namereplace").decode(encoding))
