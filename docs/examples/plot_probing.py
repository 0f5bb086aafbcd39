"""
Does the representation hold it, or does the probe learn it?
============================================================

A probe that is right says that the labels can be learned from the features. It does
not say how much of the work was the probe's. Two measures do: selectivity, by a control
task that can only be memorised, and description length, which counts how many labels
the probe had to see.

It runs in under a minute on two cores, with no network if the ``offline`` extra is
installed.
"""

# %%
# By layer
# --------
#
# Topics of docstrings, from one pass. The control task gives each *type* of text a
# random label; the type is the first word here.

import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_bert import BertVectorizer
from sklearn_bert.datasets import load_docstrings
from sklearn_bert.inspection import (
    ProbingDisplay,
    minimum_description_length,
    probe_layers,
    selectivity,
)

docs = load_docstrings(50)
memory = tempfile.mkdtemp()
probes = probe_layers(docs.data, docs.target, memory=memory, cv=3)
print(probes)

# %%
# The three panels agree on the last layer: it is the most accurate, forgets first words
# and needs the fewest bits.

ProbingDisplay(probes).plot()

# %%
# A stronger probe is not a better witness
# ----------------------------------------
#
# On the same features, an MLP and a linear probe.

features = BertVectorizer(layer=3, pooling="mean", memory=memory).fit_transform(
    docs.data
)
first_words = [text.split()[0].lower() for text in docs.data]
mlp = make_pipeline(
    StandardScaler(), MLPClassifier((128,), max_iter=300, tol=1e-3, random_state=0)
)
for name, probe in {"linear": None, "MLP": mlp}.items():
    result = selectivity(features, docs.target, first_words, estimator=probe, cv=3)
    print(f"{name}: {result}\n")

# %%
# Description length, portion by portion
# --------------------------------------
#
# Labels are sent in portions, each coded by a probe trained on those before. The curve
# is the price of a label, and the area under it the code length. Shuffled labels cost
# more than the uniform code does: the probe finds in them what is not there.

shuffled = np.random.default_rng(0).permutation(docs.target)
figure, ax = plt.subplots(layout="constrained")
for name, labels, color in (
    ("topics", docs.target, "#3f90da"),
    ("shuffled topics", shuffled, "#bd1f01"),
):
    mdl = minimum_description_length(features, labels)
    ends = mdl.portion_ends
    label = f"{name}: {mdl.codelength:,.0f} bits, compression {mdl.compression:.2f}"
    ax.step([0, *ends], [*mdl.bits_per_row, mdl.bits_per_row[-1]], where="post",
            color=color, label=label)  # fmt: skip
ax.axhline(np.log2(10), color="0.3", linestyle=":", label="uniform code")
ax.set_xlabel("texts sent")
ax.set_ylabel("bits per label")
ax.set_ylim(0, 7)
ax.legend(loc="lower left")
