"""`BertVectorizer`: parameters, promises and the cost of a grid."""

import subprocess
import sys
import warnings

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline

from sklearn_bert import BertVectorizer, features
from sklearn_bert.datasets import make_tiny_encoder
from sklearn_bert.exceptions import CutWarning
from sklearn_bert.request import Request
from sklearn_bert.store import FeatureStore, StoreWarning, store_location

TEXTS = [
    "the quick brown fox",
    "",
    "jumps",
    "over the lazy dog, again and again and again",
    "0 1 2 3 4 5 6 7 8 9",
    "the quick brown fox",
    "an even longer text with many small words in it, to be sure",
]


def cut_warning():
    return pytest.warns(UserWarning, match=r"longer than max_length")


# Parameters


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"model": 3}, TypeError, r"model must be the name of a model .* got 3"),
        ({"model": ""}, TypeError, r"model must be the name of a model .* got ''"),
        ({"model": "./nowhere"}, ValueError, r"'\./nowhere' is not a directory"),
        ({"model": "no-such-model"}, ValueError, r"neither a directory nor a model"),
        ({"model": "all-MiniLM-L6-v2"}, ValueError, r"Did you mean 'sentence-tr"),
        ({"memory": __file__}, ValueError, r"memory=.* is a file; pass a directory"),
        ({"layer": 3}, ValueError, r"layer=3 is out of range: this encoder has layers "
         r"0 to 2 \(0 is the embedding output\)"),
        ({"layer": 1.5}, TypeError, r"layer must be an integer, a sequence"),
        ({"layer": "top"}, ValueError, r"layer must be an integer, .* got 'top'"),
        ({"layer": []}, ValueError, r"layer must name at least one layer"),
        ({"layer": [1, -2]}, ValueError, r"names a layer twice"),
        ({"layer_combination": "max"}, ValueError, r"layer_combination must be one of"),
        ({"layer_combination": [1.0, 2.0]}, ValueError, r"2 weights for 1 layers"),
        ({"layer_combination": 2}, TypeError, r"layer_combination must be one of"),
        ({"layer_combination": "scalar_mix"}, ValueError, r"requires y to be passed"),
        ({"pooling": "avg"}, ValueError, r"pooling must be one of 'auto', 'cls'"),
        ({"pooling": []}, TypeError, r"pooling must be one of .* non-empty sequence"),
        ({"pooling": ["mean", "auto"]}, ValueError, r"pooling\[1\] must be one of"),
        ({"pooling": ["mean", "mean"]}, ValueError, r"name a pooling twice"),
        ({"pooling": None}, TypeError, r"pooling must be one of"),
        ({"pooling": "attention", "layer": 0}, ValueError, r"'attention' needs layer"),
        ({"pooling": "pooler", "layer": 1}, ValueError, r"head on the last layer only"),
        ({"special_tokens": "no"}, TypeError, r"special_tokens must be True or False"),
        ({"normalize": "l2"}, ValueError, r"normalize must be one of 'auto', True"),
        ({"normalize": 1}, TypeError, r"normalize must be True or False, got 1"),
        ({"max_length": 0}, ValueError, r"max_length must be at least 1 \(tokens\)"),
        ({"max_length": 65}, ValueError, r"max_length=65 is more than .* takes: 64"),
        ({"max_length": "64"}, TypeError, r"max_length must be an integer \(tokens\)"),
        ({"max_length": True}, TypeError, r"max_length must be an integer"),
        ({"overflow": "split"}, ValueError, r"overflow must be one of 'truncate', 'ch"),
        ({"stride": -1}, ValueError, r"stride must be at least 0 \(tokens\)"),
        ({"stride": 8, "max_length": 8}, ValueError, r"stride=8 must be smaller than"),
        ({"stride": 0.5}, TypeError, r"stride must be an integer"),
        ({"prompt": 3}, TypeError, r"prompt must be a str or None, got 3"),
        ({"missing": "drop"}, ValueError, r"missing must be one of 'raise', 'empty'"),
        ({"memory": 3}, TypeError, r"memory must be None, a path or a joblib\.Memory"),
        ({"store_layers": "some"}, ValueError, r"store_layers must be one of 'all'"),
        ({"batch_size": 0}, ValueError, r"batch_size must be at least 1, got 0"),
        ({"batch_size": "big"}, ValueError, r"batch_size must be one of 'auto'"),
        ({"batch_size": 2.0}, TypeError, r"batch_size must be an integer"),
        ({"device": "gpu"}, ValueError, r"device must be 'auto', 'cpu', 'cuda'"),
        ({"device": 0}, ValueError, r"device must be 'auto', 'cpu'"),
        ({"dtype": "float64"}, ValueError, r"dtype must be one of 'auto', 'float32'"),
        ({"n_jobs": 0}, ValueError, r"n_jobs must not be 0"),
        ({"n_jobs": "2"}, TypeError, r"n_jobs must be an integer"),
        ({"revision": 1}, TypeError, r"revision must be a str or None, got 1"),
        ({"local_files_only": "yes"}, TypeError, r"local_files_only must be True or"),
        ({"trust_remote_code": 1}, TypeError, r"trust_remote_code must be True or"),
        ({"verbose": "very"}, TypeError, r"verbose must be True or False"),
        ({"verbose": -1}, ValueError, r"verbose must be at least 0, got -1"),
    ],
)  # fmt: skip
def test_a_bad_parameter_is_refused_in_fit_with_its_name_and_value(
    tiny, params, error, message, work
):
    vectorizer = BertVectorizer(**{"model": tiny, **params})
    with pytest.raises(error, match=message):
        vectorizer.fit(TEXTS)
    assert work().n_passes == 0


