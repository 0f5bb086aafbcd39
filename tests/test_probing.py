"""Control tasks and description lengths: hand-computed values, one pass, a picture."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GroupKFold, KFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_bert import BertVectorizer
from sklearn_bert.inspection import (
    DescriptionLength,
    ProbingDisplay,
    Selectivity,
    control_labels,
    minimum_description_length,
    probe_layers,
    selectivity,
)

NEAREST = KNeighborsClassifier(1)
WORDS = ["red", "green", "blue", "one", "two", "three", "up", "down"]
TEXTS = [f"{a} {b}" for a in WORDS for b in WORDS]
LABELS = np.array([i // 8 % 2 for i in range(64)])


class Constant(ClassifierMixin, BaseEstimator):
    """Gives the first class it knows three quarters."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.tile([0.75, 0.25], (len(X), 1))


# Control tasks


def test_every_row_of_a_type_gets_the_same_control_label():
    types = ["a", "b", "c"] * 50
    control = control_labels(types, [0, 1] * 75)
    for kind in range(3):
        assert len(set(control[kind::3])) == 1


def test_control_labels_follow_the_frequencies_of_the_labels():
    types = np.repeat(np.arange(4000), 2)
    y = np.where(np.arange(8000) % 10 < 7, "often", "seldom")
    control = control_labels(types, y)
    assert control.dtype == y.dtype
    assert np.mean(control == "often") == pytest.approx(0.7, abs=0.02)


def test_control_labels_repeat_by_seed_whatever_the_order():
    types, y = np.arange(100) // 2, np.arange(100) % 3
    control = control_labels(types, y, random_state=4)
    np.testing.assert_array_equal(control, control_labels(types, y, random_state=4))
    assert (control != control_labels(types, y, random_state=5)).any()
    order = np.random.default_rng(0).permutation(100)
    shuffled = control_labels(types[order], y[order], random_state=4)
    np.testing.assert_array_equal(shuffled, control[order])


def test_a_probe_that_memorises_types_is_not_selective():
    types = np.arange(200) % 10
    result = selectivity(np.eye(10)[types], types % 2, types, estimator=NEAREST)
    assert result.accuracy == result.control_accuracy == 1.0
    assert result.selectivity == 0.0


def test_only_rows_whose_type_occurs_in_training_are_scored():
    # Two folds: "a" and "b" are in both, "c" is in the second alone.
    types = ["a", "b", "a", "b", "c", "c"]
    features = np.eye(3)[[0, 1, 0, 1, 2, 2]]
    splits = [([0, 1], [2, 3, 4, 5])]
    y, seed = [0, 1, 0, 1, 1, 1], 2
    assert control_labels(types, y, random_state=seed)[:2].tolist() in ([0, 1], [1, 0])
    result = selectivity(
        features, y, types, estimator=NEAREST, cv=splits, random_state=seed
    )
    assert result.seen == 0.5
    assert result.accuracies.tolist() == result.control_accuracies.tolist() == [1.0]


def test_accuracy_equals_cross_validation_where_every_type_is_seen():
    rng = np.random.default_rng(0)
    types = np.arange(300) % 20
    features = rng.normal(size=(20, 6))[types] + rng.normal(size=(300, 6))
    y = (features[:, 0] > 0).astype(int)
    head, cv = LogisticRegression(), KFold(4, shuffle=True, random_state=0)
    result = selectivity(features, y, types, estimator=head, cv=cv)
    assert result.seen == 1.0
    np.testing.assert_allclose(
        result.accuracies, cross_val_score(head, features, y, cv=cv)
    )


def test_a_linear_probe_is_more_selective_than_an_mlp():
    # The task is one direction of few; the control task has a label per word.
    rng = np.random.default_rng(0)
    types = rng.integers(120, size=2400)
    words = rng.normal(size=(120, 12))
    features = words[types] + 0.1 * rng.normal(size=(2400, 12))
    y = (words[types, 0] + words[types, 1] > 0).astype(int)
    linear, mlp = (
        selectivity(features, y, types, estimator=estimator, cv=3)
        for estimator in (
            LogisticRegression(),
            MLPClassifier((64,), max_iter=60, tol=0.01, n_iter_no_change=3,
                          learning_rate_init=0.01, random_state=0),
        )
    )  # fmt: skip
    assert min(linear.accuracy, mlp.accuracy) > 0.95
    assert mlp.control_accuracy > linear.control_accuracy + 0.15
    assert linear.selectivity > mlp.selectivity + 0.15


def test_types_that_never_return_are_refused_with_the_cure():
    features, y = np.eye(20), np.arange(20) % 2
    with pytest.raises(ValueError, match="no value that occurs in both the training"):
        selectivity(features, y, np.arange(20), cv=2)
    types = np.arange(20) // 2
    by_type = list(GroupKFold(2).split(features, y, types))
    with pytest.raises(ValueError, match="first word of a text"):
        selectivity(features, y, types, cv=by_type)
    with pytest.raises(ValueError, match="control labels that are all the same"):
        selectivity(features, y, ["a"] * 20, cv=2)


