"""Every architecture is served as plain transformers would, or refused."""

import json
import warnings

import numpy as np
import pytest
import torch
import transformers
from checkpoints import (
    ARCHITECTURES,
    VARIANTS,
    add_sentence_transformers_files,
    build_checkpoint,
    naive_features,
)

from sklearn_bert import BertVectorizer
from sklearn_bert.checkpoint import find_checkpoint
from sklearn_bert.encoder import Encoder, Plan
from sklearn_bert.network import _Runner

TEXTS = [
    "The quick brown fox",
    "a",
    "Hello there, this is a somewhat longer text with café and 日本 in it 42!",
    "",
    "dogs " * 100,
]
REFUSED = {
    "mobilebert": r"padded batch differs from the same text alone",
    "convbert": r"padded batch differs from the same text alone",
    "bert_relative_key": r"position_embedding_type='relative_key', which transf",
    "gpt2": r"first token does not see later ones: it is a decoder",
    "t5": r"is an encoder-decoder; sklearn_bert serves encoders only",
    "bert_missing_weights": r"lacks 16 weights .* features would be random",
}
SERVED = [name for name in [*ARCHITECTURES, *VARIANTS] if name not in REFUSED]
WITHOUT_CLS = {"bert_no_cls"}
WITH_POOLER = {
    "bert", "roberta", "bertweet", "albert", "mpnet", "xlm_roberta", "camembert",
    "bert_bin", "ernie", "bert_left_padding", "bert_no_cls", "bert_pad_id_nonzero",
    "bert_truncation_left", "bert_fixed_padding", "bert_fp16",
    "roberta_no_model_max_length",
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    built = {}

    def build(name):
        if name not in built:
            built[name] = build_checkpoint(name, tmp_path_factory.mktemp(name))
        return built[name]

    return build


def featurize(path, texts=TEXTS, **params):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*longer than max_length")
        warnings.filterwarnings("ignore", ".*third time")
        vectorizer = BertVectorizer(str(path), **params)
        result = vectorizer.fit_transform(texts)
    return vectorizer, result.reshape(len(texts), len(vectorizer.layers_), -1)


def assert_equals_naive(path, layers, pooling, special_tokens):
    vectorizer, result = featurize(
        path, layer=layers, pooling=pooling, special_tokens=special_tokens,
        normalize=False,
    )  # fmt: skip
    for i, layer in enumerate(vectorizer.layers_):
        expected = naive_features(
            path, TEXTS, layer=layer, pooling=pooling, special_tokens=special_tokens,
            max_length=vectorizer.max_length_,
        )  # fmt: skip
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(result[:, i], expected, atol=1e-5 * scale)


@pytest.mark.parametrize("name", SERVED)
def test_layers_and_poolings_equal_a_naive_loop(checkpoint, name):
    path = checkpoint(name)
    for special_tokens in (True, False):
        for pooling in ("mean", "max", "mean_sqrt_len"):
            assert_equals_naive(path, "all", pooling, special_tokens)
        assert_equals_naive(path, [1, 2, 3], "attention", special_tokens)
    if name not in WITHOUT_CLS:
        assert_equals_naive(path, "all", "cls", True)


@pytest.mark.parametrize("name", SERVED)
def test_the_pooler_is_the_checkpoints_own_or_refused(checkpoint, name):
    if name in WITH_POOLER:
        assert_equals_naive(checkpoint(name), -1, "pooler", True)
        return
    with pytest.raises(ValueError, match=r"pooling='pooler': it has no trained pooler"):
        featurize(checkpoint(name), pooling="pooler")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_served_right_is_refused_with_a_sentence(checkpoint, name):
    with pytest.raises(ValueError, match=rf"model=.*{REFUSED[name]}"):
        featurize(checkpoint(name))


def test_cls_without_a_first_special_token_is_refused(checkpoint, tmp_path):
    path = checkpoint("bert_no_cls")
    with pytest.raises(ValueError, match=r"pooling='cls': its tokenizer begins texts"):
        featurize(path, pooling="cls")
    featurize(path, pooling="mean", memory=tmp_path)  # the store does without [CLS]


@pytest.mark.parametrize(
    "name", ["bert", "roberta", "deberta_v2", "albert", "modernbert"]
)
def test_batches_and_early_exit_do_not_change_the_numbers(checkpoint, name):
    path = checkpoint(name)
    _, every = featurize(path, layer="all", normalize=False)
    for layer in (0, 1, 3):
        _, alone = featurize(path, layer=layer, batch_size=1, normalize=False)
        np.testing.assert_allclose(alone[:, 0], every[:, layer], atol=1e-5)


def test_weights_overwritten_in_place_do_not_reach_a_loaded_encoder(tmp_path):
    path = build_checkpoint("bert", tmp_path / "bert")
    encoder = Encoder(find_checkpoint(str(path)), "cpu", "float32")
    plan = Plan({"mean": (0, 1, 2, 3)}, 64)
    before = encoder.encode(TEXTS, plan).columns["mean"].copy()
    with (path / "model.safetensors").open("r+b") as stream:
        n_bytes = stream.seek(0, 2)
        stream.seek(0)
        stream.write(bytes(n_bytes))
    after = encoder.encode(TEXTS, plan).columns["mean"]
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_callers_autocast_does_not_change_the_numbers(
    checkpoint, monkeypatch, is_packed
):
    if not is_packed:
        monkeypatch.setattr("sklearn_bert.network.pack_linears", lambda _: [])
    encoder = Encoder(find_checkpoint(str(checkpoint("bert"))), "cpu", "float32")
    plan = Plan({"mean": (3,)}, 64)
    expected = encoder.encode(TEXTS, plan).columns["mean"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = encoder.encode(TEXTS, plan).columns["mean"]
        Encoder(find_checkpoint(str(checkpoint("bert"))), "cpu", "float32")
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("sentence_bert_config.json", "do_lower_case", True),
        ("1_Pooling/config.json", "include_prompt", False),
    ],
)
def test_a_declaration_that_changes_after_fit_is_noticed(tmp_path, file, key, value):
    path = declared(tmp_path, max_seq_length=32)
    vectorizer = BertVectorizer(str(path)).fit(TEXTS)
    content = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps({**content, key: value}))
    with pytest.raises(ValueError, match=r"files of model=.* changed since fit"):
        vectorizer.transform(TEXTS)


