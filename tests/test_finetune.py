"""BertFineTuneClassifier: scikit-learn's contract, its promises, and its files."""

import copy
import gc
import itertools
import json
import pickle
import shutil
import subprocess
import sys
import warnings
import weakref
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from copies import skops_copy
from numeric import (
    SpellsNumbers,
    numeric_encoder,  # noqa: F401 - a fixture that works by being there
    with_default_model,
)
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import VarianceThreshold
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    estimator_checks_generator,
    parametrize_with_checks,
)

from sklearn_bert import BertProbeClassifier, BertVectorizer, training
from sklearn_bert.datasets import load_docstrings, make_tiny_encoder
from sklearn_bert.exceptions import CutWarning
from sklearn_bert.finetune import BertFineTuneClassifier
from sklearn_bert.training import Trainer

TEXTS = [
    f"{adjective} {noun}"
    for noun in ("film", "plot", "cast", "end", "joke", "song")
    for adjective in ("good", "fine", "bad", "dull")
]
BINARY = np.array([1, 1, 0, 0] * 6)
NAMES = np.array(["good", "fine", "bad", "bad"] * 6)
INDICATOR = np.column_stack([BINARY, [0, 1] * 12])
WEIGHTS = np.linspace(0.1, 2.0, 24)


class NumericBertFineTuneClassifier(SpellsNumbers, BertFineTuneClassifier):
    __init__ = with_default_model(BertFineTuneClassifier.__init__)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # words for numbers, a random encoder
        return tags


OTHER_STEPS = "a text that is repeated makes other steps than one that weighs double"
KNOWN = {"check_sample_weight_equivalence_on_dense_data": OTHER_STEPS}
# Other batches move scores by about 1e-7, which these checks do not allow.
ONE_BY_ONE = {
    "check_methods_subset_invariance", "check_methods_sample_order_invariance",
}  # fmt: skip
CASE = NumericBertFineTuneClassifier(max_iter=1, num_layers_to_freeze=1)


@parametrize_with_checks([CASE], expected_failed_checks=lambda estimator: KNOWN)
def test_every_scikit_learn_check_passes(estimator, check):
    if check.func.__name__ in ONE_BY_ONE:
        estimator.set_params(batch_size=1)
    if check.func.__name__ == "check_class_weight_classifiers":
        estimator.set_params(early_stopping=True)  # it asks for 1,000 epochs
    check(estimator)


def test_at_least_54_checks_run():
    assert len(list(estimator_checks_generator(CASE))) >= 54


def make(encoder, **params):
    defaults = {
        "num_layers_to_freeze": 1, "max_iter": 2, "texts_per_step": 8,
        "learning_rate": 1e-3, "random_state": 0,
    }  # fmt: skip
    return BertFineTuneClassifier(encoder, **(defaults | params))


@pytest.fixture(scope="module")
def fitted(tiny):
    return make(tiny).fit(TEXTS, NAMES)


# What it learns


def test_it_learns_what_the_labels_say(tiny):
    classifier = make(tiny, max_iter=20, learning_rate=3e-3).fit(TEXTS, NAMES)
    assert classifier.score(TEXTS, NAMES) > 0.9
    assert classifier.history_[-1]["loss"] < 0.5 * classifier.history_[0]["loss"]


def test_everything_is_trained_unless_told_otherwise(tiny):
    classifier = BertFineTuneClassifier(tiny, max_iter=1).fit(TEXTS, NAMES)
    assert classifier.history_[0]["n_frozen"] == 0


def test_with_every_layer_frozen_it_is_the_probe():
    data = load_docstrings(12)
    X, X_test, y, y_test = train_test_split(
        data.data, data.target, test_size=0.5, stratify=data.target, random_state=0
    )
    options = {"pooling": "mean", "max_length": 24}
    frozen = BertFineTuneClassifier(
        num_layers_to_freeze=6, max_iter=1, head_learning_rate=1e-9, random_state=0,
        **options,
    )  # fmt: skip
    trained = clone(frozen).set_params(head_learning_rate=1e-4, max_iter=3)
    probe = BertProbeClassifier(normalize=False, **options)
    by_hand = make_pipeline(
        BertVectorizer(normalize=False, **options),
        VarianceThreshold(1e-12),  # three of the model's features hardly vary
        StandardScaler(),
        LogisticRegression(C=0.01),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*longer than max_length=24")
        for classifier in (frozen, trained, probe, by_hand):
            classifier.fit(X, y)
        found, expected = (c.predict_proba(X_test) for c in (frozen, by_hand))
        scores = [c.score(X_test, y_test) for c in (trained, probe)]
    # It starts as the probe; what follows has no penalty, and may do a little worse.
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert scores[0] >= scores[1] - 0.02


def test_training_above_the_boundary_helps_where_the_probe_is_weak(tiny):
    rng = np.random.default_rng(0)
    words = ["good", "bad", "fine", "dull", "long", "short"]
    pairs = [(a, b) for a in words for b in words if a != b]
    texts = [f"{a} {b}" for a, b in pairs] * 6
    labels = np.array([a < b for a, b in pairs] * 6)  # a question of order
    order = rng.permutation(len(texts))[:96]
    texts, labels = [texts[i] for i in order], labels[order]
    options = {"head_warmup": "probe", "max_iter": 12}
    probe = make(tiny, num_layers_to_freeze=2, **options).fit(texts, labels)
    tuned = make(tiny, num_layers_to_freeze=0, **options).fit(texts, labels)
    assert tuned.score(texts, labels) > probe.score(texts, labels) + 0.1


def test_results_repeat_bitwise_and_another_seed_differs(tiny, fitted):
    again = clone(fitted).fit(TEXTS, NAMES)
    expected = fitted.predict_proba(TEXTS)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), expected)
    other = clone(fitted).set_params(random_state=1).fit(TEXTS, NAMES)
    assert np.abs(other.predict_proba(TEXTS) - expected).max() > 1e-6


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_weight_of_zero_is_a_text_left_out(tiny, early_stopping):
    kept = np.arange(24) % 3 > 0
    params = {"early_stopping": early_stopping, "validation_fraction": 0.3}
    weighted = make(tiny, **params).fit(TEXTS, BINARY, sample_weight=kept.astype(float))
    dropped = make(tiny, **params).fit(np.array(TEXTS)[kept], BINARY[kept])
    np.testing.assert_array_equal(
        weighted.predict_proba(TEXTS), dropped.predict_proba(TEXTS)
    )


