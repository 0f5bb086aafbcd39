"""Layer sweeps: the right numbers from one pass, and a picture of them."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    ShuffleSplit,
    cross_val_score,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_info

from sklearn_bert import BertVectorizer
from sklearn_bert.inspection import (
    LayerSweep,
    LayerSweepDisplay,
    layer_sweep,
    probe_layers,
)

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


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a"] * 64, r"y needs at least two classes, got one class: 'a'"),
        (np.ones(64, dtype=int), r"got one class: 1\."),
        (["a", "b", np.nan, None] * 16, r"missing label \(nan\), first in row 2"),
        (
            np.array(["a", "b", "c", None] * 16),
            r"missing label \(None\), first in row 3",
        ),
        ([0, 1, np.nan, 1] * 16, r"missing label \(nan\), first in row 2"),
        (np.array([0, 1, 0, np.inf] * 16), r"NaN or infinity, first in row 3"),
    ],
)
def test_labels_that_tell_nothing_are_refused_before_any_pass(tiny, work, y, message):
    with pytest.raises(ValueError, match=message):
        layer_sweep(TEXTS, y, model=tiny)
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


def test_folds_of_groups_are_given_as_they_are(tiny):
    groups = np.arange(64) % 4
    with pytest.raises(
        ValueError, match=r"cv=GroupKFold.*cv=list\(cv\.split\(X, y, gr"
    ):
        layer_sweep(TEXTS, LABELS, model=tiny, cv=GroupKFold(2))
    folds = list(GroupKFold(2).split(TEXTS, LABELS, groups))
    assert layer_sweep(TEXTS, LABELS, model=tiny, cv=folds).scores.shape[-1] == 2


def test_a_sweep_shows_itself_as_its_table(tiny):
    sweep = layer_sweep(TEXTS, LABELS, model=tiny, cv=2)
    assert repr(sweep) == str(sweep)
    assert repr(sweep).startswith("layer ")


def test_numbers_without_a_regressor_are_refused_with_the_cure(tiny):
    with pytest.raises(ValueError, match=r"such as estimator=make_pipeline.*Ridge"):
        layer_sweep(TEXTS, np.arange(64) / 7, model=tiny)


def test_several_labels_per_row_need_an_estimator_for_them(tiny):
    y = np.eye(2, dtype=int)[[0, 1] * 32]
    with pytest.raises(ValueError, match=r"2 labels per row, .*OneVsRest"):
        layer_sweep(TEXTS, y, model=tiny)
    several = OneVsRestClassifier(LogisticRegression())
    sweep = layer_sweep(TEXTS, y, model=tiny, estimator=several, layers=[0, 1])
    assert ((sweep.scores >= 0) & (sweep.scores <= 1)).all()


@pytest.mark.parametrize("words", [False, True])
def test_combinations_of_layers_are_refused_with_the_cure(tiny, words):
    texts = [["a", "text"]] * 6 if words else ["a text"] * 6
    y = [["a", "b"]] * 6 if words else [0, 1] * 3
    with pytest.raises(TypeError, match=r"layers\[1\] must be .* got \[1, 2\]\. Comp"):
        layer_sweep(texts, y, model=tiny, layers=[0, [1, 2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scoring": "roc_auc"}, r"scoring='roc_auc' cannot judge .* multi_class must"),
        (
            {"scoring": "neg_log_loss", "estimator": LinearSVC()},
            r"scoring='neg_log_loss' cannot judge a LinearSVC by this y",
        ),
    ],
)
def test_a_score_that_does_not_suit_is_refused_before_encoding(
    tiny, work, options, message
):
    with pytest.raises(ValueError, match=message):
        layer_sweep([f"text {i}" for i in range(18)], [0, 1, 2] * 6, model=tiny,
                    cv=3, **options)  # fmt: skip
    assert work().n_texts == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": "mdl", "estimator": LinearSVC()}, TypeError, "must have predict_"),
        ({"types": range(18)}, ValueError, "no value that occurs in both"),
        ({"types": [0] * 18}, ValueError, "control labels that are all the same"),
        ({"random_state": None}, TypeError, "random_state must be an integer"),
    ],
)
def test_what_no_layer_can_be_probed_by_is_refused_before_encoding(
    tiny, work, options, error, message
):
    with pytest.raises(error, match=message):
        probe_layers([f"text {i}" for i in range(18)], [0, 1, 2] * 6, model=tiny,
                     cv=3, **options)  # fmt: skip
    assert work().n_texts == 0


def test_a_misspelt_score_is_refused_before_encoding(tiny, work):
    with pytest.raises(ValueError, match=r"'acuracy' is no .* Did you mean 'accuracy'"):
        layer_sweep(TEXTS, LABELS, model=tiny, scoring="acuracy")
    assert work().n_texts == 0


def test_the_table_marks_the_best_cell_and_shows_spread():
    assert str(made_up()).splitlines() == [
        "layer              cls             max",
        "    0    0.600 ±0.100    0.600 ±0.000 ",
        "    3    0.900 ±0.100*   0.200 ±0.100 ",
        "accuracy, mean ± standard deviation over splits; * best",
        "* is the last layer swept",
        "The best of 4 cells was chosen on the splits that score it: its score and",
        "the differences are optimistic.",
    ]


def test_a_comparison_is_the_corrected_resampled_t_test():
    # Five splits of 80 and 20: the variance factor is 1/5 + 1/4.
    scores = np.array([[[0.7, 0.72, 0.71, 0.69, 0.73], [0.74, 0.73, 0.78, 0.7, 0.75]]])
    sweep = LayerSweep("m", (0, 1), ("cls",), scores, "accuracy", 100, 100, 1.0, 1.0)
    result = sweep.compare((1, "cls"), (0, "cls"))
    d = np.array([0.04, 0.01, 0.07, 0.01, 0.02])  # mean .03, squares about it .0026
    error = np.sqrt((1 / 5 + 1 / 4) * 0.0026 / 4)
    assert result.difference == pytest.approx(d.mean()) == pytest.approx(0.03)
    assert result.p_value == pytest.approx(2 * stats.t.sf(0.03 / error, df=4))
    assert result.p_value == pytest.approx(0.1543, abs=1e-4)
    assert result.interval == pytest.approx((0.03 - 2.7764 * error, 0.0775), abs=1e-4)
    plain = stats.ttest_rel(scores[0, 1], scores[0, 0])
    assert plain.pvalue < result.p_value


def test_a_comparison_uses_the_sizes_of_the_splits(tiny):
    cv = ShuffleSplit(4, test_size=0.5, random_state=0)
    sweep = layer_sweep(TEXTS, LABELS, model=tiny, poolings=["mean", "cls"], cv=cv)
    assert sweep.test_over_train == 1.0
    as_folds = replace(sweep, test_over_train=None)  # 1/3
    wide, narrow = (s.compare().interval for s in (sweep, as_folds))
    assert np.diff(wide) / np.diff(narrow) == pytest.approx(np.sqrt((5 / 4) / (7 / 12)))


def test_equal_scores_do_not_differ():
    sweep = replace(made_up(), scores=np.full((2, 2, 3), 0.5), default=(3, "max"))
    assert sweep.compare().p_value == 1.0
    assert sweep.compare().interval == (0.0, 0.0)
    assert "minus the default (layer 3, max): +0.000" in str(sweep)


def test_cells_to_compare_must_have_been_swept():
    with pytest.raises(ValueError, match=r"cell=\(7, 'cls'\) was not swept"):
        made_up().compare((7, "cls"), (0, "cls"))
    with pytest.raises(ValueError, match=r"pass reference=\(layer, pooling\)"):
        made_up().compare()
    with pytest.raises(ValueError, match=r"after layer_sweep\(untrained=True\)"):
        made_up().compare(reference="untrained")
    one = replace(made_up(), scores=made_up().scores[..., :1])
    with pytest.raises(ValueError, match="at least two splits, got 1"):
        one.compare((3, "cls"), (0, "cls"))
    with pytest.raises(ValueError, match=r"confidence=95 must lie between 0 and 1"):
        made_up().compare((3, "cls"), (0, "cls"), confidence=95)


def test_the_default_cell_is_that_of_the_default_parameters(tiny):
    sweep = layer_sweep(TEXTS, LABELS, model=tiny, cv=2)
    assert sweep.default == (2, "mean")
    assert "minus the default (layer 2, mean)" in str(sweep) or "* is" in str(sweep)
    assert layer_sweep(TEXTS, LABELS, model=tiny, layers=[0, 1], cv=2).default is None


@pytest.mark.slow
def test_an_untrained_encoder_is_swept_alike_and_stored(tiny, tmp_path):
    given = {"model": tiny, "cv": 3, "memory": tmp_path, "untrained": True}
    first = layer_sweep(TEXTS, LABELS, **given)
    again = layer_sweep(TEXTS, LABELS, **given)
    other = layer_sweep(TEXTS, LABELS, **given, random_state=1)
    counts = [s.n_texts_encoded for s in (first, again, other)]
    assert counts == [128, 0, 64]  # the same seed gives the same files
    assert first.untrained_scores.shape == first.scores.shape
    np.testing.assert_array_equal(first.untrained_scores, again.untrained_scores)
    assert not np.array_equal(first.scores, first.untrained_scores)
    assert first.compare(reference="untrained").reference[1].endswith(", untrained")
    assert "with random weights (untrained)" in str(first)
    assert "* minus the same cell, untrained: " in str(first)


def test_an_untrained_encoder_leaves_the_random_state_and_no_files(tiny):
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    before = set(Path(tiny).iterdir())
    layer_sweep(TEXTS, LABELS, model=tiny, poolings="mean", cv=2, untrained=True)
    assert torch.rand(1) == expected
    assert set(Path(tiny).iterdir()) == before


def test_classifiers_run_on_one_thread_which_is_then_undone(tiny):
    def threads():
        return {library["num_threads"] for library in threadpool_info()}

    seen = []

    class Counting(LogisticRegression):
        def fit(self, X, y):
            seen.append(threads())
            return super().fit(X, y)

    before = threads()
    layer_sweep(
        TEXTS, LABELS, model=tiny, layers=2, poolings="mean", cv=2, estimator=Counting()
    )
    assert seen == [{1}, {1}]
    assert threads() == before


@pytest.mark.slow
def test_processes_give_the_same_scores(tiny):
    one = layer_sweep(TEXTS, LABELS, model=tiny, cv=3, untrained=True)
    two = layer_sweep(TEXTS, LABELS, model=tiny, cv=3, untrained=True, n_jobs=2)
    np.testing.assert_allclose(two.scores, one.scores)
    np.testing.assert_allclose(two.untrained_scores, one.untrained_scores)


def test_the_display_draws_a_line_and_a_band_per_pooling():
    plt = pytest.importorskip("matplotlib.pyplot")
    display = LayerSweepDisplay(made_up()).plot()
    assert [line.get_label() for line in display.lines_] == ["cls", "max"]
    np.testing.assert_allclose(display.lines_[0].get_ydata(), [0.6, 0.9])
    assert len({line.get_color() for line in display.lines_}) == 2
    assert len({line.get_marker() for line in display.lines_}) == 2
    assert len(display.ax_.collections) == 2
    assert display.ax_.get_title() == "b, 9 texts"
    plt.close(display.figure_)


def test_the_display_draws_an_untrained_encoder_dashed():
    plt = pytest.importorskip("matplotlib.pyplot")
    sweep = replace(made_up(), untrained_scores=made_up().scores / 2)
    display = LayerSweepDisplay(sweep).plot()
    dashed = [line for line in display.ax_.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed[0].get_ydata(), [0.3, 0.45])
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["cls", "max", "best: layer 3, cls, 0.900", "untrained"]
    plt.close(display.figure_)


@pytest.mark.parametrize("size", [(6.4, 4.4), (3, 2.5)])
def test_the_legend_never_covers_data(size):
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, ax = plt.subplots(figsize=size)
    display = LayerSweepDisplay(made_up()).plot(ax=ax)
    figure.draw_without_rendering()
    legend = display.ax_.get_legend().get_window_extent()
    highest = display.ax_.transData.transform((0, 1.0))[1]  # .9 and its spread
    assert highest <= legend.y0
    plt.close(figure)


def test_a_heat_map_writes_each_cell_and_frames_the_best():
    plt = pytest.importorskip("matplotlib.pyplot")
    display = LayerSweepDisplay(made_up()).plot(kind="heatmap")
    texts = [text.get_text() for text in display.ax_.texts]
    assert texts == [".600", ".900", ".600", ".200"]
    (frame,) = display.ax_.patches
    assert (round(frame.get_x()), round(frame.get_y())) == (1, 0)
    assert display.lines_ == []
    plt.close(display.figure_)
    with pytest.raises(ValueError, match=r"kind='pie' must be 'curves' or 'heatmap'"):
        LayerSweepDisplay(made_up()).plot(kind="pie")


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


@pytest.fixture(scope="module")
def search(tiny, tmp_path_factory):
    """A grid over layers, poolings and one other parameter."""
    memory = tmp_path_factory.mktemp("search")
    pipeline = Pipeline(
        [("bert", BertVectorizer(tiny, memory=memory)), ("head", Ridge())]
    )
    grid = {
        "bert__layer": [0, -1, [1, 2]],
        "bert__pooling": ["mean", ["cls", "max"]],
        "head__alpha": [0.1, 10.0],
    }
    return GridSearchCV(pipeline, grid, cv=3).fit(TEXTS, LABELS)


def test_a_grid_search_is_drawn_whatever_its_steps_are_called(search):
    plt = pytest.importorskip("matplotlib.pyplot")
    display = LayerSweepDisplay.from_cv_results(search)
    sweep = display.sweep
    assert sweep.layers == (0, 2, (1, 2))  # -1 is 2 here
    assert sweep.poolings == ("mean", "cls+max")
    assert sweep.scoring == "R²"
    assert sweep.means.max() == pytest.approx(search.best_score_)
    ticks = [tick.get_text() for tick in display.ax_.get_xticklabels()]
    assert ticks == ["0", "2", "1-2"]
    plt.close(display.figure_)


def test_each_cell_of_a_grid_search_is_its_best_other_setting(search):
    plt = pytest.importorskip("matplotlib.pyplot")
    results = search.cv_results_
    sweep = LayerSweepDisplay.from_cv_results(results, kind="heatmap").sweep
    assert sweep.layers == (0, -1, (1, 2))  # nothing tells how many there are
    is_cell = [
        p["bert__layer"] == 0 and p["bert__pooling"] == "mean"
        for p in results["params"]
    ]
    expected = results["mean_test_score"][np.array(is_cell)].max()
    assert sweep.means[0, 0] == pytest.approx(expected)
    plt.close("all")


def test_cells_that_a_grid_search_lacks_are_left_out(search):
    plt = pytest.importorskip("matplotlib.pyplot")
    results = dict(search.cv_results_)
    keep = [
        i
        for i, p in enumerate(results["params"])
        if not (p["bert__layer"] == 0 and p["bert__pooling"] == "mean")
    ]
    results = {
        key: [values[i] for i in keep] if len(values) > len(keep) else values
        for key, values in results.items()
    }
    sweep = LayerSweepDisplay.from_cv_results(results).sweep
    assert np.isnan(sweep.means[sweep.poolings.index("mean"), 0])
    assert re.search(r"^    0 .* -  ", str(sweep), re.MULTILINE)
    plt.close("all")


def test_a_grid_search_without_layer_and_pooling_is_refused(search):
    other = GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=2)
    with pytest.raises(ValueError, match=r"must be a fitted GridSearchCV .* call fit"):
        LayerSweepDisplay.from_cv_results(other)
    other.fit(np.eye(4), range(4))
    with pytest.raises(ValueError, match=r"named 'layer', such as 'bert__layer', and"):
        LayerSweepDisplay.from_cv_results(other)
    results = dict(search.cv_results_)
    results["params"] = [{**p, "b__pooling": "cls"} for p in results["params"]]
    with pytest.raises(ValueError, match=r"'pooling'.*has several: \['b__pooling', "):
        LayerSweepDisplay.from_cv_results(results)
    with pytest.raises(ValueError, match=r"scoring='f1' must be one of the scores"):
        LayerSweepDisplay.from_cv_results(search, scoring="f1")


def test_a_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "sklearn-bert\[plot\]"'):
        LayerSweepDisplay(made_up()).plot()
