"""BertProbeClassifier learns from labels what a pipeline of fixed steps cannot."""

import inspect
import pickle
import shutil
from collections import Counter

import joblib
import numpy as np
import pytest
import sklearn
from copies import skops_copy
from numeric import (
    SpellsNumbers,
    numeric_encoder,  # noqa: F401 - a fixture that works by being there
    with_default_model,
)
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.metrics import get_scorer, log_loss
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, NuSVC
from sklearn.utils import compute_class_weight
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from sklearn_bert import BertProbeClassifier, BertVectorizer, ragged, vectorizer
from sklearn_bert.datasets import make_tiny_encoder
from sklearn_bert.heads import weigh
from sklearn_bert.learning import fit_scalar_mix

# Most tests encode a few texts again and again, and would be told how to avoid it.
pytestmark = pytest.mark.filterwarnings("ignore:.* encoded for the third time")
TEXTS = [
    f"{adjective} {noun}"
    for noun in ("film", "plot", "cast", "end", "joke", "song")
    for adjective in ("good", "fine", "bad", "dull")
]
BINARY = np.array([1, 1, 0, 0] * 6)
NAMES = np.array(["good", "fine", "bad", "bad"] * 6)
INDICATOR = np.column_stack([BINARY, [0, 1] * 12])
WEIGHTS = np.linspace(0.1, 2.0, 24)


class NumericBertProbeClassifier(SpellsNumbers, BertProbeClassifier):
    __init__ = with_default_model(BertProbeClassifier.__init__)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # words for numbers, a random encoder
        return tags


FLOAT_NOISE = "heads are trained in float32: 1.2e-7 between weights and repeats"
OTHER_FOLDS = "folds of repeated texts are other folds, as in LogisticRegressionCV"


def known(estimator):
    """Return the checks that fail, and why."""
    if sklearn.__version__.startswith("1.6.") and estimator.layer != "mix":
        return {}  # its check is met
    reason = OTHER_FOLDS if estimator.layer == "cv" else FLOAT_NOISE
    return {"check_sample_weight_equivalence_on_dense_data": reason}


@parametrize_with_checks(
    [
        NumericBertProbeClassifier(batch_size=1, overflow="chunk"),
        NumericBertProbeClassifier(batch_size=1, overflow="chunk", layer="mix"),
        NumericBertProbeClassifier(batch_size=1, overflow="chunk", layer="cv", cv=2),
        NumericBertProbeClassifier(batch_size=1, overflow="chunk", head="mlp"),
        NumericBertProbeClassifier(batch_size=1, pooling="learned_attention"),
    ],
    expected_failed_checks=known,
)
def test_every_scikit_learn_check_passes(estimator, check):
    check(estimator)


def test_at_least_54_checks_run():
    estimator = NumericBertProbeClassifier(batch_size=1, overflow="chunk")
    results = check_estimator(
        estimator, on_skip=None, expected_failed_checks=known(estimator)
    )
    statuses = Counter(result["status"] for result in results)
    assert statuses["passed"] >= 54
    assert statuses["xfail"] == len(known(estimator))


# The linear head


@pytest.mark.parametrize("y", [BINARY, NAMES], ids=["binary", "three classes"])
@pytest.mark.parametrize(
    "options",
    [{}, {"class_weight": "balanced"}, {"sample_weight": WEIGHTS}],
    ids=["plain", "class_weight", "sample_weight"],
)
def test_the_linear_head_is_logistic_regression(tiny, y, options):
    sample_weight = options.get("sample_weight")
    class_weight = options.get("class_weight")
    probe = BertProbeClassifier(
        tiny, layer=1, pooling="mean", standardize=False, C=1.0,
        class_weight=class_weight,
    )  # fmt: skip
    probe.fit(TEXTS, y, sample_weight=sample_weight)
    Z = BertVectorizer(tiny, layer=1, pooling="mean").fit_transform(TEXTS)
    plain = LogisticRegression(C=1.0, max_iter=1000, class_weight=class_weight)
    plain.fit(Z, y, sample_weight=sample_weight)
    np.testing.assert_allclose(probe.head_[-1].coef_, plain.coef_, atol=1e-3)
    np.testing.assert_array_equal(probe.predict(TEXTS), plain.predict(Z))
    np.testing.assert_allclose(
        probe.predict_proba(TEXTS), plain.predict_proba(Z), atol=1e-4
    )
    np.testing.assert_allclose(
        probe.decision_function(TEXTS), plain.decision_function(Z), atol=1e-3
    )
    np.testing.assert_array_equal(probe.classes_, plain.classes_)


@pytest.mark.skipif(
    "sample_weight" not in inspect.signature(compute_class_weight).parameters,
    reason="this scikit-learn balances classes by counts",
)
@pytest.mark.parametrize("weights", [WEIGHTS, np.where(NAMES == "bad", 0.05, 1.0)])
@pytest.mark.parametrize("y", [BINARY, NAMES], ids=["binary", "three classes"])
def test_balanced_classes_are_so_by_the_weights_of_the_texts(tiny, y, weights):
    probe = BertProbeClassifier(
        tiny, class_weight="balanced", standardize=False, C=1.0, pooling="mean"
    ).fit(TEXTS, y, sample_weight=weights)
    Z = BertVectorizer(tiny, pooling="mean").fit_transform(TEXTS)
    plain = LogisticRegression(C=1.0, max_iter=1000, class_weight="balanced")
    plain.fit(Z, y, sample_weight=weights)
    np.testing.assert_allclose(probe.head_[-1].coef_, plain.coef_, atol=2e-3)
    np.testing.assert_array_equal(probe.predict(TEXTS), plain.predict(Z))