def test_only_ratios_of_weights_count(tiny):
    once, thrice = (
        make(tiny).fit(TEXTS, BINARY, sample_weight=factor * WEIGHTS)
        for factor in (1.0, 4.0)
    )
    plain = make(tiny).fit(TEXTS, BINARY)
    np.testing.assert_allclose(
        once.predict_proba(TEXTS), thrice.predict_proba(TEXTS), atol=1e-6
    )
    assert np.abs(plain.predict_proba(TEXTS) - once.predict_proba(TEXTS)).max() > 1e-3


def test_balanced_classes_are_weights(tiny):
    balanced = make(tiny, class_weight="balanced").fit(TEXTS, NAMES)
    weights = {"bad": 2 / 3, "good": 4 / 3, "fine": 4 / 3}
    given = make(tiny, class_weight=weights).fit(TEXTS, NAMES)
    rows = np.array([weights[name] for name in NAMES])
    weighted = make(tiny).fit(TEXTS, NAMES, sample_weight=rows)
    for other in (given, weighted):
        np.testing.assert_allclose(
            other.predict_proba(TEXTS), balanced.predict_proba(TEXTS), atol=1e-5
        )


@pytest.mark.parametrize("n_frozen", [0, 2])
def test_each_label_weighs_its_classes_by_itself(tiny, n_frozen):
    rare = (np.arange(len(TEXTS)) % 8 == 1).astype(int)
    y = np.column_stack([BINARY, rare])
    shares = [len(TEXTS) / (2 * np.bincount(column)) for column in y.T]
    each = [dict(enumerate(share.tolist())) for share in shares]
    params = {"num_layers_to_freeze": n_frozen, "max_iter": 3}
    plain, balanced, given = (
        make(tiny, class_weight=weights, **params).fit(TEXTS, y).predict_proba(TEXTS)
        for weights in (None, "balanced", each)
    )
    np.testing.assert_allclose(given, balanced, atol=1e-5)
    assert balanced[:, 1].mean() > plain[:, 1].mean() + 0.01
    np.testing.assert_allclose(balanced[:, 0].mean(), plain[:, 0].mean(), atol=0.05)


def test_the_loss_of_a_text_weighs_each_label():
    scores, targets = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0, 0.0]])
    weights = torch.tensor([[2.0, 3.0]])
    losses = training._losses(scores, targets, weights, 0.0)
    expected = (2 * np.log1p(np.exp(-0.5)) + 3 * np.log1p(np.exp(-1.0))) / 2
    np.testing.assert_allclose(losses, [expected], rtol=1e-6)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_multilabel_target_gives_one_probability_per_label(tiny, head):
    classifier = make(tiny, head=head, max_iter=10).fit(TEXTS, INDICATOR)
    assert classifier.classes_.tolist() == [[0, 1], [0, 1]]
    assert classifier.predict_proba(TEXTS).shape == INDICATOR.shape
    assert classifier.decision_function(TEXTS).shape == INDICATOR.shape
    assert (classifier.predict(TEXTS) == INDICATOR).mean() > 0.8
    probabilities = 1 / (1 + np.exp(-classifier.decision_function(TEXTS)))
    np.testing.assert_allclose(
        classifier.predict_proba(TEXTS), probabilities, atol=1e-6
    )


def test_two_classes_have_one_score_and_more_have_one_each(tiny, fitted):
    binary = make(tiny).fit(TEXTS, BINARY)
    margin = binary.decision_function(TEXTS)
    assert margin.shape == (24,)
    np.testing.assert_array_equal(binary.predict(TEXTS), (margin > 0).astype(int))
    assert fitted.decision_function(TEXTS).shape == (24, 3)
    np.testing.assert_allclose(fitted.predict_proba(TEXTS).sum(axis=1), 1.0)


def test_every_text_may_be_a_class_of_its_own(tiny):
    classifier = make(tiny).fit(TEXTS[:20], np.arange(20))
    assert classifier.predict_proba(TEXTS[:2]).shape == (2, 20)
    with pytest.raises(ValueError, match=r"would hold out all texts of \[\d+, "):
        make(tiny, early_stopping=True).fit(TEXTS[:20], np.arange(20))


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("auto", ("mean",)),
        ("cls", ("cls",)),
        ("learned_attention", ("learned_attention",)),
        (np.array(["max", "mean_sqrt_len"]), ("max", "mean_sqrt_len")),
        ("mean,max", ("mean", "max")),
    ],
)
def test_poolings(tiny, pooling, expected):
    classifier = make(tiny, pooling=pooling).fit(TEXTS, BINARY)
    assert classifier.pooling_ == expected
    assert np.isfinite(classifier.predict_proba(TEXTS)).all()


def test_one_at_a_time_equals_all_at_once(fitted):
    together = fitted.predict_proba(TEXTS)
    apart = np.vstack([fitted.predict_proba([text]) for text in TEXTS])
    np.testing.assert_allclose(apart, together, atol=1e-5)


def test_texts_that_are_cut_are_counted(tiny):
    with pytest.warns(
        UserWarning, match=r"24 of 24 texts are longer than max_length=4"
    ):
        classifier = make(tiny, max_length=4).fit(TEXTS, BINARY)
    with pytest.warns(UserWarning, match=r"1 of 1 texts .* 6\d.\d % of all tokens"):
        classifier.predict(["good film"])


# What it tells


def test_the_history_tells_of_each_epoch(tiny):
    classifier = make(
        tiny, num_layers_to_freeze=0, unfreezing="gradual", head_warmup=1, max_iter=4
    ).fit(TEXTS, BINARY)
    assert classifier.schedule_ == [2, 1, 0, 0]
    assert classifier.n_iter_ == 4
    assert [h["epoch"] for h in classifier.history_] == [1, 2, 3, 4]
    assert [h["n_frozen"] for h in classifier.history_] == classifier.schedule_
    assert classifier.history_[0]["n_trainable"] == 66
    assert all(h["seconds"] > 0 and h["score"] is None for h in classifier.history_)


def test_early_stopping_goes_back_to_the_best_epoch(tiny):
    classifier = make(
        tiny, early_stopping=True, max_iter=30, n_iter_no_change=2, scoring="accuracy"
    ).fit(TEXTS, BINARY)
    scores = [epoch["score"] for epoch in classifier.history_]
    assert classifier.best_epoch_ == 1 + int(np.argmax(scores))
    assert classifier.n_iter_ == min(30, classifier.best_epoch_ + 2)


def test_any_scorer_can_judge(tiny):
    scorer = make_scorer(
        log_loss, response_method="predict_proba", greater_is_better=False
    )
    classifier = make(tiny, early_stopping=True, scoring=scorer).fit(TEXTS, BINARY)
    assert all(epoch["score"] < 0 for epoch in classifier.history_)


