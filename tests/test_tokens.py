"""A row of features per word, and a tag per word."""

import gzip
import itertools
import json
import pickle
import subprocess
import sys
import warnings

import labelled
import numpy as np
import pytest
import torch
import transformers
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import estimator_checks

from sklearn_bert import (
    BertTokenProbeClassifier,
    BertTokenVectorizer,
    ragged,
    span_f1,
    token_probe,
    tokens,
)
from sklearn_bert.datasets import make_tiny_encoder

# Most tests encode a few texts again and again, and would be told how to avoid it.
pytestmark = pytest.mark.filterwarnings("ignore:.* for the third time")

NOUNS, VERBS = ["dog", "cat", "fox", "owl", "hen", "cow"], ["runs", "sleeps", "eats"]
WORDS = [
    ["the", noun, verb, "."][i % 2 :] for i, noun in enumerate(NOUNS) for verb in VERBS
]
TAGS = [["DET", "NOUN", "VERB", "PUNCT"][-len(words) :] for words in WORDS]
N_WORDS = [len(words) for words in WORDS]
FLAT_TAGS = np.concatenate(TAGS)
SPANS = [["O", "B-ANIMAL", "O", "O"][-len(words) :] for words in WORDS]
FOLDS = KFold(3, shuffle=True, random_state=0)


@pytest.fixture(scope="session")
def lexicon(tmp_path_factory):
    """A tiny encoder that has a token for every word above."""
    place = tmp_path_factory.mktemp("lexicon")
    return make_tiny_encoder(place, vocabulary=["the", *NOUNS, *VERBS])


