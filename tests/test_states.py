"""Token states and states of words: the encoder's rows, with and without a store."""

import itertools
import json

import numpy as np
import pytest
import torch
import transformers
from checkpoints import build_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from sklearn_bert import features as features_module
from sklearn_bert.checkpoint import find_checkpoint
from sklearn_bert.encoder import Plan, get_encoder
from sklearn_bert.features import Engine, iter_features
from sklearn_bert.ragged import Ragged, gather
from sklearn_bert.request import Request, keys_of
from sklearn_bert.store import store_location

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "",
    "a",
    "Two words",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "Two words",
]
WORDS = [
    ("The", "quick", "brown", "fox", "jumps", "."),
    (),
    ("wonderfully",),
    ("Two", "\u200b", "words", "", "wörds", "\U0001f600", "e\u0301", "中文"),
    ("x" * 30, "y", "\x00", "\ufeff", "dog"),
]
# WordPiece, byte-level BPE and SentencePiece; in packed and padded batches.
TOKENIZERS = ["bert", "roberta", "xlm_roberta", "albert", "deberta_v2", "modernbert"]


def request(model, name="tokens", layers=(0, 2), **changes):
    facts = {
        "checkpoint": find_checkpoint(str(model)),
        "poolings": (name,),
        "layers": layers,
        "special_tokens": True,
        "max_length": 64,
        "overflow": "truncate",
        "stride": 0,
        "prompt": "",
        "include_prompt": True,
        "dtype": "float32",
    }
    return Request(**{**facts, **changes})


def rows_of(texts, request, engine):
    """Return the rows of all texts, values (n_rows, n_layers, width)."""
    rows = gather(iter_features(texts, request, engine), len(texts))
    return Ragged(rows.values[:, 0], rows.starts, rows.counts)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    built = {}

    def get(name):
        if name not in built:
            place = tmp_path_factory.mktemp("states") / name
            built[name] = str(build_checkpoint(name, place))
        return built[name]

    return get