def test_balanced_classes_do_not_count_texts_of_weight_zero(tiny):
    kept = np.arange(24) % 5 != 0
    probe = BertProbeClassifier(tiny, class_weight="balanced", C=1.0)
    zeroed = clone(probe).fit(TEXTS, NAMES, sample_weight=kept.astype(float))
    dropped = probe.fit([t for t, k in zip(TEXTS, kept, strict=True) if k], NAMES[kept])
    np.testing.assert_allclose(
        zeroed.predict_proba(TEXTS), dropped.predict_proba(TEXTS), atol=1e-2
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (-WEIGHTS, r"sample_weight must not be negative, first in row 0"),
        (np.full(24, 1e308), r"sample_weight is too large"),
    ],
)
def test_weights_that_mean_nothing_are_refused(tiny, weights, message):
    with pytest.raises(ValueError, match=message):
        BertProbeClassifier(tiny).fit(TEXTS, BINARY, sample_weight=weights)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_class_weights_that_mean_nothing_are_refused(tiny, weight):
    probe = BertProbeClassifier(tiny, class_weight={0: weight, 1: 1.0})
    with pytest.raises(ValueError, match=r"class_weight must hold finite numbers of"):
        probe.fit(TEXTS, BINARY)


@pytest.mark.parametrize("change", [lambda y: 2 * y - 1, lambda y: y + 1])
def test_several_labels_are_0_and_1(tiny, change):
    message = r"multilabel indicator of 0 and 1, got"
    for layer in (-1, "mix"):
        with pytest.raises(ValueError, match=message):
            BertProbeClassifier(tiny, layer=layer).fit(TEXTS, change(INDICATOR))
    mixing = BertVectorizer(tiny, layer="all", layer_combination="scalar_mix")
    with pytest.raises(ValueError, match=message):
        mixing.fit(TEXTS, change(INDICATOR))


@pytest.mark.parametrize(
    "head",
    [
        RandomForestClassifier(20, random_state=0), KNeighborsClassifier(3),
        SGDClassifier(random_state=0, loss="log_loss"), SVC(), "mlp", "linear",
    ],
    ids=lambda head: head if isinstance(head, str) else type(head).__name__,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Label .* is present in all", "ignore:Stochastic")
def test_any_head_answers_for_several_labels(tiny, head):
    for y in (INDICATOR, np.column_stack([INDICATOR, np.ones(24, dtype=int)])):
        params = {"C": 1.0, "max_iter": 400, "random_state": 0}
        probe = BertProbeClassifier(tiny, head=head, **params).fit(TEXTS, y)
        assert probe.predict(TEXTS).shape == y.shape
        assert (probe.predict(TEXTS) == y).mean() > 0.6
        if hasattr(probe, "predict_proba"):
            found = probe.predict_proba(TEXTS)
            assert found.shape == y.shape
            assert found.dtype.kind == "f"
            np.testing.assert_array_equal(found > 0.5, probe.predict(TEXTS) == 1)


def test_a_model_is_known_by_its_files_and_not_by_its_place(tmp_path):
    place = make_tiny_encoder(tmp_path / "first")
    other = make_tiny_encoder(tmp_path / "other", seed=1)
    probe = BertProbeClassifier(place, layer="mix", C=1.0).fit(TEXTS, BINARY)
    expected = probe.predict_proba(TEXTS)
    content = pickle.dumps(probe)
    shutil.move(place, tmp_path / "moved")
    moved = pickle.loads(content)
    with pytest.raises(ValueError, match=r"is not a directory"):
        moved.predict(TEXTS)
    for name in (str(tmp_path / "moved"), f"{tmp_path}/moved/", tmp_path / "moved"):
        moved.set_params(model=name)
        np.testing.assert_array_equal(moved.predict_proba(TEXTS), expected)
    with pytest.raises(ValueError, match=r"or are those of another model"):
        moved.set_params(model=other).predict(TEXTS)


def test_a_memory_that_keeps_nothing_costs_one_pass(tiny, work):
    probe = BertProbeClassifier(tiny, layer="cv", cv=2, memory=joblib.Memory(None))
    probe.fit(TEXTS, BINARY)
    assert work().n_texts == len(TEXTS)


def test_a_score_that_is_no_number_chooses_no_layer(tiny):
    folds = [
        (np.arange(12), np.array([12, 13, 16])),
        (np.arange(12), np.arange(12, 20)),
    ]
    probe = BertProbeClassifier(tiny, layer="cv", cv=folds, scoring=lambda *_: np.nan)
    with pytest.raises(ValueError, match=r"of layer 0 is nan in fold 0 of cv, which"):
        probe.fit(TEXTS, BINARY)
    with pytest.raises(ValueError, match=r"cv=\[\] has no folds"):
        probe.set_params(cv=[]).fit(TEXTS, BINARY)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"scoring": "acuracy"}, ValueError, r"acuracy"),
        ({"scoring": ["accuracy"]}, TypeError, r"scoring must be one scorer"),
        ({"pooling": 5, "layer": "mix"}, TypeError, r"pooling must be one of"),
        ({"pooling": None, "layer": "cv"}, TypeError, r"pooling must be one of"),
    ],
)
def test_what_is_wrong_is_said_before_any_pass(tiny, work, params, error, message):
    with pytest.raises(error, match=message):
        BertProbeClassifier(tiny, **{"layer": "cv", **params}).fit(TEXTS, BINARY)
    assert work().n_passes == 0


