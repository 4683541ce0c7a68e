"""A Llama's own sentences against the same words scrambled."""

import re

import numpy as np
from scipy.stats import t as student

from utils import say
from utils.load import load_lm
from utils.score import score
from utils.write import generate


def test_scrambling_the_words_changes_v_and_the_paired_difference_is_reported(capsys):
    """The claim is that the difference can be told from zero; its sign is printed, not prescribed."""
    llama, rng = load_lm("almanac-llama"), np.random.default_rng(0)
    texts, _ = generate(llama, [""] * 400, max_new_tokens=40, temperature=1.0, seed=0)
    pieces = [s.strip() for text in texts for s in re.findall(r"[^.!?\n]+[.!?]", text)]
    sentences = [s for s in dict.fromkeys(pieces) if len(s.split()) >= 5]
    assert len(sentences) >= 200
    scrambled = [" ".join(rng.permutation(s.rstrip(".!?").split())) + s[-1] for s in sentences]
    mean_v = [score(llama, part).groupby("text").log_partition_after.mean() for part in (sentences, scrambled)]
    difference = (mean_v[0] - mean_v[1]).to_numpy()
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    low, high = difference.mean() + error * student.ppf([0.025, 0.975], len(difference) - 1)
    with capsys.disabled():
        say(
            f"\nalmanac-llama, {len(difference)} of its own sentences: V(in order) − V(scrambled) = "
            f"{difference.mean():+.2f} nats a token, 95 % interval [{low:+.2f}, {high:+.2f}]"
        )
    assert low > 0 or high < 0
