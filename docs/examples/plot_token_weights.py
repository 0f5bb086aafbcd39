"""
Which tokens decide?
====================

A probe with ``pooling="learned_attention"`` learns a query that says which tokens of a
text count. Here it is asked for the tense of short sentences, which one word decides,
and the picture shows what it reads.
"""

# %%
# Sentences that differ in one word
# ---------------------------------
#
# Some of the verbs are kept for the picture: the probe never sees them.

import itertools
import warnings

import matplotlib.pyplot as plt

from sklearn_bert import BertProbeClassifier

warnings.filterwarnings("ignore", ".*encoded for the third time")  # they are few

VERBS = {
    "seen": [
        "walk", "play", "cook", "call", "paint", "push", "climb", "jump", "talk",
        "work", "look", "ask", "start", "turn", "help", "open", "clean", "fix", "kick",
    ],
    "new": ["dance", "wash", "laugh", "knock"],
}  # fmt: skip
FRAMES = [
    "we {} every day of the week", "they {} in the garden", "you {} with the others",
    "after all of this we still {}", "people {} here", "in the evening they {} at home",
    "they {} home", "the others {} as well", "some of them {} too",
    "my friends {} in town",
]  # fmt: skip


def sentences(verbs):
    """Return sentences in both tenses, and the tenses."""
    pairs = list(itertools.product(FRAMES, verbs))
    present = [frame.format(verb) for frame, verb in pairs]
    past = [frame.format(verb.removesuffix("e") + "ed") for frame, verb in pairs]
    return present + past, ["present"] * len(pairs) + ["past"] * len(pairs)


texts, tenses = sentences(VERBS["seen"])
new_texts, new_tenses = sentences(VERBS["new"])
shown = new_texts[:: 2 * len(VERBS["new"]) + 1]
weights = {}
for layer in (1, 4):
    probe = BertProbeClassifier(
        layer=layer, pooling="learned_attention", special_tokens=False, C=1.0
    )
    probe.fit(texts, tenses)
    print(f"layer {layer}: {probe.score(new_texts, new_tenses):.3f} of new verbs right")
    weights[layer] = probe.token_weights(shown)

# %%
# What it reads
# -------------
#
# One row per sentence, one cell per token; the darker, the larger its weight. The
# weights of a sentence sum to 1. In layer 1 a verb in the past is read itself; a
# sentence without one is in the present, and its weights point nowhere in particular.
# By layer 4 the tense has spread: the encoder has told the subject too, and the probe
# reads it there. So weights show where the answer can be read, which is not always the
# word that a person would point at.

figure, axes = plt.subplots(
    2, 1, figsize=(9.6, 0.62 * len(shown) + 1.2), layout="constrained"
)
for ax, (layer, of_texts) in zip(axes, weights.items(), strict=True):
    for row, (tokens, of_tokens) in enumerate(of_texts):
        for place, (token, weight) in enumerate(zip(tokens, of_tokens, strict=True)):
            cell = plt.Rectangle((place, row - 0.45), 0.96, 0.9, alpha=weight)
            ax.add_patch(cell)
            ax.text(place + 0.48, row, token, ha="center", va="center", fontsize=8)
    ax.set_xlim(0, max(len(tokens) for tokens, _ in of_texts))
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set_axis_off()
    ax.set_title(f"Weight of each token for the tense, layer {layer}", fontsize=10)
plt.show()
