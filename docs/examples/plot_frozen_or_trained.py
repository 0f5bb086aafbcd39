"""
From how many labels on is training the encoder worth it?
=========================================================

The same texts and labels for a frozen encoder with a classifier, and for an encoder
that is trained with it. ``benchmarks/bench_frozen_vs_finetuned.py`` measured both with
the default model on three tasks; this page draws what it kept in
``benchmarks/results``, and runs no model.
"""

# %%
# What was measured
# -----------------
#
# For each task and number of labels, the accuracy of each contender with each seed, and
# the processor time of its fit.

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator

RESULTS = Path("..", "..", "benchmarks", "results")
tasks = {}
for file in sorted(RESULTS.glob("frozen_vs_finetuned*.json"), key=lambda f: f.stem):
    results = json.loads(file.read_text(encoding="utf-8"))
    for name, case in results["cases"].items():
        case["machine"] = file.stem
        tasks.setdefault(name.split(",")[0], []).append(case)
for cases in tasks.values():
    cases.sort(key=lambda case: case["n_labels"])
TITLES = {
    "polarity": "polarity (2 classes)",
    "subjectivity": "subjectivity (2 classes)",
    "intents": "intents (150 classes)",
}
FROZEN = ["frozen, logistic regression", "frozen, layers weighted"]
STYLES = {  # Petroff's colours, told apart by colour-blind readers too
    FROZEN[0]: {"color": "#94a4a2", "marker": "o", "ls": "--"},
    FROZEN[1]: {"color": "#3f90da", "marker": "s", "ls": "--"},
    "top two blocks": {"color": "#ffa90e", "marker": "^", "ls": "-"},
    "all blocks, gradually": {"color": "#832db6", "marker": "D", "ls": "-"},
    "everything at once": {"color": "#bd1f01", "marker": "v", "ls": "-"},
}


def scores(case, contender):
    """Return the scores of a contender by seed."""
    row = case["rows"].get(contender, {"seeds": [], "scores": []})
    return dict(zip(row["seeds"], row["scores"], strict=True))


def points_ahead(case, contender):
    """Return by how many points it leads the better frozen one, with each seed."""
    own = scores(case, contender)
    frozen = [scores(case, name) for name in FROZEN]
    paired = [f for f in frozen if own.keys() <= f.keys()]
    if not own or not paired:
        return []
    best = max(paired, key=lambda base: np.mean([base[seed] for seed in own]))
    return [100 * (own[seed] - best[seed]) for seed in own]


def draw(ax, curve, contender, **style):
    """Draw means over seeds, filled where there are several, with a band."""
    labels = np.array([n for n, values in curve if len(values)])
    mean = np.array([np.mean(values) for _, values in curve if len(values)])
    spread = [np.std(v, ddof=1) if len(v) > 1 else 0.0 for _, v in curve if len(v)]
    ax.plot(labels, mean, label=contender, lw=1.6, ms=5, mfc="white", **style)
    several = np.array([len(values) > 1 for _, values in curve if len(values)])
    ax.plot(labels[several], mean[several], lw=0, ms=5, **(style | {"ls": ""}))
    ax.fill_between(
        labels, mean - spread, mean + spread, color=style["color"], alpha=0.15, lw=0
    )


# %%
# Accuracy, and the lead over the better frozen one
# --------------------------------------------------
#
# Above, accuracy; below, by how many points an encoder that was trained is ahead of the
# better frozen contender, with the same texts. Where a line rises above zero, training
# begins to pay. Bands are one standard deviation over seeds; a marker that is not
# filled is of one seed.

figure, axes = plt.subplots(
    2, len(tasks), figsize=(3.1 * len(tasks), 5.8), layout="constrained",
    sharex="col", squeeze=False,
)  # fmt: skip
for (above, below), (task, cases) in zip(axes.T, tasks.items(), strict=True):
    for contender, style in STYLES.items():
        curve = [(case["n_labels"], list(scores(case, contender).values()))
                 for case in cases]  # fmt: skip
        draw(above, curve, contender, **style)
        if contender not in FROZEN:
            curve = [(case["n_labels"], points_ahead(case, contender))
                     for case in cases]  # fmt: skip
            draw(below, curve, contender, **style)
    below.axhline(0, color="#717581", ls="--", lw=1.6)
    sizes = [case["n_labels"] for case in cases]
    below.set(xscale="log", xlabel="labels", xticks=sizes)
    below.set_xticklabels([f"{n:,}" for n in sizes])
    below.minorticks_off()
    above.set_title(TITLES[task], fontsize=10)
axes[0, 0].set_ylabel("accuracy")
axes[1, 0].set_ylabel("points ahead of\nthe better frozen one")
for ax in axes[1, 1:]:
    ax.sharey(axes[1, 0])
for ax in axes.flat:
    ax.grid(axis="y", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
handles, names = axes[0, 0].get_legend_handles_labels()
figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)

# %%
# What it costs
# -------------
#
# Seconds of processor time of a fit, on one thread, and the accuracy that they buy: one
# line per contender, one marker per number of labels. The largest set of subjectivity
# is left out, as another machine learned it.

figure, axes = plt.subplots(
    1, len(tasks), figsize=(3.1 * len(tasks), 3.6), layout="constrained", squeeze=False
)
for ax, (task, cases) in zip(axes.flat, tasks.items(), strict=True):
    for contender, style in STYLES.items():
        rows = [
            case["rows"][contender]
            for case in cases
            if contender in case["rows"] and case["machine"] == "frozen_vs_finetuned"
        ]
        seconds = [np.mean(row["cpu_seconds"]) for row in rows]
        accuracy = [np.mean(row["scores"]) for row in rows]
        ax.plot(seconds, accuracy, label=contender, lw=1.6, ms=5, **style)
    ax.set(xscale="log", xlabel="seconds of one fit")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    ax.xaxis.set_major_formatter("{x:,g}")
    ax.minorticks_off()
    ax.set_title(TITLES[task], fontsize=10)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
axes[0, 0].set_ylabel("accuracy")
handles, names = axes[0, 0].get_legend_handles_labels()
figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
