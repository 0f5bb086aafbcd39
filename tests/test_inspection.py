"""Layer sweeps: the right numbers from one pass, and a picture of them."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline

from sklearn_bert import BertVectorizer
from sklearn_bert.inspection import LayerSweep, LayerSweepDisplay, layer_sweep

WORDS = ["red", "green", "blue", "one", "two", "three", "up", "down"]
TEXTS = [f"{a} {b}" for a in WORDS for b in WORDS]
LABELS = np.array([i // 8 % 2 for i in range(64)])


def test_a_cell_is_the_cross_validated_score_of_its_features(tiny, tmp_path):
    head, cv = LogisticRegression(C=0.1), KFold(4, shuffle=True, random_state=1)
    sweep = layer_sweep(
        TEXTS, LABELS, model=tiny, estimator=head, cv=cv, memory=tmp_path
    )
    for p, pooling in enumerate(["cls", "mean", "max"]):
        for layer in (0, 1, 2):
            vectorizer = BertVectorizer(tiny, layer=layer, pooling=pooling)
            X = vectorizer.set_params(memory=tmp_path).fit_transform(TEXTS)
            expected = cross_val_score(head, X, LABELS, cv=cv)
            np.testing.assert_allclose(sweep.scores[p, layer], expected)


def test_a_sweep_encodes_each_text_once_and_a_second_none(tiny, tmp_path):
    first = layer_sweep(TEXTS * 2, [*LABELS] * 2, model=tiny, cv=2, memory=tmp_path)
    second = layer_sweep(TEXTS, LABELS, model=tiny, cv=2, memory=tmp_path)
    assert (first.n_texts_encoded, second.n_texts_encoded) == (64, 0)
    assert (first.n_texts, second.n_texts) == (128, 64)


def test_normalisation_is_that_of_the_vectorizer(tiny):
    plain = layer_sweep(TEXTS, LABELS, model=tiny, layers=2, poolings="mean", cv=3)
    scaled = layer_sweep(
        TEXTS, LABELS, model=tiny, layers=2, poolings="mean", cv=3, normalize=True
    )
    assert plain.scores.shape == scaled.scores.shape == (1, 1, 3)


def test_a_regressor_and_numbers_are_scored_too(tiny):
    sweep = layer_sweep(
        TEXTS, np.arange(64.0), model=tiny, layers=[0, 2], poolings=["mean"],
        estimator=Ridge(), cv=3, scoring="neg_mean_absolute_error",
    )  # fmt: skip
    assert sweep.scoring == "neg_mean_absolute_error"
    assert (sweep.scores < 0).all()


def test_labels_of_another_length_are_refused_before_any_pass(tiny, work):
    with pytest.raises(ValueError, match=r"y has 3 rows for 64 texts in X"):
        layer_sweep(TEXTS, [0, 1, 0], model=tiny)
    with pytest.raises(ValueError, match=r"y has 0 rows for 64 texts in X"):
        layer_sweep(TEXTS, None, model=tiny)
    assert work().n_passes == 0


@pytest.mark.parametrize("name", ["layer", "pooling", "layer_combination"])
def test_parameters_that_a_sweep_decides_are_refused(tiny, name):
    with pytest.raises(TypeError, match=rf"layer_sweep does not take '{name}'"):
        layer_sweep(TEXTS, LABELS, model=tiny, **{name: "mean"})


def test_auto_pooling_is_what_the_checkpoint_declares(tiny):
    sweep = layer_sweep(TEXTS, LABELS, model=tiny, poolings="auto", cv=2)
    assert sweep.poolings == ("mean",)


def made_up():
    scores = np.array([[[0.5, 0.7], [0.8, 1.0]], [[0.6, 0.6], [0.1, 0.3]]])
    return LayerSweep("a/b", (0, 3), ("cls", "max"), scores, "accuracy", 9, 9, 1.0, 1.0)


def test_best_is_what_set_params_takes():
    assert made_up().best == {"model": "a/b", "layer": 3, "pooling": "cls"}
    vectorizer = BertVectorizer().set_params(**made_up().best)
    assert (vectorizer.model, vectorizer.layer) == ("a/b", 3)


def test_best_keeps_the_model_and_all_other_parameters(tiny, tmp_path):
    given = {"special_tokens": False, "prompt": "a ", "memory": tmp_path}
    sweep = layer_sweep(TEXTS, LABELS, model=tiny, cv=2, **given)
    assert sweep.best == {**given, **sweep.best}
    assert BertVectorizer(**sweep.best).fit_transform(TEXTS).shape == (64, 32)


def test_numbers_without_a_regressor_are_refused_with_the_cure(tiny):
    with pytest.raises(ValueError, match=r"pass a regressor, such as estimator=Ridge"):
        layer_sweep(TEXTS, np.arange(64) / 7, model=tiny)


def test_the_table_marks_the_best_cell_and_shows_spread():
    assert str(made_up()).splitlines() == [
        "layer              cls             max",
        "    0    0.600 ±0.100    0.600 ±0.000 ",
        "    3    0.900 ±0.100*   0.200 ±0.100 ",
        "accuracy, mean ± standard deviation over splits; * best",
    ]


def test_the_display_draws_a_line_and_a_band_per_pooling():
    plt = pytest.importorskip("matplotlib.pyplot")
    display = LayerSweepDisplay(made_up()).plot()
    assert [line.get_label() for line in display.lines_] == ["cls", "max"]
    np.testing.assert_allclose(display.lines_[0].get_ydata(), [0.6, 0.9])
    assert len(display.ax_.collections) == 2
    assert display.ax_.get_title() == "b, 9 texts"
    plt.close(display.figure_)


def test_the_display_draws_where_it_is_told():
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, ax = plt.subplots()
    display = LayerSweepDisplay(made_up()).plot(ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is figure
    plt.close(figure)


def test_from_estimator_uses_the_parameters_of_the_vectorizer(tiny, tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    vectorizer = BertVectorizer(tiny, max_length=20, memory=tmp_path)
    display = LayerSweepDisplay.from_estimator(
        vectorizer, TEXTS, LABELS, poolings=["mean"], cv=2
    )
    assert display.sweep.model == tiny
    assert display.sweep.poolings == ("mean",)
    assert any(tmp_path.iterdir())
    plt.close(display.figure_)


def test_from_estimator_scores_with_the_rest_of_a_pipeline(tiny):
    plt = pytest.importorskip("matplotlib.pyplot")
    pipeline = make_pipeline(BertVectorizer(tiny), Ridge())
    display = LayerSweepDisplay.from_estimator(pipeline, TEXTS, LABELS, cv=2)
    assert display.sweep.scoring == "R²"
    plt.close(display.figure_)
    with pytest.raises(TypeError, match=r"estimator must be a BertVectorizer or a Pip"):
        LayerSweepDisplay.from_estimator(Ridge(), TEXTS, LABELS)


def test_a_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "sklearn-bert\[plot\]"'):
        LayerSweepDisplay(made_up()).plot()