def test_the_limit_of_roberta_leaves_room_for_the_padding_offset(checkpoint):
    vectorizer, _ = featurize(checkpoint("roberta_no_model_max_length"))
    assert vectorizer.max_length_ == 64


@pytest.mark.parametrize("dtype", ["auto", "float16"])
def test_a_half_precision_checkpoint_runs_in_the_precision_asked_for(checkpoint, dtype):
    path = checkpoint("bert_fp16")
    vectorizer, half = featurize(path, dtype=dtype, normalize=False)
    _, single = featurize(path, normalize=False)
    assert vectorizer.dtype_ == "float16"
    assert half.dtype == single.dtype == np.float32
    assert 0 < np.abs(half - single).max() < 0.05 * np.abs(single).max()


def test_bfloat16_stays_near_float32(checkpoint):
    _, low = featurize(checkpoint("bert"), dtype="bfloat16", normalize=True)
    _, single = featurize(checkpoint("bert"), normalize=True)
    assert (low * single).sum(axis=2).min() > 0.99


# What sentence-transformers declares


def declared(tmp_path, name="bert", **files):
    path = build_checkpoint(name, tmp_path / "checkpoint")
    add_sentence_transformers_files(path, **files)
    return path


def assert_equals_sentence_transformers(path, **params):
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(path), device="cpu").encode(TEXTS)
    _, result = featurize(path, **params)
    np.testing.assert_allclose(result.reshape(len(TEXTS), -1), expected, atol=1e-5)


@pytest.mark.parametrize("new_style", [False, True])
@pytest.mark.parametrize(
    "pooling", ["mean", "cls", "max", "mean_sqrt_len", ("cls", "mean")]
)
def test_declared_poolings_equal_sentence_transformers(tmp_path, pooling, new_style):
    path = declared(tmp_path, pooling=pooling, new_style=new_style, normalize=False)
    assert_equals_sentence_transformers(path)


@pytest.mark.parametrize(
    "name", ["bert", "mpnet", "roberta", "xlm_roberta", "distilbert"]
)
def test_declared_length_and_normalisation_equal_sentence_transformers(tmp_path, name):
    path = declared(tmp_path, name, max_seq_length=12, normalize=True)
    assert_equals_sentence_transformers(path)