def test_verbose_shows_a_bar(tiny, capsys):
    make(tiny, verbose=1).fit(TEXTS, BINARY)
    assert "training: 100%" in capsys.readouterr().err
    make(tiny).fit(TEXTS, BINARY)
    assert "training" not in capsys.readouterr().err


class Recorder:
    """A callback of scikit-learn that keeps what it is given, and may ask to stop."""

    def __init__(self, stop_after=99):
        self.stop_after = stop_after
        self.kept = []
        self.finished = False

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        if context.task_name == "epoch":
            self.kept.append((fitted_estimator, fitted_estimator.predict_proba(X)))
        return len(self.kept) >= self.stop_after

    def teardown(self, estimator, context):
        self.finished = True


def test_callbacks_see_every_epoch_and_keep_its_weights(tiny):
    pytest.importorskip("sklearn.callback")
    recorder = Recorder()
    classifier = make(tiny, max_iter=3).set_callbacks(recorder).fit(TEXTS, BINARY)
    assert len(recorder.kept) == 3
    assert recorder.finished
    for estimator, then in recorder.kept:
        np.testing.assert_allclose(estimator.predict_proba(TEXTS), then, atol=1e-6)
    np.testing.assert_allclose(then, classifier.predict_proba(TEXTS), atol=1e-6)
    assert np.abs(recorder.kept[0][1] - then).max() > 1e-4


def test_a_callback_may_end_training(tiny):
    pytest.importorskip("sklearn.callback")
    classifier = make(tiny, max_iter=9).set_callbacks(Recorder(2)).fit(TEXTS, BINARY)
    assert classifier.n_iter_ == 2


@pytest.mark.parametrize(
    "params", [{"head_warmup": 2}, {"head_warmup": 0, "unfreezing": "gradual"}]
)
def test_a_plan_that_trains_no_block_is_said(tiny, params):
    with pytest.warns(UserWarning, match=r"No block is trained: .* max_iter=1") as said:
        make(tiny, max_iter=1, **params).fit(TEXTS, BINARY)
    assert said[0].filename == __file__


# In scikit-learn's tools


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_grid_over_frozen_layers(tiny, n_jobs):
    grid = {"num_layers_to_freeze": [0, np.int64(1), 2], "head": ["linear", "mlp"]}
    search = GridSearchCV(
        make(tiny, max_iter=1), grid, cv=2, n_jobs=n_jobs, error_score="raise"
    ).fit(TEXTS, BINARY)
    assert len(search.cv_results_["params"]) == 6
    assert search.predict(TEXTS).shape == (24,)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda classifier: CalibratedClassifierCV(classifier, cv=2),
        lambda classifier: VotingClassifier([("a", classifier)], voting="soft"),
    ],
    ids=["calibrated", "voting"],
)
def test_it_works_inside_other_classifiers(tiny, wrap):
    assert wrap(make(tiny)).fit(TEXTS, NAMES).predict_proba(TEXTS).shape == (24, 3)


def test_cross_validation_takes_frames(tiny):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"title": TEXTS})
    scores = cross_val_score(make(tiny), frame, BINARY, cv=2, error_score="raise")
    assert scores.shape == (2,)


def test_clone_takes_parameters_and_no_weights(fitted):
    params = fitted.get_params()
    assert clone(fitted).get_params() == params
    with pytest.raises(NotFittedError):
        clone(fitted).predict(TEXTS)


# Files


