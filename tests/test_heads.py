"""The multilayer head with dropout; other heads are tested with the probes."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.neural_network import MLPClassifier
from sklearn.utils.validation import has_fit_parameter

from sklearn_bert import BertProbeClassifier
from sklearn_bert.heads import DropoutMLPClassifier

TAKES_WEIGHTS = has_fit_parameter(MLPClassifier(), "sample_weight")  # from 1.7 on
OPTIONS = {"alpha": 1e-3, "max_iter": 15, "batch_size": 50, "random_state": 3}


def noisy(n_rows=200, n_features=40, n_classes=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, n_features))
    scores = X[:, :n_classes] + rng.gumbel(size=(n_rows, n_classes))
    return X, scores.argmax(axis=1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_classes", [2, 3])
def test_dropout_of_next_to_nothing_is_the_plain_network(n_classes):
    X, y = noisy(n_classes=n_classes)
    plain = MLPClassifier((8,), **OPTIONS).fit(X, y)
    found = DropoutMLPClassifier((8,), dropout=1e-12, **OPTIONS).fit(X, y)
    np.testing.assert_allclose(
        found.predict_proba(X), plain.predict_proba(X), atol=1e-6
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_step_follows_the_gradient_of_the_thinned_network():
    X, y = noisy(50)
    head = DropoutMLPClassifier((6,), dropout=0.5, **OPTIONS).fit(X, y)
    coefs = [c.copy() for c in head.coefs_]
    kept = np.random.default_rng(9).random((50, 6)) >= 0.5

    def loss(first):
        hidden = np.maximum(X @ first + head.intercepts_[0], 0) * kept
        scores = (hidden @ coefs[1] + head.intercepts_[1])[:, 0]
        decay = 0.5 * head.alpha * sum((c**2).sum() for c in [first, coefs[1]])
        return (np.logaddexp(0, scores) - y * scores).mean() + decay / 50

    head._random, head._n_thinned = np.random.default_rng(9), 0
    empty = [np.empty((0, 0))] * 2
    grads = [np.empty_like(c) for c in coefs]
    weights = [None] if TAKES_WEIGHTS else []
    found = head._backprop(
        X, y[:, np.newaxis], *weights, [X, *empty], list(empty), grads, list(empty)
    )
    step = np.zeros_like(coefs[0])
    step[1, 2] = 1e-5
    numeric = (loss(coefs[0] + step) - loss(coefs[0] - step)) / 2e-5
    assert found[0] == pytest.approx(loss(coefs[0]))
    assert found[1][0][1, 2] == pytest.approx(numeric, abs=1e-7)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_dropout_learns_less_by_heart():
    X, y = noisy(400)
    train, test = slice(0, 200), slice(200, 400)
    scores = {}
    for dropout in (1e-12, 0.7):
        head = DropoutMLPClassifier(
            (64,), dropout=dropout, alpha=0, batch_size=20, max_iter=60, random_state=0
        )
        probability = head.fit(X[train], y[train]).predict_proba(X[test])
        scores[dropout] = np.log(probability[np.arange(200), y[test]] + 1e-9).mean()
    assert scores[0.7] > scores[1e-12] + 0.1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_dropout_repeats_and_is_cloned():
    X, y = noisy()
    head = DropoutMLPClassifier((8,), dropout=0.3, **OPTIONS)
    assert clone(head).get_params() == head.get_params()
    a, b = (clone(head).fit(X, y).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_scikit_learn_that_trains_otherwise_is_refused(monkeypatch):
    monkeypatch.delattr(DropoutMLPClassifier, "_forward_pass")
    with pytest.raises(RuntimeError, match=r"no effect with this version .* dropout=0"):
        DropoutMLPClassifier((4,), **OPTIONS).fit(*noisy())


@pytest.mark.skipif(not TAKES_WEIGHTS, reason="needs scikit-learn 1.7")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_dropout_goes_with_weights_of_classes(tiny, tmp_path):
    probe = BertProbeClassifier(
        tiny, memory=tmp_path, head="mlp", dropout=0.2, class_weight={0: 1, 1: 50},
        max_iter=40, C=100, random_state=0,
    )  # fmt: skip
    texts = ["a b", "c d", "b a", "d c"] * 5
    heavy = probe.fit(texts, [0, 1, 1, 1] * 5).predict_proba(texts)[:, 1]
    light = probe.set_params(class_weight=None).fit(texts, [0, 1, 1, 1] * 5)
    assert heavy.mean() > light.predict_proba(texts)[:, 1].mean()


def test_a_probe_passes_its_dropout_on(tiny):
    probe = BertProbeClassifier(tiny, head="mlp", dropout=0.25)
    assert probe._make_head(100).dropout == 0.25
    plain = BertProbeClassifier(tiny, head="mlp")._make_head(100)
    assert type(plain) is MLPClassifier


@pytest.mark.parametrize(
    ("dropout", "error", "message"),
    [
        *((value, ValueError, "at least 0 and below 1") for value in (-0.1, 1, np.nan)),
        *((value, TypeError, "a number") for value in (True, "half", None)),
    ],
)
def test_a_dropout_out_of_range_is_refused(tiny, dropout, error, message):
    probe = BertProbeClassifier(tiny, head="mlp", dropout=dropout)
    with pytest.raises(error, match=rf"dropout must be {message}, got"):
        probe.fit(["a", "b"], [0, 1])
