"""Windows of long texts: how many, what they show, and how their vectors become one."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from checkpoints import build_checkpoint
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from sklearn_bert import BertProbeClassifier, BertVectorizer, request
from sklearn_bert import features as features_module
from sklearn_bert.checkpoint import find_checkpoint
from sklearn_bert.encoder import get_encoder
from sklearn_bert.learning import fit_token_attention

pytestmark = pytest.mark.filterwarnings("ignore:.* encoded for the third time")

WINDOWS = {"overflow": "chunk", "max_length": 12, "stride": 3}
NAMES = ["mean", "max", "first", "learned_attention"]
SHORT = ["", "a cat", "two dogs"]
LONG = [
    f"the {adjective} film about a {noun} was long and then it was over"
    for adjective in ("good", "bad")
    for noun in ("cat", "dog", "fox", "owl", "hen")
]
TEXTS = [*SHORT, *LONG]
Y = np.array([0, 1, 0, *[0] * 5, *[1] * 5])


def vectorizer(model, **params):
    return BertVectorizer(model, **{"normalize": False, **WINDOWS, **params})


def probe(model, **params):
    return BertProbeClassifier(model, **{**WINDOWS, **params})


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """One store for the tests that only need their texts to be encoded."""
    return tmp_path_factory.mktemp("chunks")


# How many


def test_labels_that_teach_nothing_name_what_would_learn(tiny):
    vectorizer = BertVectorizer(
        tiny, max_length=6, overflow="chunk", chunk_pooling="learned_attention"
    )
    with pytest.raises(ValueError, match=r"^chunk_pooling='learned_attention' needs"):
        vectorizer.fit(["a b c d e f g h", "b"], [1, 1])


def test_the_number_of_windows_is_known_without_a_pass(tiny, work):
    fitted = vectorizer(tiny).fit(TEXTS)
    counts = fitted.n_chunks(TEXTS)
    assert counts[:3].tolist() == [1, 1, 1]
    assert (counts[3:] > 2).all()
    assert work().n_passes == 0
    assert np.diff(fitted.transform_chunks(TEXTS).offsets).tolist() == counts.tolist()


def test_a_prompt_counts_and_texts_that_are_cut_have_one_window(tiny):
    plain, prompted = (vectorizer(tiny, prompt=p).fit([]) for p in ("", "query: " * 3))
    assert prompted.n_chunks([LONG[0]])[0] > plain.n_chunks([LONG[0]])[0]
    cut = BertVectorizer(tiny, max_length=12).fit([])
    assert cut.n_chunks(TEXTS).tolist() == [1] * len(TEXTS)
    assert probe(tiny).fit(TEXTS, Y).n_chunks(SHORT).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_length": 2, "stride": 0}, "max_length=2 leaves no room for text"),
        ({"max_length": 12, "stride": 10}, "stride=10 must be smaller than max_length"),
    ],
)
def test_windows_that_do_not_advance_are_refused(tiny, params, message):
    with pytest.raises(ValueError, match=message):
        vectorizer(tiny, **params).fit([]).n_chunks(TEXTS)


# Every window


@pytest.mark.parametrize("special_tokens", [True, False])
def test_a_window_has_the_features_of_a_text_of_its_own(tiny, special_tokens):
    fitted = vectorizer(
        tiny, layer=[0, 2], pooling=["cls", "mean"], special_tokens=special_tokens
    )
    values, offsets = fitted.fit([]).transform_chunks([SHORT[1], LONG[0]])
    tokenizer = get_encoder(find_checkpoint(tiny), "cpu", "float32").tokenizer
    network = transformers.AutoModel.from_pretrained(tiny).eval()
    expected = []
    for content in tokenizer.content_ids([SHORT[1], LONG[0]]):
        for window in tokenizer.cut(content, 12, 3):
            ids = torch.tensor(tokenizer.surround(window))[None]
            with torch.inference_mode():
                output = network(ids, output_hidden_states=True).hidden_states
            counted = slice(None) if special_tokens else slice(1, -1)
            first = [output[k][0, 0] for k in (0, 2)]
            mean = [output[k][0, counted].mean(axis=0) for k in (0, 2)]
            expected.append(torch.cat([*first, *mean]).numpy())
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert offsets.tolist() == [0, 1, len(expected)]


def test_equal_texts_have_equal_windows_in_their_places(tiny):
    fitted = vectorizer(tiny).fit([])
    values, offsets = fitted.transform_chunks([LONG[0], SHORT[1], LONG[0]])
    a, _, b = np.split(values, offsets[1:-1])
    np.testing.assert_array_equal(a, b)
    empty = fitted.transform_chunks([])
    assert (empty.values.shape, empty.offsets.tolist()) == ((0, 32), [0])


def test_windows_are_of_unit_length_where_texts_are(tiny):
    values, _ = vectorizer(tiny, normalize=True).fit([]).transform_chunks(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-6)


# One vector of several


def test_vectors_of_windows_are_joined_as_their_names_say(tiny, memory):
    params = {"memory": memory, "layer": [1, 2], "pooling": ["mean", "max"]}
    values, offsets = vectorizer(tiny, **params).fit([]).transform_chunks(TEXTS)
    joins = {
        "mean": lambda rows: rows.mean(axis=0),
        "max": lambda rows: rows.max(axis=0),
        "first": lambda rows: rows[0],
    }
    for name, join in joins.items():
        expected = [join(rows) for rows in np.split(values, offsets[1:-1])]
        fitted = vectorizer(tiny, chunk_pooling=name, **params)
        np.testing.assert_allclose(fitted.fit_transform(TEXTS), expected, atol=1e-6)
        first = fitted.get_feature_names_out()[0]
        assert first == f"layer1_mean_chunk_{name}_0"


@pytest.mark.filterwarnings("ignore:.*were cut")
def test_the_first_window_is_what_truncation_sees(tiny):
    first = vectorizer(tiny, chunk_pooling="first").fit_transform(TEXTS)
    cut = vectorizer(tiny, overflow="truncate").fit_transform(TEXTS)
    np.testing.assert_allclose(first, cut, atol=1e-5)


@pytest.mark.parametrize("chunk_pooling", ["auto", *NAMES])
def test_a_text_of_one_window_is_bitwise_the_plain_text(tiny, tmp_path, chunk_pooling):
    plain = vectorizer(tiny, overflow="raise", memory=tmp_path).fit_transform(SHORT)
    fitted = vectorizer(tiny, chunk_pooling=chunk_pooling, memory=tmp_path)
    np.testing.assert_array_equal(fitted.fit_transform(TEXTS, Y)[:3], plain)
    np.testing.assert_array_equal(fitted.transform(TEXTS)[:3], plain)
    np.testing.assert_array_equal(fitted.transform_chunks(SHORT).values, plain)


def test_layers_are_combined_and_weighted_before_windows_are_joined(tiny, memory):
    params = {"memory": memory, "layer": "all", "chunk_pooling": "max"}
    # (n_texts, 1, n_layers, width)
    by_layer = vectorizer(tiny, **params).fit([])._by_layer(TEXTS)
    mixed = vectorizer(tiny, layer_combination="scalar_mix", **params)
    features = mixed.fit_transform(TEXTS, Y)
    factors = mixed.gamma_ * mixed.layer_weights_ / mixed.layer_scales_[0]
    expected = np.tensordot(by_layer[:, 0], factors, axes=(1, 0))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


# Weights of windows, learned


def test_weights_of_windows_are_a_softmax_of_their_vectors(tiny, memory):
    fitted = vectorizer(tiny, chunk_pooling="learned_attention", memory=memory)
    features = fitted.fit_transform(TEXTS, Y)
    values, offsets = fitted.transform_chunks(TEXTS)
    for i, (chunks, weights) in enumerate(fitted.chunk_weights(TEXTS)):
        rows = values[offsets[i] : offsets[i + 1]]
        scores = np.exp(rows @ fitted.query_)
        np.testing.assert_allclose(weights, scores / scores.sum(), atol=1e-5)
        np.testing.assert_allclose(weights @ rows, features[i], atol=1e-5)
        assert len(chunks) == len(weights)


def test_the_query_is_that_of_attention_over_the_windows(tiny, memory):
    fitted = probe(
        tiny, chunk_pooling="learned_attention", memory=memory, C=0.5, layer=1
    ).fit(TEXTS, Y)
    alone = vectorizer(tiny, chunk_pooling="learned_attention", layer=1)
    alone._settle()
    rows = alone._frozen(TEXTS)
    assert rows.counts.tolist() == fitted.n_chunks(TEXTS).tolist()
    query, _ = fit_token_attention(rows, Y.astype(str), C=0.5)
    np.testing.assert_allclose(fitted.vectorizer_.query_, query, atol=1e-4)


@pytest.mark.parametrize(
    ("params", "n_features"),
    [
        ({"layer": [0, 2]}, 64),
        ({"layer": [0, 2], "pooling": ["mean", "cls"]}, 128),
        ({"layer": [0, 2], "layer_combination": [0.5, 2.0]}, 32),
        ({"layer": "all", "layer_combination": "scalar_mix"}, 32),
        (
            {
                "layer": "all",
                "layer_combination": "scalar_mix",
                "pooling": ["mean", "max"],
            },
            64,
        ),
    ],
)
def test_every_combination_of_layers_may_be_weighted(tiny, memory, params, n_features):
    fitted = vectorizer(
        tiny, chunk_pooling="learned_attention", memory=memory, **params
    )
    together = fitted.fit_transform(TEXTS, Y)
    assert together.shape == (len(TEXTS), n_features)
    assert len(fitted.get_feature_names_out()) == n_features
    np.testing.assert_allclose(fitted.transform(TEXTS), together, atol=1e-6)
    values, offsets = fitted.transform_chunks(TEXTS)
    weights = [each.weights for each in fitted.chunk_weights(TEXTS)]
    parts = zip(np.split(values, offsets[1:-1]), weights, strict=True)
    np.testing.assert_allclose(together, [w @ v for v, w in parts], atol=1e-4)


@pytest.mark.parametrize("layer", [1, [1, 2], "mix", "cv"])
def test_a_probe_weights_windows_under_every_choice_of_layers(
    tiny, tmp_path, work, layer
):
    params = {"layer": layer, "chunk_pooling": "learned_attention", "C": 1.0, "cv": 2}
    fitted = probe(tiny, memory=tmp_path, **params).fit(TEXTS, Y)
    assert fitted.score(TEXTS, Y) > 0.8
    assert len(fitted.chunk_weights(LONG)) == len(LONG)
    assert hasattr(fitted, "layer_weights_") == (layer == "mix")
    assert work().n_texts == len(TEXTS)


def test_what_a_window_shows_is_cut_out_of_the_text(tiny, memory):
    text = "The GOOD film, about a Fox: was long\nand then it was over!"
    fitted = vectorizer(
        tiny, prompt="query: ", chunk_pooling="learned_attention", memory=memory
    ).fit(TEXTS, Y)
    ((chunks, weights), (whole, one)) = fitted.chunk_weights([text, "a Cat "])
    assert text.startswith(chunks[0])
    assert text.endswith(chunks[-1])
    assert all(chunk in text for chunk in chunks)
    assert weights.sum() == pytest.approx(1)
    assert (whole, one.tolist()) == (("a Cat ",), [1.0])


def test_a_slow_tokenizer_writes_what_its_windows_hold(tmp_path):
    model = str(build_checkpoint("bertweet", tmp_path))
    fitted = vectorizer(model, chunk_pooling="learned_attention").fit(TEXTS, Y)
    ((chunks, weights),) = fitted.chunk_weights(LONG[:1])
    assert len(chunks) == len(weights) == fitted.n_chunks(LONG[:1])[0]
    assert "film" in " ".join(chunks)


# In the store


def test_windows_asked_for_in_another_way_keep_only_what_is_new(tiny, tmp_path):
    def size():
        return sum(
            file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()
        )

    sizes = []
    for pooling in ("mean", "mean_sqrt_len", "attention"):
        vectorizer(
            tiny, pooling=pooling, chunk_pooling="mean", memory=tmp_path
        ).fit_transform(LONG)
        sizes.append(size())
    first, *others = np.diff([0, *sizes])
    assert max(others) < first / 2


def test_no_texts_have_no_weights_and_names_are_those_of_fit(tiny, memory):
    learned = vectorizer(tiny, chunk_pooling="learned_attention", memory=memory)
    learned.fit(TEXTS, Y)
    assert learned.chunk_weights([]) == []
    names = learned.get_feature_names_out()
    learned.set_params(chunk_pooling="max")
    np.testing.assert_array_equal(learned.get_feature_names_out(), names)


def test_a_grid_over_everything_about_windows_costs_one_pass(tiny, tmp_path, work):
    grid = {
        "chunk_pooling": [*NAMES, "auto"],
        "pooling": ["cls", ["mean", "max"]],
        "layer": [1, "mix"],
    }
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    search = GridSearchCV(
        probe(tiny, memory=tmp_path), grid, cv=folds, error_score="raise", refit=False
    )
    search.fit(TEXTS, Y)
    assert work().n_texts == len(TEXTS)


def test_windows_are_read_back_bit_for_bit(tiny, tmp_path, work):
    for store_layers in ("requested", "all"):
        params = {"memory": tmp_path / store_layers, "store_layers": store_layers}
        fitted = vectorizer(tiny, layer=1, **params).fit([])
        cold, warm = (fitted.transform_chunks(TEXTS).values for _ in range(2))
        np.testing.assert_array_equal(cold, warm)
    assert work().n_texts == 2 * len(TEXTS)
    held = {path.name for path in (tmp_path / "requested").rglob("*mean*.npy")}
    assert held == {"mean.npy", "chunks_mean.npy"}
    assert not list((tmp_path / "requested").rglob("*cls*.npy"))


def test_short_texts_are_not_kept_twice(tiny, tmp_path, work):
    vectorizer(tiny, overflow="truncate", memory=tmp_path).fit_transform(SHORT)
    fitted = vectorizer(tiny, chunk_pooling="max", memory=tmp_path).fit([])
    fitted.transform(SHORT)
    assert work().n_texts == len(SHORT)
    assert not list(tmp_path.rglob("chunks_*.npy"))


def test_only_texts_that_a_limit_cuts_are_encoded_again(tiny, tmp_path, work):
    params = {"chunk_pooling": "max", "memory": tmp_path}
    vectorizer(tiny, **params).fit_transform(TEXTS)
    for change in ({"stride": 4}, {"max_length": 14}):
        before = work().n_texts
        vectorizer(tiny, **{**params, **change}).fit_transform(TEXTS)
        assert work().n_texts - before == len(LONG)


def test_layers_and_precisions_asked_for_later_are_added(tiny, tmp_path, work):
    params = {"chunk_pooling": "first", "memory": tmp_path, "store_layers": "requested"}
    for layer in (1, 2):
        vectorizer(tiny, layer=layer, **params).fit_transform(TEXTS)
    assert work().n_texts == 2 * len(TEXTS)
    both = vectorizer(tiny, layer=[1, 2], **params).fit_transform(TEXTS)
    assert both.shape == (len(TEXTS), 64)


def test_many_portions_change_nothing(tiny, tmp_path, monkeypatch, work):
    expected = vectorizer(tiny, layer="all").fit([]).transform_chunks(TEXTS).values
    monkeypatch.setattr(features_module, "_WINDOW_BYTES", 2_000)
    monkeypatch.setattr(features_module, "_READ_BYTES", 1_000)
    fitted = vectorizer(tiny, layer="all", memory=tmp_path).fit([])
    for _ in range(2):
        values = fitted.transform_chunks(TEXTS).values
        np.testing.assert_allclose(values, expected, atol=1e-5)
    assert work().n_passes > 5


def test_windows_and_whole_texts_have_columns_of_their_own(tiny):
    fitted = vectorizer(tiny, chunk_pooling="max", pooling="mean").fit([])
    asked = fitted._unchanged_request()
    assert asked.wanted == {"chunks_mean": (2,)}
    assert request.of_whole_texts(asked.wanted) == {"mean": (2,)}
    columns = asked.columns("all")
    assert set(columns) == {
        "cls", "mean", "max", "chunks_cls", "chunks_mean", "chunks_max",
    }  # fmt: skip
    assert set(columns.values()) == {(0, 1, 2)}


WARM = """
import sys
from sklearn_bert import BertProbeClassifier
model, memory = sys.argv[1:]
texts, y = ["good film " * 9, "bad film " * 9, "good end", "bad end"], [1, 0, 1, 0]
probe = BertProbeClassifier(
    model, memory=memory, overflow="chunk", max_length=12,
    chunk_pooling="learned_attention", C=10.0,
)
print(probe.fit(texts, y).predict(texts).tolist())
assert not {"torch", "transformers"} & set(sys.modules)
"""


def test_with_every_window_in_the_store_torch_is_not_imported(tiny, tmp_path):
    texts, y = ["good film " * 9, "bad film " * 9, "good end", "bad end"], [1, 0, 1, 0]
    probe(
        tiny, memory=tmp_path, chunk_pooling="learned_attention", stride=None, C=10.0
    ).fit(texts, y)
    command = [sys.executable, "-c", WARM, tiny, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.returncode) == (str(y), 0), run.stderr


# What is refused


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"chunk_pooling": "median"},
            r"chunk_pooling must be one of 'auto', .*, got 'median'",
        ),
        (
            {"chunk_pooling": "max", "overflow": "truncate"},
            r"chunk_pooling='max' joins .* overflow='truncate' makes none; pass",
        ),
        (
            {"chunk_pooling": "mean", "pooling": "learned_attention"},
            r"weights the tokens of all windows .* chunk_pooling='mean' joins",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(tiny, work, params, message):
    with pytest.raises(ValueError, match=message):
        vectorizer(tiny, **params).fit(TEXTS, Y)
    assert work().n_passes == 0


def test_windows_that_are_none_have_no_features_and_no_weights(tiny):
    with pytest.raises(ValueError, match=r"transform_chunks needs overflow='chunk'"):
        BertVectorizer(tiny).fit(TEXTS).transform_chunks(TEXTS)
    fitted = vectorizer(tiny, pooling="learned_attention").fit(TEXTS, Y)
    with pytest.raises(ValueError, match=r"so that windows have no vectors"):
        fitted.transform_chunks(TEXTS)
    with pytest.raises(ValueError, match=r"chunk_weights needs chunk_pooling='learn"):
        vectorizer(tiny).fit(TEXTS).chunk_weights(TEXTS)


def test_weights_are_learned_from_labels_only(tiny):
    unfitted = vectorizer(tiny, chunk_pooling="learned_attention")
    assert unfitted.__sklearn_tags__().target_tags.required
    with pytest.raises(ValueError, match=r"'learned_attention' learns which windows"):
        unfitted.fit(TEXTS)
    fitted = vectorizer(tiny, chunk_pooling="max").fit(TEXTS)
    fitted.set_params(chunk_pooling="mean")
    with pytest.raises(ValueError, match=r"chunk_pooling was 'max' in fit and is 'mea"):
        fitted.transform(TEXTS)