def test_a_pickle_and_a_copy_answer_alike(fitted):
    stored = pickle.dumps(fitted)
    for other in (pickle.loads(stored), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(
            other.predict_proba(TEXTS), fitted.predict_proba(TEXTS)
        )


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_has_the_weights_that_a_pickle_leaves_out(fitted, copied):
    expected = fitted.predict_proba(TEXTS)
    light = copy.deepcopy(fitted).set_params(weights_in_pickle=False)
    np.testing.assert_array_equal(copied(light).predict_proba(TEXTS), expected)


def test_a_moved_model_is_the_one_of_fit_and_another_is_not(tiny, tmp_path):
    place = shutil.copytree(tiny, tmp_path / "model")
    classifier = make(str(place)).fit(TEXTS, NAMES)
    expected = classifier.predict_proba(TEXTS)
    stored = pickle.dumps(classifier)
    shutil.move(place, tmp_path / "moved")
    for other in (classifier, pickle.loads(stored)):
        other.set_params(model=str(tmp_path / "moved"))
        np.testing.assert_allclose(other.predict_proba(TEXTS), expected, atol=1e-6)
    another = make_tiny_encoder(tmp_path / "another", seed=7)
    with pytest.raises(ValueError, match=r"model was '.*' in fit and is '.*' now"):
        other.set_params(model=another).predict(TEXTS)


def test_a_caller_without_gradients_or_in_double_trains_alike(tiny):
    expected = make(tiny, head="mlp").fit(TEXTS, NAMES).predict_proba(TEXTS)
    with torch.inference_mode():
        found = make(tiny, head="mlp").fit(TEXTS, NAMES).predict_proba(TEXTS)
    np.testing.assert_array_equal(found, expected)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = make(tiny, head="mlp").fit(TEXTS, NAMES).predict_proba(TEXTS)
    finally:
        torch.set_default_dtype(default)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"head": "mlp"}, {"pooling": "learned_attention"},
        {"dtype": "bfloat16", "max_iter": 3}, {"head_warmup": 1},
    ],
)  # fmt: skip
def test_a_caller_s_autocast_changes_nothing(tiny, options):
    expected = make(tiny, **options).fit(TEXTS, NAMES).predict_proba(TEXTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        classifier = make(tiny, **options).fit(TEXTS, NAMES)
        found = classifier.predict_proba(TEXTS)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(classifier.predict_proba(TEXTS), expected)


def test_it_says_how_many_bytes_its_pickle_carries(fitted):
    assert fitted.n_bytes_ == 4 * fitted.history_[-1]["n_trainable"]
    assert fitted.n_bytes_ < len(pickle.dumps(fitted)) < fitted.n_bytes_ + 10_000


def test_skops_reads_it_trusting_only_this_package(fitted):
    np.testing.assert_array_equal(
        skops_copy(fitted).predict_proba(TEXTS), fitted.predict_proba(TEXTS)
    )


def test_unpickling_imports_no_torch(fitted, tmp_path):
    (tmp_path / "classifier.pkl").write_bytes(pickle.dumps(fitted))
    code = (
        "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "classifier.pkl")], check=True
    )


def test_another_encoder_under_the_same_name_is_refused(tmp_path):
    place = tmp_path / "encoder"
    make_tiny_encoder(place)
    stored = pickle.dumps(make(str(place)).fit(TEXTS, NAMES))
    shutil.rmtree(place)
    make_tiny_encoder(place, seed=1)
    with pytest.raises(ValueError, match=r"files of model=.* changed since fit"):
        pickle.loads(stored).predict(TEXTS)


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """Return a classifier and where it was saved."""
    classifier = make(
        tiny, pooling=["cls", "mean"], prompt="of ", max_length=20, head="mlp",
        class_weight={"good": 1.0, "fine": 2.0, "bad": 1.5}, early_stopping=True,
    ).fit(TEXTS, NAMES)  # fmt: skip
    place = tmp_path_factory.mktemp("saved") / "classifier"
    classifier.save(place)
    return classifier, place


def test_load_gives_what_was_saved(saved):
    classifier, place = saved
    loaded = BertFineTuneClassifier.load(place)
    np.testing.assert_array_equal(
        loaded.predict_proba(TEXTS), classifier.predict_proba(TEXTS)
    )
    assert loaded.get_params() == classifier.get_params() | {"pooling": ["cls", "mean"]}
    for name in ("history_", "schedule_", "best_epoch_", "pooling_", "max_length_",
                 "prompt_", "fingerprint_", "n_iter_", "n_bytes_"):  # fmt: skip
        assert getattr(loaded, name) == getattr(classifier, name), name
    np.testing.assert_array_equal(loaded.classes_, classifier.classes_)
    assert loaded.classes_.dtype == classifier.classes_.dtype
    np.testing.assert_array_equal(
        loaded.fit(TEXTS, NAMES).predict_proba(TEXTS), classifier.predict_proba(TEXTS)
    )


def test_load_decides_by_itself_what_may_run_and_where(saved, tmp_path):
    _, place = saved
    shutil.copytree(place, copy := tmp_path / "copy")
    facts = copy / "finetune.json"
    content = json.loads(facts.read_text())
    content["params"] |= {"trust_remote_code": True, "device": "cuda:7"}
    facts.write_text(json.dumps(content))
    loaded = BertFineTuneClassifier.load(copy, device="cpu")
    assert loaded.device == "cpu"
    assert loaded.trust_remote_code is False
    trusting = BertFineTuneClassifier.load(copy, device="cpu", trust_remote_code=True)
    assert trusting.trust_remote_code is True
    (copy / "modeling.py").write_text("")
    with pytest.raises(ValueError, match=r"saved with code of its own. Read it, then"):
        BertFineTuneClassifier.load(copy, device="cpu")
    with pytest.raises(ValueError, match="device must be"):
        BertFineTuneClassifier.load(place, device=3)


@pytest.mark.parametrize(
    "class_weight",
    [
        None,
        "balanced",
        [{0: 1.0, 1: 2.0}, {0: 1.0, 1: 3.0}, {0: 1.0}],
        {0: 1.0, 1: 2.0},
        [{1: 2.0}, "balanced", None],
        ["balanced", None, None],
    ],
)
def test_class_weights_of_labels_are_loaded(tiny, tmp_path, class_weight):
    indicator = np.column_stack([BINARY, 1 - BINARY, np.arange(len(TEXTS)) % 3 == 0])
    classifier = make(tiny, class_weight=class_weight, max_iter=1)
    classifier.fit(TEXTS, indicator.astype(int)).save(tmp_path / "saved")
    loaded = BertFineTuneClassifier.load(tmp_path / "saved")
    assert loaded.class_weight == class_weight
    np.testing.assert_array_equal(
        loaded.predict_proba(TEXTS), classifier.predict_proba(TEXTS)
    )


@pytest.mark.parametrize("labels", [1 - BINARY, NAMES], ids=["two", "three"])
def test_the_head_of_another_classifier_is_refused(tiny, tmp_path, labels):
    place = tmp_path / "saved"
    options = {"num_layers_to_freeze": 2, "weights_in_pickle": False}
    first = make(tiny, **options).fit(TEXTS, BINARY)
    first.save(place)
    content = pickle.dumps(first)
    pickle.loads(content).predict(TEXTS)
    head = (place / "head.safetensors").read_bytes()
    shutil.rmtree(place)
    make(tiny, num_layers_to_freeze=2).fit(TEXTS, labels).save(place)
    with pytest.raises(ValueError, match=r"its files changed since save"):
        pickle.loads(content).predict(TEXTS)
    (place / "head.safetensors").write_bytes(head)
    with pytest.raises(ValueError, match=r"its files changed since save"):
        BertFineTuneClassifier.load(place).predict(TEXTS)


@pytest.mark.parametrize("damage", ["empty", "config", "other"])
def test_weights_in_a_pickle_outlive_the_directory(tiny, tmp_path, damage):
    place = tmp_path / "saved"
    classifier = make(tiny).fit(TEXTS, BINARY)
    classifier.save(place)
    content = pickle.dumps(classifier)
    if damage == "empty":
        shutil.rmtree(place)
        place.mkdir()
    else:
        text = "{}" if damage == "other" else "no JSON"
        (place / "config.json").write_text(text)
    np.testing.assert_array_equal(
        pickle.loads(content).predict_proba(TEXTS), classifier.predict_proba(TEXTS)
    )


def test_an_empty_directory_is_filled_and_not_replaced(tiny, tmp_path, monkeypatch):
    classifier = make(tiny).fit(TEXTS, BINARY)
    (tmp_path / "here").mkdir()
    before = (tmp_path / "here").stat().st_ino
    monkeypatch.chdir(tmp_path / "here")
    classifier.save(".")
    assert Path("finetune.json").is_file()
    assert (tmp_path / "here").stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    np.testing.assert_array_equal(
        BertFineTuneClassifier.load(".").predict(TEXTS), classifier.predict(TEXTS)
    )


def test_a_mapped_file_is_read_without_a_warning(tiny, tmp_path):
    classifier = make(tiny).fit(TEXTS, BINARY)
    joblib.dump(classifier, tmp_path / "c.joblib")
    mapped = joblib.load(tmp_path / "c.joblib", mmap_mode="r")
    np.testing.assert_array_equal(mapped.predict(TEXTS), classifier.predict(TEXTS))


def test_nothing_that_is_saved_is_a_pickle(saved):
    _, place = saved
    files = {path.suffix for path in place.rglob("*") if path.is_file()}
    assert files <= {".json", ".safetensors", ".txt"}


def test_what_is_saved_is_a_model_for_the_others(saved):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from transformers import AutoModel, AutoTokenizer

    classifier, place = saved
    vectorizer = BertVectorizer(place)
    features = vectorizer.fit_transform(TEXTS)
    assert vectorizer.pooling_ == ("cls", "mean")
    assert vectorizer.prompt_ == "of "
    assert vectorizer.max_length_ == 20
    theirs = sentence_transformers.SentenceTransformer(str(place), device="cpu")
    np.testing.assert_allclose(features, theirs.encode(TEXTS), atol=1e-5)
    model = AutoModel.from_pretrained(place)
    inputs = AutoTokenizer.from_pretrained(place)(["of good film"], return_tensors="pt")
    first = model(**inputs).last_hidden_state[0, 0].detach().numpy()
    np.testing.assert_allclose(features[0, :32], first, atol=1e-5)
    network = classifier._network()
    states, counted = network._states(network.pieces(TEXTS))
    pooled = network.head.pool(states, counted).detach().numpy()
    np.testing.assert_allclose(features, pooled, atol=1e-5)


def test_a_trained_query_is_declared_as_the_mean(tiny, tmp_path):
    classifier = make(tiny, pooling="learned_attention").fit(TEXTS, NAMES)
    classifier.save(tmp_path / "saved")
    assert BertVectorizer(tmp_path / "saved").fit([]).pooling_ == ("mean",)
    loaded = BertFineTuneClassifier.load(tmp_path / "saved")
    np.testing.assert_array_equal(
        loaded.predict_proba(TEXTS), classifier.predict_proba(TEXTS)
    )


def test_a_saved_classifier_needs_the_encoder_it_began_from_no_more(tmp_path):
    place = make_tiny_encoder(tmp_path / "encoder")
    classifier = make(place).fit(TEXTS, NAMES)
    classifier.save(tmp_path / "saved")
    expected = classifier.predict_proba(TEXTS)
    shutil.rmtree(place)
    loaded = BertFineTuneClassifier.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), expected)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(loaded)).predict_proba(TEXTS), expected
    )