def read_words(name, tags, n):
    with gzip.open(labelled.find(name), "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(n), strict=False)]
    return [row["tokens"] for row in rows], [row[tags] for row in rows]


# A row per word


@pytest.mark.parametrize("subwords", ["first", "mean", "last"])
def test_rows_are_those_of_plain_transformers(tiny, subwords):
    rows = BertTokenVectorizer(tiny, layer=1, subwords=subwords).fit_transform(
        WORDS[:3]
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    network = transformers.AutoModel.from_pretrained(tiny).eval()
    for words, features in zip(WORDS, rows, strict=False):
        inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        with torch.inference_mode():
            (states,) = network(**inputs, output_hidden_states=True).hidden_states[1]
        numbers = np.array([-1 if w is None else w for w in inputs.word_ids(0)])
        parts = [states[numbers == w].numpy() for w in range(len(words))]
        pick = {"first": lambda p: p[0], "last": lambda p: p[-1]}.get(
            subwords, lambda p: p.mean(axis=0)
        )
        np.testing.assert_allclose(
            features, np.array(list(map(pick, parts))), atol=1e-5
        )


@pytest.mark.parametrize(
    ("name", "tags"),
    [("ud_ewt/ud_ewt.jsonl.gz", "upos"), ("wnut17/wnut17.jsonl.gz", "ner_tags")],
)
@pytest.mark.filterwarnings("ignore:.* have no token and are zeros")
def test_two_thousand_real_sentences_give_a_row_for_every_word(tiny, name, tags):
    words, tags = read_words(name, tags, 2000)
    vectorizer = BertTokenVectorizer(tiny, layer=1, max_length=16, stride=4).fit([])
    rows = vectorizer.transform(words)
    assert [len(part) for part in rows] == [len(text) for text in words]
    assert [len(part) for part in rows] == [len(text) for text in tags]
    assert np.isfinite(np.concatenate(rows)).all()
    for i in (0, 999, 1999):  # each text by itself gives its own rows
        (alone,) = vectorizer.transform([words[i]])
        np.testing.assert_allclose(rows[i], alone, atol=1e-5)


def test_text_and_its_words_give_the_same(tiny):
    vectorizer = BertTokenVectorizer(tiny).fit([])
    (text,) = vectorizer.transform(["the dog sleeps ."])
    (words,) = vectorizer.transform([["the", "dog", "sleeps", "."]])
    np.testing.assert_array_equal(text, words)


CONTAINERS = {
    "tuples": lambda: tuple(map(tuple, WORDS)),
    "arrays": lambda: [np.array(words) for words in WORDS],
    "array of lists": lambda: np.array([*WORDS, None], dtype=object)[:-1],
    "generator": lambda: iter(WORDS),
    "pandas Series": lambda: pytest.importorskip("pandas").Series(WORDS),
    "polars Series": lambda: pytest.importorskip("polars").Series(WORDS),
    "Arrow array": lambda: pytest.importorskip("pyarrow").array(WORDS),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_give_the_same_rows(tiny, container):
    vectorizer = BertTokenVectorizer(tiny).fit([])
    expected = vectorizer.transform_flat(WORDS).values
    values, offsets = vectorizer.transform_flat(CONTAINERS[container]())
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert offsets.tolist() == [0, *np.cumsum(N_WORDS)]


def test_order_of_texts_changes_no_row(tiny):
    vectorizer = BertTokenVectorizer(tiny).fit([])
    forward, backward = vectorizer.transform(WORDS), vectorizer.transform(WORDS[::-1])
    for a, b in zip(forward, backward[::-1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "combination", "expected"),
    [
        ([2, 0], "concat", lambda a, b, c: np.hstack([c, a])),
        ("all", "mean", lambda a, b, c: (a + b + c) / 3),
        ([0, 1], "sum", lambda a, b, c: a + b),
        ([0, 1], [2.0, -1.0], lambda a, b, c: 2 * a - b),
    ],
)
@pytest.mark.parametrize("token_dtype", ["float32", "float16"])
def test_layers_combine_as_in_the_vectorizer_of_texts(
    tiny, layer, combination, expected, token_dtype
):
    each = [
        BertTokenVectorizer(tiny, layer=k).fit([]).transform_flat(WORDS).values
        for k in range(3)
    ]
    vectorizer = BertTokenVectorizer(
        tiny, layer=layer, layer_combination=combination, token_dtype=token_dtype
    )
    values = vectorizer.fit([]).transform_flat(WORDS).values
    assert values.dtype == np.float32
    tolerance = 1e-5 if token_dtype == "float32" else 1e-2
    np.testing.assert_allclose(values, expected(*each), atol=tolerance)
    assert len(vectorizer.get_feature_names_out()) == values.shape[1]


def test_features_are_named_by_layer_subwords_and_dimension(tiny):
    vectorizer = BertTokenVectorizer(tiny, layer=[1, 2], subwords="first").fit([])
    names = vectorizer.get_feature_names_out()
    assert names[[0, 63]].tolist() == ["layer1_word_first_0", "layer2_word_first_31"]
    vectorizer.set_params(layer_combination="mean").fit([])
    assert vectorizer.get_feature_names_out()[3] == "layers1to2_mean_word_first_3"


def test_weights_of_layers_are_learned_from_tags(tiny):
    vectorizer = BertTokenVectorizer(tiny, layer="all", layer_combination="scalar_mix")
    rows = vectorizer.fit_transform(WORDS, TAGS)
    assert [part.shape for part in rows] == [(n, 32) for n in N_WORDS]
    assert vectorizer.layer_weights_.sum() == pytest.approx(1.0)
    again = np.concatenate(vectorizer.transform(WORDS))
    np.testing.assert_allclose(np.concatenate(rows), again, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"requires y to be passed.*from tags"):
        vectorizer.fit(WORDS)
    with pytest.raises(NotFittedError):
        vectorizer.transform(WORDS)


def test_weights_of_layers_may_come_from_some_of_many_words(tiny, monkeypatch):
    vectorizer = BertTokenVectorizer(tiny, layer="all", layer_combination="scalar_mix")
    of_all = vectorizer.fit(WORDS, TAGS).layer_weights_
    monkeypatch.setattr(tokens, "_MIX_BYTES", 3 * 32 * 4 * 30)  # 30 of 63 words
    of_some = clone(vectorizer).fit(WORDS, TAGS).layer_weights_
    assert of_some.argmax() == of_all.argmax()
    assert not np.allclose(of_some, of_all)


def test_some_of_many_words_are_no_pattern_and_hold_two_tags(tiny, monkeypatch):
    monkeypatch.setattr(tokens, "_MIX_BYTES", 3 * 32 * 4 * 20)  # 20 words
    pairs = [("a", "dog"), ("the", "cat"), ("a", "cat"), ("the", "dog")] * 20
    tagger = BertTokenProbeClassifier(tiny, layer="mix", C=1.0)
    tagger.fit(pairs, [("D", "N")] * 80)  # of every fourth word the tag is D
    assert tagger.predict([("a", "cat")]) == [["D", "N"]]
    rare = [("D", "D")] * 79 + [("D", "N")]
    assert tagger.fit(pairs, rare).layer_weights_.sum() == pytest.approx(1)
    weights = np.zeros(80)
    weights[[3, 77]] = 1  # every fourth word, as every word drawn, has none
    assert tagger.fit(pairs, [("D", "N")] * 80, weights).n_iter_ > 0


def test_tags_are_checked_before_any_pass(tiny, work):
    vectorizer = BertTokenVectorizer(tiny, layer="all", layer_combination="scalar_mix")
    with pytest.raises(ValueError, match=r"scalar_mix' needs .* got one class: 'x'\."):
        vectorizer.fit(WORDS, [["x"] * n for n in N_WORDS])
    assert work().n_texts == 0


def test_large_results_lie_in_a_temporary_file_and_are_the_same(tiny, monkeypatch):
    vectorizer = BertTokenVectorizer(tiny).fit([])
    expected = vectorizer.transform_flat(WORDS).values
    monkeypatch.setattr(ragged, "_SPOOL_BYTES", 100)
    rows = vectorizer.transform(WORDS)
    base = rows[0]
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    np.testing.assert_allclose(np.concatenate(rows), expected, atol=1e-5)
    tagger = BertTokenProbeClassifier(tiny, layer="mix", C=1.0).fit(WORDS, TAGS)
    assert tagger.score(WORDS, TAGS) > 0.9


def test_equal_texts_are_encoded_once_and_do_not_share_rows(tiny, work):
    first, second = BertTokenVectorizer(tiny).fit_transform([["a", "dog"]] * 2)
    assert work().n_texts == 1
    np.testing.assert_array_equal(first, second)
    first += 1
    assert not np.array_equal(first, second)


def test_no_text_and_texts_without_words_give_no_rows(tiny):
    vectorizer = BertTokenVectorizer(tiny).fit([])
    assert vectorizer.transform([]) == []
    assert [part.shape for part in vectorizer.transform([[], ["a"], []])] == [
        (0, 32), (1, 32), (0, 32),
    ]  # fmt: skip
    assert [part.shape for part in vectorizer.transform(["", "  "])] == [(0, 32)] * 2


def test_words_without_a_token_are_zeros_and_counted(tiny):
    vectorizer = BertTokenVectorizer(tiny).fit([])
    X = [["a", "b"], ["a", "\u200b", "b"], ["\u200b"], ["a", "\u200b", "b"]]
    message = r"3 of 9 words have no token .*'\\u200b', word 1 of row 1"
    with pytest.warns(UserWarning, match=message):
        values = vectorizer.transform_flat(X).values
    assert np.flatnonzero(~values.any(axis=1)).tolist() == [3, 5, 7]


# Words of texts


def test_words_know_where_they_stand(tiny):
    text = "Al-Zaman : won't  stop."
    vectorizer = BertTokenVectorizer(tiny, word_pattern=r"\w+|[^\w\s]")
    (words,) = vectorizer.words([text])
    assert [word.text for word in words] == [
        "Al", "-", "Zaman", ":", "won", "'", "t", "stop", ".",
    ]  # fmt: skip
    assert all(text[word.start : word.end] == word.text for word in words)
    assert vectorizer.words([["a", "b"]]) == [[("a", None, None), ("b", None, None)]]
    assert len(vectorizer.fit_transform([text])[0]) == len(words)


def test_a_match_of_nothing_is_no_word(tiny):
    vectorizer = BertTokenVectorizer(tiny, word_pattern=r"\w*")
    assert [word.text for word in vectorizer.words(["a, b"])[0]] == ["a", "b"]
    assert len(vectorizer.fit_transform(["a, b"])[0]) == 2


def test_a_frame_has_a_row_per_word_and_feeds_any_classifier(tiny):
    pytest.importorskip("pandas")
    vectorizer = BertTokenVectorizer(tiny).fit([])
    frame = vectorizer.to_frame(["the dog", "", "it runs"])
    assert frame.columns[:5].tolist() == [
        "row", "word", "start", "end", "layer2_word_mean_0",
    ]  # fmt: skip
    assert frame.iloc[:, :4].values.tolist() == [
        [0, "the", 0, 3], [0, "dog", 4, 7], [2, "it", 0, 2], [2, "runs", 3, 7],
    ]  # fmt: skip
    head = LogisticRegression().fit(frame.iloc[:, 4:], ["D", "N", "N", "V"])
    assert head.predict(frame.iloc[:, 4:]).shape == (4,)
    of_words = vectorizer.to_frame([["the", "dog"]])
    assert of_words["start"].isna().all()


# What is refused


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ("a text", ValueError, r"Iterable over raw text documents expected"),
        (["a", ["b"]], TypeError, r"not both: row 0 is a str and row 1 a list"),
        ([("a",), "b"], TypeError, r"not both: row 1 is a str and row 0 a tuple"),
        ([["a"], ["b", 3]], TypeError, r"got int in row 1, word 1: 3"),
        ([["a"], ["b", None]], ValueError, r"missing value \(None\) in row 1, word 1"),
        ([["a"], None], ValueError, r"got None in row 1; pass missing=\"empty\""),
        ([["a"], 7], TypeError, r"got 7 in row 1; pass a list of its words"),
        ([["a"], [["b"]]], TypeError, r"got list in row 1, word 0"),
        (["a", None], ValueError, r"missing value \(None\) in row 1"),
        ([b"a"], TypeError, r"got bytes in row 0"),
        (np.array([["a", "b"], ["c", "d"]]), ValueError, r"one column of texts"),
        (3, TypeError, r"X must be a column of texts, got int"),
    ],
)
@pytest.mark.parametrize("method", ["transform", "words"])
def test_a_row_that_is_no_text_and_no_words_is_named(tiny, X, error, message, method):
    vectorizer = BertTokenVectorizer(tiny).fit([])
    with pytest.raises(error, match=message):
        getattr(vectorizer, method)(X)


def test_missing_rows_and_words_may_be_read_as_empty(tiny):
    vectorizer = BertTokenVectorizer(tiny, missing="empty").fit([])
    rows = vectorizer.transform([["a", "b"], None, float("nan")])
    assert [len(part) for part in rows] == [2, 0, 0]
    assert [len(part) for part in vectorizer.transform(["a b", None])] == [2, 0]
    with pytest.warns(UserWarning, match=r"1 of 2 words have no token"):
        (part,) = vectorizer.transform([["a", None]])
    assert not part[1].any()


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"layer": 3}, ValueError, r"layer=3 is out of range"),
        ({"layer_combination": "max"}, ValueError, r"layer_combination must be one"),
        ({"subwords": "max"}, ValueError, r"subwords must be one of 'first', 'mean'"),
        ({"word_pattern": "("}, ValueError, r"word_pattern='\(' is not a regular"),
        ({"word_pattern": 3}, TypeError, r"word_pattern must be a regular expression"),
        ({"max_length": 65}, ValueError, r"max_length=65 is more than"),
        ({"stride": 64}, ValueError, r"stride=64 must be smaller than max_length"),
        ({"missing": "drop"}, ValueError, r"missing must be one of"),
        ({"memory": 3}, TypeError, r"memory must be None, a path or a joblib"),
        ({"store_layers": "some"}, ValueError, r"store_layers must be one of"),
        ({"batch_size": 0}, ValueError, r"batch_size must be at least 1"),
        ({"device": "gpu"}, ValueError, r"device must be 'auto'"),
        ({"dtype": "float64"}, ValueError, r"dtype must be one of"),
        ({"token_dtype": "int8"}, ValueError, r"token_dtype must be one of"),
        ({"n_jobs": 0}, ValueError, r"n_jobs must not be 0"),
        ({"revision": 1}, TypeError, r"revision must be a str or None"),
        ({"local_files_only": 1}, TypeError, r"local_files_only must be True or"),
        ({"trust_remote_code": 1}, TypeError, r"trust_remote_code must be True or"),
        ({"verbose": "very"}, TypeError, r"verbose must be True or False"),
    ],
)
def test_a_bad_parameter_is_named_before_any_pass(tiny, work, params, error, message):
    params = {"model": tiny, **params}
    with pytest.raises(error, match=message):
        BertTokenVectorizer(**params).fit(WORDS)
    if "layer_combination" not in params:
        with pytest.raises(error, match=message):
            BertTokenProbeClassifier(**params).fit(WORDS, TAGS)
    assert work().n_texts == 0


