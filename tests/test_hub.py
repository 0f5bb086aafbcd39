"""Real checkpoints by their names on the hub; run where there is a network.

``HF_HUB_OFFLINE=0 make test ARGS="-m hub"`` downloads several gigabytes.
"""

import numpy as np
import pytest
from checkpoints import naive_features

from sklearn_bert import BertVectorizer
from sklearn_bert.checkpoint import find_checkpoint

pytestmark = pytest.mark.hub

TEXTS = ["A man is eating food.", "", "The GPU ran out of memory, again. " * 30]


@pytest.mark.filterwarnings("ignore:.*longer than max_length", "ignore:.*third time")
@pytest.mark.parametrize(
    "model",
    [
        "google-bert/bert-base-uncased",
        "distilbert/distilbert-base-uncased",
        "FacebookAI/roberta-base",
        "FacebookAI/xlm-roberta-base",
        "vinai/bertweet-base",
        "google/electra-small-discriminator",
        "microsoft/deberta-v3-small",
        "albert/albert-base-v2",
        "microsoft/mpnet-base",
        "nlpaueb/legal-bert-base-uncased",
        "allenai/scibert_scivocab_uncased",
        "answerdotai/ModernBERT-base",
    ],
)
def test_a_checkpoint_of_the_hub_equals_a_naive_loop(model):
    directory = find_checkpoint(model).directory
    vectorizer = BertVectorizer(model, layer="all", pooling="mean").fit(TEXTS)
    result = vectorizer.transform(TEXTS).reshape(3, -1, vectorizer.width_)
    for layer in vectorizer.layers_:
        expected = naive_features(
            directory, TEXTS, layer=layer, pooling="mean",
            max_length=vectorizer.max_length_,
        )  # fmt: skip
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(result[:, layer], expected, atol=1e-5 * scale)


@pytest.mark.filterwarnings("ignore:.*longer than max_length")
@pytest.mark.parametrize(
    "model",
    [
        "sentence-transformers/all-mpnet-base-v2",
        "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
        "BAAI/bge-small-en-v1.5",
        "intfloat/e5-small-v2",
    ],
)
def test_the_defaults_equal_sentence_transformers(model):
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(model, device="cpu").encode(TEXTS)
    result = BertVectorizer(model).fit_transform(TEXTS)
    np.testing.assert_allclose(result, expected, atol=1e-5)
