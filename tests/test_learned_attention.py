"""`pooling="learned_attention"` in both estimators."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import transformers
from scipy.special import softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline

from sklearn_bert import BertProbeClassifier, BertVectorizer
from sklearn_bert.features import Engine, iter_features
from sklearn_bert.inspection import (
    compare_pairs,
    layer_geometry,
    layer_similarity,
    layer_sweep,
    probe_layers,
)
from sklearn_bert.learning import fit_token_attention
from sklearn_bert.ragged import gather

pytestmark = pytest.mark.filterwarnings("ignore:.* encoded for the third time")

LEARNED = "learned_attention"
NOUNS = ["film", "plot", "cast", "end", "joke", "song", "role", "line"]
TEXTS = [
    f"the {noun} was {adjective} and the {other} long"
    for noun, other in zip(NOUNS, NOUNS[1:] + NOUNS[:1], strict=True)
    for adjective in ("good", "fine", "bad", "dull")
]
Y = np.array(["good", "good", "bad", "bad"] * 8)
INDICATOR = np.column_stack([[1, 1, 0, 0] * 8, [0, 1] * 16])


def vectorizer(model, **params):
    return BertVectorizer(model, pooling="learned_attention", **params)


def probe(model, **params):
    return BertProbeClassifier(model, pooling="learned_attention", **params)


def test_layers_may_be_mixed_before_or_after_the_mean(tiny):
    params = {"layer": "all", "layer_combination": "scalar_mix", "normalize": False}
    mean = BertVectorizer(tiny, pooling="mean", **params).fit(TEXTS, Y)
    factors = mean.gamma_ * mean.layer_weights_ / mean.layer_scales_[0]
    assert factors.std() > 0
    tokens = vectorizer(tiny, **params).fit(TEXTS, Y)  # for the states of its layers
    expected = [
        np.einsum("l,nlw->nw", factors, states).mean(axis=0)
        for states in states_of(tokens, TEXTS)
    ]
    np.testing.assert_allclose(mean.transform(TEXTS), expected, atol=2e-5)


def states_of(fitted, texts):
    request = fitted._request(fitted._checkpoint())
    rows = gather(iter_features(texts, request, Engine()), len(texts))
    return [states[:, 0] for states in rows]  # (n_tokens, n_layers, width)


# The vectorizer


def test_features_are_the_weighted_mean_of_the_states(tiny):
    fitted = vectorizer(tiny, layer=1).fit(TEXTS, Y)
    expected = [
        softmax(states[:, 0] @ fitted.query_) @ states[:, 0]
        for states in states_of(fitted, TEXTS)
    ]
    np.testing.assert_allclose(fitted.transform(TEXTS), expected, atol=1e-5)
    assert fitted.query_.shape == (32,)


@pytest.mark.parametrize(
    ("params", "n_features", "name"),
    [
        ({"layer": [0, 2]}, 64, "layer0_learned_attention_0"),
        (
            {"layer": [0, 2], "layer_combination": "mean"},
            32,
            "layers0-2_mean_learned_attention_0",
        ),
        (
            {"layer": [0, 2], "layer_combination": [0.5, 2.0]},
            32,
            "layers0-2_weighted_sum_learned_attention_0",
        ),
        (
            {"layer": "all", "layer_combination": "scalar_mix"},
            32,
            "layers0to2_scalar_mix_learned_attention_0",
        ),
        ({"normalize": True}, 32, "layer2_learned_attention_0"),
        ({"token_dtype": "float16"}, 32, "layer2_learned_attention_0"),
        ({"special_tokens": False}, 32, "layer2_learned_attention_0"),
        ({"overflow": "chunk", "max_length": 12, "stride": 3}, 32, None),
    ],
)
def test_fit_and_transform_give_what_fit_transform_gives(
    tiny, tmp_path, params, n_features, name
):
    # From a store, where states are read back bit for bit.
    fitted = vectorizer(tiny, memory=tmp_path, **params)
    together = fitted.fit_transform(TEXTS, Y)
    assert together.shape == (32, n_features)
    assert together.dtype == np.float32
    np.testing.assert_allclose(fitted.transform(TEXTS), together, atol=1e-6)
    again = clone(fitted).fit(TEXTS, Y).transform(TEXTS)
    np.testing.assert_array_equal(again, fitted.transform(TEXTS))
    names = fitted.get_feature_names_out()
    assert len(names) == n_features
    assert name is None or names[0] == name
    if fitted.normalize_:
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_layers_are_combined_before_tokens_are_weighted(tiny):
    fitted = vectorizer(tiny, layer=[0, 2], layer_combination=[0.5, 2.0])
    fitted.fit(TEXTS, Y)
    expected = []
    for states in states_of(fitted, TEXTS):
        mixed = 0.5 * states[:, 0] + 2.0 * states[:, 1]
        expected.append(softmax(mixed @ fitted.query_) @ mixed)
    np.testing.assert_allclose(fitted.transform(TEXTS), expected, atol=1e-4)


def test_a_mix_and_a_query_are_learned_together(tiny):
    fitted = vectorizer(tiny, layer="all", layer_combination="scalar_mix")
    fitted.fit(TEXTS, Y)
    factors = fitted.gamma_ * fitted.layer_weights_ / fitted.layer_scales_[0]
    expected = []
    for states in states_of(fitted, TEXTS):
        mixed = np.tensordot(factors, states, axes=(0, 1))
        expected.append(softmax(mixed @ fitted.query_) @ mixed)
    np.testing.assert_allclose(fitted.transform(TEXTS), expected, atol=1e-4)


def test_a_text_without_a_token_is_zeros(tiny):
    fitted = vectorizer(tiny, special_tokens=False).fit(TEXTS, Y)
    features = fitted.transform(["", "good"])
    assert not features[0].any()
    assert features[1].any()


def test_training_runs_no_text_twice(tiny, tmp_path, work):
    fitted = vectorizer(tiny, memory=tmp_path, layer=1)
    fitted.fit_transform(TEXTS * 2, np.tile(Y, 2))
    fitted.transform(TEXTS)
    vectorizer(tiny, memory=tmp_path, layer=1).fit(TEXTS, Y == "good")
    BertVectorizer(tiny, memory=tmp_path, layer=[0, 2], pooling=["cls", "max"]).fit(
        TEXTS
    ).transform(TEXTS)
    assert work().n_texts == len(TEXTS)


def test_half_precision_states_have_rows_of_their_own(tiny, tmp_path, work):
    exact = vectorizer(tiny, memory=tmp_path).fit_transform(TEXTS, Y)
    half = vectorizer(tiny, memory=tmp_path, token_dtype="float16")
    np.testing.assert_allclose(half.fit_transform(TEXTS, Y), exact, atol=5e-2)
    assert work().n_texts == 2 * len(TEXTS)


def test_without_labels_it_says_what_they_are_for(tiny):
    with pytest.raises(ValueError, match=r"'learned_attention' learns which tokens"):
        vectorizer(tiny).fit(TEXTS)
    assert vectorizer(tiny).__sklearn_tags__().target_tags.required


def test_it_stands_alone(tiny):
    both = BertVectorizer(tiny, pooling=["mean", "learned_attention"])
    with pytest.raises(ValueError, match=r"stands alone, got .* Use FeatureUnion"):
        both.fit(TEXTS, Y)


def test_a_fit_that_fails_is_not_fitted(tiny, work):
    fitted = vectorizer(tiny).fit(TEXTS, Y)
    with pytest.raises(ValueError, match=r"needs at least two classes in y"):
        fitted.fit(TEXTS, ["good"] * len(TEXTS))
    with pytest.raises(ValueError, match=r"not fitted"):
        fitted.transform(TEXTS)
    assert not hasattr(fitted, "query_")


def test_a_precision_of_states_that_is_none_is_refused(tiny, work):
    with pytest.raises(ValueError, match=r"token_dtype must be .*, got 'float64'"):
        vectorizer(tiny, token_dtype="float64").fit(TEXTS, Y)
    assert work().n_texts == 0


@pytest.mark.parametrize(
    "compare",
    [
        lambda **model: layer_sweep(TEXTS, Y, poolings=["mean", LEARNED], **model),
        lambda **model: layer_geometry(TEXTS, poolings=LEARNED, **model),
        lambda **model: layer_similarity(TEXTS, pooling=LEARNED, **model),
        lambda **model: compare_pairs(
            [TEXTS[:2]], [TEXTS[2:4]], poolings=[LEARNED], **model
        ),
        lambda **model: probe_layers(TEXTS, Y, pooling=LEARNED, **model),
    ],
    ids=["sweep", "geometry", "similarity", "pairs", "probes"],
)
def test_what_compares_layers_refuses_what_is_learned(tiny, compare, work):
    with pytest.raises(
        ValueError, match=r"compares frozen features, and pooling='learned_attention' h"
    ):
        compare(model=tiny)
    assert work().n_passes == 0


def test_changed_precision_after_fit_is_refused(tiny):
    fitted = vectorizer(tiny).fit(TEXTS, Y)
    fitted.set_params(token_dtype="float16")
    with pytest.raises(ValueError, match=r"token_dtype was 'float32' in fit"):
        fitted.transform(TEXTS)


# How much each token counts


def test_token_weights_are_tokens_with_their_softmax(tiny):
    fitted = vectorizer(tiny, layer=1).fit(TEXTS, Y)
    texts = ["Good plot", "", "the unbelievably dull end"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    for text, states, (tokens, weights) in zip(
        texts, states_of(fitted, texts), fitted.token_weights(texts), strict=True
    ):
        assert list(tokens) == tokenizer(text).tokens()
        expected = softmax(states[:, 0] @ fitted.query_)
        np.testing.assert_allclose(weights, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*were cut")
@pytest.mark.parametrize(
    "params",
    [
        {"special_tokens": False},
        {"max_length": 6},
        {"max_length": 6, "overflow": "chunk", "stride": 1},
        {"prompt": "query: "},
    ],
)
def test_every_weight_has_its_token(tiny, params):
    fitted = vectorizer(tiny, **params).fit(TEXTS, Y)
    for tokens, weights in fitted.token_weights(TEXTS[:5]):
        assert len(tokens) == len(weights)
        assert weights.sum() == pytest.approx(1, abs=1e-6)
        assert ("[CLS]" in tokens) == fitted.special_tokens
        assert (len(tokens) <= 6) == (params.get("max_length") == 6) or (
            fitted.overflow == "chunk"
        )


def test_a_prompt_that_never_counts_has_no_weight(tiny, monkeypatch):
    import dataclasses

    from sklearn_bert import estimators as module

    find = module.find_checkpoint

    def excluding(*args, **kwargs):
        found = find(*args, **kwargs)
        declared = dataclasses.replace(found.declared, include_prompt=False)
        return dataclasses.replace(found, declared=declared)

    monkeypatch.setattr(module, "find_checkpoint", excluding)
    fitted = vectorizer(tiny, prompt="the film ").fit(TEXTS, Y)
    ((tokens, weights),) = fitted.token_weights(["good"])
    assert len(tokens) == len(weights)
    assert tokens[-1] == "[SEP]"
    assert "[CLS]" not in tokens


def test_token_weights_of_another_pooling_are_refused(tiny):
    with pytest.raises(ValueError, match=r"needs pooling='learned_attention'"):
        BertVectorizer(tiny).fit(TEXTS).token_weights(TEXTS)


# The probe


@pytest.mark.parametrize("layer", [1, [1, 2], "all", "mix", "cv"])
def test_a_probe_learns_tokens_under_every_choice_of_layers(
    tiny, tmp_path, work, layer
):
    fitted = probe(tiny, layer=layer, memory=tmp_path, C=1.0, cv=2).fit(TEXTS, Y)
    assert fitted.score(TEXTS, Y) > 0.9
    assert hasattr(fitted, "layer_weights_") == (layer == "mix")
    assert len(fitted.token_weights(TEXTS)) == len(TEXTS)
    assert work().n_texts == len(TEXTS)
    fitted.fit(TEXTS, Y)
    assert work().n_texts == len(TEXTS)


def test_its_head_is_fitted_on_what_the_vectorizer_learns(tiny):
    fitted = probe(tiny, layer=1, C=0.5, standardize=False).fit(TEXTS, Y)
    alone = vectorizer(tiny, layer=1)
    alone._settle()
    frozen = alone._frozen(TEXTS)
    labels = (Y == "good").astype(int).astype(str)
    query, _ = fit_token_attention(frozen, labels, C=0.5, standardize=False)
    np.testing.assert_allclose(fitted.vectorizer_.query_, query, atol=1e-5)
    Z = fitted.vectorizer_.transform(TEXTS)
    plain = LogisticRegression(C=0.5, max_iter=1000).fit(Z, Y)
    np.testing.assert_allclose(fitted.head_[-1].coef_, plain.coef_, atol=1e-3)


def test_cross_validation_learns_the_query_anew_in_every_fold(tiny, monkeypatch):
    seen = []
    learn = BertVectorizer._learn

    def count(self, frozen, y, **options):
        seen.append((self.layers_, len(y)))
        learn(self, frozen, y, **options)

    monkeypatch.setattr(BertVectorizer, "_learn", count)
    probe(tiny, layer="cv", cv=4).fit(TEXTS, Y)
    in_folds = [layers for layers, n in seen if n == 24]
    assert sorted(in_folds) == sorted([(0,), (1,), (2,)] * 4)
    assert [n for _, n in seen[12:]] == [32]


def test_a_probe_with_several_labels_learns_one_query(tiny):
    fitted = probe(tiny, C=1.0).fit(TEXTS, INDICATOR)
    assert fitted.vectorizer_.query_.shape == (32,)
    assert fitted.predict(TEXTS).shape == (32, 2)


def test_weights_of_texts_reach_the_query(tiny):
    weights = np.where(np.arange(32) < 16, 1.0, 0.0)
    fitted = probe(tiny, C=1.0).fit(TEXTS, Y, sample_weight=weights)
    plain = probe(tiny, C=1.0).fit(TEXTS, Y)
    assert np.abs(fitted.vectorizer_.query_ - plain.vectorizer_.query_).max() > 1e-3


def test_a_grid_over_poolings_and_layers_may_hold_it(tiny, tmp_path, work):
    grid = {
        "pooling": ["mean", "learned_attention"],
        "layer": [2, "mix"],
        "head": ["linear", LogisticRegression(C=0.1)],
    }
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    search = GridSearchCV(
        BertProbeClassifier(tiny, memory=tmp_path), grid, cv=folds, error_score="raise"
    )
    search.fit(TEXTS, Y)
    assert search.cv_results_["mean_test_score"].shape == (8,)
    # Pooled vectors come from one pass, token states from one per choice of layers.
    assert work().n_texts == 3 * len(TEXTS)


def test_it_repeats_bit_for_bit_and_travels_light(tiny, tmp_path):
    a, b = (probe(tiny, layer="mix", memory=tmp_path).fit(TEXTS, Y) for _ in range(2))
    np.testing.assert_array_equal(a.vectorizer_.query_, b.vectorizer_.query_)
    content = pickle.dumps(a)
    assert len(content) < 20_000
    np.testing.assert_array_equal(
        pickle.loads(content).predict_proba(TEXTS), a.predict_proba(TEXTS)
    )


def test_a_pipeline_takes_it_beside_any_classifier(tiny):
    model = make_pipeline(vectorizer(tiny, layer=1), LogisticRegression())
    assert model.fit(TEXTS, Y).score(TEXTS, Y) > 0.8


def test_token_weights_before_fit_are_refused(tiny):
    with pytest.raises(ValueError, match=r"not fitted yet"):
        probe(tiny).token_weights(TEXTS)


WARM = """
import sys
from sklearn_bert import BertProbeClassifier
model, memory, pooling = sys.argv[1:]
texts, y = ["good film", "bad film", "good end", "bad end"], [1, 0, 1, 0]
probe = BertProbeClassifier(
    model, memory=memory, layer="mix", pooling=pooling, C=10.0
)
print(probe.fit(texts, y).predict(texts).tolist())
assert not {"torch", "transformers"} & set(sys.modules)
"""


@pytest.mark.parametrize("pooling", ["mean", "learned_attention"])
def test_with_all_in_the_store_torch_is_not_imported(tiny, tmp_path, pooling):
    texts, y = ["good film", "bad film", "good end", "bad end"], [1, 0, 1, 0]
    given = {"memory": str(tmp_path), "layer": "mix", "C": 10.0, "pooling": pooling}
    BertProbeClassifier(tiny, **given).fit(texts, y)
    command = [sys.executable, "-c", WARM, tiny, str(tmp_path), pooling]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.returncode) == (str(y), 0), run.stderr
