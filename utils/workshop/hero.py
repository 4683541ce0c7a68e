"""The picture on the front page, light and dark: `python -m utils.workshop.hero` (part of `make notebooks`).

One sentence read by the small Llama: its spills in three gauges, and the probabilities that none of them moves.
"""

import matplotlib as mpl
import numpy as np
import torch

from .. import ROOT
from ..energy import chosen, spilled_energy
from ..gauge import center, shift, to_conditional
from ..load import load_lm
from ..page import plots

SENTENCE = "The capital of Australia is Sydney."
FOLDER = ROOT / "notebooks" / "figures"
INKS = {"light": "#1f2328", "dark": "#f0f6fc"}
SCALE = 8.0  # nats, the standard deviation of the numbers drawn at random


def rows(lm) -> tuple[list[str], dict[str, np.ndarray], np.ndarray]:
    """Tokens, their spills (nats) in three gauges, and their probabilities."""
    ids = torch.tensor([lm.tokenizer.bos_token_id, *lm.tokenizer(SENTENCE).input_ids])
    with torch.no_grad():
        logits = lm.model(ids[None]).logits[0].double()
    drawn = SCALE * torch.randn(len(ids), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gauges = {"as trained": logits, "mean logit\nset to 0": center(logits),
              "a number drawn\nfor each context": shift(logits, drawn)}  # fmt: skip
    spills = {name: spilled_energy(turned, ids).numpy() for name, turned in gauges.items()}
    return [lm.tokenizer.decode(int(i)) for i in ids[1:]], spills, chosen(to_conditional(logits), ids).exp().numpy()


def draw(tokens, spills, probability, ink: str):
    """The figure; `ink` is the colour of words outside the cells."""
    fig, ax = plots.figure(10.0, 3.9)
    purple = plots.color_scale(np.concatenate([*spills.values()]), 0.0)
    blue = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), "Blues")
    bands = [(y, name, values, purple, "{:+.1f}") for y, (name, values) in enumerate(spills.items())]
    bands.append((len(spills) + 0.35, "probability,\nin all three", probability, blue, "{:.2f}"))
    for y, name, values, scale, form in bands:
        ax.text(-0.12, y + 0.5, name, ha="right", va="center", color=ink, fontsize=11)
        for x, value in enumerate(values):
            fill = scale.to_rgba(value)
            ax.add_patch(mpl.patches.Rectangle((x + 0.02, y + 0.03), 0.96, 0.94, facecolor=fill))
            ax.text(x + 0.5, y + 0.5, form.format(value).replace("-", "−"), ha="center", va="center", fontsize=12,
                    color=plots.ink_on(fill))  # fmt: skip
    for x, token in enumerate(tokens):
        ax.text(x + 0.5, -0.2, plots.visible(token).strip(), ha="center", va="bottom", color=ink, fontsize=13)
    ax.text(-0.12, -0.2, "spills, in nats", ha="right", va="bottom", color=ink, fontsize=11, style="italic")
    ax.set(xlim=(-1.5, len(tokens)), ylim=(len(spills) + 1.4, -0.7))
    ax.axis("off")
    return fig


def main() -> None:
    found = rows(load_lm("llama"))
    FOLDER.mkdir(exist_ok=True)
    for mode, ink in INKS.items():
        draw(*found, ink).savefig(FOLDER / f"hero-{mode}.png", dpi=160, transparent=True, metadata={"Software": None})


if __name__ == "__main__":
    main()
