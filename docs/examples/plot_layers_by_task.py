"""
Which layer holds what?
=======================

Accuracy of a linear probe on every layer of the default model, for eight questions
about texts and three about words, beside the same architecture with random weights.
``benchmarks/bench_sweep.py`` measured it with `layer_sweep`; this page draws what it
kept in ``benchmarks/results``, and runs no model.
"""

# %%
# What was measured
# -----------------
#
# Of texts, 1,200 for each question, mean pooling, three folds. Of words, those of 2,000
# sentences of UD English EWT, three folds over sentences.

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

RESULTS = Path("..", "..", "benchmarks", "results")


def read(name):
    """Return the cases of a result file."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))["cases"]


curves = {}
for task, case in read("sweep-tasks.json").items():
    mean = case["poolings"].index("mean")
    parts = (case[name][mean] for name in ("means", "spreads", "untrained"))
    curves[task] = (*map(np.array, parts), case["most_frequent"])
n_of_texts = len(curves)
for task, case in read("sweep-words.json").items():
    parts = (case[name] for name in ("means", "spreads", "untrained"))
    curves[task] = (*map(np.array, parts), case["most_frequent_of_word"])

# %%
# The best layer depends on the question
# --------------------------------------
#
# A star marks the best layer. What is on the surface, the length of a sentence or the
# depth of its tree, is best in the lowest layers, where random weights do as well or
# better. Form is best in layers 2 to 4, mostly far above random weights. And an encoder
# tuned for the similarity of sentences gives much of both up in its last layer. Dotted:
# always the most frequent answer, and for words the most frequent tag of each word.

figure, axes = plt.subplots(
    4, 3, figsize=(9.6, 9.6), layout="constrained", sharex=True
)  # fmt: skip
for i, (ax, (task, (means, spreads, untrained, frequent))) in enumerate(
    zip(axes.flat, curves.items(), strict=False)
):
    layers = np.arange(len(means))
    ax.plot(layers, means, color="#3f90da", marker="o", ms=4, label="trained")
    ax.fill_between(
        layers, means - spreads, means + spreads, color="#3f90da", alpha=0.2, lw=0
    )
    ax.plot(layers, untrained, color="#ffa90e", ls="--", lw=1.6, label="random weights")
    ax.axhline(frequent, color="#717581", ls=":", label="most frequent answer")
    best = means.argmax()
    ax.plot(best, means[best], marker="*", ms=13, color="#bd1f01", ls="", label="best")
    level = "of a text" if i < n_of_texts else "of words"
    ax.set_title(f"{task} ({level})", fontsize=10)
    ax.set_xticks(layers)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
for ax in axes[-1]:
    ax.set_xlabel("layer")
for ax in axes[:, 0]:
    ax.set_ylabel("accuracy")
handles, names = axes[0, 0].get_legend_handles_labels()
for ax in axes.flat[len(curves) :]:
    ax.set_axis_off()
    ax.legend(handles, names, loc="center", frameon=False)