def test_a_pickle_may_carry_a_path(tiny, tmp_path):
    classifier = make(tiny, weights_in_pickle=False).fit(TEXTS, NAMES)
    with pytest.raises(ValueError, match=r"save was not called: call save"):
        pickle.dumps(classifier)
    classifier.save(tmp_path / "saved")
    stored = pickle.dumps(classifier)
    assert len(stored) < 10_000
    np.testing.assert_array_equal(
        pickle.loads(stored).predict_proba(TEXTS), classifier.predict_proba(TEXTS)
    )
    shutil.rmtree(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"are in '.*saved', and it is not there"):
        pickle.loads(stored).predict(TEXTS)


def test_a_directory_that_holds_something_is_not_written_over(fitted, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"directory='.*' is not empty; pass a new"):
        fitted.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_save_that_fails_leaves_nothing(fitted, tmp_path, monkeypatch):
    from sklearn_bert.tuned import TunedNetwork

    def fail(self, directory):
        (directory / "config.json").write_text("{}")
        raise OSError("disk full")

    monkeypatch.setattr(TunedNetwork, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        fitted.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_what_json_cannot_hold_is_named(tiny, tmp_path):
    scorer = make_scorer(log_loss)
    classifier = make(tiny).fit(TEXTS, NAMES).set_params(scoring=scorer)
    with pytest.raises(ValueError, match=r"scoring holds .* set_params\(scoring=None"):
        classifier.save(tmp_path / "saved")


@pytest.mark.parametrize(
    "y", [BINARY, BINARY.astype(bool), BINARY - 0.0, NAMES.astype(object)]
)
def test_classes_keep_their_type(tiny, tmp_path, y):
    classifier = make(tiny, max_iter=1).fit(TEXTS, y)
    classifier.save(tmp_path / "saved")
    loaded = BertFineTuneClassifier.load(tmp_path / "saved")
    assert loaded.classes_.dtype == classifier.classes_.dtype
    np.testing.assert_array_equal(loaded.predict(TEXTS), classifier.predict(TEXTS))


def test_what_save_did_not_write_is_refused(saved, tiny, tmp_path):
    _, place = saved
    with pytest.raises(ValueError, match=r"holds no classifier that save wrote"):
        BertFineTuneClassifier.load(tiny)
    shutil.copytree(place, tmp_path / "copy")
    other = make_tiny_encoder(tmp_path / "other", seed=1)
    shutil.copyfile(f"{other}/tokenizer.json", tmp_path / "copy" / "tokenizer.json")
    weights = tmp_path / "copy" / "tokenizer.json"
    weights.write_text(weights.read_text() + "\n")
    with pytest.raises(ValueError, match=r"are in '.*copy', and its files changed"):
        BertFineTuneClassifier.load(tmp_path / "copy")
    file = tmp_path / "copy" / "finetune.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 0}))
    with pytest.raises(ValueError, match="has format 0 and this version"):
        BertFineTuneClassifier.load(tmp_path / "copy")


# Checkpoints


def test_a_stopped_fit_goes_on_and_another_is_refused(tiny, tmp_path):
    pytest.importorskip("sklearn.callback")

    class Stopped(Exception):
        pass

    class Stop(Recorder):
        def on_fit_task_end(self, estimator, context):
            self.kept.append(context.task_name)
            if len(self.kept) == 2:
                raise Stopped

    options = {
        "max_iter": 4, "early_stopping": True, "n_iter_no_change": 4,
        "num_layers_to_freeze": 0, "unfreezing": "gradual",
    }  # fmt: skip
    whole = make(tiny, **options).fit(TEXTS, NAMES)
    classifier = make(tiny, **options, checkpoint_dir=tmp_path)
    with pytest.raises(Stopped):
        clone(classifier).set_callbacks(Stop()).fit(TEXTS, NAMES)
    classifier.fit(TEXTS, NAMES)
    np.testing.assert_array_equal(
        classifier.predict_proba(TEXTS), whole.predict_proba(TEXTS)
    )
    assert [h["score"] for h in classifier.history_] == [
        h["score"] for h in whole.history_
    ]
    for name, value in {
        "label_smoothing": 0.1, "scoring": "f1_macro", "random_state": 1,
    }.items():  # fmt: skip
        other = clone(classifier).set_params(**{name: value})
        with pytest.raises(ValueError, match=rf"another run: .*{name}"):
            other.fit(TEXTS, NAMES)
    with pytest.raises(ValueError, match=r"another run: .*X"):
        clone(classifier).fit([*TEXTS[1:], TEXTS[0]], NAMES)


def test_several_labels_are_smoothed_stopped_resumed_and_carried(tiny, tmp_path):
    options = {
        "label_smoothing": 0.1, "early_stopping": True, "validation_fraction": 0.25,
        "max_iter": 6, "n_iter_no_change": 6, "head": "mlp", "pooling": "mean,max",
    }  # fmt: skip
    whole = make(tiny, **options).fit(TEXTS, INDICATOR)
    assert len(whole.history_) == whole.n_iter_ == 6
    assert all(0 <= epoch["score"] <= 1 for epoch in whole.history_)
    expected = whole.predict_proba(TEXTS)
    resumed = make(tiny, **options, checkpoint_dir=tmp_path / "run")
    step = Trainer._step
    n_steps = itertools.count()

    def broken(self, rows, rate):
        if next(n_steps) == 2 * self._n_steps:
            raise KeyboardInterrupt
        return step(self, rows, rate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", broken)
        with pytest.raises(KeyboardInterrupt):
            clone(resumed).fit(TEXTS, INDICATOR)
    n_left = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", lambda *a: (next(n_left), step(*a))[1])
        resumed.fit(TEXTS, INDICATOR)
    assert next(n_left) == 2 * (next(n_steps) - 1)  # four epochs, after two
    copy = pickle.loads(pickle.dumps(whole))
    whole.save(tmp_path / "saved")
    loaded = BertFineTuneClassifier.load(tmp_path / "saved")
    for other in (resumed, copy, loaded):
        np.testing.assert_array_equal(other.predict_proba(TEXTS), expected)
        np.testing.assert_array_equal(other.predict(TEXTS), whole.predict(TEXTS))
        assert other.classes_.tolist() == [[0, 1], [0, 1]]
    plain = make(tiny, **{**options, "label_smoothing": 0.0}).fit(TEXTS, INDICATOR)
    assert np.abs(plain.predict_proba(TEXTS) - expected).max() > 1e-3


def test_no_class_is_held_out_as_a_whole(tiny):
    y = [0] * 9 + [1]
    classifier = make(tiny, early_stopping=True, validation_fraction=0.5)
    _, held_out = classifier._split(np.array(y), None, 0)
    assert 9 not in held_out
    for seed in range(30):
        y = np.array([0] * 6 + [1] * 5 + [2])
        train, held_out = classifier._split(y, None, seed)
        assert sorted([*train, *held_out]) == list(range(12))
        assert set(y[train]) == {0, 1, 2}
    with pytest.raises(ValueError, match=r"would hold out all texts of \[\d\]"):
        classifier._split(np.array([0, 1]), None, 0)


@pytest.mark.parametrize(
    ("scoring", "counts"),
    [
        (None, True), ("accuracy", True), ("neg_log_loss", True),
        (lambda e, X, y, sample_weight=None: np.average(e.predict(X) == y,
         weights=sample_weight), True),
        (lambda e, X, y: np.mean(e.predict(X) == y), False),
        (make_scorer(lambda y, found: np.mean(y == found)), False),
    ],
)  # fmt: skip
def test_held_out_texts_weigh_in_the_score_what_they_weigh(tiny, scoring, counts):
    options = {"early_stopping": True, "validation_fraction": 0.5, "max_iter": 1}
    classifier = make(tiny, **options, scoring=scoring)
    _, held_out = classifier._split(BINARY, None, classifier._seed(None))
    weights = np.ones(24)
    scores = []
    for own in (np.ones(12), np.linspace(1e-3, 9, 12)):
        weights[held_out] = own
        classifier.fit(TEXTS, BINARY, sample_weight=weights)
        scores.append(classifier.history_[0]["score"])
    if scoring is None:
        right = classifier.predict(np.array(TEXTS)[held_out]) == BINARY[held_out]
        assert scores[1] == pytest.approx(np.average(right, weights=own))
    assert (scores[0] != scores[1]) == counts


def test_a_run_of_other_held_out_weights_is_another(tiny, tmp_path):
    options = {"early_stopping": True, "validation_fraction": 0.5, "max_iter": 1}
    classifier = make(tiny, **options, checkpoint_dir=tmp_path)
    _, held_out = classifier._split(BINARY, None, classifier._seed(None))
    weights = np.ones(24)
    classifier.fit(TEXTS, BINARY, sample_weight=weights)
    classifier.fit(TEXTS, BINARY, sample_weight=2 * weights)
    weights[held_out] = np.linspace(1, 2, 12)
    with pytest.raises(ValueError, match=r"another run: held-out weights differ\."):
        classifier.fit(TEXTS, BINARY, sample_weight=weights)


def test_cut_texts_are_told_of_once_with_those_held_out(tiny):
    options = {"early_stopping": True, "max_length": 4, "max_iter": 1}
    with pytest.warns(CutWarning) as told:
        make(tiny, **options).fit([f"{text} and more" for text in TEXTS], BINARY)
    assert [w.message.n_cut for w in told if w.category is CutWarning] == [24]


def test_what_a_checkpoint_declares_about_reading_is_part_of_a_fit(tmp_path):
    place = tmp_path / "encoder"
    shutil.copytree(make_tiny_encoder(tmp_path / "tiny"), place)
    options = {"prompt": "joke: ", "checkpoint_dir": tmp_path / "run"}
    classifier = make(str(place), **options).fit(TEXTS, BINARY)
    copy = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(
        copy.predict_proba(TEXTS), classifier.predict_proba(TEXTS)
    )
    declared = {"pooling_mode": "mean", "include_prompt": False}
    module = {"type": "sentence_transformers.models.Transformer", "path": "", "idx": 0}
    pooling = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
    (place / "1_Pooling").mkdir(exist_ok=True)
    (place / "1_Pooling" / "config.json").write_text(json.dumps(declared))
    (place / "modules.json").write_text(json.dumps([module, {**pooling, "idx": 1}]))
    again = pickle.loads(pickle.dumps(classifier))
    with pytest.raises(ValueError, match=r"include_prompt=True when .* and declare"):
        again.predict(TEXTS)
    with pytest.raises(
        ValueError, match=r"another run: include_prompt of model differ"
    ):
        make(str(place), pooling="mean", **options).fit(TEXTS, BINARY)


def test_what_is_saved_is_what_was_fitted(tiny, tmp_path):
    classifier = make(tiny, pooling="mean").fit(TEXTS, BINARY)
    classifier.set_params(pooling="max")
    with pytest.raises(ValueError, match=r"pooling was 'mean' in fit and is 'max' now"):
        classifier.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def make_scoring(sign=1.0):
    def agreement(estimator, X, y):
        return sign * float(np.mean(estimator.predict(X) == y))

    return agreement


def test_a_scorer_of_ones_own_is_known_again(tiny, tmp_path, monkeypatch):
    options = {"early_stopping": True, "checkpoint_dir": tmp_path, "max_iter": 1}
    first = make(tiny, scoring=make_scoring(), **options).fit(TEXTS, NAMES)
    monkeypatch.setattr(Trainer, "run_epoch", None)  # nothing is left to run
    again = make(tiny, scoring=make_scoring(), **options).fit(TEXTS, NAMES)
    np.testing.assert_array_equal(
        again.predict_proba(TEXTS), first.predict_proba(TEXTS)
    )


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"class_weight": "balanced"}, "class_weight"),
        ({"validation_fraction": 0.4}, "validation_fraction"),
        ({"early_stopping": None}, "early_stopping"),
        ({"head": "mlp", "hidden_size": 9}, "head or hidden_size"),
        ({"random_state": 7}, "random_state"),
    ],
)
def test_what_differs_from_a_checkpoint_is_named_and_what_follows_is_not(
    tiny, tmp_path, changes, named, early_stopping
):
    options = {"early_stopping": early_stopping, "validation_fraction": 0.25}
    options |= {"checkpoint_dir": tmp_path, "max_iter": 1}
    make(tiny, **options).fit(TEXTS, NAMES)
    if named == "early_stopping":
        changes = {"early_stopping": not early_stopping}
    again = make(tiny, **(options | changes))
    if named == "validation_fraction" and not early_stopping:
        again.fit(TEXTS, NAMES)  # it decides nothing then
        return
    with pytest.raises(ValueError, match=rf"of another run: {named} differ\."):
        again.fit(TEXTS, NAMES)