@pytest.mark.parametrize(
    "change",
    [
        {"layer": 1}, {"layer_combination": "mean"}, {"subwords": "last"},
        {"max_length": 8}, {"stride": 1}, {"token_dtype": "float16"},
        {"dtype": "bfloat16"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_parameters_that_decide_call_for_fit_again(tiny, change):
    vectorizer = BertTokenVectorizer(tiny).fit([]).set_params(**change)
    with pytest.raises(
        ValueError, match=rf"{next(iter(change))} was .* call fit again"
    ):
        vectorizer.transform(WORDS)


def test_another_encoder_under_the_same_name_is_refused(tmp_path):
    place = make_tiny_encoder(tmp_path / "encoder")
    vectorizer = BertTokenVectorizer(place).fit([])
    make_tiny_encoder(place, seed=1)
    with pytest.raises(ValueError, match=r"files of model=.* changed since fit"):
        vectorizer.transform(WORDS)


# The store


def test_words_are_encoded_once_and_read_back_bit_for_bit(tiny, tmp_path, work):
    vectorizer = BertTokenVectorizer(tiny, memory=tmp_path).fit([])
    cold = vectorizer.transform_flat(WORDS).values
    warm = vectorizer.transform_flat(WORDS).values
    assert work().n_texts == len(WORDS)
    np.testing.assert_array_equal(cold, warm)


def test_the_store_keeps_words_only_and_the_layers_asked_for(tiny, tmp_path):
    BertTokenVectorizer(tiny, memory=tmp_path).fit_transform(WORDS)
    arrays = [np.load(file) for file in tmp_path.rglob("*.npy")]
    n_floats = sum(array.size for array in arrays if array.dtype == np.float32)
    assert n_floats == sum(N_WORDS) * 32


def test_keeping_all_layers_makes_a_grid_over_layers_one_pass(tiny, tmp_path, work):
    tagger = BertTokenProbeClassifier(tiny, memory=tmp_path, store_layers="all", C=1.0)
    search = GridSearchCV(tagger, {"layer": [0, 1, 2, "mix"]}, cv=FOLDS)
    search.fit(WORDS, TAGS)
    assert work().n_texts == len(WORDS)
    assert search.best_score_ > 0.9


def test_what_mix_has_stored_serves_every_layer(tiny, tmp_path, work):
    tagger = BertTokenProbeClassifier(tiny, layer="mix", memory=tmp_path)
    tagger.fit(WORDS, TAGS)
    for layer in (0, [1, 2], "all", "cv"):
        clone(tagger).set_params(layer=layer).fit(WORDS, TAGS)
    assert work().n_texts == len(WORDS)


def test_a_warm_tagger_needs_no_torch(tiny, tmp_path):
    options = {"model": tiny, "memory": str(tmp_path / "store"), "layer": "cv", "cv": 3}
    fitted = BertTokenProbeClassifier(**options).fit(WORDS, TAGS)
    (tmp_path / "tagger.pickle").write_bytes(pickle.dumps(fitted))
    code = f"""
import pickle, sys
class Unimportable:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(name + " is made unimportable")
sys.meta_path.insert(0, Unimportable())
from pathlib import Path
from sklearn_bert import BertTokenProbeClassifier
words, tags = {WORDS!r}, {TAGS!r}
fitted = pickle.loads(Path({str(tmp_path / "tagger.pickle")!r}).read_bytes())
again = BertTokenProbeClassifier(**{options!r}).fit(words, tags)
assert again.predict(words) == fitted.predict(words)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# The tagger


def test_the_linear_head_is_logistic_regression_on_the_flat_features(tiny):
    tagger = BertTokenProbeClassifier(tiny, layer=1, standardize=False, C=1.0)
    tagger.fit(WORDS, TAGS)
    flat, offsets = BertTokenVectorizer(tiny, layer=1).fit([]).transform_flat(WORDS)
    plain = LogisticRegression(C=1.0, max_iter=1000).fit(flat, FLAT_TAGS)
    np.testing.assert_allclose(tagger.head_[-1].coef_, plain.coef_, atol=1e-3)
    np.testing.assert_array_equal(tagger.classes_, plain.classes_)
    expected = [plain.predict_proba(flat[a:b]) for a, b in itertools.pairwise(offsets)]
    for a, b in zip(tagger.predict_proba(WORDS), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_standardized_weighted_and_balanced_it_is_still_that(tiny):
    weights = np.linspace(0.5, 2.0, len(WORDS))
    tagger = BertTokenProbeClassifier(tiny, C=0.1, class_weight="balanced")
    tagger.fit(WORDS, TAGS, sample_weight=weights)
    flat = BertTokenVectorizer(tiny).fit([]).transform_flat(WORDS).values
    of_words = np.repeat(weights, N_WORDS)
    share = {
        tag: of_words.sum() / 4 / of_words[tag == FLAT_TAGS].sum()
        for tag in set(FLAT_TAGS)
    }
    of_words *= [share[tag] for tag in FLAT_TAGS]
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    plain.fit(
        flat, FLAT_TAGS, standardscaler__sample_weight=of_words,
        logisticregression__sample_weight=of_words,
    )  # fmt: skip
    np.testing.assert_allclose(
        np.concatenate(tagger.predict_proba(WORDS)),
        plain.predict_proba(flat),
        atol=1e-3,
    )


@pytest.mark.parametrize("layer", [0, [0, -1], "all", "mix", "cv"])
def test_answers_have_the_shape_of_the_words(lexicon, layer):
    tagger = BertTokenProbeClassifier(lexicon, layer=layer, cv=3, C=1.0)
    tagger.fit(WORDS, TAGS)
    predicted = tagger.predict(WORDS)
    assert [len(tags) for tags in predicted] == N_WORDS
    assert predicted == TAGS
    assert {type(tag) for tags in predicted for tag in tags} == {str}
    assert [p.shape for p in tagger.predict_proba(WORDS)] == [(n, 4) for n in N_WORDS]
    scores = tagger.decision_function(WORDS)
    assert [s.shape for s in scores] == [(n, 4) for n in N_WORDS]
    assert tagger.score(WORDS, TAGS) == 1.0


def test_texts_and_texts_without_words_can_be_tagged(lexicon):
    tagger = BertTokenProbeClassifier(lexicon, layer=0, C=1.0).fit(WORDS, TAGS)
    assert tagger.predict(["the dog runs", "", "owl eats ."]) == [
        ["DET", "NOUN", "VERB"], [], ["NOUN", "VERB", "PUNCT"],
    ]  # fmt: skip
    assert tagger.predict([[]]) == [[]]
    assert tagger.predict([]) == []
    assert [p.shape for p in tagger.predict_proba([[]])] == [(0, 4)]
    assert [s.shape for s in tagger.decision_function([[]])] == [(0, 4)]
    assert [word.text for word in tagger.words(["the dog"])[0]] == ["the", "dog"]


def test_tags_may_be_integers_and_two(lexicon):
    tags = [[int(tag == "NOUN") for tag in row] for row in TAGS]
    tagger = BertTokenProbeClassifier(lexicon, layer=0, C=1.0).fit(WORDS, tags)
    assert tagger.predict(WORDS) == tags
    assert type(tagger.predict(WORDS)[0][0]) is int
    assert tagger.decision_function([[]])[0].shape == (0,)
    assert tagger.decision_function(WORDS)[0].shape == (4,)


def test_score_counts_words_not_texts(lexicon):
    tagger = BertTokenProbeClassifier(lexicon, layer=0, C=1.0).fit(WORDS, TAGS)
    wrong = [["NOUN"] * len(tags) for tags in TAGS]
    assert tagger.score(WORDS, wrong) == pytest.approx((FLAT_TAGS == "NOUN").mean())
    weights = np.zeros(len(WORDS))
    weights[3] = 1.0  # a text of three words
    assert tagger.score(WORDS, wrong, sample_weight=weights) == pytest.approx(1 / 3)


def test_a_layer_of_words_is_chosen_by_scores_that_are_numbers(tiny, work):
    tagger = BertTokenProbeClassifier(tiny, layer="cv", cv=3)
    with pytest.raises(ValueError, match=r"of layer 0 is nan in fold 0 of cv, which"):
        clone(tagger).set_params(scoring=lambda *_: np.nan).fit(WORDS, TAGS)
    before = work().n_texts
    for cv, message in [
        ([], r"cv=\[\] has no folds"),
        (30, r"cv=30 makes no folds of"),
        (StratifiedKFold(3), r"Texts have no class to split by"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            clone(tagger).set_params(cv=cv).fit(WORDS, TAGS)
    with pytest.raises(ValueError, match=r"Fold 0 of cv has nothing to score on"):
        tagger.fit([[]] * 30 + list(WORDS), [[]] * 30 + list(TAGS))
    blocked = [["a"] * n for n in N_WORDS[:6]] + [["b"] * n for n in N_WORDS[6:]]
    with pytest.raises(ValueError, match=r"Fold 0 of cv needs .* one class: 'b'\."):
        clone(tagger).set_params(cv=2).fit(WORDS[:12], blocked[:12])
    assert work().n_texts == before


def test_texts_of_weight_zero_choose_no_layer_of_words(tiny):
    folds = [(np.arange(4, 8), np.arange(4)), (np.arange(4), np.arange(4, 8))]
    words, tags = list(WORDS)[:8], list(TAGS)[:8]
    weights = np.array([1, 1, 1, 0, 1, 0, 1, 1])
    tagger = BertTokenProbeClassifier(tiny, layer="cv", cv=folds)
    tagger.fit(words, tags, sample_weight=weights)
    kept = [tuple(part[weights[part] > 0] for part in fold) for fold in folds]
    without = clone(tagger).set_params(cv=kept).fit(words, tags)
    np.testing.assert_allclose(tagger.cv_scores_, without.cv_scores_)


def test_tags_may_come_in_columns_of_lists(tiny):
    expected = BertTokenProbeClassifier(tiny).fit(WORDS, TAGS).predict(WORDS)
    for module in ("pandas", "polars", "pyarrow"):
        frames = pytest.importorskip(module)
        column = frames.array if module == "pyarrow" else frames.Series
        words, tags = column(list(map(list, WORDS))), column(list(map(list, TAGS)))
        found = BertTokenProbeClassifier(tiny).fit(words, tags).predict(words)
        assert found == expected
        if module == "pandas":
            frame = frames.DataFrame({"words": words, "tags": tags})
            found = BertTokenProbeClassifier(tiny).fit(
                frame[["words"]], frame[["tags"]]
            )
            assert found.predict(words) == expected
            with pytest.raises(ValueError, match=r"^y must be one column of lists of"):
                BertTokenProbeClassifier(tiny).fit(words, frame)


def test_mix_gives_weights_and_cv_scores_of_every_layer(tiny):
    mix = BertTokenProbeClassifier(tiny, layer="mix", C=1.0).fit(WORDS, TAGS)
    assert mix.layers_ == (0, 1, 2)
    assert mix.layer_weights_.sum() == pytest.approx(1.0)
    assert mix.gamma_ > 0
    chosen = BertTokenProbeClassifier(tiny, layer="cv", cv=3).fit(WORDS, TAGS)
    assert chosen.cv_scores_.shape == (3, 3)
    assert chosen.layers_ == (int(chosen.cv_scores_.mean(axis=1).argmax()),)
    assert not hasattr(chosen, "layer_weights_")


@pytest.mark.parametrize(
    "scoring", [None, make_scorer(span_f1)], ids=["words", "spans"]
)
def test_cv_splits_texts_and_scores_as_cross_validation_does(tiny, scoring):
    tags = TAGS if scoring is None else SPANS
    if scoring is not None:
        pytest.importorskip("seqeval")
    tagger = BertTokenProbeClassifier(tiny, layer="cv", cv=FOLDS, scoring=scoring)
    tagger.fit(WORDS, tags)
    for layer, scores in enumerate(tagger.cv_scores_):
        expected = cross_val_score(
            BertTokenProbeClassifier(tiny, layer=layer), WORDS, tags, cv=FOLDS,
            scoring=scoring,
        )  # fmt: skip
        np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_any_classifier_can_be_the_head(lexicon):
    nearest = BertTokenProbeClassifier(lexicon, layer=0, head=KNeighborsClassifier(1))
    assert nearest.fit(WORDS, TAGS).score(WORDS, TAGS) == 1.0
    assert not hasattr(nearest, "decision_function")
    ridge = BertTokenProbeClassifier(lexicon, layer=0, head=RidgeClassifier())
    assert ridge.fit(WORDS, TAGS).score(WORDS, TAGS) > 0.9
    assert not hasattr(ridge, "predict_proba")
    mlp = BertTokenProbeClassifier(lexicon, layer=0, head="mlp", C=10.0, random_state=0)
    assert mlp.fit(WORDS, TAGS).score(WORDS, TAGS) > 0.9
    assert mlp.n_iter_ > 1


def test_batches_of_words_change_no_tag(lexicon, monkeypatch):
    tagger = BertTokenProbeClassifier(lexicon, layer="mix", C=1.0).fit(WORDS, TAGS)
    expected = tagger.predict(WORDS)
    monkeypatch.setattr(token_probe, "_BATCH_ROWS", 5)
    monkeypatch.setattr(tokens, "_BATCH_ROWS", 5)
    assert tagger.predict(WORDS) == expected
    again = clone(tagger).fit(WORDS, TAGS)
    np.testing.assert_allclose(again.head_[-1].coef_, tagger.head_[-1].coef_, atol=1e-3)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (None, ValueError, r"requires y to be passed"),
        (TAGS[:3], ValueError, r"y has 3 rows for 18 texts"),
        (
            [*TAGS[:5], ["NOUN"], *TAGS[6:]],
            ValueError,
            r"1 tags in row 5, where X has 3",
        ),
        ([*TAGS[:5], "NOUN", *TAGS[6:]], TypeError, r"per text, got str in row 5"),
        ([[None] * n for n in N_WORDS], TypeError, r"got NoneType in row 0, word 0"),
        ([[0] * 4, *TAGS[1:]], TypeError, r"all str or all integers, got some of each"),
        (
            [["X"] * n for n in N_WORDS],
            ValueError,
            r"at least two tags, got one: .*'X'",
        ),
        ("NOUN", TypeError, r"one sequence of tags per text, got str"),
    ],
)
def test_tags_that_do_not_fit_are_named_before_any_pass(tiny, work, y, error, message):
    with pytest.raises(error, match=message):
        BertTokenProbeClassifier(tiny).fit(WORDS, y)
    assert work().n_texts == 0


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"C": 0}, ValueError, r"C must be finite and above 0"),
        ({"head": "svm"}, ValueError, r"head must be one of 'linear', 'mlp'"),
        ({"standardize": 1}, TypeError, r"standardize must be True or False"),
        ({"hidden_size": 0}, ValueError, r"hidden_size must be"),
        ({"max_iter": 0}, ValueError, r"max_iter must be"),
        ({"layer": "best"}, ValueError, r"layer must be .* 'mix', 'cv', got 'best'"),
        ({"scoring": "f1_macro"}, TypeError, r"scoring must be None .* make_scorer"),
    ],
)
def test_a_bad_parameter_of_the_tagger_is_named(tiny, work, params, error, message):
    with pytest.raises(error, match=message):
        BertTokenProbeClassifier(tiny, **params).fit(WORDS, TAGS)
    assert work().n_texts == 0


def test_weights_of_another_length_are_named(tiny):
    with pytest.raises(ValueError, match=r"shape \(3,\) for 18 texts"):
        BertTokenProbeClassifier(tiny).fit(WORDS, TAGS, sample_weight=np.ones(3))


def test_no_words_to_learn_from_or_to_score_is_an_error(tiny):
    with pytest.raises(ValueError, match="no word to learn from"):
        BertTokenProbeClassifier(tiny).fit([[]], [[]])
    tagger = BertTokenProbeClassifier(tiny).fit(WORDS, TAGS)
    with pytest.raises(ValueError, match="no words to score"):
        tagger.score([[]], [[]])


def test_a_failed_fit_leaves_nothing_behind(tiny):
    tagger = BertTokenProbeClassifier(tiny, layer="mix").fit(WORDS, TAGS)
    with pytest.raises(ValueError, match="y has 3 rows"):
        tagger.fit(WORDS, TAGS[:3])
    with pytest.raises(NotFittedError):
        tagger.predict(WORDS)
    assert not hasattr(tagger, "layer_weights_")


# F1 of spans


def test_spans_are_counted_as_worked_out_by_hand():
    pytest.importorskip("seqeval")
    true = [["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "B-PER"]]
    pred = [["B-PER", "O", "O", "B-LOC"], ["B-PER", "B-LOC"]]
    # Right: LOC in row 0 and PER in row 1, of 4 true spans and 4 predicted.
    assert span_f1(true, pred) == pytest.approx(0.5)
    per, loc = 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3), 2 * 0.5 * 1.0 / 1.5
    assert span_f1(true, pred, average="macro") == pytest.approx((per + loc) / 2)
    assert span_f1([["O"]], [["O"]]) == 0.0
    assert span_f1(true, [tuple(tags) for tags in true]) == 1.0


def test_io_tags_count_as_spans_too():
    pytest.importorskip("seqeval")
    io = [["I-PER", "I-PER", "O", "I-LOC"]]
    assert span_f1([["B-PER", "I-PER", "O", "B-LOC"]], io) == 1.0


@pytest.mark.parametrize(
    ("true", "pred", "message"),
    [
        ([["O"]], [["O"], ["O"]], r"y_true has 1 rows and y_pred 2"),
        (
            [["O"], ["O"]],
            [["O"], ["O", "O"]],
            r"y_true has 1 tags in row 1 and y_pred 2",
        ),
        ([["O"], ["NOUN"]], [["O"], ["O"]], r"got 'NOUN' in row 1 of y_true"),
        ([["O"]], [[1]], r"got 1 in row 0 of y_pred"),
    ],
)
def test_tags_that_mark_no_span_are_named(true, pred, message):
    pytest.importorskip("seqeval")
    with pytest.raises(ValueError, match=message):
        span_f1(true, pred)


def test_without_seqeval_or_pandas_the_extra_is_named(tiny, monkeypatch):
    for module in ("seqeval", "seqeval.metrics", "pandas"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError, match=r"span_f1 needs seqeval.*sklearn-bert\[tokens"
    ):
        span_f1([["O"]], [["O"]])
    with pytest.raises(
        ImportError, match=r"to_frame needs pandas.*sklearn-bert\[tokens"
    ):
        BertTokenVectorizer(tiny).fit([]).to_frame(WORDS)


# scikit-learn's contract


@pytest.mark.parametrize("estimator", [BertTokenVectorizer, BertTokenProbeClassifier])
@pytest.mark.parametrize(
    "check",
    [
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_get_params_invariance",
        "check_mixin_order",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_valid_tag_types",
    ],
)
def test_checks_without_data_pass(tiny, estimator, check):
    getattr(estimator_checks, check)(estimator.__name__, estimator(tiny))


def test_cloning_and_printing_keep_parameters(tiny):
    tagger = BertTokenProbeClassifier(tiny, layer="mix", word_pattern=r"\w+", C=0.1)
    copied = clone(tagger.fit(WORDS, TAGS))
    assert copied.get_params() == tagger.get_params()
    assert not hasattr(copied, "head_")
    assert "word_pattern='\\\\w+'" in repr(copied)
    assert "BertTokenProbeClassifier" in tagger._repr_html_()


def test_pickles_are_small_and_answer_the_same(tiny):
    vectorizer = BertTokenVectorizer(tiny, layer="all", layer_combination="scalar_mix")
    tagger = BertTokenProbeClassifier(tiny, layer="cv", cv=2)
    for fitted, limit in ((vectorizer, 10_000), (tagger, 50_000)):
        fitted.fit(WORDS, TAGS)
        assert len(pickle.dumps(fitted)) < limit
    again = pickle.loads(pickle.dumps(vectorizer)).transform_flat(WORDS)
    np.testing.assert_allclose(
        again.values, vectorizer.transform_flat(WORDS).values, rtol=1e-5, atol=1e-5
    )
    assert pickle.loads(pickle.dumps(tagger)).predict(WORDS) == tagger.predict(WORDS)


def test_memory_may_be_set_after_fit(tiny, tmp_path):
    tagger = BertTokenProbeClassifier(tiny).fit(WORDS, TAGS)
    tagger.set_params(memory=tmp_path / "store").predict(WORDS)
    assert any((tmp_path / "store").rglob("*.npy"))
    with pytest.raises(ValueError, match=r"subwords was .* call fit again"):
        tagger.set_params(subwords="first").predict(WORDS)


def test_a_pipeline_may_pool_words_into_texts(tiny):
    from sklearn import config_context

    pool = FunctionTransformer(lambda rows: np.stack([r.max(axis=0) for r in rows]))
    labels = [len(words) for words in WORDS]
    pipeline = make_pipeline(BertTokenVectorizer(tiny), pool, LogisticRegression())
    assert pipeline.fit(WORDS, labels).score(WORDS, labels) == 1.0
    assert cross_val_score(pipeline, WORDS, labels, cv=FOLDS).shape == (3,)
    with config_context(transform_output="pandas"):  # lists stay lists
        assert isinstance(BertTokenVectorizer(tiny).fit_transform(WORDS), list)


def test_lists_of_lists_pass_through_cross_validation(lexicon):
    tagger = BertTokenProbeClassifier(lexicon, layer=0, C=1.0)
    assert not is_classifier(tagger)
    assert cross_val_score(tagger, WORDS, TAGS, cv=3).shape == (3,)
    weights = {"sample_weight": np.ones(len(WORDS))}
    scores = cross_validate(tagger, WORDS, TAGS, cv=FOLDS, params=weights)
    assert scores["test_score"].mean() > 0.9
    predicted = cross_val_predict(tagger, WORDS, TAGS, cv=FOLDS)
    assert [len(tags) for tags in predicted] == N_WORDS
    assert np.mean(np.concatenate(predicted) == FLAT_TAGS) > 0.9


def test_a_grid_in_two_processes_finds_the_same_best(lexicon, tmp_path):
    tagger = BertTokenProbeClassifier(lexicon, memory=tmp_path, store_layers="all")
    grid = {"layer": [0, 2], "C": [0.001, 1.0], "subwords": ["first", "mean"]}
    results = [
        GridSearchCV(tagger, grid, cv=FOLDS, n_jobs=n_jobs).fit(WORDS, TAGS)
        for n_jobs in (1, 2)
    ]
    means = [search.cv_results_["mean_test_score"] for search in results]
    np.testing.assert_allclose(*means)
    assert results[0].best_params_["C"] == 1.0


def test_spans_can_be_what_a_grid_maximises(lexicon):
    pytest.importorskip("seqeval")
    tagger = BertTokenProbeClassifier(lexicon, layer=0)
    search = GridSearchCV(
        tagger, {"C": [1e-9, 1.0]}, scoring=make_scorer(span_f1), cv=FOLDS
    )
    search.fit(WORDS, SPANS)
    assert search.best_params_ == {"C": 1.0}
    assert search.best_score_ > 0.9 > search.cv_results_["mean_test_score"][0]


# Meaning


def test_a_lower_layer_tags_parts_of_speech_better_than_the_last(tmp_path):
    words, tags = read_words("ud_ewt/ud_ewt.jsonl.gz", "upos", 400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few words have no token
        options = {"memory": tmp_path, "store_layers": "all"}
        low, last = (
            BertTokenProbeClassifier(layer=layer, **options)
            .fit(words[:300], tags[:300])
            .score(words[300:], tags[300:])
            for layer in (2, -1)
        )
    assert low > 0.8
    assert low > last