@pytest.mark.parametrize("y", [BINARY, NAMES], ids=["binary", "three classes"])
def test_standardized_it_is_the_pipeline_with_a_scaler(tiny, y):
    probe = BertProbeClassifier(tiny, C=0.1).fit(TEXTS, y)
    pipeline = make_pipeline(
        BertVectorizer(tiny), StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)
    ).fit(TEXTS, y)
    np.testing.assert_allclose(probe.head_[-1].coef_, pipeline[-1].coef_, atol=1e-3)
    others = [f"{text}, they say" for text in TEXTS]
    np.testing.assert_array_equal(probe.predict(others), pipeline.predict(others))
    np.testing.assert_allclose(
        probe.predict_proba(others), pipeline.predict_proba(others), atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_too_few_iterations_are_said(tiny):
    probe = BertProbeClassifier(tiny, max_iter=2, C=1.0).fit(TEXTS, NAMES)
    assert probe.n_iter_ == 2
    with pytest.warns(UserWarning, match="converge"):
        clone(probe).fit(TEXTS, NAMES)


# What it learns about layers


def write_layers(monkeypatch, block):
    """Have the encoder give these features, (n_texts, n_poolings, n_layers, width)."""

    def by_layer(self, texts):
        rows = [TEXTS_OF_BLOCK.index(text) for text in texts]
        return block[rows][:, :, list(self.layers_)]

    monkeypatch.setattr(BertVectorizer, "_by_layer", by_layer)
    monkeypatch.setattr(
        BertVectorizer,
        "_encode",
        lambda self, texts: self._combine(
            [(np.arange(len(texts)), by_layer(self, texts))], len(texts)
        ),
    )


TEXTS_OF_BLOCK = [f"text {i}" for i in range(600)]


@pytest.fixture
def one_telling_layer(monkeypatch):
    """Layer 1 of 0 to 2 carries the label; the others are noise of other scales."""
    rng = np.random.default_rng(0)
    y = np.arange(600) % 2
    block = rng.normal(size=(600, 1, 3, 32)).astype(np.float32)
    block[:, 0, 1, :4] += y[:, np.newaxis] - 0.5
    block *= np.array([1.0, 0.1, 50.0], dtype=np.float32)[:, np.newaxis]
    write_layers(monkeypatch, block)
    return y


def test_mix_gives_the_telling_layer_nearly_all_weight(tiny, one_telling_layer):
    y = one_telling_layer
    probe = BertProbeClassifier(tiny, layer="mix", C=1.0)
    probe.fit(TEXTS_OF_BLOCK[:400], y[:400])
    assert probe.layers_ == (0, 1, 2)
    assert probe.layer_weights_[1] > 0.9
    assert probe.layer_weights_.sum() == pytest.approx(1.0)
    assert probe.gamma_ > 0
    last = BertProbeClassifier(tiny).fit(TEXTS_OF_BLOCK[:400], y[:400])
    held_out = TEXTS_OF_BLOCK[400:], y[400:]
    assert probe.score(*held_out) > 0.75 > 0.6 > last.score(*held_out)


def test_cv_chooses_the_telling_layer(tiny, one_telling_layer):
    y = one_telling_layer
    probe = BertProbeClassifier(tiny, layer="cv", cv=4).fit(TEXTS_OF_BLOCK, y)
    assert probe.layers_ == (1,)
    assert probe.cv_scores_.shape == (3, 4)
    assert probe.cv_scores_.mean(axis=1).argmax() == 1
    assert not hasattr(probe, "layer_weights_")


def test_cv_scores_equal_cross_val_score_of_each_layer(tiny, tmp_path):
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    probe = BertProbeClassifier(tiny, layer="cv", cv=folds, scoring="neg_log_loss")
    for memory in (None, tmp_path):
        probe.set_params(memory=memory).fit(TEXTS, NAMES)
        for layer, scores in enumerate(probe.cv_scores_):
            expected = cross_val_score(
                BertProbeClassifier(tiny, layer=layer), TEXTS, NAMES, cv=folds,
                scoring="neg_log_loss",
            )  # fmt: skip
            np.testing.assert_allclose(scores, expected, atol=1e-4)
        assert probe.layers_ == (int(probe.cv_scores_.mean(axis=1).argmax()),)


def test_cv_balances_the_classes_of_each_fold(tiny):
    folds = [(np.arange(4, 24), np.arange(4)), (np.arange(14), np.arange(14, 24))]
    options = {"class_weight": "balanced", "scoring": "neg_log_loss"}
    probe = BertProbeClassifier(tiny, layer="cv", cv=folds, **options)
    scores = probe.fit(TEXTS, NAMES, sample_weight=WEIGHTS).cv_scores_
    options.pop("scoring")
    for layer in range(3):
        for j, (train, test) in enumerate(folds):
            part = BertProbeClassifier(tiny, layer=layer, **options)
            part.fit([TEXTS[i] for i in train], NAMES[train], WEIGHTS[train])
            found = part.predict_proba([TEXTS[i] for i in test])
            expected = -log_loss(NAMES[test], found, labels=part.classes_)
            assert scores[layer, j] == pytest.approx(expected, abs=1e-4)


def test_a_head_that_fails_leaves_no_scores_of_layers(tiny):
    probe = BertProbeClassifier(tiny, layer="cv", cv=2).fit(TEXTS, NAMES)
    calls = []

    class FailsAtLast(LogisticRegression):
        def fit(self, X, y, sample_weight=None):
            calls.append(1)
            if len(calls) > 6:
                raise RuntimeError("no more")
            return super().fit(X, y)

    with pytest.raises(RuntimeError, match="no more"):
        probe.set_params(head=FailsAtLast()).fit(TEXTS, NAMES)
    assert not hasattr(probe, "cv_scores_")


def test_a_mix_that_does_not_converge_is_named_as_the_user_named_it(tiny):
    probe = BertProbeClassifier(
        tiny, layer="mix", max_iter=1, head=KNeighborsClassifier()
    )
    with pytest.warns(ConvergenceWarning, match=r"^layer='mix' did not converge in 1"):
        probe.fit(TEXTS, NAMES)


def test_mix_is_the_scalar_mix_of_its_C_and_weights(tiny):
    probe = BertProbeClassifier(tiny, layer="mix", pooling=["mean", "max"], C=0.3)
    probe.fit(TEXTS, NAMES, sample_weight=WEIGHTS)
    vectorizer = BertVectorizer(tiny, layer="all", pooling=["mean", "max"])
    block = vectorizer.fit([])._by_layer(TEXTS)
    mix = fit_scalar_mix(block, NAMES, C=0.3, sample_weight=WEIGHTS)
    np.testing.assert_allclose(probe.layer_weights_, mix.weights, atol=1e-3)
    assert probe.gamma_ == pytest.approx(mix.gamma, rel=1e-2)


def test_a_weight_of_two_is_the_text_twice():
    rng = np.random.default_rng(0)
    block = rng.normal(size=(24, 1, 3, 8)).astype(np.float32)
    rows = np.repeat(np.arange(24), 1 + BINARY)
    twice = fit_scalar_mix(block[rows], NAMES[rows], C=0.5)
    weighted = fit_scalar_mix(
        block, NAMES, C=0.5, sample_weight=(1 + BINARY).astype(float)
    )
    np.testing.assert_allclose(weighted.weights, twice.weights, atol=1e-3)
    np.testing.assert_allclose(weighted.scales, twice.scales, rtol=1e-5)


def test_many_whole_numbers_are_classes_of_a_probe(tiny):
    y = np.repeat(np.arange(8), 3)
    probe = BertProbeClassifier(tiny, layer="mix", C=1.0).fit(TEXTS, y)
    assert len(probe.classes_) == 8
    y = np.repeat(np.arange(24), 2)  # a scalar mix alone would take them for numbers
    probe.fit([*TEXTS, *TEXTS], y)
    assert len(probe.classes_) == 24


@pytest.mark.parametrize("layer", ["mix", "cv"])
def test_attention_pooling_leaves_the_embeddings_out(tiny, layer):
    probe = BertProbeClassifier(tiny, layer=layer, pooling="attention", cv=2)
    probe.fit(TEXTS, BINARY)
    assert set(probe.layers_) <= {1, 2}


@pytest.mark.parametrize("layer", [-1, "all", "mix", "cv"])
def test_learning_costs_one_pass_per_text_and_predicting_none(
    tiny, tmp_path, work, layer
):
    probe = BertProbeClassifier(tiny, layer=layer, memory=tmp_path)
    probe.fit(TEXTS, BINARY)
    assert probe.predict(TEXTS).shape == (24,)
    assert work().n_texts == 24


def test_a_grid_over_layers_poolings_and_heads_costs_one_pass(tiny, tmp_path, work):
    probe = BertProbeClassifier(tiny, memory=tmp_path, cv=2)
    grid = {
        "layer": [0, -1, "mix", "cv"],
        "pooling": ["cls", "mean", "max"],
        "head": ["linear", KNeighborsClassifier(1)],
        "C": [0.1, 1.0],
    }
    search = GridSearchCV(probe, grid, cv=3, error_score="raise").fit(TEXTS, NAMES)
    assert work().n_texts == 24
    assert len(search.cv_results_["params"]) == 48


# Heads and targets


@pytest.mark.parametrize("layer", [-1, "mix", "cv"])
def test_a_multilabel_target_gives_one_probability_per_label(tiny, layer):
    probe = BertProbeClassifier(tiny, layer=layer, C=1.0, cv=3).fit(TEXTS, INDICATOR)
    assert probe.predict(TEXTS).shape == INDICATOR.shape
    assert probe.predict_proba(TEXTS).shape == INDICATOR.shape
    assert probe.decision_function(TEXTS).shape == INDICATOR.shape
    assert (probe.predict(TEXTS) == INDICATOR).mean() > 0.9
    weighted = clone(probe).fit(TEXTS, INDICATOR, sample_weight=WEIGHTS)
    assert np.abs(weighted.predict_proba(TEXTS) - probe.predict_proba(TEXTS)).max() > 0


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1.0, 1: 4.0}])
def test_each_label_weighs_its_classes_by_itself(tiny, class_weight):
    rare = (np.arange(24) % 8 == 1).astype(int)
    y = np.column_stack([INDICATOR, rare])
    probe = BertProbeClassifier(
        tiny, class_weight=class_weight, standardize=False, C=1.0, pooling="mean"
    ).fit(TEXTS, y, sample_weight=WEIGHTS)
    Z = BertVectorizer(tiny, pooling="mean").fit_transform(TEXTS)
    for j, column in enumerate(y.T):
        plain = LogisticRegression(max_iter=1000)
        weights = weigh(column, class_weight, WEIGHTS)
        plain.fit(Z, column, sample_weight=weights)
        own = probe.head_[-1].estimators_[j]
        np.testing.assert_allclose(own.coef_, plain.coef_, atol=2e-3)
        np.testing.assert_allclose(
            probe.predict_proba(TEXTS)[:, j], plain.predict_proba(Z)[:, 1], atol=1e-3
        )
    each = [class_weight] * 3
    same = clone(probe).set_params(class_weight=each).fit(TEXTS, y, WEIGHTS)
    np.testing.assert_array_equal(same.predict_proba(TEXTS), probe.predict_proba(TEXTS))
    with pytest.raises(ValueError, match=r"one dict for each of 3 labels, got 2"):
        clone(probe).set_params(class_weight=each[:2]).fit(TEXTS, y)


