"""The default model on real texts: parity with its makers, and sense."""

import numpy as np
import pytest
from checkpoints import naive_features

from sklearn_bert import BertVectorizer
from sklearn_bert.checkpoint import DEFAULT_MODEL, find_checkpoint
from sklearn_bert.datasets import load_docstrings

ODD = [
    "",
    "a",
    "?",
    "  spaces  ",
    "\n\ttabs\n",
    "ÀÉÎ ß",
    "日本語のテキスト",
    "🙂🙂",
    "[SEP] [CLS]",
]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*longer than max_length", "ignore:.*third time"
)


@pytest.fixture(scope="module")
def real_texts(read_data):
    """500 texts from one word to two thousand; docstrings where the data is absent."""
    try:
        reviews, _ = read_data("movie_reviews/movie_reviews.csv.gz", n=40)
        short, _ = read_data("mr/mr.csv.gz", n=420)
    except pytest.skip.Exception:
        short = load_docstrings(46).data
        reviews = [" ".join(short[i : i + 60]) for i in range(0, 400, 10)]
    texts = [*ODD, *reviews, *short]
    texts += [" ".join(text.split()[:1]) for text in short]
    return texts[:500]


@pytest.fixture(scope="module")
def directory():
    return find_checkpoint(DEFAULT_MODEL).directory


def test_defaults_equal_sentence_transformers_on_500_real_texts(real_texts, directory):
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(directory, device="cpu").encode(real_texts)
    result = BertVectorizer().fit_transform(real_texts)
    assert result.shape == expected.shape == (500, 384)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_the_default_model_resolves_to_what_it_declares():
    vectorizer = BertVectorizer().fit([])
    assert (vectorizer.n_layers_, vectorizer.width_) == (6, 384)
    assert vectorizer.pooling_ == ("mean",)
    assert vectorizer.normalize_ is True
    assert vectorizer.max_length_ == 256


@pytest.mark.parametrize("special_tokens", [True, False])
@pytest.mark.parametrize(
    "pooling", ["cls", "mean", "max", "mean_sqrt_len", "attention"]
)
def test_every_layer_equals_a_naive_loop(
    real_texts, directory, pooling, special_tokens, tmp_path
):
    texts = [*real_texts[:15], *real_texts[50:60]]
    layers = range(1, 7) if pooling == "attention" else range(7)
    vectorizer = BertVectorizer(
        layer=list(layers), pooling=pooling, special_tokens=special_tokens,
        normalize=False, memory=tmp_path,
    )  # fmt: skip
    result = vectorizer.fit_transform(texts).reshape(len(texts), len(layers), 384)
    for i, layer in enumerate(layers):
        expected = naive_features(
            directory, texts, layer=layer, pooling=pooling,
            special_tokens=special_tokens, max_length=256,
        )  # fmt: skip
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(result[:, i], expected, atol=1e-5 * scale)


def test_similar_sentences_are_nearer_than_others():
    vectors = BertVectorizer().fit_transform(
        ["A man is eating food.", "Somebody has a meal.", "The GPU ran out of memory."]
    )
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.4 > 0.2 > similarity[0, 2]


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_reduced_precision_stays_near(real_texts, dtype):
    texts = real_texts[50:80]
    low = BertVectorizer(dtype=dtype).fit_transform(texts)
    full = BertVectorizer().fit_transform(texts)
    assert (low * full).sum(axis=1).min() > 0.999