def test_a_max_length_without_room_for_text_is_refused(tiny):
    vectorizer = BertVectorizer(tiny, max_length=2)
    with pytest.raises(
        ValueError, match=r"max_length=2 leaves no room.*pass at least 3"
    ):
        vectorizer.fit_transform(TEXTS)


def test_a_cuda_device_that_is_not_here_is_named(tiny):
    with pytest.raises(ValueError, match=r"device='cuda:97' is not here"):
        BertVectorizer(tiny, device="cuda:97").fit_transform(TEXTS)


def test_numpy_scalars_are_parameter_values_like_any_other(tiny):
    given = BertVectorizer(
        np.str_(tiny), layer=np.int64(1), pooling=np.str_("max"),
        normalize=np.bool_(True), max_length=np.int32(9), batch_size=np.int16(2),
    )  # fmt: skip
    plain = BertVectorizer(
        tiny, layer=1, pooling="max", normalize=True, max_length=9, batch_size=2
    )
    with cut_warning():
        expected = plain.fit_transform(TEXTS)
    features._told.clear()
    with cut_warning():
        np.testing.assert_array_equal(given.fit_transform(TEXTS), expected)


def test_transform_before_fit_is_not_fitted(tiny):
    with pytest.raises(NotFittedError, match=r"not fitted yet"):
        BertVectorizer(tiny).transform(TEXTS)


def test_fit_resolves_the_choices_without_a_forward_pass(tiny, work):
    vectorizer = BertVectorizer(tiny).fit(TEXTS)
    assert vectorizer.layers_ == (2,)
    assert vectorizer.pooling_ == ("mean",)
    assert vectorizer.normalize_ is False
    assert vectorizer.max_length_ == 64
    assert (vectorizer.n_layers_, vectorizer.width_) == (2, 32)
    assert work().n_passes == 0


@pytest.mark.parametrize(
    ("name", "value"), [("layer", 0), ("pooling", "max"), ("max_length", 5)]
)
def test_transform_refuses_parameters_that_fit_has_not_seen(tiny, name, value):
    vectorizer = BertVectorizer(tiny).fit(TEXTS).set_params(**{name: value})
    with pytest.raises(ValueError, match=rf"{name} was .* in fit and is {value!r} now"):
        vectorizer.transform(TEXTS)