@pytest.mark.parametrize("params", [{"layer": "mix"}, {"head": "mlp"}, {"layer": "cv"}])
def test_what_learns_from_several_labels_weighs_each_by_itself(tiny, params):
    params = {"C": 1.0, "random_state": 0, "cv": 2, **params}
    rare = (np.arange(24) % 8 == 1).astype(int)
    y = np.column_stack([BINARY, rare])
    plain = BertProbeClassifier(tiny, **params).fit(TEXTS, y)
    balanced = BertProbeClassifier(tiny, class_weight="balanced", **params).fit(
        TEXTS, y
    )
    of_rare = [probe.predict_proba(TEXTS)[rare == 1, 1] for probe in (plain, balanced)]
    assert of_rare[1].mean() > of_rare[0].mean()
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(balanced)).predict(TEXTS), balanced.predict(TEXTS)
    )


@pytest.mark.parametrize(
    "params", [{"head": "mlp"}, {"head": "mlp", "dropout": 0.5}, {}]
)
def test_texts_of_weight_zero_are_left_out_by_every_head(tiny, params):
    texts = [f"{text} {i}" for i in range(9) for text in TEXTS][:201]
    y = np.resize(BINARY, 201)
    weights = np.r_[np.zeros(40), np.ones(161)]
    probe = BertProbeClassifier(tiny, random_state=0, **params)
    weighted = clone(probe).fit(texts, y, sample_weight=weights)
    without = clone(probe).fit(texts[40:], y[40:])
    np.testing.assert_allclose(
        weighted.predict_proba(texts), without.predict_proba(texts), atol=1e-4
    )


