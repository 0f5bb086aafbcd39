"""Sweeps and probing metrics of words: folds over texts, control tasks per word."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_bert import BertTokenProbeClassifier, BertTokenVectorizer
from sklearn_bert.datasets import make_tiny_encoder
from sklearn_bert.inspection import (
    LayerSweepDisplay,
    ProbingDisplay,
    layer_sweep,
    minimum_description_length,
    pipeline_code,
    probe_layers,
    selectivity,
)

pytestmark = pytest.mark.filterwarnings("ignore:.* for the third time")

NOUNS, VERBS = ["dog", "cat", "fox", "owl", "hen", "cow"], ["runs", "sleeps", "eats"]
WORDS = [
    ["the", noun, verb, "."][i % 2 :] for i, noun in enumerate(NOUNS) for verb in VERBS
]
TAGS = [["DET", "NOUN", "VERB", "PUNCT"][-len(words) :] for words in WORDS]
N_WORDS = np.array([len(words) for words in WORDS])
FOLDS = KFold(3, shuffle=True, random_state=0)
TEXT_OF_WORD = np.repeat(np.arange(len(WORDS)), N_WORDS)
HEAD = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-3))


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory):
    """A tiny encoder that has a token for every word above."""
    place = tmp_path_factory.mktemp("lexicon")
    return make_tiny_encoder(place, vocabulary=["the", *NOUNS, *VERBS])


def splits_of_words(folds=FOLDS):
    return [
        tuple(np.flatnonzero(np.isin(TEXT_OF_WORD, part)) for part in fold)
        for fold in folds.split(WORDS)
    ]


def features_of(model, **params):
    return BertTokenVectorizer(model, **params).fit([]).transform_flat(WORDS).values


# Sweeps


def test_a_cell_of_words_is_scored_word_by_word_on_folds_over_texts(tiny):
    sweep = layer_sweep(
        WORDS, TAGS, model=tiny, poolings=["first", "last"], cv=FOLDS, layers=[0, 2]
    )
    for p, subwords in enumerate(["first", "last"]):
        for i, layer in enumerate([0, 2]):
            X = features_of(tiny, layer=layer, subwords=subwords)
            expected = cross_val_score(
                HEAD, X, np.concatenate(TAGS), cv=splits_of_words()
            )
            np.testing.assert_allclose(sweep.scores[p, i], expected)
    assert (sweep.n_texts, sweep.n_words) == (len(WORDS), N_WORDS.sum())


def test_every_layer_and_subwords_come_from_one_pass(tiny, tmp_path, work):
    given = {"model": tiny, "memory": tmp_path, "cv": 3, "layers": [0, 1]}
    every = ["first", "mean", "last"]
    sweep = layer_sweep(WORDS, TAGS, poolings=every, **given)
    assert sweep.n_texts_encoded == work().n_texts == len(WORDS)
    again = layer_sweep(map(tuple, WORDS), TAGS, poolings="last", **given)
    assert again.n_texts_encoded == 0
    np.testing.assert_array_equal(again.scores[0], sweep.scores[2])


def test_the_best_cell_is_parameters_of_what_reads_words(lexicon, tmp_path):
    sweep = layer_sweep(WORDS, TAGS, model=lexicon, cv=FOLDS, memory=tmp_path)
    assert sweep.poolings == ("mean",)
    assert sweep.default == (2, "mean")
    assert sweep.best == {
        "model": lexicon, "memory": tmp_path, "layer": 0, "subwords": "mean",
    }  # fmt: skip
    assert len(BertTokenVectorizer(**sweep.best).fit_transform(WORDS)) == len(WORDS)
    tagger = BertTokenProbeClassifier(**sweep.best).fit(WORDS, TAGS)
    assert tagger.score(WORDS, TAGS) > 0.9
    assert "minus the default (layer 2, mean)" in str(sweep)
    with pytest.raises(TypeError, match=r"pass them to BertTokenProbeClassifier"):
        pipeline_code(sweep.best)


def test_an_untrained_encoder_is_swept_on_words_too(tiny, tmp_path):
    given = {"model": tiny, "cv": 3, "memory": tmp_path, "untrained": True}
    first = layer_sweep(WORDS, TAGS, **given)
    again = layer_sweep(WORDS, TAGS, **given)
    assert (first.n_texts_encoded, again.n_texts_encoded) == (2 * len(WORDS), 0)
    assert first.untrained_scores.shape == first.scores.shape == (1, 3, 3)
    np.testing.assert_array_equal(first.untrained_scores, again.untrained_scores)


def test_half_precision_words_are_scored_alike(lexicon):
    given = {"model": lexicon, "cv": FOLDS, "layers": 0}
    exact = layer_sweep(WORDS, TAGS, **given)
    half = layer_sweep(WORDS, TAGS, token_dtype="float16", **given)
    np.testing.assert_allclose(half.scores, exact.scores, atol=0.1)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"y": [*TAGS[:-1], ["NOUN"]]}, ValueError, r"y has 1 tags in row 17, where X"),
        ({"y": TAGS[:3]}, ValueError, r"y has 3 rows for 18 texts in X"),
        ({"y": [0, 1] * 9}, TypeError, r"one sequence of tags per text, got int in r"),
        (
            {"poolings": ["cls"]},
            ValueError,
            r"poolings, for words, must be one of 'first', 'mean', 'last', got 'cls'",
        ),
        ({"poolings": []}, ValueError, r"must name at least one of 'first'"),
        ({"subwords": "mean"}, TypeError, r"layer_sweep does not take 'subwords'"),
        ({"normalize": True}, TypeError, r"unexpected keyword argument 'normalize'"),
        ({"X": [["a"], "b"]}, TypeError, r"not both: row 1 is a str"),
        ({"X": [[], []], "y": [[], []]}, ValueError, r"split, and none has a word"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_pass(
    tiny, work, given, error, message
):
    with pytest.raises(error, match=message):
        layer_sweep(**{"X": WORDS, "y": TAGS, "model": tiny, **given})
    assert work().n_passes == 0


def test_a_picture_says_that_it_is_of_words(tiny, tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    texts = [" ".join(words) for words in WORDS]
    display = LayerSweepDisplay.from_estimator(
        BertTokenVectorizer(tiny, memory=tmp_path), texts, TAGS, cv=3
    )
    assert display.ax_.get_title().endswith(", 18 texts, 63 words")
    assert display.plot(kind="heatmap").ax_.get_ylabel() == "subwords"
    plain = layer_sweep(WORDS, TAGS, model=tiny, cv=3, memory=tmp_path)
    np.testing.assert_allclose(plain.scores, display.sweep.scores)
    plt.close("all")


# Probing metrics


def test_folds_of_words_are_over_texts_in_every_metric(lexicon):
    rows = BertTokenVectorizer(lexicon, layer=1).fit([]).transform(WORDS)
    result = selectivity(rows, TAGS, WORDS, cv=FOLDS)
    flat = selectivity(
        np.concatenate(rows), np.concatenate(TAGS), np.concatenate(WORDS),
        cv=splits_of_words(),
    )  # fmt: skip
    np.testing.assert_allclose(result.accuracies, flat.accuracies)
    np.testing.assert_allclose(result.control_accuracies, flat.control_accuracies)
    assert result.n_types == len({word for words in WORDS for word in words})


def test_portions_of_a_code_end_where_texts_do():
    rng = np.random.default_rng(0)
    n_words = rng.integers(0, 9, size=60)
    rows = [rng.normal(size=(n, 4)) for n in n_words]
    tags = [rng.integers(2, size=n).tolist() for n in n_words]
    mdl = minimum_description_length(rows, tags, fractions=(0.1, 0.5, 1))
    order = np.random.RandomState(0).permutation(60)
    ends_of_texts = np.cumsum(n_words[order])
    assert set(mdl.portion_ends) <= set(ends_of_texts.tolist())
    assert mdl.n_rows == n_words.sum()
    # An end is that of the text in which the share of the words is reached.
    first = ends_of_texts[np.argmax(ends_of_texts >= round(0.1 * n_words.sum()))]
    assert mdl.portion_ends[0] == first
    assert mdl.portion_bits[0] == first


def test_each_layer_has_what_the_functions_say_of_its_words(lexicon, tmp_path, work):
    probes = probe_layers(WORDS, TAGS, model=lexicon, cv=FOLDS, memory=tmp_path)
    assert probes.n_texts_encoded == work().n_texts == len(WORDS)
    assert (probes.pooling, probes.n_words) == ("mean", N_WORDS.sum())
    rows = BertTokenVectorizer(lexicon, layer=1).fit([]).transform(WORDS)
    types = [[word.lower() for word in words] for words in WORDS]
    expected = selectivity(rows, TAGS, types, cv=FOLDS)
    found = probes.selectivities[1]
    np.testing.assert_allclose(found.accuracies, expected.accuracies)
    np.testing.assert_allclose(found.control_accuracies, expected.control_accuracies)
    bits = minimum_description_length(rows, TAGS).codelength
    assert probes.description_lengths[1].codelength == pytest.approx(bits, rel=1e-4)
    assert "mean of a word's tokens, 63 words of 18 texts; * best" in str(probes)


def test_types_of_words_may_be_given(lexicon):
    ends = [[word[-1] for word in words] for words in WORDS]
    given = {"model": lexicon, "cv": FOLDS, "metrics": "selectivity", "layers": 0}
    probes = probe_layers(WORDS, TAGS, types=ends, **given)
    assert probes.selectivities[0].n_types == len({e for row in ends for e in row})
    with pytest.raises(ValueError, match=r"types must hold one entry per word: it has"):
        probe_layers(WORDS, TAGS, types=[*ends[:-1], ["x"]], **given)
    with pytest.raises(ValueError, match=r"no sequence in row 0, where there are 4"):
        probe_layers(WORDS, TAGS, types=["the"] * 18, **given)
    with pytest.raises(ValueError, match=r"types has 2 rows for 18 texts"):
        probe_layers(WORDS, TAGS, types=ends[:2], **given)


def test_metrics_of_words_are_drawn(lexicon, tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    texts = [" ".join(words) for words in WORDS]
    display = ProbingDisplay.from_estimator(
        BertTokenVectorizer(lexicon, memory=tmp_path), texts, TAGS, cv=FOLDS,
        pooling="last",
    )  # fmt: skip
    assert display.probes.pooling == "last"
    assert len(display.axes_) == 3
    plt.close(display.figure_)