def test_parameters_that_do_not_change_the_numbers_may_change_after_fit(tiny, tmp_path):
    vectorizer = BertVectorizer(tiny).fit(TEXTS)
    expected = vectorizer.transform(TEXTS)
    vectorizer.set_params(batch_size=1, memory=tmp_path, device="cpu")
    np.testing.assert_allclose(vectorizer.transform(TEXTS), expected, atol=1e-5)


def test_transform_refuses_an_encoder_whose_files_changed(tmp_path):
    path = make_tiny_encoder(tmp_path / "encoder", seed=0)
    vectorizer = BertVectorizer(path).fit(TEXTS)
    make_tiny_encoder(tmp_path / "encoder", seed=1)
    with pytest.raises(ValueError, match=r"files of model=.* changed since fit"):
        vectorizer.transform(TEXTS)


def test_no_texts_give_no_rows_but_all_columns(tiny):
    assert BertVectorizer(tiny).fit(TEXTS).transform([]).shape == (0, 32)


# Invariance


@pytest.fixture(scope="module")
def reference(tiny):
    return BertVectorizer(tiny, layer="all", pooling=["cls", "mean", "max"]).fit(TEXTS)


@pytest.mark.filterwarnings("ignore:.*third time")
@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(len(TEXTS))), batch_size=st.integers(1, 8))
def test_order_and_batch_size_do_not_change_the_result(reference, order, batch_size):
    expected = reference.transform(TEXTS)
    other = BertVectorizer(**{**reference.get_params(), "batch_size": batch_size})
    result = other.fit_transform([TEXTS[i] for i in order])
    np.testing.assert_allclose(result, expected[order], atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*third time")
def test_one_at_a_time_equals_all_at_once(reference):
    alone = np.vstack([reference.transform([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, reference.transform(TEXTS), atol=1e-5)


def test_duplicates_are_encoded_once(reference, work):
    result = reference.transform(TEXTS * 3)
    assert work().n_texts == len(set(TEXTS))
    np.testing.assert_array_equal(result[: len(TEXTS)], result[len(TEXTS) : 14])


def test_what_comes_from_the_store_is_bitwise_what_went_in(tiny, tmp_path):
    vectorizer = BertVectorizer(tiny, layer="all", memory=tmp_path)
    cold = vectorizer.fit_transform(TEXTS)
    np.testing.assert_array_equal(vectorizer.transform(TEXTS[::-1])[::-1], cold)


@pytest.mark.parametrize("n_jobs", [2, -1])
def test_encoding_in_worker_processes_gives_the_same(tiny, n_jobs, monkeypatch):
    monkeypatch.setattr("sklearn_bert.features._WINDOW_TEXTS", 2)
    monkeypatch.setattr("sklearn_bert.features._WINDOW_BYTES", 1)
    texts = [f"{text} {i}" for i in range(20) for text in TEXTS]
    expected = BertVectorizer(tiny).fit_transform(texts)
    result = BertVectorizer(tiny, n_jobs=n_jobs).fit_transform(texts)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*third time")
def test_threads_share_one_encoder(tiny):
    vectorizer = BertVectorizer(tiny, pooling=["attention", "mean"]).fit(TEXTS)
    expected = vectorizer.transform(TEXTS)
    results = joblib.Parallel(n_jobs=4, backend="threading")(
        joblib.delayed(vectorizer.transform)(TEXTS) for _ in range(4)
    )
    assert len(results) == 4
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-5)


# Layers and poolings


@pytest.mark.filterwarnings("ignore:.*third time")
def test_features_of_several_layers_are_those_of_each_layer(tiny):
    parts = [
        BertVectorizer(tiny, layer=k, pooling=p).fit_transform(TEXTS)
        for p in ("max", "cls")
        for k in (2, 0)
    ]
    both = BertVectorizer(tiny, layer=[2, 0], pooling=["max", "cls"])
    np.testing.assert_allclose(both.fit_transform(TEXTS), np.hstack(parts), atol=1e-5)
    assert list(both.get_feature_names_out()[[0, 32, 64, 96]]) == [
        "layer2_max_0", "layer0_max_0", "layer2_cls_0", "layer0_cls_0"
    ]  # fmt: skip


def test_a_single_layer_stops_the_pass_there(tiny):
    from sklearn_bert.checkpoint import find_checkpoint
    from sklearn_bert.encoder import get_encoder

    encoder = get_encoder(find_checkpoint(tiny), "cpu", "float32")
    ran = []
    hook = encoder.network._blocks[-1].register_forward_hook(lambda *_: ran.append(1))
    BertVectorizer(tiny, layer=1).fit_transform(TEXTS)
    assert not ran
    BertVectorizer(tiny, layer=2).fit_transform(TEXTS)
    hook.remove()
    assert ran


def test_normalize_scales_each_vector_to_length_one(tiny):
    vectorizer = BertVectorizer(tiny, layer="all", normalize=True)
    norms = np.linalg.norm(vectorizer.fit_transform(TEXTS), axis=1)
    np.testing.assert_allclose(norms, 1.0, rtol=1e-5)


def test_scalar_mix_learns_weights_on_stored_features(tiny, tmp_path, work):
    y = [0, 1, 0, 1, 1, 0, 1]
    vectorizer = BertVectorizer(
        tiny, layer="all", layer_combination="scalar_mix", memory=tmp_path
    )
    result = vectorizer.fit_transform(TEXTS, y)
    assert work().n_texts == len(set(TEXTS))
    assert vectorizer.layer_weights_.shape == (3,)
    assert vectorizer.layer_weights_.sum() == pytest.approx(1)
    assert vectorizer.gamma_ > 0
    assert result.shape == (7, 32)
    assert vectorizer.get_feature_names_out()[0] == "layers0to2_scalar_mix_mean_0"


def test_weights_of_fixed_combinations_are_applied(tiny):
    layers = BertVectorizer(tiny, layer=[1, 2]).fit_transform(TEXTS)
    mixed = BertVectorizer(tiny, layer=[1, 2], layer_combination=[0.25, -2.0])
    expected = 0.25 * layers[:, :32] - 2.0 * layers[:, 32:]
    np.testing.assert_allclose(mixed.fit_transform(TEXTS), expected, atol=1e-5)


# Length


def test_cut_texts_are_counted_in_one_warning(tiny):
    message = r"5 of 7 texts are longer than max_length=8 .* \d+\.\d % of all tokens"
    with pytest.warns(UserWarning, match=message) as caught:
        BertVectorizer(tiny, max_length=8).fit_transform(TEXTS)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("ignore:.* encoded for the third time")
def test_cut_texts_are_told_of_once_and_others_again(tiny):
    vectorizer = BertVectorizer(tiny, max_length=8).fit(TEXTS)
    long = [text for text in dict.fromkeys(TEXTS) if len(text.split()) > 8]
    with cut_warning():
        vectorizer.transform(TEXTS)
    clone(vectorizer).fit_transform(long)  # a fold
    with pytest.warns(CutWarning, match=r"^1 of 1 texts .* and were cut") as caught:
        vectorizer.transform(["a text of more words than there were before"])
    assert (caught[0].message.n_cut, caught[0].message.n_lost) > (0, 0)
    with pytest.warns(CutWarning):  # of which other tokens are lost
        BertVectorizer(tiny, max_length=7, layer=1).fit_transform(long)


def test_the_warning_is_given_from_the_store_too(tiny, tmp_path, work):
    vectorizer = BertVectorizer(tiny, max_length=8, memory=tmp_path)
    with cut_warning():
        vectorizer.fit_transform(TEXTS)
    before = work().n_passes
    features._told.clear()  # another process has told nobody
    with cut_warning():
        vectorizer.transform(TEXTS)
    assert work().n_passes == before


def test_overflow_raise_names_the_first_row_before_any_pass(tiny, work, tmp_path):
    vectorizer = BertVectorizer(tiny, max_length=8, overflow="raise").fit(TEXTS)
    with pytest.raises(ValueError, match=r"4 distinct .*max_length=8 .*first in row 1"):
        vectorizer.transform(["", *TEXTS])
    assert work().n_passes == 0
    assert vectorizer.transform(["", "jumps"]).shape == (2, 32)


def test_overflow_raise_reads_lengths_from_the_store(tiny, tmp_path, work):
    with cut_warning():
        BertVectorizer(tiny, max_length=8, memory=tmp_path).fit_transform(TEXTS)
    done = work().n_passes
    vectorizer = BertVectorizer(tiny, max_length=8, overflow="raise", memory=tmp_path)
    with pytest.raises(ValueError, match=r"overflow='raise'"):
        vectorizer.fit_transform(TEXTS)
    assert work().n_passes == done


def windows(tiny, text, max_length, stride):
    """Return the token windows of a text, by hand."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    room, found = max_length - 2, []
    for start in range(0, len(ids), room - stride):
        found.append(ids[start : start + room])
        if start + room >= len(ids):
            break
    return found, tokenizer


@pytest.mark.parametrize("special_tokens", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "mean_sqrt_len"])
def test_chunk_combines_windows_by_hand(tiny, pooling, special_tokens):
    import torch
    from transformers import AutoModel

    found, tokenizer = windows(tiny, TEXTS[-1], 10, 3)
    assert len(found) > 2
    model = AutoModel.from_pretrained(tiny).eval()
    states, counts = [], []
    for ids in found:
        full = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
        with torch.no_grad():
            state = model(torch.tensor([full])).last_hidden_state[0].numpy()
        states.append(state if special_tokens or pooling == "cls" else state[1:-1])
        counts.append(len(states[-1]))
    tokens = np.vstack(states)
    expected = {
        "mean": tokens.mean(axis=0),
        "max": tokens.max(axis=0),
        "cls": np.mean([state[0] for state in states], axis=0),
        "mean_sqrt_len": tokens.sum(axis=0) / np.sqrt(len(tokens)),
    }[pooling]
    vectorizer = BertVectorizer(
        tiny, pooling=pooling, overflow="chunk", max_length=10, stride=3,
        special_tokens=special_tokens,
    )  # fmt: skip
    np.testing.assert_allclose(
        vectorizer.fit_transform([TEXTS[-1]])[0], expected, atol=1e-5
    )


def test_chunk_equals_the_plain_answer_for_texts_of_one_window(tiny, tmp_path, work):
    plain = BertVectorizer(tiny, memory=tmp_path).fit_transform(TEXTS)
    done = work().n_passes
    chunked = BertVectorizer(tiny, memory=tmp_path, overflow="chunk")
    np.testing.assert_array_equal(chunked.fit_transform(TEXTS), plain)
    assert work().n_passes == done


def test_a_stride_without_progress_is_refused(tiny):
    vectorizer = BertVectorizer(tiny, overflow="chunk", max_length=8, stride=6)
    with pytest.raises(
        ValueError, match=r"stride=6 must be smaller than max_length less"
    ):
        vectorizer.fit_transform(TEXTS)


def test_a_prompt_equals_the_text_with_the_prompt(tiny):
    given = BertVectorizer(tiny, prompt="query: ").fit_transform(TEXTS)
    typed = BertVectorizer(tiny).fit_transform(["query: " + text for text in TEXTS])
    np.testing.assert_allclose(given, typed, atol=1e-5)


# Any text


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=30), max_size=5))
@pytest.mark.filterwarnings("ignore:.*third time")
def test_any_unicode_gives_finite_features(reference, texts):
    result = reference.transform(texts)
    assert result.shape == (len(texts), 288)
    assert np.isfinite(result).all()


@pytest.mark.parametrize(
    "text", ["\ud800", "a\x00b", "🙂" * 5, "\u200b", "مرحبا", "x" * 10**6]
)
def test_odd_texts_work_and_are_stored(tiny, tmp_path, text):
    vectorizer = BertVectorizer(tiny, memory=tmp_path, overflow="chunk")
    cold = vectorizer.fit_transform([text, "plain"])
    assert np.isfinite(cold).all()
    np.testing.assert_array_equal(vectorizer.transform([text, "plain"]), cold)


# What a grid costs


def labelled(n=60):
    rng = np.random.default_rng(0)
    words = ["red", "green", "blue", "one", "two", "three", "a", "b"]
    texts = [
        " ".join(rng.choice(words, size=rng.integers(1, 9))) + f" {i}" for i in range(n)
    ]
    return np.array(texts, dtype=object), np.arange(n) % 2


@pytest.fixture(scope="module")
def six_layers(tmp_path_factory):
    return make_tiny_encoder(tmp_path_factory.mktemp("six"), n_layers=6, width=8)


def grid(tiny, memory, n_jobs=1):
    return GridSearchCV(
        Pipeline(
            [
                ("bert", BertVectorizer(tiny, memory=memory)),
                ("clf", LogisticRegression(C=1e-3)),
            ]
        ),
        {
            "bert__layer": [[k, 6] if k < 6 else "all" for k in range(7)],
            "bert__pooling": ["cls", "mean", "max"],
            "bert__layer_combination": ["concat", "mean", "sum"],
        },
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
        n_jobs=n_jobs,
        error_score="raise",
    )


def stored(memory):
    """Return the rows and distinct keys that the store holds."""
    (space,) = (p for p in memory.glob("joblib/sklearn_bert-features/*") if p.is_dir())
    return FeatureStore(store_location(memory), space.name).info()


def test_a_grid_encodes_each_text_once(six_layers, tmp_path, work):
    X, y = labelled()
    search = grid(six_layers, tmp_path).fit(X, y)
    assert len(search.cv_results_["params"]) == 7 * 3 * 3
    assert work().n_texts == len(X)


@pytest.mark.slow
def test_a_cold_grid_in_two_processes_encodes_each_text_once(
    six_layers, tmp_path, work
):
    X, y = labelled()
    cold = grid(six_layers, tmp_path, n_jobs=2).fit(X, y)
    rows = stored(tmp_path)
    assert rows["n_rows"] == rows["n_keys"] == len(X)
    again = grid(six_layers, tmp_path).fit(X, y)
    assert work().n_texts == 0
    np.testing.assert_allclose(
        again.cv_results_["mean_test_score"], cold.cv_results_["mean_test_score"]
    )


def test_a_grid_over_max_length_encodes_again_only_what_is_cut(tiny, tmp_path, work):
    lengths = {}
    for max_length in (64, 20, 12, 40):
        vectorizer = BertVectorizer(tiny, max_length=max_length, memory=tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            before = work().n_texts
            vectorizer.fit_transform(TEXTS)
        lengths[max_length] = work().n_texts - before
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    n_tokens = [len(tokenizer(text)["input_ids"]) for text in set(TEXTS)]
    assert lengths[64] == len(n_tokens)
    for max_length in (20, 12, 40):
        cut = sum(n > max_length for n in n_tokens)
        assert lengths[max_length] == cut


def test_any_order_of_questions_costs_one_pass_per_text(tiny, tmp_path, work):
    for layer, pooling in [(2, "max"), (0, "cls"), ("all", "mean"), ([0, 2], "max")]:
        BertVectorizer(
            tiny, layer=layer, pooling=pooling, memory=tmp_path
        ).fit_transform(TEXTS)
    assert work().n_texts == len(set(TEXTS))


def test_a_dear_pooling_asked_later_stores_only_itself(tiny, tmp_path, work):
    BertVectorizer(tiny, memory=tmp_path).fit_transform(TEXTS)
    later = BertVectorizer(tiny, layer=1, pooling="attention", memory=tmp_path)
    later.fit_transform(TEXTS)
    assert work().n_texts == 2 * len(set(TEXTS))
    kept = sorted(path.name for path in tmp_path.rglob("[cma]*.npy"))
    assert [name for name in kept if name != "checksums.npy"] == [
        "attention.npy", "cls.npy", "max.npy", "mean.npy"
    ]  # fmt: skip
    later.set_params(layer=2).fit_transform(TEXTS)
    assert work().n_texts == 2 * len(set(TEXTS))


def test_requested_layers_store_only_what_was_asked(tiny, tmp_path, work):
    small = BertVectorizer(tiny, layer=1, store_layers="requested", memory=tmp_path)
    small.fit_transform(TEXTS)
    assert stored(tmp_path)["n_keys"] == len(set(TEXTS))
    files = {path.name for path in tmp_path.rglob("*.npy")}
    assert files == {"keys.npy", "n_tokens.npy", "checksums.npy", "mean.npy"}
    small.set_params(layer=2).fit_transform(TEXTS)
    assert work().n_texts == 2 * len(set(TEXTS))


def test_a_second_process_needs_no_torch_and_gives_the_same_bits(tiny, tmp_path):
    params = {"model": tiny, "layer": "all", "pooling": ["cls", "mean"]}
    expected = BertVectorizer(**params, memory=tmp_path / "m").fit_transform(TEXTS)
    joblib.dump((params, TEXTS), tmp_path / "args.joblib")
    code = f"""
import sys
class Unimportable:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(name + " is made unimportable")
sys.meta_path.insert(0, Unimportable())
import joblib, numpy as np
from sklearn_bert import BertVectorizer
params, texts = joblib.load({str(tmp_path / "args.joblib")!r})
v = BertVectorizer(**params, memory={str(tmp_path / "m")!r})
np.save({str(tmp_path / "out.npy")!r}, v.fit_transform(texts))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_the_key_holds_what_changes_the_numbers_and_nothing_else(tiny):
    vectorizer = BertVectorizer(tiny).fit(TEXTS)
    request = vectorizer._request(vectorizer._checkpoint())
    other_layer = Request(**{**vars(request), "layers": (0,), "poolings": ("max",)})
    assert request.space == other_layer.space
    other_dtype = Request(**{**vars(request), "dtype": "bfloat16"})
    assert request.space != other_dtype.space


def test_an_unwritable_store_is_one_warning_and_right_features(tiny, tmp_path):
    (tmp_path / "joblib").mkdir()
    (tmp_path / "joblib" / "sklearn_bert-features").write_text("in the way")
    expected = BertVectorizer(tiny).fit_transform(TEXTS)
    with pytest.warns(StoreWarning, match=r"Features are not kept") as caught:
        result = BertVectorizer(tiny, memory=tmp_path).fit_transform(TEXTS)
    assert len(caught) == 1
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_the_third_encoding_without_memory_is_noticed_once(tiny):
    vectorizer = BertVectorizer(tiny).fit(TEXTS)
    vectorizer.transform(TEXTS)
    vectorizer.transform(TEXTS)
    with pytest.warns(UserWarning, match=r"6 texts were encoded for the third time"):
        vectorizer.transform(TEXTS)
    vectorizer.transform(TEXTS)


def test_verbose_shows_a_bar_and_quiet_shows_nothing(tiny, capfd):
    BertVectorizer(tiny, verbose=True).fit_transform(TEXTS)
    assert "6/6" in capfd.readouterr().err
    BertVectorizer(tiny).fit_transform(TEXTS)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a"] * 5, r"^y has 5 rows for 6 texts in X\."),
        (["a"] * 6, r"learned_attention' needs at least two classes in y, got one"),
        ([None] * 6, r"y contains NaN or another missing label"),
    ],
)
def test_labels_to_learn_from_are_checked_before_any_pass(tiny, work, y, message):
    vectorizer = BertVectorizer(tiny, pooling="learned_attention")
    with pytest.raises(ValueError, match=message):
        vectorizer.fit(["a text"] * 6, y)
    assert work().n_texts == 0
    with pytest.raises(NotFittedError):
        vectorizer.transform(["a text"])
