"""scikit-learn's callbacks follow a probe, and may end what it learns."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone

from sklearn_bert import BertProbeClassifier, objective
from sklearn_bert.callbacks import Task

callback = pytest.importorskip("sklearn.callback")
pytestmark = pytest.mark.filterwarnings("ignore:.* encoded for the third time")
TEXTS = ["good film", "bad film", "good end", "bad end"] * 3
Y = [1, 0, 1, 0] * 3


class Recorder:
    """Keeps the names of tasks; may ask to stop after some iterations."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.ended = []

    def setup(self, estimator, context):
        self.ended.append("setup")

    def teardown(self, estimator, context):
        self.ended.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.ended.append(context.task_name)
        return self.ended.count("iteration") == self.stop_after


class Patience:
    """Keeps a score of each step; stops when it has not got better for some of them."""

    def __init__(self, texts, y, patience=99):
        self.texts, self.y, self.patience = texts, y, patience
        self.scores = {"iteration": [], "head": []}

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if fitted_estimator is None:
            return False
        score = fitted_estimator.score(self.texts, self.y)
        so_far = self.scores[context.task_name]
        so_far.append((score, fitted_estimator))
        scores = [score for score, _ in so_far]
        return len(scores) - 1 - scores.index(max(scores)) >= self.patience


def fit(tiny, stop_after=None, **params):
    recorder = Recorder(stop_after)
    probe = BertProbeClassifier(tiny, **params).set_callbacks(recorder)
    return probe.fit(TEXTS, Y), recorder.ended


def test_a_probe_tells_of_its_two_steps(tiny):
    _, ended = fit(tiny)
    assert ended == ["setup", "representation", "head", "fit", "teardown"]


def test_every_layer_that_is_scored_is_a_step(tiny):
    _, ended = fit(tiny, layer="cv", cv=2)
    assert ended.count("layer") == 3


@pytest.mark.parametrize("pooling", ["mean", "learned_attention"])
def test_a_callback_may_end_learning(tiny, pooling):
    _, whole = fit(tiny, layer="mix", pooling=pooling, C=1.0)
    probe, ended = fit(tiny, layer="mix", pooling=pooling, C=1.0, stop_after=2)
    assert whole.count("iteration") > 2
    assert ended.count("iteration") == 2
    assert probe.layer_weights_.sum() == pytest.approx(1)
    assert ended[-3:] == ["head", "fit", "teardown"]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"pooling": "learned_attention"},
        {"head": "mlp", "random_state": np.random.RandomState(3)},
    ],
)
@pytest.mark.parametrize("y", [Y, [[1, 0], [0, 0], [1, 1], [0, 1]] * 3])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_callback_sees_the_probe_after_every_step(tiny, tmp_path, params, y):
    seen = Patience(TEXTS, y)
    params = copy.deepcopy({"C": 1.0, "memory": tmp_path, "max_iter": 150, **params})
    probe = BertProbeClassifier(tiny, layer="mix", **params)
    unwatched = clone(probe)
    probe.set_callbacks(seen).fit(TEXTS, y)
    steps = [estimator for _, estimator in seen.scores["iteration"]]
    assert len(steps) == probe.vectorizer_.n_iter_ > 2
    ((score, end),) = seen.scores["head"]
    assert score == probe.score(TEXTS, y)
    for whole in (end, steps[-1]):  # learning ends with its last step
        np.testing.assert_allclose(
            whole.predict_proba(TEXTS), probe.predict_proba(TEXTS), atol=1e-6
        )
    assert {name for name in vars(steps[0]) if name.endswith("_")} == {
        name for name in vars(probe) if name.endswith("_")
    }
    assert np.abs(steps[0].layer_weights_ - probe.layer_weights_).max() > 0
    unwatched.fit(TEXTS, y)  # watching changes nothing
    np.testing.assert_array_equal(
        unwatched.predict_proba(TEXTS), probe.predict_proba(TEXTS)
    )


@pytest.mark.parametrize("full_bytes", [0, 2**32])
def test_a_callback_stops_learning_by_a_score_of_its_own(
    tiny, tmp_path, monkeypatch, full_bytes
):
    monkeypatch.setattr(objective, "_FULL_BYTES", full_bytes)  # or mini-batches
    probe = BertProbeClassifier(tiny, layer="mix", C=1.0, memory=tmp_path)
    whole = clone(probe).fit(TEXTS, Y)
    seen = Patience(TEXTS, Y, patience=2)
    probe.set_callbacks(seen).fit(TEXTS, Y)
    scores = [score for score, _ in seen.scores["iteration"]]
    assert len(scores) == probe.vectorizer_.n_iter_ < whole.vectorizer_.n_iter_
    assert max(scores) == max(scores[:-2]) > max(scores[:-3], default=0)
    for _, step in seen.scores["iteration"][1:]:  # no step is of the head alone
        assert np.ptp(step.layer_weights_) > 0


def test_a_callback_may_end_the_search_for_a_layer(tiny, tmp_path):
    class AfterTwo(Recorder):
        def on_fit_task_end(self, estimator, context):
            self.ended.append(context.task_name)
            return self.ended.count("layer") == 2

    params = {"layer": "cv", "cv": 2, "pooling": "learned_attention", "C": 1.0}
    probe = BertProbeClassifier(tiny, memory=tmp_path, **params)
    whole = clone(probe).fit(TEXTS, Y)
    recorder = AfterTwo()
    probe.set_callbacks(recorder).fit(TEXTS, Y)
    assert recorder.ended.count("layer") == 2
    assert np.isnan(probe.cv_scores_[2:]).all()
    np.testing.assert_array_equal(probe.cv_scores_[:2], whole.cv_scores_[:2])
    best = probe.cv_scores_[:2].mean(axis=1).argmax()
    assert probe.layers_ == (best,)
    alone = clone(probe).set_params(layer=int(best)).fit(TEXTS, Y)
    np.testing.assert_array_equal(
        alone.predict_proba(TEXTS), probe.predict_proba(TEXTS)
    )


def test_scores_are_recorded(tiny, tmp_path):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    probe = BertProbeClassifier(tiny, layer="mix", C=1.0, memory=tmp_path)
    probe.set_callbacks(monitor).fit(TEXTS, Y)
    rows = monitor.get_logs().data
    names = [row["task_name"] for row in rows]
    assert names.count("iteration") == probe.vectorizer_.n_iter_
    assert names.count("head") == 1
    assert all(0 <= row["accuracy"] <= 1 for row in rows)


def test_a_bar_follows_into_the_linear_head(tiny, capsys):
    pytest.importorskip("rich")
    bar = callback.ProgressBar(max_propagation_depth=2)
    BertProbeClassifier(tiny, layer="mix").set_callbacks(bar).fit(TEXTS, Y)
    shown = capsys.readouterr().out
    assert "BertProbeClassifier" in shown
    assert "LogisticRegression" in shown


def test_a_fitted_probe_with_callbacks_is_pickled(tiny):
    probe, _ = fit(tiny, layer="mix")
    again = pickle.loads(pickle.dumps(probe))
    assert again.predict(TEXTS).tolist() == probe.predict(TEXTS).tolist()


def test_a_task_without_callbacks_does_nothing():
    task = Task()
    with task.step("part") as step, step.lend(object()):
        assert not step.is_stopped