def test_a_block_of_texts_of_weight_zero_does_no_harm(tiny, monkeypatch):
    monkeypatch.setattr("sklearn_bert.heads._SCALER_ROWS", 8)
    weights = np.r_[np.zeros(9), np.ones(15)]
    for part in (weights, weights[::-1]):
        BertProbeClassifier(tiny).fit(TEXTS, BINARY, sample_weight=part)


@pytest.mark.parametrize(
    "head",
    [RandomForestClassifier(5, random_state=0), KNeighborsClassifier(3), "linear"],
)
def test_scorers_see_two_labels_as_two(tiny, head):
    probe = BertProbeClassifier(tiny, head=head, C=1.0).fit(TEXTS, INDICATOR)
    Z = BertVectorizer(tiny).fit_transform(TEXTS)
    plain = LogisticRegression(C=1.0) if head == "linear" else clone(head)
    if head == "linear":
        plain = MultiOutputClassifier(plain)
    plain = make_pipeline(StandardScaler(), plain).fit(Z, INDICATOR)
    assert probe.classes_.tolist() == [[0, 1], [0, 1]]
    for scoring in ("roc_auc", "average_precision"):
        scorer = get_scorer(scoring)
        expected = scorer(plain, Z, INDICATOR)
        assert scorer(probe, TEXTS, INDICATOR) == pytest.approx(expected, abs=1e-6)
    chosen = clone(probe).set_params(layer="cv", cv=KFold(2), scoring="roc_auc")
    assert np.isfinite(chosen.fit(TEXTS, INDICATOR).cv_scores_).all()


@pytest.mark.parametrize("head", [MultiOutputClassifier, ClassifierChain])
def test_heads_made_for_several_labels_are_given_all(tiny, head):
    probe = BertProbeClassifier(tiny, head=head(LogisticRegression()))
    probe.fit(TEXTS, INDICATOR)
    assert isinstance(probe.head_[-1], head)
    assert probe.predict(TEXTS).shape == probe.predict_proba(TEXTS).shape == (24, 2)


def test_each_label_weighs_its_classes_by_itself_with_any_head(tiny):
    for head in (SVC(), NuSVC(nu=0.1), RandomForestClassifier(3)):
        probe = BertProbeClassifier(tiny, head=head, class_weight="balanced")
        assert probe.fit(TEXTS, INDICATOR).predict(TEXTS).shape == (24, 2)
    probe = BertProbeClassifier(tiny, class_weight=[{0: 0, 1: 0}, {0: 1, 1: 1}])
    with pytest.raises(ValueError, match=r"leave no text of label 0 any weight"):
        probe.fit(TEXTS, INDICATOR)


def test_classes_without_a_weight_of_their_own_weigh_one(tiny):
    y = np.column_stack([INDICATOR, np.arange(24) == 3]).astype(int)
    probe = BertProbeClassifier(tiny, class_weight={1: 5}, layer="cv", cv=3)
    probe.fit(TEXTS, y)
    names = NAMES.astype(object)
    names[5] = "rare"
    given, whole = (
        clone(probe).set_params(class_weight=weights, cv=KFold(3)).fit(TEXTS, names)
        for weights in ({"rare": 5}, {"rare": 5, "good": 1, "fine": 1, "bad": 1})
    )
    np.testing.assert_array_equal(given.cv_scores_, whole.cv_scores_)
    with pytest.raises(ValueError, match=r"weight for 'bat', which is no class of y"):
        clone(probe).set_params(class_weight={"bat": 2}).fit(TEXTS, NAMES)


def test_a_class_without_weight_is_none_of_the_classes(tiny):
    weights = (NAMES != "bad").astype(float)
    for params, given in (({}, weights), ({"class_weight": {"bad": 0}}, None)):
        probe = BertProbeClassifier(tiny, **params)
        probe.fit(TEXTS, NAMES, sample_weight=given)
        assert probe.classes_.tolist() == ["fine", "good"]
        assert probe.predict_proba(TEXTS).shape == (24, 2)


def test_a_class_that_a_fold_lacks_may_have_a_weight(tiny):
    probe = BertProbeClassifier(
        tiny, class_weight={"good": 1, "fine": 1, "bad": 1, "rare": 9}
    )
    probe.fit(TEXTS, NAMES)  # as in a fold of more texts


