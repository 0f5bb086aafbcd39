"""
Which layer, which pooling?
===========================

Two questions about the same texts: what are they about, and what form do they have?
Both are answered from one pass of a frozen encoder.

It runs in half a minute on two cores, with no network if the ``offline`` extra is
installed.
"""

# %%
# One pass, every cell
# --------------------
#
# The texts are summaries of docstrings. The first question is their topic, one of ten.
# ``layer_sweep`` scores a classifier on every layer under every pooling.
# ``untrained=True`` adds an encoder of the same architecture and tokenizer with random
# weights: what can be had without anything learned.

import tempfile

from sklearn_bert.datasets import load_docstrings
from sklearn_bert.inspection import LayerSweepDisplay, layer_sweep

docs = load_docstrings(30)
memory = tempfile.mkdtemp()
topic = layer_sweep(docs.data, docs.target, memory=memory, untrained=True)
print(topic)

# %%
# The lines below the tables compare the best cell with what ``BertVectorizer()`` would
# have used, by a t-test that knows that folds share their training texts. The best of
# 21 is optimistic all the same.
#
# [CLS] at layer 0 is the same vector for every text, so it scores as guessing does. The
# dashed curves show how much random vectors of the words already tell about the topic.

LayerSweepDisplay(topic).plot().ax_.set_title("What is it about?")

# %%
# Another question, the same pass
# -------------------------------
#
# Does the text document a class, or a function or method? The features come from the
# store: nothing is encoded. Classes are rare, so balanced accuracy is the score.

form = layer_sweep(
    docs.data,
    docs.kind == "class",
    memory=memory,
    untrained=True,
    scoring="balanced_accuracy",
)
print(f"texts encoded: {form.n_texts_encoded}")
LayerSweepDisplay(form).plot().ax_.set_title("Class, or function?")

# %%
# Many poolings: a heat map
# -------------------------
#
# Curves crowd where poolings are many. "attention" begins at layer 1. It is not among
# those that the store keeps of every pass, so it costs another one.

many = layer_sweep(
    docs.data,
    docs.target,
    memory=memory,
    layers=range(1, 7),
    poolings=["cls", "mean", "max", "attention"],
)
LayerSweepDisplay(many).plot(kind="heatmap")

# %%
# From a grid search
# ------------------
#
# A search can also concatenate layers and tune the classifier. Each point is the best
# of the other parameters; concatenated layers stand on the right.

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_bert import BertVectorizer

search = GridSearchCV(
    Pipeline(
        [
            ("bert", BertVectorizer(memory=memory)),
            ("scale", StandardScaler()),
            ("classify", LogisticRegression(max_iter=1000, tol=1e-3)),
        ]
    ),
    {
        "bert__layer": [2, 4, 5, 6, [5, 6], [3, 4, 5, 6]],
        "bert__pooling": ["mean", ["mean", "max"]],
        "classify__C": [0.003, 0.03],
    },
    cv=3,
).fit(docs.data, docs.target)
LayerSweepDisplay.from_cv_results(search)