def test_other_classes_are_another_run(tiny, tmp_path):
    y = np.arange(len(TEXTS)) % 3
    classifier = make(tiny, checkpoint_dir=tmp_path)
    classifier.fit(TEXTS, y, sample_weight=(y < 2).astype(float))
    kept = np.flatnonzero(y < 2)
    with pytest.raises(ValueError, match=r"another run: classes of y differ"):
        classifier.fit([TEXTS[i] for i in kept], y[kept])


@pytest.mark.parametrize("n_frozen", [1, 2])
def test_frozen_blocks_run_once_on_texts_held_out_as_well(tiny, n_frozen, monkeypatch):
    from sklearn_bert.tuned import TunedNetwork

    ran, run_block = [], TunedNetwork._run_block

    def counting(self, i, forward, args, kwargs):
        def counted(*args, **kwargs):
            ran.append(i)
            return forward(*args, **kwargs)

        return run_block(self, i, counted, args, kwargs)

    monkeypatch.setattr(TunedNetwork, "_run_block", counting)
    options = {"early_stopping": True, "validation_fraction": 0.3, "max_iter": 4}
    options |= {"num_layers_to_freeze": n_frozen, "n_iter_no_change": 9}
    epochs = []

    class Counts:
        def __call__(self, estimator, X, y):
            estimator.predict(X)
            epochs.append(len([i for i in ran if i < n_frozen]))
            return 0.5

    make(tiny, **options, scoring=Counts()).fit(TEXTS, NAMES)
    assert len(epochs) == 4
    assert len(set(epochs)) == 1