def test_rows_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"types has 2 rows for 3 labels in y"):
        control_labels(["a", "b"], [0, 1, 1])
    with pytest.raises(ValueError, match=r"got shape \(3, 3\) for 2 labels"):
        selectivity(np.eye(3), [0, 1], ["a", "b"])
    with pytest.raises(ValueError, match=r"one class per row, got continuous data"):
        minimum_description_length(np.eye(3), [0.5, 1.2, 3.3])


def test_a_selectivity_reads_well():
    result = Selectivity(np.array([0.9, 0.8]), np.array([0.6, 0.7]), 1234, 0.93)
    assert str(result).splitlines() == [
        "selectivity 0.200 ±0.100: accuracy 0.850, control task 0.650",
        "2 splits, 1,234 types; scored on 93% of the test rows, whose type occurs in "
        "training",
    ]


# Description length


def test_constant_probabilities_cost_what_they_do_by_hand():
    order = np.random.RandomState(0).permutation(8)
    y = np.empty(8, dtype=int)
    y[order] = [0, 1, 0, 1, 0, 0, 0, 1]
    mdl = minimum_description_length(
        np.zeros((8, 1)), y, estimator=Constant(), fractions=(0.5, 1)
    )
    # Four rows at one bit. Then (4 * .75 + .5) / 5 = .7 three times, and .3 once.
    expected = [4.0, 3 * -np.log2(0.7) + -np.log2(0.3)]
    np.testing.assert_allclose(mdl.portion_bits, expected)
    assert mdl.codelength == pytest.approx(7.280685, abs=1e-6)  # bits, not nats
    assert mdl.uniform_codelength == 8.0
    assert mdl.compression == pytest.approx(8 / 7.280685, abs=1e-6)


def test_a_class_that_training_has_not_met_costs_what_is_stated():
    order = np.random.RandomState(0).permutation(4)
    y = np.empty(4, dtype=object)
    y[order] = ["a", "a", "a", "b"]
    mdl = minimum_description_length(np.zeros((4, 1)), y, fractions=(0.25, 0.75, 1))
    # After one "a", (1 + 1/2) / 2 = 3/4 each; after three, "b" costs log2(2 * 4).
    np.testing.assert_allclose(mdl.portion_bits, [1, 2 * -np.log2(0.75), 3])


def test_random_labels_cost_about_the_uniform_code():
    rng = np.random.default_rng(0)
    mdl = minimum_description_length(
        rng.normal(size=(1000, 8)), rng.integers(4, size=1000)
    )
    assert mdl.uniform_codelength == 2000.0
    assert mdl.codelength == pytest.approx(2000, rel=0.03)


def test_predictable_labels_cost_little():
    y = np.arange(1000) % 4
    mdl = minimum_description_length(np.eye(4)[y], y, estimator=NEAREST)
    assert mdl.codelength < 0.03 * mdl.uniform_codelength
    assert mdl.bits_per_row[-1] < 0.01


def test_portions_end_where_the_fractions_say():
    y = np.arange(1000) % 2
    mdl = minimum_description_length(np.zeros((1000, 1)), y, estimator=Constant())
    ends = [1, 2, 4, 8, 16, 32, 62, 125, 250, 500, 1000]
    assert mdl.portion_ends.tolist() == ends
    few = minimum_description_length(np.zeros((10, 1)), y[:10], estimator=Constant())
    assert few.portion_ends.tolist() == [1, 2, 5, 10]
    assert few.n_rows == 10