@pytest.mark.parametrize("rows", ["permuted", "drawn with replacement"])
def test_folds_may_hold_as_many_rows_as_there_are_in_any_order(tiny, rows):
    rng = np.random.default_rng(0)
    train = rng.permutation(24) if rows == "permuted" else rng.integers(0, 24, size=24)
    options = {"layer": "cv", "pooling": "learned_attention", "C": 1.0}
    scores = [
        BertProbeClassifier(tiny, cv=[(fold, np.arange(24))], **options)
        .fit(TEXTS, BINARY)
        .cv_scores_
        for fold in (train, np.sort(train))
    ]
    np.testing.assert_allclose(*scores, atol=1 / 24)
    if rows == "permuted":
        assert scores[0].min() > 0.9  # all were learned from


def test_layers_may_be_an_array(tiny):
    probe = BertProbeClassifier(tiny, pooling="learned_attention", C=1.0)
    array = clone(probe).set_params(layer=np.array([1, 2])).fit(TEXTS, BINARY)
    given = clone(probe).set_params(layer=[1, 2]).fit(TEXTS, BINARY)
    np.testing.assert_array_equal(
        array.predict_proba(TEXTS), given.predict_proba(TEXTS)
    )


@pytest.mark.parametrize("weights", [None, np.r_[0, np.ones(23)]])
@pytest.mark.parametrize(
    ("cv", "message"),
    [
        ([(np.arange(12), np.arange(12, 24))] * 2, r"Fold 0 of cv needs at least two "
         r"classes in y to train on, got one class: 'n'\. Pass folds that are shuf"),
        ([(np.arange(24), [0]), ([], np.arange(24))], r"Fold \d of cv has nothing to"),
        ([(np.arange(24), np.arange(24)), (np.arange(24), [])],
         r"Fold 1 of cv has nothing to score on \(what has weight 0 is left out\)"),
    ],
)  # fmt: skip
def test_folds_that_choose_nothing_are_said_before_any_pass(
    tiny, work, cv, message, weights
):
    folds = [(np.asarray(a, dtype=int), np.asarray(b, dtype=int)) for a, b in cv]
    y = np.repeat(["n", "y"], 12)
    probe = BertProbeClassifier(tiny, layer="cv", cv=folds)
    with pytest.raises(ValueError, match=message):
        probe.fit(TEXTS, y, sample_weight=weights)
    assert work().n_texts == 0


def test_texts_of_weight_zero_choose_no_layer(tiny):
    texts = [*TEXTS, *(f"{text} yes" for text in TEXTS)]
    y, weights = np.r_[BINARY, 1 - BINARY], np.r_[np.ones(24), np.zeros(24)]
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    probe = BertProbeClassifier(tiny, layer="cv", cv=folds, C=1.0)
    probe.fit(texts, y, sample_weight=weights)
    kept = [
        (train[train < 24], test[test < 24]) for train, test in folds.split(texts, y)
    ]
    without = clone(probe).set_params(cv=kept).fit(TEXTS, BINARY)
    np.testing.assert_allclose(probe.cv_scores_, without.cv_scores_)


def test_a_fold_that_cannot_be_learned_from_is_named(tiny, work):
    probe = BertProbeClassifier(tiny, layer="cv", cv=5)
    weights = np.r_[1, 0, 1, 1, [0, 0, 1, 1] * 5]
    with pytest.raises(ValueError, match=r"A fold of cv without the texts of weight 0"):
        probe.fit(TEXTS, BINARY, sample_weight=weights)
    with pytest.raises(ValueError, match=r"cv=GroupKFold.*cv=list\(cv.split\(X, y, g"):
        probe.set_params(cv=GroupKFold(3)).fit(TEXTS, BINARY)
    with pytest.raises(ValueError, match=r"cv=30 makes no folds of 24 texts: .*fewer"):
        probe.set_params(cv=30).fit(TEXTS, BINARY)
    assert work().n_texts == 0
    groups = np.arange(24) % 4
    folds = list(GroupKFold(4).split(TEXTS, BINARY, groups))
    assert probe.set_params(cv=folds).fit(TEXTS, BINARY).cv_scores_.shape == (3, 4)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"head": KNeighborsClassifier(), "class_weight": "balanced"}, ValueError,
         r"takes no sample_weight in fit"),
        ({"head": None}, TypeError, r"head must be 'linear', 'mlp' or a .* got None"),
        ({"head": 3}, TypeError, r"head must be 'linear', 'mlp' or a .* got 3"),
        ({"random_state": "a"}, ValueError, r"'a' cannot be used to seed"),
        ({"class_weight": "balance"}, ValueError, r"class_weight must be a dict, 'bal"),
        ({"class_weight": [{0: 1}]}, ValueError, r"class_weight must be a dict, 'bal"),
    ],
)  # fmt: skip
def test_what_the_head_refuses_costs_no_pass(tiny, work, params, error, message):
    with pytest.raises(error, match=message):
        BertProbeClassifier(tiny, **params).fit(TEXTS, BINARY)
    assert work().n_texts == 0


def test_an_indicator_may_be_a_frame_of_several_types(tiny):
    pd = pytest.importorskip("pandas")
    expected = BertProbeClassifier(tiny).fit(TEXTS, INDICATOR).predict_proba(TEXTS)
    mixed = pd.DataFrame({"a": INDICATOR[:, 0], "b": INDICATOR[:, 1].astype(bool)})
    frames = [pd.DataFrame(INDICATOR, dtype=kind) for kind in ("Int64", "boolean")]
    for y in (mixed, *frames):
        found = BertProbeClassifier(tiny).fit(TEXTS, y).predict_proba(TEXTS)
        np.testing.assert_array_equal(found, expected)