def test_scores_of_texts_held_out_are_those_of_the_network(tiny):
    scores = []

    def judge(estimator, X, y):
        given = estimator.decision_function(X)
        run = estimator.decision_function(list(X))  # another list: it is run
        scores.append(np.abs(given - run).max())
        half = estimator.decision_function(X[:3])
        np.testing.assert_allclose(half, given[:3], atol=1e-4)
        return float((estimator.predict(X) == y).mean())

    options = {"early_stopping": True, "validation_fraction": 0.3, "scoring": judge}
    make(tiny, **options).fit(TEXTS, NAMES)
    assert len(scores) == 2
    assert max(scores) < 1e-4


def test_a_scorer_that_cannot_judge_is_refused_before_training(tiny, tmp_path):
    texts = [f"{text} {i}" for i in range(4) for text in TEXTS]
    y = np.resize(["p", "n"], len(texts)).astype(object)
    y[:3] = "rare"
    options = {"early_stopping": True, "checkpoint_dir": tmp_path, "random_state": 1}
    message = r"cannot judge the 10 texts that early_stopping holds out \(ValueError: "
    for scoring in ("neg_log_loss", "roc_auc"):
        with pytest.raises(ValueError, match=message):
            make(tiny, scoring=scoring, **options).fit(texts, y)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_network_is_freed_with_its_classifier(tiny, early_stopping):
    classifier = make(tiny, early_stopping=early_stopping)
    gc.collect()
    gc.disable()
    classifier.fit(TEXTS, NAMES)
    classifier.predict(TEXTS)
    network = weakref.ref(classifier._network())
    try:
        del classifier
        assert network() is None
    finally:
        gc.enable()


def test_fits_in_threads_leave_transformers_as_loud_as_it_was(tiny):
    from transformers.utils import logging

    before = logging.get_verbosity()
    with joblib.parallel_config(backend="threading", n_jobs=3):
        cross_val_score(make(tiny, max_iter=1), TEXTS, BINARY, cv=6)
    assert logging.get_verbosity() == before


def test_what_a_checkpoint_declares_beyond_pooling_is_not_left_out(tiny, tmp_path):
    place = tmp_path / "dense"
    shutil.copytree(tiny, place)
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"a.models.{kind}"}
        for i, (kind, path) in enumerate(kinds.items())
    ]
    (place / "modules.json").write_text(json.dumps(modules))
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    message = r"declares Dense for .* which BertFineTuneClassifier does not apply"
    with pytest.raises(ValueError, match=message):
        make(str(place)).fit(TEXTS, BINARY)
    assert make(str(place), pooling="cls").fit(TEXTS, BINARY).pooling_ == ("cls",)