def naive(model, inputs, layers, **options):
    """Return the states of one text's tokens, (n_tokens, n_layers, width)."""
    network = transformers.AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    with torch.inference_mode():
        states = network(**inputs, output_hidden_states=True, **options).hidden_states
    return torch.stack([states[k][0] for k in layers], dim=1).numpy()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_token_states_are_those_of_plain_transformers(checkpoint, name):
    model = checkpoint(name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rows = rows_of(TEXTS, request(model), Engine())
    for text, states in zip(TEXTS, rows, strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        if inputs["input_ids"].shape[1]:
            expected = naive(model, inputs, (0, 2))
            np.testing.assert_allclose(states, expected, rtol=1e-5, atol=1e-5)


def test_without_special_tokens_their_rows_are_left_out(tiny):
    whole = rows_of(TEXTS, request(tiny), Engine())
    content = rows_of(TEXTS, request(tiny, special_tokens=False), Engine())
    for a, b in zip(whole, content, strict=True):
        np.testing.assert_allclose(a[1:-1], b, rtol=0, atol=1e-6)
    assert content.counts[1] == 0


@pytest.mark.filterwarnings("ignore:.*were cut")
def test_truncated_texts_keep_what_fits(tiny):
    rows = rows_of(TEXTS[:1], request(tiny, max_length=6), Engine())
    short = rows_of(TEXTS[:1], request(tiny), Engine())
    assert rows.counts.tolist() == [6]
    np.testing.assert_allclose(rows.rows[:, 0][:5], short.rows[:, 0][:5], atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*were cut")
def test_pooling_the_states_gives_the_pooled_features(tiny):
    texts = [*TEXTS, "word " * 40]
    facts = {"layers": (1, 2), "max_length": 20}
    rows = rows_of(texts, request(tiny, **facts), Engine())
    pooled = np.empty((len(texts), 3, 2, 32))
    asked = request(tiny, **facts, poolings=("mean", "max", "cls"))
    for which, block in iter_features(texts, asked, Engine()):
        pooled[which] = block
    for states, (mean, largest, first) in zip(rows, pooled, strict=True):
        np.testing.assert_allclose(states.mean(axis=0), mean, atol=1e-5)
        np.testing.assert_allclose(states.max(axis=0), largest, atol=1e-5)
        np.testing.assert_allclose(states[0], first, atol=1e-5)


# Words


def naive_words(model, words, layers, subwords):
    """Return the rows of one text's words, by transformers' own word numbers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    if not words:
        return np.zeros((0, len(layers), 0))
    if "ByteLevel" in tokenizer.backend_tokenizer.to_str():
        # What add_prefix_space=True does, which transformers ignores for ModernBERT.
        tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    inputs = tokenizer(list(words), is_split_into_words=True, return_tensors="pt")
    numbers = inputs.word_ids(0)
    states = naive(model, inputs, layers)
    out = np.zeros((len(words), *states.shape[1:]), dtype=np.float32)
    for w in range(len(words)):
        mine = states[[i for i, number in enumerate(numbers) if number == w]]
        if len(mine):
            out[w] = {"first": mine[0], "last": mine[-1], "mean": mine.mean(axis=0)}[
                subwords
            ]
    return out


def of_words(model, words, subwords="mean", layers=(0, 2), **changes):
    facts = {"overflow": "chunk", "stride": 8, **changes}
    return rows_of(
        words, request(model, f"words_{subwords}", layers, **facts), Engine()
    )


@pytest.mark.parametrize("subwords", ["first", "mean", "last"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_row_per_word_as_in_plain_transformers(checkpoint, name, subwords):
    model = checkpoint(name)
    rows = of_words(model, WORDS, subwords)
    assert rows.counts.tolist() == [len(words) for words in WORDS]
    for words, states in zip(WORDS, rows, strict=True):
        if words:
            expected = naive_words(model, words, (0, 2), subwords)
            np.testing.assert_allclose(states, expected, rtol=0, atol=1e-5)


def test_a_word_without_a_token_is_zeros(tiny):
    rows = of_words(tiny, [("a", "", "b"), ("",)])
    assert not rows.rows[[1, 3]].any()
    assert rows.rows[[0, 2]].any(axis=(1, 2)).all()


WORD = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["dog", "\u200b", "\u0301", "中文", "\ud800", " ", "a b", "[SEP]"]),
)


@pytest.mark.filterwarnings("ignore:.*for the third time")
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(WORD, max_size=12).map(tuple), min_size=1, max_size=4))
@pytest.mark.parametrize("name", ["bert", "roberta", "xlm_roberta"])
def test_any_words_give_a_row_each(checkpoint, name, words):
    rows = of_words(checkpoint(name), words)
    assert rows.counts.tolist() == [len(each) for each in words]
    assert np.isfinite(rows.values).all()


@pytest.mark.parametrize("stride", [0, 1, 4, 7, 9])
@pytest.mark.parametrize("n_words", [1, 5, 9, 10, 23, 60])
def test_every_word_of_a_long_text_comes_from_its_best_window(tiny, n_words, stride):
    encoder = get_encoder(find_checkpoint(tiny), "cpu", "float32")
    rng = np.random.default_rng(n_words)
    some = ["dog", "wonderfully", "x", "unbelievable", "", "jumps"]
    words = tuple(some[i] for i in rng.integers(len(some), size=n_words))
    plan = Plan({"words_mean": (2,)}, max_length=12, stride=stride)
    encoded = encoder.encode([words], plan)
    assert encoded.n_rows.tolist() == [n_words]
    # Each window by itself, and in each the words that lie in it as a whole.
    ((ids, edges),) = encoder.tokenizer.of_words([words])
    room, best = 12 - 2, {}
    starts = range(0, len(ids) - stride, room - stride) if len(ids) > room else [0]
    for start in starts:
        window = ids[start : start + room]
        inputs = {
            "input_ids": torch.tensor(encoder.tokenizer.surround(window)[np.newaxis])
        }
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        states = naive(tiny, inputs, (2,))[1:-1, 0]
        for w, (a, b) in enumerate(itertools.pairwise(edges)):
            if a == b or a < start or b > start + len(window):
                continue
            left = a - start if start else np.inf  # nothing lies beyond the text's ends
            end = start + len(window)
            right = end - b if end < len(ids) else np.inf
            context = min(left, right)
            if context > best.get(w, (-1, None))[0]:
                best[w] = context, states[a - start : b - start].mean(axis=0)
    rows = encoded.columns["words_mean"][0]
    for w, (a, b) in enumerate(itertools.pairwise(edges)):
        if a == b:
            assert not rows[w].any()
        elif w in best:
            np.testing.assert_allclose(rows[w], best[w][1], rtol=0, atol=1e-5)
        else:  # a word longer than what windows share is taken token by token
            assert b - a > stride
            assert np.isfinite(rows[w]).all()


def test_token_states_of_windows_are_every_token_once(tiny):
    text = "The quick brown fox jumps over the lazy dog, and the dog sleeps"
    whole = rows_of([text], request(tiny, max_length=64), Engine())
    facts = {"max_length": 16, "overflow": "chunk", "stride": 4}
    windows = rows_of([text], request(tiny, **facts), Engine())
    assert windows.counts.tolist() == whole.counts.tolist()
    tokenizer = get_encoder(find_checkpoint(tiny), "cpu", "float32").tokenizer
    content = tokenizer.content_ids([text])[0]
    last = content[range(0, len(content) - 4, 10)[-1] :]
    for ids, rows in ((content[:14], slice(0, 12)), (last, slice(-4, None))):
        inputs = {"input_ids": torch.tensor(tokenizer.surround(ids)[np.newaxis])}
        states = naive(tiny, inputs, (0, 2))
        np.testing.assert_allclose(windows.rows[rows], states[rows], atol=1e-5)


# With a store


def engine(place):
    return Engine(location=store_location(place))


@pytest.mark.parametrize("name", ["tokens", "tokens_float16"])
def test_rows_are_encoded_once_and_read_back_bit_for_bit(tiny, tmp_path, work, name):
    cold = rows_of(TEXTS, request(tiny, name), engine(tmp_path))
    assert work().n_texts == len(set(TEXTS))
    warm = rows_of(TEXTS, request(tiny, name), engine(tmp_path))
    assert work().n_texts == len(set(TEXTS))
    for a, b in zip(cold, warm, strict=True):
        np.testing.assert_array_equal(a, b)
    assert warm.values.dtype == (np.float16 if "float16" in name else np.float32)


def test_a_pass_for_states_keeps_every_layer_of_the_cheap_poolings(
    tiny, tmp_path, work
):
    rows_of(TEXTS, request(tiny, layers=(2,)), engine(tmp_path))
    pooled = request(tiny, poolings=("max", "cls"), layers=(0, 1))
    assert list(iter_features(TEXTS, pooled, engine(tmp_path)))
    assert work().n_texts == len(set(TEXTS))


def test_half_precision_is_the_rounded_state(tiny):
    exact = rows_of(TEXTS, request(tiny), Engine())
    half = rows_of(TEXTS, request(tiny, "tokens_float16"), Engine())
    np.testing.assert_array_equal(half.rows, exact.rows.astype(np.float16))


def test_states_beyond_half_precision_are_an_error(tiny, tmp_path):
    import safetensors.torch

    place = tmp_path / "large"
    network = transformers.AutoModel.from_pretrained(tiny)
    with torch.no_grad():
        network.encoder.layer[-1].output.LayerNorm.weight *= 1e6
    network.save_pretrained(place)
    transformers.AutoTokenizer.from_pretrained(tiny).save_pretrained(place)
    with pytest.raises(ValueError, match=r"token_dtype='float16' holds numbers up to"):
        rows_of(TEXTS, request(place, "tokens_float16"), Engine())
    assert safetensors.torch.load_file(place / "model.safetensors")


def test_a_text_and_its_words_are_not_taken_for_each_other():
    keys = keys_of(["a b", ("a b",), ("a", "b"), ("ab", ""), ()], "")
    assert len(set(keys.tolist())) == 5


def test_words_of_a_text_are_kept_and_never_written_in_clear(tiny, tmp_path, work):
    words = [("secret", "dog"), ("quick", "secret")]
    facts = {"overflow": "chunk", "stride": 8}
    for _ in range(2):
        rows_of(words, request(tiny, "words_first", **facts), engine(tmp_path))
    assert work().n_texts == 2
    content = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"secret" not in content
    assert json.loads(next(tmp_path.rglob("about.json")).read_text())


def test_many_windows_and_many_portions_change_nothing(tiny, tmp_path, monkeypatch):
    texts = [f"text {'word ' * (i % 13)} number {i}" for i in range(60)]
    expected = rows_of(texts, request(tiny), Engine())
    monkeypatch.setattr(features_module, "_WINDOW_BYTES", 40_000)
    monkeypatch.setattr(features_module, "_READ_BYTES", 10_000)
    for _ in range(2):
        rows = rows_of(texts, request(tiny), engine(tmp_path))
        for a, b in zip(rows, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    shards = list(tmp_path.rglob("n_rows.npy"))
    assert len(shards) > 3