def test_the_mlp_repeats_bitwise_and_fits_what_no_line_separates(tiny, monkeypatch):
    rng = np.random.default_rng(0)
    block = rng.choice([-1.0, 1.0], size=(600, 1, 3, 32)).astype(np.float32)
    block[:, :, :, 2:] *= 0.01
    y = (block[:, 0, 2, 0] == block[:, 0, 2, 1]).astype(int)
    write_layers(monkeypatch, block)
    options = {"standardize": False, "C": 10.0}
    mlp = BertProbeClassifier(tiny, head="mlp", random_state=3, **options)
    mlp.fit(TEXTS_OF_BLOCK[:400], y[:400])
    assert mlp.score(TEXTS_OF_BLOCK[400:], y[400:]) > 0.95
    linear = BertProbeClassifier(tiny, **options).fit(TEXTS_OF_BLOCK[:400], y[:400])
    assert linear.score(TEXTS_OF_BLOCK[400:], y[400:]) < 0.7
    again = clone(mlp).fit(TEXTS_OF_BLOCK[:400], y[:400])
    np.testing.assert_array_equal(
        again.predict_proba(TEXTS_OF_BLOCK), mlp.predict_proba(TEXTS_OF_BLOCK)
    )


def test_the_penalty_of_the_mlp_is_that_of_the_linear_head(tiny):
    probe = BertProbeClassifier(tiny, head="mlp", C=0.5, hidden_size=7)
    head = probe._make_head(1000)
    assert isinstance(head, MLPClassifier)
    assert head.hidden_layer_sizes == (7,)
    # scikit-learn halves alpha and divides it by the texts of a batch
    assert head.alpha / (2 * head.batch_size) == pytest.approx(1 / (2 * 0.5 * 1000))


def test_any_classifier_can_be_the_head(tiny):
    forest = RandomForestClassifier(10, random_state=0)
    probe = BertProbeClassifier(tiny, head=forest).fit(TEXTS, NAMES)
    assert probe.score(TEXTS, NAMES) > 0.9
    assert not hasattr(forest, "estimators_")  # a clone was fitted
    assert not hasattr(probe, "decision_function")
    ridge = BertProbeClassifier(tiny, head=RidgeClassifier()).fit(TEXTS, NAMES)
    assert not hasattr(ridge, "predict_proba")
    assert ridge.decision_function(TEXTS).shape == (24, 3)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda probe: CalibratedClassifierCV(probe, cv=2),
        lambda probe: OneVsRestClassifier(probe),
        lambda probe: VotingClassifier([("a", probe), ("b", clone(probe))]),
        lambda probe: VotingClassifier([("a", probe), ("b", probe)], voting="soft"),
        lambda probe: StackingClassifier([("a", probe)], cv=2),
    ],
    ids=["calibrated", "one vs rest", "voting", "soft voting", "stacking"],
)
def test_it_works_inside_other_classifiers(tiny, tmp_path, wrap):
    mix = BertProbeClassifier(tiny, layer="mix", C=1.0, memory=tmp_path)
    assert wrap(mix).fit(TEXTS, NAMES).score(TEXTS, NAMES) > 0.6
    probe = BertProbeClassifier(tiny, layer=1, C=1.0, memory=tmp_path)
    same = make_pipeline(
        BertVectorizer(tiny, layer=1, memory=tmp_path), StandardScaler(),
        LogisticRegression(C=1.0, max_iter=1000),
    )  # fmt: skip
    np.testing.assert_array_equal(
        wrap(probe).fit(TEXTS, NAMES).predict(TEXTS),
        wrap(same).fit(TEXTS, NAMES).predict(TEXTS),
    )


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_weights_that_leave_one_class_are_refused(tiny, head):
    probe = BertProbeClassifier(tiny, head=head)
    with pytest.raises(ValueError, match=r"of weight 0 needs at least two classes"):
        probe.fit(TEXTS, BINARY, sample_weight=BINARY)


def test_folds_may_be_slices(tiny):
    halves = [(slice(0, 12), slice(12, 24)), (slice(12, 24), slice(0, 12))]
    rows = np.arange(24)
    indices = [(rows[a], rows[b]) for a, b in halves]
    by_slice, by_index = (
        BertProbeClassifier(tiny, layer="cv", cv=cv).fit(TEXTS, NAMES)
        for cv in (halves, indices)
    )
    np.testing.assert_array_equal(by_slice.cv_scores_, by_index.cv_scores_)
    np.testing.assert_array_equal(
        by_slice.predict_proba(TEXTS), by_index.predict_proba(TEXTS)
    )


# Persistence and errors


def test_a_pickle_is_small_and_predicts_the_same(tiny):
    probe = BertProbeClassifier(tiny, layer="mix").fit(TEXTS, NAMES)
    stored = pickle.dumps(probe)
    assert len(stored) < 200_000
    np.testing.assert_array_equal(
        pickle.loads(stored).predict_proba(TEXTS), probe.predict_proba(TEXTS)
    )


@pytest.mark.parametrize("n_classes", [2, 50])
def test_a_pickle_holds_the_head_and_a_few_kilobytes(tmp_path, n_classes):
    wide = make_tiny_encoder(tmp_path / "wide", width=384)  # as the default model's
    texts = [f"word {i} of film" for i in range(100)]
    probe = BertProbeClassifier(wide, max_iter=10_000)
    probe.fit(texts, np.arange(100) % n_classes)
    of_head = probe.head_[-1].coef_.nbytes
    assert of_head <= len(pickle.dumps(probe)) < of_head + 16_000


def joblib_copy(probe, place):
    joblib.dump(probe, place / "probe.joblib")
    return joblib.load(place / "probe.joblib")