def test_declared_default_prompt_equals_sentence_transformers(tmp_path):
    path = declared(
        tmp_path, prompts={"query": "Hello: ", "doc": "x"}, default_prompt_name="query"
    )
    assert_equals_sentence_transformers(path)
    assert featurize(path)[0].prompt_ == "Hello: "
    assert featurize(path, prompt="")[0].prompt_ == ""


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_a_prompt_that_does_not_count_equals_sentence_transformers(tmp_path, pooling):
    path = declared(
        tmp_path, pooling=pooling, prompts={"q": "Hello there: "},
        default_prompt_name="q", include_prompt=False,
    )  # fmt: skip
    assert_equals_sentence_transformers(path)


def test_a_prompt_that_does_not_count_is_left_out_of_the_first_window_only(tmp_path):
    path = declared(
        tmp_path, prompts={"q": "Hello there: "}, default_prompt_name="q",
        include_prompt=False, normalize=False, max_seq_length=40,
    )  # fmt: skip
    text = ["fox dog " * 10]
    long = {"overflow": "chunk", "max_length": 16, "stride": 0, "layer": 0}
    _, left_out = featurize(path, text, **long)
    _, counted = featurize(path, ["Hello there: " + text[0]], prompt="", **long)
    # Embeddings do not mix tokens, so means are sums of what counts.
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    n_prompt = len(tokenizer("Hello there: ")["input_ids"]) - 1
    n_content = len(tokenizer("Hello there: " + text[0])["input_ids"]) - 2
    n_all = n_content + 2 * -(-n_content // 14)
    states = naive_states(path, "Hello there: ")[:n_prompt]
    expected = (counted[0, 0] * n_all - states.sum(axis=0)) / (n_all - n_prompt)
    np.testing.assert_allclose(left_out[0, 0], expected, atol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
@pytest.mark.parametrize("special_tokens", [True, False])
def test_a_prompt_longer_than_a_window_counts_in_none(
    tmp_path, pooling, special_tokens
):
    path = declared(
        tmp_path, pooling=pooling, prompts={"q": "Hello there: " * 4},
        default_prompt_name="q", include_prompt=False, normalize=False,
        max_seq_length=40,
    )  # fmt: skip
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModel.from_pretrained(path).eval()
    text = "fox dog " * 10
    n_prompt = len(tokenizer("Hello there: " * 4, add_special_tokens=False).input_ids)
    ids = tokenizer("Hello there: " * 4 + text, add_special_tokens=False).input_ids
    room, stride = 14, 4
    assert n_prompt > room
    kept = []  # what counts of each window
    for start in range(0, len(ids) - stride, room - stride):
        window = ids[start : start + room]
        inputs = [tokenizer.cls_token_id, *window, tokenizer.sep_token_id]
        with torch.no_grad():
            states = model(torch.tensor([inputs])).last_hidden_state[0].numpy()
        left = max(0, n_prompt - start)
        counted = states[1 + left :] if left else states[not special_tokens :]
        counted = counted if special_tokens else counted[:-1]
        if len(counted) and pooling == "cls":
            counted = states[[1 + left if left else 0]]
        kept.append(counted)
    expected = np.concatenate(kept)
    expected = expected.max(axis=0) if pooling == "max" else expected.mean(axis=0)
    _, found = featurize(
        path, [text], overflow="chunk", max_length=16, stride=stride,
        special_tokens=special_tokens,
    )  # fmt: skip
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-5)


def naive_states(path, text):
    """Return the embedding output of every token of a text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModel.from_pretrained(path)
    inputs = tokenizer(text, return_tensors="pt")
    return (
        model(**inputs, output_hidden_states=True).hidden_states[0][0].detach().numpy()
    )


def test_attention_that_cannot_be_read_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr(_Runner, "_after_attention", lambda *_: None)
    path = checkpoint("deberta_v2")  # runs padded: weights come from its own modules
    encoder = Encoder(find_checkpoint(str(path)), "cpu", "float32")
    with pytest.raises(ValueError, match=r"'attention': its attention weights cannot"):
        encoder.encode(["a text"], Plan({"attention": (1,)}, 64))


def test_declared_lower_case_equals_sentence_transformers(tmp_path):
    assert_equals_sentence_transformers(
        declared(tmp_path, "roberta", do_lower_case=True)
    )


def test_a_declared_dense_step_is_refused_unless_a_pooling_is_named(tmp_path):
    path = declared(tmp_path, dense=True)
    with pytest.raises(ValueError, match=r"declares Dense .*'auto' cannot equal"):
        featurize(path)
    assert featurize(path, pooling="mean")[1].shape == (5, 1, 32)
