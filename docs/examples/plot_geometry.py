"""
Narrow cones, and what to do about them
=======================================

The features of a language model often lie in a narrow cone: the cosine of any two texts
is high, whatever they say. Three steps are meant to help: subtracting the mean,
whitening, and removing the top components. This example measures what each of them does
for cosine similarity, and what it does for a linear classifier. These are two
questions, and the answers differ.

It runs in half a minute on two cores, with no network if the ``offline`` extra is
installed.
"""

# %%
# The cone, layer by layer
# ------------------------
#
# The texts are summaries of docstrings, labelled by topic. One pass of the encoder
# serves all that follows: features are kept in a temporary directory.

import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_bert import BertVectorizer
from sklearn_bert.datasets import load_docstrings
from sklearn_bert.inspection import (
    FeatureHistogramDisplay,
    LayerGeometryDisplay,
    ProjectionDisplay,
    anisotropy,
    layer_geometry,
)
from sklearn_bert.postprocessing import RemoveTopComponents

docs = load_docstrings(60)
X, y = docs.data, docs.target
directory = tempfile.TemporaryDirectory()

geometry = layer_geometry(X, memory=directory.name)
LayerGeometryDisplay(geometry).plot()

# %%
# Under [CLS], two texts have a cosine of nearly 1 in every layer but the last. The last
# layer was tuned for cosines, and under mean pooling its cone is wide.
#
# Much of the cone is a few dimensions that are large in every text:


def features(layer):
    return BertVectorizer(
        layer=layer, pooling="mean", normalize=False, memory=directory.name
    )


FeatureHistogramDisplay.from_estimator(features(3), X)

# %%
# Similarity
# ----------
#
# Two texts count as similar here if they are of one topic: a coarse truth, but the same
# for all steps. Each step is fitted on one half of the texts and judged on the pairs of
# the other half. The AUC is the chance that a pair of one topic has a higher cosine
# than a pair of two topics.

steps = {
    "as it is": FunctionTransformer(),
    "centred": StandardScaler(with_std=False),
    "whitened": PCA(n_components=32, whiten=True),
    "top removed": RemoveTopComponents(),
}


def similarity(step, layer):
    fitted_on, judged_on, _, topics = train_test_split(
        X, y, test_size=0.5, stratify=y, random_state=0
    )
    pipeline = make_pipeline(features(layer), step).fit(fitted_on)
    vectors = pipeline.transform(judged_on)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = np.triu_indices(len(unit), k=1)
    cosines = (unit @ unit.T)[first, second]
    is_similar = topics[first] == topics[second]
    margin = cosines[is_similar].mean() - cosines[~is_similar].mean()
    return float(anisotropy(vectors)), margin, roc_auc_score(is_similar, cosines)


similarities = {(k, name): similarity(steps[name], k) for k in (3, 6) for name in steps}
print("layer               mean cosine   margin    AUC")
for (k, name), (mean, margin, auc) in similarities.items():
    print(f"{k:5d}  {name:12} {mean:11.3f}  {margin:7.3f}  {auc:5.3f}")

# %%
# Every step takes the mean cosine to zero, so the mean cosine alone says little. The
# AUC says that subtracting the mean helps, at both layers, and that the stronger steps
# do harm. The margin misleads between steps: it is largest where cosines spread most.
#
# Why does removing the top components do harm? They are meant to be directions that all
# texts share, such as how frequent their words are. In texts on ten topics, the largest
# differences are the topics:

names = np.array(docs.target_names)
ProjectionDisplay.from_estimator(features(6), X, names[y])

# %%
# So look at what the first components hold before removing them, fit the step on texts
# as varied as those that it will see, and measure on pairs of your own.
#
# A linear classifier
# -------------------
#
# The same steps in front of a logistic regression. They are part of the pipeline, so
# each fold fits them on its training texts alone.

folds = StratifiedKFold(5, shuffle=True, random_state=0)


def probe(step, layer):
    classifier = LogisticRegression(C=0.01, max_iter=1000)
    pipeline = make_pipeline(features(layer), step, StandardScaler(), classifier)
    return cross_val_score(pipeline, X, y, cv=folds)


accuracies = {(k, name): probe(steps[name], k) for k in (3, 6) for name in steps}
print("layer               accuracy")
for (k, name), scores in accuracies.items():
    print(f"{k:5d}  {name:12} {scores.mean():.3f} ± {scores.std():.3f}")

# %%
# Subtracting the mean changes nothing: the classifier's intercept does that. Whitening
# to few components, and removing the first ones, throw away what the classifier would
# have used.

figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained", sharey=True)
rows = np.arange(len(steps))
for k, colour, shift in ((3, "#94a4a2", -0.18), (6, "#3f90da", 0.18)):
    aucs = [similarities[k, name][2] for name in steps]
    axes[0].barh(rows + shift, aucs, 0.34, color=colour, label=f"layer {k}")
    scores = np.array([accuracies[k, name] for name in steps])
    axes[1].barh(
        rows + shift, scores.mean(axis=1), 0.34, xerr=scores.std(axis=1), color=colour
    )
axes[0].set(xlim=(0.5, 0.75), xlabel="AUC of cosines (0.5 is chance)")
axes[1].set(xlim=(0.0, 0.9), xlabel="accuracy of a linear classifier (± std)")
axes[0].set_yticks(rows, steps)
axes[0].invert_yaxis()
figure.legend(loc="outside upper center", ncols=2)

# %%
directory.cleanup()