@pytest.mark.parametrize(
    "copied",
    [
        lambda probe, _: pickle.loads(pickle.dumps(probe)),
        joblib_copy,
        lambda probe, _: skops_copy(probe),
    ],
    ids=["pickle", "joblib", "skops"],
)
def test_a_copy_predicts_the_same_and_refuses_another_encoder(tmp_path, copied):
    place = tmp_path / "encoder"
    make_tiny_encoder(place)
    probe = BertProbeClassifier(str(place)).fit(TEXTS, NAMES)
    other = copied(probe, tmp_path)
    np.testing.assert_array_equal(
        other.predict_proba(TEXTS), probe.predict_proba(TEXTS)
    )
    shutil.rmtree(place)
    make_tiny_encoder(place, seed=1)
    with pytest.raises(ValueError, match=r"files of model=.* changed since fit"):
        other.predict(TEXTS)


def test_memory_may_be_set_after_fit_but_no_parameter_that_decides(tiny, tmp_path):
    probe = BertProbeClassifier(tiny).fit(TEXTS, BINARY)
    probe.set_params(memory=tmp_path / "store").predict(TEXTS)
    assert any((tmp_path / "store").rglob("*.npy"))
    with pytest.raises(ValueError, match=r"pooling was .* in fit .* call fit again"):
        probe.set_params(pooling="max").predict(TEXTS)
    probe.set_params(pooling="auto", layer="-1").predict(TEXTS)  # the same layer
    with pytest.raises(ValueError, match=r"layer was -1 in fit and is 1 now; call fit"):
        probe.set_params(layer=1).predict(TEXTS)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"C": 0}, ValueError, r"C must be finite and above 0, got 0"),
        ({"C": "1"}, TypeError, r"C must be a number, got '1'"),
        ({"head": "svm"}, ValueError, r"head must be one of 'linear', 'mlp'"),
        (
            {"head": StandardScaler()},
            TypeError,
            r"head must be 'linear', 'mlp' or a sc",
        ),
        ({"hidden_size": 0}, ValueError, r"hidden_size must be"),
        ({"max_iter": 1.5}, TypeError, r"max_iter must be"),
        ({"standardize": "yes"}, TypeError, r"standardize must be True or False"),
        ({"layer": "best"}, ValueError, r"layer must be .* 'mix', 'cv', got 'best'"),
        ({"layer": 9}, ValueError, r"layer"),
        ({"layer": "cv", "pooling": "pooler"}, ValueError, r"pooler.*got layer='cv'"),
        ({"layer": "mix", "pooling": ["mean", "pooler"]}, ValueError, r"layer='mix'"),
        ({"missing": "drop"}, ValueError, r"missing must be one of"),
    ],
)
def test_a_wrong_parameter_is_named_before_any_pass(tiny, work, params, error, message):
    with pytest.raises(error, match=message):
        BertProbeClassifier(tiny, **params).fit(TEXTS, BINARY)
    assert work().n_texts == 0


@pytest.mark.parametrize(
    ("y", "sample_weight", "message"),
    [
        (BINARY[:5], None, r"y has 5 rows for 24 texts"),
        (np.zeros(24), None, r"y needs at least two classes, got one class: 0\.0"),
        ([*"abc", None] * 6, None, r"missing label \(None\), first in row 3"),
        ([*"abc", np.nan] * 6, None, r"missing label \(nan\), first in row 3"),
        (np.linspace(0, 1, 24), None, r"continuous"),
        (None, None, r"requires y to be passed"),
        (BINARY, np.ones(5), r"sample_weight has shape \(5,\) for 24 texts"),
    ],
)
def test_a_wrong_target_or_weight_is_named(tiny, work, y, sample_weight, message):
    with pytest.raises(ValueError, match=message):
        BertProbeClassifier(tiny).fit(TEXTS, y, sample_weight=sample_weight)
    assert work().n_texts == 0


def test_weights_for_a_head_that_takes_none_are_refused(tiny):
    probe = BertProbeClassifier(
        tiny, head=KNeighborsClassifier(), class_weight="balanced"
    )
    with pytest.raises(ValueError, match=r"head=KNeigh.* takes no sample_weight"):
        probe.fit(TEXTS, BINARY)


def test_a_failed_fit_leaves_nothing_behind(tiny):
    probe = BertProbeClassifier(tiny, layer="mix").fit(TEXTS, BINARY)
    with pytest.raises(ValueError, match="y has 5 rows"):
        probe.fit(TEXTS, BINARY[:5])
    with pytest.raises(NotFittedError):
        probe.predict(TEXTS)
    assert not hasattr(probe, "layer_weights_")


# Meaning


def test_a_middle_layer_beats_the_last_on_a_question_of_form(tmp_path, read_data):
    texts, labels = read_data("probing_ud_ewt/past_present.csv.gz", n=400)
    options = {"memory": tmp_path, "pooling": "mean"}
    chosen = BertProbeClassifier(layer="cv", **options).fit(texts[:300], labels[:300])
    last = BertProbeClassifier(**options).fit(texts[:300], labels[:300])
    assert chosen.layers_ < (6,)
    assert chosen.cv_scores_.mean(axis=1).max() > chosen.cv_scores_[-1].mean()
    assert chosen.score(texts[300:], labels[300:]) >= last.score(
        texts[300:], labels[300:]
    )


def test_features_too_large_for_memory_are_mapped(tiny, tmp_path, monkeypatch):
    probe = BertProbeClassifier(tiny, layer="mix", memory=tmp_path)
    expected = probe.fit(TEXTS, NAMES).layer_weights_
    kinds = []
    fit = vectorizer.fit_scalar_mix

    def seen(block, *args, **options):
        kinds.append(type(block.base))
        return fit(block, *args, **options)

    monkeypatch.setattr(vectorizer, "fit_scalar_mix", seen)
    monkeypatch.setattr(ragged, "_SPOOL_BYTES", 100)
    np.testing.assert_array_equal(probe.fit(TEXTS, NAMES).layer_weights_, expected)
    assert kinds == [np.memmap]
