"""The test checkpoints are what they claim to be, and so is the reference."""

import numpy as np
import pytest
import torch
from checkpoints import (
    ARCHITECTURES,
    SENTENCES,
    VARIANTS,
    add_sentence_transformers_files,
    build_checkpoint,
    naive_features,
)
from transformers import AutoModel, AutoTokenizer

REFUSED = ["gpt2", "t5", "bert_missing_weights"]
ENCODERS = [name for name in (*ARCHITECTURES, *VARIANTS) if name not in REFUSED]
WITH_POOLER = ["bert", "roberta", "bertweet", "albert", "mpnet", "xlm_roberta"]
TEXTS = ["A short text.", "A much longer text, with 😀 and café in it."]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    # Threads of a matrix of 32 columns mostly wait for each other on a busy machine.
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Build a checkpoint at its first use."""
    root = tmp_path_factory.mktemp("checkpoints")

    def build(name):
        directory = root / name
        return directory if directory.exists() else build_checkpoint(name, directory)

    return build


@pytest.mark.parametrize("name", [*ARCHITECTURES, *VARIANTS])
def test_every_checkpoint_loads(checkpoint, name):
    directory = checkpoint(name)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory)
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.pad_token_id == model.config.pad_token_id
    assert tokenizer.unk_token_id not in tokenizer(TEXTS[1])["input_ids"]


@pytest.mark.parametrize("name", ENCODERS)
def test_hidden_states_are_the_embeddings_and_three_layers(checkpoint, name):
    directory = checkpoint(name)
    inputs = AutoTokenizer.from_pretrained(directory)(TEXTS[0], return_tensors="pt")
    model = AutoModel.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        output = model(**inputs, output_hidden_states=True)
    shape = (*inputs["input_ids"].shape, 32)
    assert [state.shape for state in output.hidden_states] == [shape] * 4
    torch.testing.assert_close(output.hidden_states[-1], output.last_hidden_state)


@pytest.mark.parametrize("name", ENCODERS)
def test_layers_and_poolings_and_texts_differ(checkpoint, name):
    named = [(1, "mean"), (3, "mean"), (2, "mean"), (2, "cls"), (2, "attention")]
    rows = np.concatenate(
        [
            naive_features(checkpoint(name), TEXTS, layer=layer, pooling=pooling)
            for layer, pooling in named
        ]
    )
    assert np.isfinite(rows).all()
    assert np.abs(rows).max() < 200
    distances = np.abs(rows[:, None] - rows).max(axis=2)
    assert distances[~np.eye(10, dtype=bool)].min() > 1e-3


@pytest.mark.parametrize("name", ENCODERS)
def test_a_long_text_fits_once_it_is_cut(checkpoint, name):
    text = " ".join(SENTENCES)
    features = naive_features(
        checkpoint(name), [text, text + " x"], layer=-1, pooling="mean", max_length=64
    )
    assert np.isfinite(features).all()
    differ = name == "bert_truncation_left"
    assert np.allclose(features[0], features[1]) != differ


@pytest.mark.parametrize("name", WITH_POOLER)
def test_pooler_weights_are_saved(checkpoint, name):
    _, info = AutoModel.from_pretrained(checkpoint(name), output_loading_info=True)
    assert not info["missing_keys"]
    features = naive_features(checkpoint(name), TEXTS, layer=-1, pooling="pooler")
    assert np.abs(features).max() <= 1  # tanh


@pytest.mark.parametrize(
    ("name", "missing"),
    [("bert_no_pooler_weights", "pooler."), ("bert_missing_weights", "layer.1.")],
)
def test_missing_weights_are_missing(checkpoint, name, missing):
    _, info = AutoModel.from_pretrained(checkpoint(name), output_loading_info=True)
    assert info["missing_keys"]
    assert all(missing in key for key in info["missing_keys"])


def test_variants_of_bert_share_its_weights(checkpoint):
    expected = naive_features(checkpoint("bert"), TEXTS, layer=-1, pooling="mean")
    for name in ("bert_bin", "bert_left_padding", "bert_fixed_padding"):
        features = naive_features(checkpoint(name), TEXTS, layer=-1, pooling="mean")
        np.testing.assert_array_equal(features, expected)


def test_variants_are_what_they_are_called(checkpoint):
    tokenizers = {
        name: AutoTokenizer.from_pretrained(checkpoint(name)) for name in VARIANTS
    }
    assert tokenizers["bert_left_padding"].padding_side == "left"
    assert tokenizers["bert_truncation_left"].truncation_side == "left"
    assert tokenizers["bert_pad_id_nonzero"].pad_token_id == 4
    assert tokenizers["bert_no_cls"].num_special_tokens_to_add() == 0
    assert tokenizers["bert_no_cls"].cls_token is None
    assert tokenizers["roberta_no_model_max_length"].model_max_length > 1e29
    backend = tokenizers["bert_fixed_padding"].backend_tokenizer
    assert len(backend.encode("a").ids) == len(backend.encode("a " * 30).ids) == 16
    assert AutoModel.from_pretrained(checkpoint("bert_fp16")).dtype == torch.float16
    config = AutoModel.from_pretrained(checkpoint("bert_relative_key")).config
    assert config.position_embedding_type == "relative_key"


def test_files_are_as_published(checkpoint):
    files = {
        name: {path.name for path in checkpoint(name).iterdir()}
        for name in ("bert", "bert_bin", "bertweet", "deberta_v2")
    }
    assert "model.safetensors" in files["bert"]
    assert files["bert_bin"] == {"config.json", "pytorch_model.bin", "vocab.txt"}
    assert {"vocab.txt", "bpe.codes"} < files["bertweet"]
    assert "spm.model" in files["deberta_v2"]
    assert "tokenizer.json" not in files["bertweet"] | files["deberta_v2"]


def test_bertweet_applies_its_merges(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("bertweet"))
    assert tokenizer.tokenize("the and") == ["the", "and"]


def test_reference_matches_a_hand_computation(checkpoint):
    directory, text = checkpoint("bert"), "A short text."
    model = AutoModel.from_pretrained(directory, attn_implementation="eager")
    inputs = AutoTokenizer.from_pretrained(directory)(text, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
    states = output.hidden_states[2][0].numpy()
    received = output.attentions[1][0].sum(dim=(0, 1)).numpy()  # (n_tokens,)
    n = len(states)
    expected = {
        "cls": states[0],
        "mean": states[1:-1].sum(axis=0) / (n - 2),
        "max": states[1:-1].max(axis=0),
        "mean_sqrt_len": states[1:-1].sum(axis=0) / np.sqrt(n - 2),
        "attention": np.average(states[1:-1], axis=0, weights=received[1:-1]),
    }
    for pooling, row in expected.items():
        (features,) = naive_features(
            directory, [text], layer=2, pooling=pooling, special_tokens=False
        )
        np.testing.assert_allclose(features, row, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max", "mean_sqrt_len", "attention"])
def test_a_text_without_counted_tokens_is_zero(checkpoint, pooling):
    features = naive_features(
        checkpoint("bert"), ["", "a"], layer=1, pooling=pooling, special_tokens=False
    )
    assert not features[0].any()
    assert features[1].all()


def test_a_text_without_any_token_is_zero(checkpoint):
    features = naive_features(checkpoint("bert_no_cls"), [""], layer=1, pooling="cls")
    np.testing.assert_array_equal(features, np.zeros((1, 32)))


@pytest.mark.parametrize(("layer", "pooling"), [(0, "attention"), (2, "pooler")])
def test_reference_refuses_what_a_layer_does_not_have(checkpoint, layer, pooling):
    with pytest.raises(ValueError, match=f"layer {layer} has no '{pooling}' pooling"):
        naive_features(checkpoint("bert"), TEXTS, layer=layer, pooling=pooling)


@pytest.mark.parametrize("new_style", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "mean_sqrt_len"])
def test_sentence_transformers_reads_the_files(tmp_path, pooling, new_style):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    directory = build_checkpoint("bert", tmp_path)
    add_sentence_transformers_files(directory, pooling=pooling, new_style=new_style)
    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu")
    expected = naive_features(directory, TEXTS, layer=-1, pooling=pooling)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert model.max_seq_length == 32
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize("new_style", [False, True])
def test_sentence_transformers_reads_every_option(tmp_path, new_style):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    directory = build_checkpoint("distilbert", tmp_path)
    add_sentence_transformers_files(
        directory,
        pooling=("cls", "mean"),
        normalize=False,
        max_seq_length=7,
        prompts={"query": "look for: "},
        default_prompt_name="query",
        include_prompt=False,
        dense=True,
        new_style=new_style,
    )
    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu")
    assert model.max_seq_length == 7
    assert model.prompts["query"] == "look for: "
    assert model.default_prompt_name == "query"
    assert model[1].pooling_mode == ("cls", "mean")
    assert model[1].include_prompt is False
    assert model.encode(TEXTS).shape == (2, 16)
