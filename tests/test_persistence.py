"""A fitted estimator travels as a small file; with skops, as one that runs nothing."""

import pickle

import numpy as np
import pytest
from copies import skops_copy
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_bert import BertProbeClassifier, BertVectorizer

io = pytest.importorskip("skops.io")
pytestmark = pytest.mark.filterwarnings("ignore:.* encoded for the third time")
TEXTS = ["good film", "bad film", "good end", "bad end"] * 3
Y = np.array(["good", "bad"] * 6)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"layer": "mix"},
        {"layer": "cv", "cv": 2},
        {"layer": "mix", "pooling": "learned_attention"},
        {"head": "mlp", "random_state": 0},
    ],
    ids=str,
)
def test_skops_reads_a_probe_trusting_only_this_package(tiny, tmp_path, params):
    probe = BertProbeClassifier(tiny, memory=str(tmp_path), **params).fit(TEXTS, Y)
    np.testing.assert_array_equal(
        skops_copy(probe).predict_proba(TEXTS), probe.predict_proba(TEXTS)
    )


@pytest.mark.parametrize("layer", [-1, "mix"])
def test_skops_reads_a_probe_of_several_labels(tiny, layer):
    indicator = np.array([[0, 1], [1, 0], [1, 1], [0, 0]] * 3)
    probe = BertProbeClassifier(tiny, layer=layer).fit(TEXTS, indicator)
    np.testing.assert_array_equal(
        skops_copy(probe).predict_proba(TEXTS), probe.predict_proba(TEXTS)
    )


def test_skops_reads_a_pipeline_trusting_only_this_package(tiny):
    pipeline = make_pipeline(BertVectorizer(tiny), LogisticRegression()).fit(TEXTS, Y)
    content = io.dumps(pipeline)
    trusted = io.get_untrusted_types(data=content)
    assert trusted == ["sklearn_bert.vectorizer.BertVectorizer"]
    again = io.loads(content, trusted=trusted)
    np.testing.assert_array_equal(again.predict(TEXTS), pipeline.predict(TEXTS))


def test_an_mlp_travels_with_its_weights_once(tiny):
    probe = BertProbeClassifier(tiny, head="mlp", hidden_size=256).fit(TEXTS, Y)
    n_bytes = sum(part.nbytes for part in probe.head_[-1].coefs_)
    assert len(pickle.dumps(probe)) < n_bytes + 20_000