def test_the_order_of_portions_is_seeded():
    rng = np.random.default_rng(0)
    features, y = rng.normal(size=(200, 4)), np.arange(200) // 100
    first, again, other = (
        minimum_description_length(features, y, random_state=seed).codelength
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_what_cannot_be_described_is_refused():
    with pytest.raises(ValueError, match=r"at least two classes, got one class: 1"):
        minimum_description_length(np.eye(3), [1, 1, 1])
    with pytest.raises(TypeError, match="RidgeClassifier has not; for support vector"):
        minimum_description_length(np.eye(2), [0, 1], estimator=RidgeClassifier())
    for fractions in [(0.5, 0.1, 1), (0.5,), (0, 1), ()]:
        with pytest.raises(ValueError, match=r"must be numbers above 0 that rise to 1"):
            minimum_description_length(np.eye(2), [0, 1], fractions=fractions)


def test_a_description_length_reads_well():
    mdl = DescriptionLength(np.array([2, 1000]), np.array([4.0, 499.0]), 4)
    assert str(mdl).splitlines() == [
        "503 bits, uniform code 2,000 bits: compression 3.98",
        "1,000 rows, 4 classes",
        "rows trained on  rows described  bits per row",
        "              0               2         2.000",
        "              2             998         0.500",
    ]


# By layer


@pytest.fixture(scope="module")
def probes(tiny):
    return probe_layers(TEXTS, LABELS, model=tiny, cv=3, random_state=1)


def test_layers_are_probed_from_one_pass(tiny, work):
    probes = probe_layers(TEXTS * 2, [*LABELS] * 2, model=tiny, cv=2)
    assert probes.layers == (0, 1, 2)
    assert probes.n_texts_encoded == work().n_texts == 64


def test_each_layer_has_what_the_functions_say_of_its_features(tiny, probes):
    X = BertVectorizer(tiny, layer=1, pooling="mean").fit_transform(TEXTS)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-3))
    np.testing.assert_allclose(
        probes.accuracies[1], cross_val_score(probe, X, LABELS, cv=3)
    )
    types = [text.split()[0] for text in TEXTS]
    expected = selectivity(X, LABELS, types, cv=3, random_state=1)
    assert probes.selectivities[1].selectivity == pytest.approx(expected.selectivity)
    bits = minimum_description_length(X, LABELS, random_state=1).codelength
    assert probes.description_lengths[1].codelength == pytest.approx(bits, rel=1e-4)


def test_only_the_metrics_asked_for_are_measured(tiny):
    probes = probe_layers(TEXTS, LABELS, model=tiny, metrics="mdl", layers=[1, 2])
    assert probes.metrics == ("mdl",)
    assert probes.accuracies is probes.selectivities is None
    assert len(probes.description_lengths) == 2


def test_the_table_has_a_row_per_layer(probes):
    lines = str(probes).splitlines()
    assert lines[0].split() == [
        "layer", "accuracy", "control", "selectivity", "bits", "compression",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[1:4]] == ["0", "1", "2"]
    assert lines[4] == "mean pooling, 64 texts; * best"
    assert lines[6] == "uniform code: 64 bits"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metrics": ["accuracy", "f1"]}, r"must name some of \('accuracy'"),
        ({"types": ["a"]}, "types has 1 rows for 64 texts"),
        ({"y": [0, 1]}, "y has 2 rows for 64 texts in X"),
        ({"y": np.linspace(0, 1, 64)}, "y must hold one class per row"),
        ({"y": ["a"] * 64}, "y needs at least two classes, got one class: 'a'"),
        ({"y": ["a", None] * 32}, r"missing label \(None\), first in row 1"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_pass(tiny, work, given, message):
    with pytest.raises(ValueError, match=message):
        probe_layers(X=TEXTS, model=tiny, **{"y": LABELS, **given})
    assert work().n_passes == 0


def test_parameters_that_are_decided_here_are_refused(tiny):
    with pytest.raises(TypeError, match="probe_layers does not take 'layer'"):
        probe_layers(TEXTS, LABELS, model=tiny, layer=1)
    with pytest.raises(TypeError, match="must be one pooling; `layer_sweep` takes"):
        probe_layers(TEXTS, LABELS, model=tiny, pooling=["mean", "cls"])


def test_the_display_draws_a_panel_per_metric(probes):
    plt = pytest.importorskip("matplotlib.pyplot")
    display = ProbingDisplay(probes).plot()
    assert [ax.get_title() for ax in display.axes_] == [
        "Accuracy", "Selectivity", "Description length, less is better",
    ]  # fmt: skip
    bits = display.axes_[2].lines[0].get_ydata()
    expected = [length.codelength / 1000 for length in probes.description_lengths]
    np.testing.assert_allclose(bits, expected)
    plt.close(display.figure_)


def test_the_display_draws_where_it_is_told(probes):
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, axes = plt.subplots(1, 2)
    display = ProbingDisplay(probes).plot(ax=axes, metrics=["mdl", "accuracy"])
    assert display.axes_ == list(axes)
    with pytest.raises(ValueError, match="ax holds 2 axes for 3 metrics"):
        ProbingDisplay(probes).plot(ax=axes)
    only = replace(probes, selectivities=None)
    with pytest.raises(ValueError, match=r"must be among those measured, \('accuracy"):
        ProbingDisplay(only).plot(ax=axes, metrics="selectivity")
    plt.close(figure)


def test_from_estimator_uses_the_parameters_of_the_vectorizer(tiny, tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    vectorizer = BertVectorizer(tiny, pooling="max", memory=tmp_path)
    display = ProbingDisplay.from_estimator(vectorizer, TEXTS, LABELS, metrics="mdl")
    assert display.probes.pooling == "max"
    assert any(tmp_path.iterdir())
    plt.close(display.figure_)
    with pytest.raises(TypeError, match="estimator must be a BertVectorizer or a Pip"):
        ProbingDisplay.from_estimator(NEAREST, TEXTS, LABELS)