def test_a_checkpoint_directory_may_be_in_the_home(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    make(tiny, checkpoint_dir="~/run").fit(TEXTS, BINARY).save("~/saved")
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
    BertFineTuneClassifier.load("~/saved").predict(TEXTS)
    with pytest.raises(ValueError, match=r"checkpoint_dir must be .* got ''"):
        make(tiny, checkpoint_dir="").fit(TEXTS, BINARY)


def test_held_out_labels_are_part_of_a_run(tiny, tmp_path):
    indicator = np.column_stack([BINARY, 1 - BINARY])
    options = {"early_stopping": True, "checkpoint_dir": tmp_path, "max_iter": 1}
    classifier = make(tiny, **options).fit(TEXTS, indicator)
    _, held_out = classifier._split(indicator, None, classifier._seed(tmp_path))
    indicator[held_out] = 1 - indicator[held_out]
    with pytest.raises(ValueError, match=r"another run: .*held-out labels"):
        classifier.fit(TEXTS, indicator)


def test_without_a_seed_a_fit_goes_on_with_the_one_it_had(tiny, tmp_path):
    options = {"random_state": None, "checkpoint_dir": tmp_path}
    first = make(tiny, **options).fit(TEXTS, NAMES)
    again = make(tiny, **options).fit(TEXTS, NAMES)
    np.testing.assert_array_equal(
        again.predict_proba(TEXTS), first.predict_proba(TEXTS)
    )


# Errors


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"model": None}, TypeError, "model must be the name"),
        ({"num_layers_to_freeze": 3}, ValueError, r"=3 is out of range: .* 2 blocks"),
        ({"num_layers_to_freeze": 1.0}, TypeError, "num_layers_to_freeze must be an"),
        ({"unfreezing": "slow"}, ValueError, "unfreezing must be one of 'none', 'gr"),
        ({"pooling": "attention"}, ValueError, "pooling must be one of .*learned_att"),
        ({"pooling": []}, TypeError, "non-empty sequence of these without 'auto'"),
        ({"pooling": ["cls", "cls"]}, ValueError, "must not name a pooling twice"),
        ({"pooling": "mean,attention"}, ValueError, r"pooling\[1\] must be one of"),
        ({"max_length": 900}, ValueError, "max_length=900 is more than this encoder"),
        ({"max_length": 2}, ValueError, "max_length=2 leaves no room .* at least 3"),
        ({"prompt": 1}, TypeError, "prompt must be a str or None"),
        ({"missing": "drop"}, ValueError, "missing must be one of"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"device": "gpu"}, ValueError, "device must be 'auto'"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of"),
        ({"revision": 1}, TypeError, "revision must be"),
        ({"verbose": "yes"}, TypeError, "verbose must be"),
        ({"head": "svm"}, ValueError, "head must be one of 'linear', 'mlp'"),
        ({"hidden_size": 0}, ValueError, "hidden_size must be at least 1"),
        ({"head_warmup": "lr"}, ValueError, "head_warmup must be one of 'probe'"),
        ({"head_warmup": -1}, ValueError, "head_warmup must be at least 0"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1"),
        ({"texts_per_step": 0}, ValueError, "texts_per_step must be at least 1"),
        ({"learning_rate": 0}, ValueError, "learning_rate must be finite and above 0"),
        ({"layer_decay": 1.5}, ValueError, "layer_decay must be between 0 and 1"),
        ({"warmup": "all"}, TypeError, "warmup must be a number"),
        ({"weight_decay": -1}, ValueError, "weight_decay must be at least 0"),
        ({"max_grad_norm": 0}, ValueError, "max_grad_norm must be finite"),
        ({"label_smoothing": 2}, ValueError, "smoothing must be at least 0 and"),
        ({"label_smoothing": 1.0}, ValueError, "at least 0 and below 1, got 1.0"),
        ({"early_stopping": 1}, TypeError, "early_stopping must be True or False"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change must be at least 1"),
        (
            {"early_stopping": True, "validation_fraction": 1.0},
            ValueError,
            r"validation_fraction=1.0 holds out all of \d+ texts; pass a smaller",
        ),
        (
            {"early_stopping": True, "validation_fraction": 0.0},
            ValueError,
            r"needs texts to stop by, got validation_fraction=0.0; pass a larger one",
        ),
        ({"scoring": "acuracy"}, ValueError, "scoring"),
        ({"checkpoint_dir": 3}, TypeError, "checkpoint_dir must be a directory"),
        ({"checkpoint_dir": __file__}, ValueError, "checkpoint_dir=.* is a file; pass"),
        ({"weights_in_pickle": 1}, TypeError, "weights_in_pickle must be True or Fal"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named(tiny, params, error, message):
    params = {"model": tiny, **params}
    with pytest.raises(error, match=message):
        BertFineTuneClassifier(**params).fit(TEXTS, BINARY)


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
        (BINARY, np.zeros(24), r"sample_weight must not be zero for every text"),
        (BINARY, -WEIGHTS, r"sample_weight must not be negative, first in row 0"),
    ],
)
def test_a_wrong_target_or_weight_is_named(tiny, y, sample_weight, message):
    with pytest.raises(ValueError, match=message):
        make(tiny).fit(TEXTS, y, sample_weight=sample_weight)


def test_a_failed_fit_leaves_nothing_behind(tiny):
    classifier = make(tiny).fit(TEXTS, BINARY)
    with pytest.raises(ValueError, match="y has 5 rows"):
        classifier.fit(TEXTS, BINARY[:5])
    with pytest.raises(NotFittedError):
        classifier.predict(TEXTS)
    assert not hasattr(classifier, "history_")


def test_device_may_be_set_after_fit_but_no_parameter_that_decides(fitted):
    classifier = copy.deepcopy(fitted).set_params(device="cpu", batch_size=2)
    np.testing.assert_allclose(
        classifier.predict_proba(TEXTS), fitted.predict_proba(TEXTS), atol=1e-5
    )
    with pytest.raises(ValueError, match=r"pooling was 'auto' in fit and is 'max' now"):
        classifier.set_params(pooling="max").predict(TEXTS)


def test_a_pooling_that_sklearn_bert_does_not_have_is_named(tiny, monkeypatch):
    from sklearn_bert import estimators

    find = estimators.find_checkpoint

    def declaring(*args, **kwargs):
        checkpoint = find(*args, **kwargs)
        declared = replace(checkpoint.declared, pooling=("lasttoken",))
        return replace(checkpoint, declared=declared)

    monkeypatch.setattr(estimators, "find_checkpoint", declaring)
    with pytest.raises(ValueError, match=r"declares lasttoken for .* Name a pooling"):
        make(tiny).fit(TEXTS, BINARY)


# Meaning


@pytest.mark.slow
def test_two_trained_layers_beat_the_probe_of_the_last_layer_on_real_reviews(read_data):
    texts, labels = read_data("mr/mr.csv.gz")
    order = np.random.default_rng(0).permutation(len(texts))
    rows, test = order[:600], order[-600:]
    X, y = [texts[i] for i in rows], np.array(labels)[rows]
    X_test, y_test = [texts[i] for i in test], np.array(labels)[test]
    tuned = BertFineTuneClassifier(num_layers_to_freeze=-2, random_state=0).fit(X, y)
    probe = BertProbeClassifier().fit(X, y)
    assert tuned.score(X_test, y_test) > probe.score(X_test, y_test)
