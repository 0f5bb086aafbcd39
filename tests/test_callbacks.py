"""scikit-learn's callbacks follow a probe, and may end what it learns."""

import pickle

import pytest

from sklearn_bert import BertProbeClassifier
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
