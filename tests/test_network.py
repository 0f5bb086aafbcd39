"""Packed, padded, in any batch and in any order: the numbers are the same."""

import contextlib
import json
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise

import joblib
import numpy as np
import pytest
import torch
from checkpoints import ARCHITECTURES, SENTENCES, build_checkpoint, naive_features
from sklearn.exceptions import NotFittedError
from torch import nn
from transformers import AttentionMaskInterface, AutoConfig, AutoModel
from transformers.models.bert.modeling_bert import BertSelfAttention

import sklearn_bert.encoder
import sklearn_bert.network
from sklearn_bert import BertVectorizer, attention, features
from sklearn_bert.attention import PACKED
from sklearn_bert.checkpoint import find_checkpoint
from sklearn_bert.encoder import Encoder, Plan
from sklearn_bert.network import Network, _rounded

LAYOUTS = {
    "bert": "packed",
    "distilbert": "packed",
    "roberta": "packed",
    "bertweet": "packed",
    "electra": "packed",
    "deberta": "padded",
    "deberta_v2": "padded",
    "albert": "packed",
    "mpnet": "padded",
    "xlm_roberta": "packed",
    "camembert": "packed",
    "modernbert": "packed",
    "bert_bin": "packed",
    "ernie": "packed",
    "mobilebert": "refused",
    "convbert": "refused",
    "roformer": "padded",
    "nomic_bert": "packed",
    "eurobert": "packed",
}
PACKING = [name for name, layout in LAYOUTS.items() if layout == "packed"]
# Several of equal length, some of one token, an empty one, and one that is cut.
TEXTS = [
    "The quick brown fox", "a", "Hello there, this is longer, with café and 日本!", "",
    "dogs " * 100, "b", "c d", "The quick brown dog", "c", "e f", "",
]  # fmt: skip
EVERY = (0, 1, 2, 3)
COLUMNS = {
    "mean": EVERY, "max": EVERY, "cls": EVERY, "mean_sqrt_len": EVERY,
    "attention": EVERY[1:], "mean-content": EVERY, "max-content": EVERY,
    "mean_sqrt_len-content": EVERY, "attention-content": EVERY[1:],
}  # fmt: skip
PLAN = Plan(COLUMNS, 64)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Return a function that loads a fresh encoder of a checkpoint built once."""
    paths = {}

    def load(name, *, layout="", dtype="float32"):
        if name not in paths:
            paths[name] = build_checkpoint(name, tmp_path_factory.mktemp(name))
        encoder = Encoder(find_checkpoint(str(paths[name])), "cpu", dtype)
        if layout:
            encoder.network.execution = encoder.execution._replace(layout=layout)
        return encoder

    return load


def directory(encoder):
    return encoder.checkpoint.directory


def tokens(encoder, texts):
    """Return tokens of texts, special ones included, the longest first."""
    ids = [encoder.tokenizer.surround(i) for i in encoder.tokenizer.content_ids(texts)]
    return sorted(ids, key=len, reverse=True)


def last_states(network, texts, **options):
    """Return each text's token states of the last layer, run in one batch."""
    batch, layers = network.lay_out(texts, **options), []
    network.run(batch, 3, lambda layer, states, received: layers.append(states.numpy()))
    return [
        layers[-1][start : start + length]
        for start, length in zip(batch.starts, batch.lengths, strict=True)
    ]


def assert_equal(result, expected, tolerance=1e-5):
    """Compare features of every column, relative to the largest value of it."""
    assert result.columns.keys() == expected.columns.keys()
    for column, values in expected.columns.items():
        atol = tolerance * np.abs(values).max()
        np.testing.assert_allclose(
            result.columns[column], values, rtol=0, atol=atol, err_msg=column
        )


def assert_equals_naive(encoder, texts=TEXTS, layer=3, max_length=64):
    result = encoder.encode(texts, Plan({"mean": (layer,)}, max_length))
    expected = naive_features(
        directory(encoder), texts, layer=layer, pooling="mean", max_length=max_length
    )
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(result.columns["mean"][0], expected, rtol=0, atol=atol)


def record_batches(monkeypatch):
    """Return a list that fills with the batches that run."""
    batches, run = [], Network.run

    def recording(self, batch, last, use):
        batches.append(batch)
        return run(self, batch, last, use)

    monkeypatch.setattr(Network, "run", recording)
    return batches


# Which layout, and that it changes nothing


def test_the_table_of_layouts_is_complete():
    assert LAYOUTS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize(("name", "layout"), LAYOUTS.items())
def test_an_architecture_runs_in_the_best_layout_that_it_allows(load, name, layout):
    if layout == "refused":
        with pytest.raises(ValueError, match=r"padded batch differs"):
            load(name)
        return
    assert load(name).execution == (layout, "prepacked", "cpu", "float32")


@pytest.mark.parametrize("name", PACKING)
def test_packed_equals_padded(load, name):
    packed = load(name).encode(TEXTS, PLAN)
    padded = load(name, layout="padded").encode(TEXTS, PLAN)
    assert packed.n_tokens_run == padded.n_tokens_run
    assert_equal(packed, padded)


def test_packed_equals_padded_for_texts_of_one_token_or_none(load):
    plan = Plan({c: n for c, n in COLUMNS.items() if c != "cls"}, 64)
    packed = load("bert_no_cls").encode(TEXTS, plan)
    padded = load("bert_no_cls", layout="padded").encode(TEXTS, plan)
    assert sorted(packed.n_tokens)[:5] == [0, 0, 1, 1, 1]
    assert not packed.columns["mean"][:, TEXTS.index("")].any()
    assert_equal(packed, padded)


@pytest.mark.parametrize("asked", ["high", "medium", "highest"])
def test_float32_is_not_what_a_caller_has_asked_of_torch(load, monkeypatch, asked):
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    within, forward = [], BertSelfAttention.forward

    def noted(*args, **kwargs):
        new = getattr(matmul, "fp32_precision", None)  # since torch 2.9
        within.append(new or torch.get_float32_matmul_precision())
        return forward(*args, **kwargs)

    monkeypatch.setattr(BertSelfAttention, "forward", noted)
    encoder, before = load("bert"), torch.get_float32_matmul_precision()
    within.clear()
    torch.set_float32_matmul_precision(asked)
    try:
        encoder.encode(TEXTS, PLAN)
        assert torch.get_float32_matmul_precision() == asked
    finally:
        torch.set_float32_matmul_precision(before)
    assert within
    assert set(within) <= {"ieee", "highest"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", PACKING)
def test_a_half_precision_is_served_as_well(load, name, dtype):
    assert load(name, dtype=dtype).execution.layout == "packed"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_one_large_dimension_hides_no_wrong_position(tmp_path, dtype):
    path = build_checkpoint("roberta", tmp_path / "roberta")
    model = AutoModel.from_pretrained(path)
    with torch.no_grad():
        model.embeddings.LayerNorm.weight *= 0.3
        model.embeddings.LayerNorm.bias[3] = 12.0
    model.save_pretrained(path)
    network = Encoder(find_checkpoint(str(path)), "cpu", dtype).network
    assert network._first_position == 2


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-2), ("bfloat16", 0.1)])
def test_a_half_precision_runs_packed_too(load, dtype, tolerance):
    encoder = load("bert", dtype=dtype)
    assert encoder.execution.layout == "packed"
    assert_equal(
        encoder.encode(TEXTS, PLAN), load("bert").encode(TEXTS, PLAN), tolerance
    )


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("name", ["albert", "modernbert", "distilbert"])
def test_packed_attention_pooling_equals_weights_of_eager_attention(
    load, name, pooling
):
    encoder = load(name)
    result = encoder.encode(TEXTS, Plan({pooling: (1, 2, 3)}, 64)).columns[pooling]
    for layer in (1, 2, 3):
        expected = naive_features(
            directory(encoder), TEXTS, layer=layer, pooling=pooling, max_length=64
        )
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(result[layer - 1], expected, rtol=0, atol=atol)


def test_grouped_query_heads_run_packed(load, tmp_path):
    source = directory(load("eurobert"))
    path = build_checkpoint("eurobert", tmp_path / "grouped")
    config = AutoConfig.from_pretrained(source, num_key_value_heads=2)
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.3)
    model.save_pretrained(path)
    encoder = Encoder(find_checkpoint(str(path)), "cpu", "float32")
    assert encoder.execution.layout == "packed"
    assert_equals_naive(encoder)
    packed = encoder.encode(TEXTS, PLAN)
    encoder.network.execution = encoder.execution._replace(layout="padded")
    assert_equal(packed, encoder.encode(TEXTS, PLAN))


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_texts_longer_than_a_sliding_window(load, layout):
    encoder = load("modernbert", layout=layout)
    texts = [" ".join(SENTENCES[k : k + 6]) for k in range(8)] + ["short", ""]
    n_tokens = encoder.count_tokens(texts)
    assert max(n_tokens) > 128 > np.median(n_tokens) - 9 > 64
    assert_equals_naive(encoder, texts, max_length=128)


# The comparison at load


def change_window(monkeypatch, change):
    run_by_run = attention._run_by_run

    def changed(packed, packing, wants_received, scaling, window):
        window = window if window is None else change(window)
        return run_by_run(packed, packing, wants_received, scaling, window)

    monkeypatch.setattr(attention, "_run_by_run", changed)


@pytest.mark.parametrize(
    "change", [lambda w: w + 1, lambda w: w - 1, lambda w: None], ids=["+1", "-1", "no"]
)
@pytest.mark.parametrize("local_attention", [8, 64])
def test_a_wrong_sliding_window_is_noticed(
    tmp_path, monkeypatch, local_attention, change
):
    # The texts that every network is tried on are shorter than the wider window.
    path = build_checkpoint("modernbert", tmp_path / "modernbert")
    config = json.loads((path / "config.json").read_text())
    config["local_attention"] = local_attention
    (path / "config.json").write_text(json.dumps(config))
    checkpoint = find_checkpoint(str(path))
    assert Encoder(checkpoint, "cpu", "float32").execution.layout == "packed"
    change_window(monkeypatch, change)
    encoder = Encoder(checkpoint, "cpu", "float32")
    assert encoder.execution.layout == "padded"
    assert_equals_naive(encoder, ["dogs and cats " * 40, "a"], max_length=128)


def test_stock_attention_lets_packed_texts_see_each_other(load, monkeypatch):
    network = load("bert").network
    texts = tokens(load("bert"), ["The quick brown fox", "a film", "a dog"])
    alone = [last_states(network, [text])[0] for text in texts]
    for together, expected in zip(last_states(network, texts), alone, strict=True):
        np.testing.assert_allclose(together, expected, rtol=0, atol=1e-5)
    monkeypatch.setattr("sklearn_bert.network.PACKED", "sdpa")
    for together, expected in zip(last_states(network, texts), alone, strict=True):
        assert np.abs(together - expected).max() > 0.1


def assert_falls_back(load, name):
    encoder = load(name)
    assert encoder.execution.layout == "padded"
    assert_equals_naive(encoder)
    assert (
        encoder.network._runner.attention == encoder.network._padded_attention != PACKED
    )


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert"])
def test_attention_across_texts_is_noticed(load, monkeypatch, name):
    monkeypatch.setattr("sklearn_bert.network.PACKED", "sdpa")
    encoder = load(name)
    assert encoder.execution.layout == "padded"
    assert_equals_naive(encoder)


def test_a_mask_beside_the_packing_is_noticed(load, monkeypatch):
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    masks = AttentionMaskInterface._global_mapping
    monkeypatch.setitem(masks, PACKED, lambda *args, **kwargs: mask)
    assert_falls_back(load, "bert")


def test_attention_that_asks_for_more_is_noticed(load, monkeypatch):
    forward = BertSelfAttention.forward

    def with_sinks(self, *args, **kwargs):
        return forward(self, *args, s_aux=torch.ones(4), **kwargs)

    monkeypatch.setattr(BertSelfAttention, "forward", with_sinks)
    assert_falls_back(load, "bert")


def test_attention_that_is_not_given_the_packing_is_noticed(load, monkeypatch):
    forward = BertSelfAttention.forward

    def without(self, *args, packing=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(BertSelfAttention, "forward", without)
    assert_falls_back(load, "bert")


def test_positions_that_run_on_across_texts_are_noticed(load, monkeypatch):
    packed = Network._packed

    def running_on(self, *args):
        batch = packed(self, *args)
        places = batch.inputs["position_ids"]
        places.copy_(torch.arange(places.shape[1]) % 60)
        return batch

    monkeypatch.setattr(Network, "_packed", running_on)
    assert_falls_back(load, "bert")


# Laying out


def test_packed_texts_lie_end_to_end_with_their_own_positions(load):
    encoder = load("roberta")
    texts = tokens(encoder, ["a b", "The quick brown fox", "c d"])
    batch = encoder.network.lay_out(texts)
    n_tokens = sum(map(len, texts))
    ids, places = batch.inputs["input_ids"][0], batch.inputs["position_ids"][0]
    assert len(ids) == len(places) == batch.n_rows >= n_tokens
    assert ids[:n_tokens].tolist() == np.concatenate(texts).tolist()
    expected = [2 + place for text in texts for place in range(len(text))]
    assert places[:n_tokens].tolist() == expected
    assert batch.starts.tolist() == [0, len(texts[0]), len(texts[0]) + len(texts[1])]
    assert batch.lengths.tolist() == [len(text) for text in texts]
    assert "attention_mask" not in batch.inputs


def test_padded_texts_lie_in_rows_under_a_mask(load):
    encoder = load("bert_pad_id_nonzero")
    texts = tokens(encoder, ["a b c d", "a"])
    batch = encoder.network.lay_out(texts, layout="padded")
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    assert batch.packing is None
    assert batch.starts.tolist() == [0, len(texts[0])]
    assert mask.sum(dim=1).tolist() == [len(text) for text in texts]
    assert (ids[mask == 0] == 4).all()
    assert ids[1, : len(texts[1])].tolist() == texts[1].tolist()


# Neighbours


@pytest.mark.parametrize("other", ["", "a", "So happy today!", "dogs " * 100])
@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta_v2"])
def test_a_text_does_not_see_its_neighbours(load, name, other):
    encoder = load(name)
    before = encoder.encode(TEXTS, PLAN)
    for row in (0, 3, 4):
        changed = [*TEXTS[:row], other, *TEXTS[row + 1 :]]
        after = encoder.encode(changed, PLAN)
        for column, values in before.columns.items():
            rest = np.delete(after.columns[column], row, axis=1)
            expected = np.delete(values, row, axis=1)
            atol = 2e-6 * np.abs(values).max()
            np.testing.assert_allclose(rest, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", PACKING)
def test_a_text_of_nans_stays_alone(load, name):
    encoder = load(name)
    texts = ["The quick brown fox", "a film", "@", "a dog", "a", "b"]
    expected = encoder.encode(texts, PLAN)
    broken = texts.index("@")
    ids = encoder.tokenizer.content_ids(["@"])[0]
    others = encoder.tokenizer.content_ids([t for t in texts if t != "@"])
    own = sorted(set(ids) - set(np.concatenate(others)))
    encoder.network._model.get_input_embeddings().weight[own] = torch.nan
    result = encoder.encode(texts, PLAN)
    for column, values in result.columns.items():
        assert np.isnan(values[-1, broken]).any() or column == "cls"
        rest = np.delete(values, broken, axis=1)
        np.testing.assert_array_equal(
            rest, np.delete(expected.columns[column], broken, axis=1)
        )


def test_what_spare_rows_hold_does_not_count(load):
    encoder = load("bert_pad_id_nonzero")
    texts = [*SENTENCES[:7], ""]
    n_tokens = int(encoder.count_tokens(texts).sum())
    assert _rounded(n_tokens) > n_tokens
    expected = encoder.encode(texts, PLAN)
    encoder.network._model.get_input_embeddings().weight[4] = torch.nan
    result = encoder.encode(texts, PLAN)
    for column, values in expected.columns.items():
        np.testing.assert_array_equal(result.columns[column], values)


# Spare rows


def test_spare_rows_are_few_and_make_sizes_few():
    sizes = np.arange(1, 200_001)
    rounded = np.array([_rounded(int(size)) for size in sizes])
    spare = rounded - sizes
    assert (spare >= 0).all()
    assert (spare / sizes)[1023:].max() <= 1 / 32
    assert spare[:64].max() < 8
    assert (spare / sizes)[63:].max() <= 1 / 8
    assert (rounded == [_rounded(int(size)) for size in rounded]).all()
    assert len(np.unique(rounded[1023:2048])) == 33
    assert len(np.unique(rounded[:1024])) == 40


def test_random_batches_come_in_few_sizes(load, monkeypatch):
    encoder = load("bert")
    encoder.budget = 256
    rng = np.random.default_rng(0)
    batches = record_batches(monkeypatch)
    for _ in range(30):
        texts = ["dog " * n for n in rng.integers(0, 30, size=60)]
        encoder.encode(texts, Plan({"mean": (0,)}, 64))
    sums = {int(batch.lengths.sum()) for batch in batches}
    assert len(batches) > 100
    assert len({batch.n_rows for batch in batches}) <= 24 < len(sums)
    for batch in batches:
        assert batch.n_rows == batch.inputs["input_ids"].shape[1]
        assert 0 <= batch.n_rows - batch.lengths.sum() < 16


@pytest.mark.parametrize("n_spare", [0, 1, 77])
@pytest.mark.parametrize("name", ["bert", "modernbert", "nomic_bert"])
def test_spare_rows_do_not_change_the_numbers(load, monkeypatch, name, n_spare):
    encoder = load(name)
    expected = encoder.encode(TEXTS, PLAN)
    monkeypatch.setattr("sklearn_bert.network._rounded", lambda n: n + n_spare)
    assert_equal(encoder.encode(TEXTS, PLAN), expected)


# Batches


LONG_AND_SHORT = [SENTENCES[k % 46] * (1 + k % 3) for k in range(60)] + ["a"] * 60
MEAN = Plan({"mean": (3,), "max": (1,)}, 64)


@pytest.mark.parametrize("n_texts", [1, 7, 50, 120])
def test_packed_batches_are_few_and_of_like_size(load, monkeypatch, n_texts):
    monkeypatch.setattr(sklearn_bert.encoder, "_MAX_WORKERS", 1)  # they come in order
    encoder = load("bert")
    encoder.budget = 300
    batches = record_batches(monkeypatch)
    encoded = encoder.encode(LONG_AND_SHORT[:n_texts], MEAN)
    sizes = [int(batch.lengths.sum()) for batch in batches]
    longest = int(batches[0].lengths[0])
    assert longest <= 64
    assert sum(sizes) == encoded.n_tokens_run
    assert encoded.n_passes == len(batches)
    assert max(sizes) <= 300
    assert max(sizes) - min(sizes) <= 2 * longest
    assert encoded.n_passes <= np.ceil(encoded.n_tokens_run / (300 - longest))
    for batch, following in pairwise(batches):
        assert following.lengths[0] <= batch.lengths[-1]


def test_padded_batches_with_their_padding_stay_in_the_budget(load, monkeypatch):
    monkeypatch.setattr(sklearn_bert.encoder, "_MAX_WORKERS", 1)  # they come in order
    encoder = load("mpnet")
    encoder.budget = 300
    batches = record_batches(monkeypatch)
    encoded = encoder.encode(LONG_AND_SHORT, MEAN)
    assert encoded.n_passes == len(batches)
    for batch, following in pairwise(batches):
        assert batch.n_rows <= 300 < (len(batch.lengths) + 1) * batch.lengths[0]
        assert following.lengths[0] <= batch.lengths[-1]


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_text_longer_than_the_budget_runs_alone(load, monkeypatch, layout):
    encoder = load("bert", layout=layout)
    encoder.budget = 10
    batches = record_batches(monkeypatch)
    encoder.encode(["dog " * 20, "dog " * 30, "a", "b"], MEAN)
    assert [batch.lengths.tolist() for batch in batches] == [[32], [22], [3, 3]]


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("batch_size", [1, 7, 50, 1000])
def test_a_batch_size_is_respected(load, monkeypatch, batch_size, layout):
    monkeypatch.setattr(sklearn_bert.encoder, "_MAX_WORKERS", 1)  # they come in order
    encoder = load("bert", layout=layout)
    batches = record_batches(monkeypatch)
    plan = Plan(MEAN.columns, 64, batch_size=batch_size)
    encoded = encoder.encode(LONG_AND_SHORT, plan)
    assert encoded.n_passes == len(batches) == -(-len(LONG_AND_SHORT) // batch_size)
    assert {len(batch.lengths) for batch in batches[:-1]} <= {batch_size}


@pytest.mark.parametrize("name", ["bert", "albert", "modernbert", "mpnet"])
def test_batches_do_not_change_the_numbers(load, name):
    encoder = load(name)
    texts = LONG_AND_SHORT[::3]
    expected = encoder.encode(texts, PLAN)
    for budget, batch_size in [(1, None), (100, None), (None, 1), (None, 7)]:
        encoder.budget = budget or encoder.budget
        plan = Plan(COLUMNS, 64, batch_size=batch_size)
        assert_equal(encoder.encode(texts, plan), expected)


def test_the_order_of_texts_does_not_change_the_numbers(load):
    encoder = load("bert")
    order = np.random.default_rng(0).permutation(len(LONG_AND_SHORT))
    expected = encoder.encode(LONG_AND_SHORT, MEAN).columns["mean"][:, order]
    result = encoder.encode([LONG_AND_SHORT[k] for k in order], MEAN).columns["mean"]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


# Several threads


@pytest.fixture
def three_workers(monkeypatch):
    monkeypatch.setattr(sklearn_bert.encoder, "_TOKENS_PER_WORKER", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def encoded_by_batches(load, budget):
    """Return an encoder of batches that small, and what it gives."""
    encoder = load("bert")
    encoder.budget = budget
    return encoder, encoder.encode(LONG_AND_SHORT, MEAN)


def record_threads(monkeypatch):
    """Return a list of the threads in which batches run, and torch's in each."""
    seen, run = [], Network.run
    all_there = threading.Barrier(3)

    def recording(self, batch, last, use):
        with contextlib.suppress(threading.BrokenBarrierError):
            all_there.wait(timeout=5)
        seen.append((threading.get_ident(), torch.get_num_threads()))
        return run(self, batch, last, use)

    monkeypatch.setattr(Network, "run", recording)
    return seen


@pytest.mark.parametrize("name", [k for k, v in LAYOUTS.items() if v != "refused"])
def test_a_batch_per_thread_gives_what_one_thread_does(
    load, monkeypatch, three_workers, name
):
    encoder = load(name)
    encoder.budget = 150
    with monkeypatch.context() as patch:
        patch.setattr(sklearn_bert.encoder, "_MAX_WORKERS", 1)
        expected = encoder.encode(LONG_AND_SHORT, PLAN)
    seen = record_threads(monkeypatch)
    result = encoder.encode(LONG_AND_SHORT, PLAN)
    assert_equal(result, expected)
    assert len({thread for thread, _ in seen}) == 3
    assert {n_threads for _, n_threads in seen} == {1}


@pytest.mark.parametrize("n_threads", [1, 2])
def test_worker_processes_keep_to_the_threads_that_joblib_grants(load, n_threads):
    def threads_of_batches(checkpoint, texts):
        from sklearn_bert.encoder import get_encoder
        from sklearn_bert.network import Network

        encoder = get_encoder(checkpoint, "cpu", "float32")
        seen, run = [], Network.run

        def recording(self, batch, last, use):
            seen.append((threading.get_ident(), torch.get_num_threads()))
            return run(self, batch, last, use)

        Network.run = recording
        encoder.encode(texts, MEAN)
        Network.run = run
        return seen

    texts = [f"{text} {i}" for i in range(60) for text in TEXTS]
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=n_threads):
        counts = joblib.Parallel()(
            joblib.delayed(threads_of_batches)(load("bert").checkpoint, texts)
            for _ in range(2)
        )
    for of_process in counts:
        granted = dict(of_process)  # by thread
        assert len(of_process) > 1
        assert sum(granted.values()) <= n_threads


def test_copies_for_threads_share_the_weights(load):
    network = load("bert").network
    assert network.prepare_for(3) == len(network._idle) == 3
    of_each = [
        {tensor.data_ptr() for tensor in runner.model.parameters()}
        | {m.bias.data_ptr() for m in runner.model.modules() if hasattr(m, "packed")}
        for runner in network._idle
    ]
    assert of_each[0] == of_each[1] == of_each[2]
    packed = [
        [id(m.packed) for m in runner.model.modules() if hasattr(m, "packed")]
        for runner in network._idle
    ]
    assert packed[0] == packed[1] == packed[2] != []
    modules = [set(map(id, runner.model.modules())) for runner in network._idle]
    assert not modules[0] & modules[1]


def test_a_network_that_cannot_be_copied_runs_in_one_thread(
    load, monkeypatch, three_workers
):
    _, expected = encoded_by_batches(load, 150)

    class NoCopy:
        def __deepcopy__(self, memo):
            raise TypeError("not that")

    again = load("bert")
    again.budget = 150
    again.network._model.keeps = NoCopy()
    threads, run = set(), Network.run

    def recording(self, batch, last, use):
        threads.add(threading.get_ident())
        return run(self, batch, last, use)

    monkeypatch.setattr(Network, "run", recording)
    assert_equal(again.encode(LONG_AND_SHORT, MEAN), expected)
    assert threads == {threading.get_ident()}


def test_a_copy_that_is_none_is_not_used(load, three_workers):
    _, expected = encoded_by_batches(load, 150)
    again = load("bert")
    again.budget = 150
    model = again.network._model
    plain = model.encoder.forward
    model.encoder.forward = lambda *args, **kwargs: plain(*args, **kwargs)  # atomic
    assert again.network.prepare_for(3) == 1
    assert_equal(again.encode(LONG_AND_SHORT, MEAN), expected)


def test_a_text_that_fits_only_by_itself_runs_when_others_are_done(
    load, monkeypatch, three_workers
):
    encoder, expected = encoded_by_batches(load, 64)
    run, running, lock = Network.run, [], threading.Lock()

    def crowded(self, batch, last, use):
        with lock:
            running.append(1)
        try:
            if len(running) > 1 and batch.lengths.max() > 40:
                raise torch.OutOfMemoryError("out of memory")
            return run(self, batch, last, use)
        finally:
            with lock:
                running.pop()

    monkeypatch.setattr(Network, "run", crowded)
    encoder.budget = 64
    assert_equal(encoder.encode(LONG_AND_SHORT, MEAN), expected)


def test_a_process_without_room_for_threads_encodes_all(
    load, monkeypatch, three_workers
):
    encoder, expected = encoded_by_batches(load, 150)

    def full(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    assert_equal(encoder.encode(LONG_AND_SHORT, MEAN), expected)


def test_few_tokens_are_one_batch_for_all_threads(load, monkeypatch):
    encoder = load("bert")
    batches = record_batches(monkeypatch)
    encoder.encode(TEXTS, MEAN)
    assert len(batches) == 1


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_an_error_in_one_thread_ends_the_call(load, monkeypatch, three_workers, error):
    encoder, expected = encoded_by_batches(load, 40)
    run, numbers = Network.run, count(1)

    def failing_once(self, batch, last, use):
        if next(numbers) == 2:
            raise error
        return run(self, batch, last, use)

    monkeypatch.setattr(Network, "run", failing_once)
    with pytest.raises(type(error)):
        encoder.encode(LONG_AND_SHORT, MEAN)
    assert next(numbers) - 1 <= 2 + 3 < expected.n_passes
    assert_equal(encoder.encode(LONG_AND_SHORT, MEAN), expected)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_threads_halve_what_does_not_fit(load, monkeypatch, three_workers, batch_size):
    encoder = load("bert")
    encoder.budget = 200
    plan = Plan(COLUMNS, 64, batch_size=batch_size)
    expected = encoder.encode(LONG_AND_SHORT, plan)
    tried = run_out_of_memory(monkeypatch, 100)
    result = encoder.encode(LONG_AND_SHORT, plan)
    assert_equal(result, expected)
    assert any(n_rows > 100 for n_rows in tried)
    assert result.n_passes == sum(n_rows <= 100 for n_rows in tried)


def test_workers_get_batches_of_like_size_and_as_many(load, monkeypatch, three_workers):
    encoder = load("bert")
    encoder.budget = 400
    batches = record_batches(monkeypatch)
    encoder.encode(["dog " * n for n in range(2, 42)], MEAN)
    sizes = [int(batch.lengths.sum()) for batch in batches]
    assert len(sizes) == 3 > sum(sizes) / 400
    assert max(sizes) - min(sizes) <= 2 * 42


# Memory that runs out


def fill_gpu():
    raise torch.OutOfMemoryError("out of memory")


def fill_cpu():
    torch.empty(2**60, dtype=torch.uint8)


def fill_mps():
    raise RuntimeError("MPS backend out of memory (MPS allocated: 5.56 GB)")


def run_out_of_memory(monkeypatch, beyond, fill=fill_gpu):
    """Let every batch of more rows fail; return a list of the sizes tried."""
    tried, run = [], Network.run

    def failing(self, batch, last, use):
        tried.append(batch.n_rows)
        if batch.n_rows > beyond:
            fill()
        return run(self, batch, last, use)

    monkeypatch.setattr(Network, "run", failing)
    return tried


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_batch_that_does_not_fit_is_halved(load, monkeypatch, layout):
    encoder = load("bert", layout=layout)
    expected = encoder.encode(LONG_AND_SHORT, PLAN)
    tried = run_out_of_memory(monkeypatch, 400)
    assert_equal(encoder.encode(LONG_AND_SHORT, PLAN), expected)
    assert any(n_rows > 400 for n_rows in tried)
    assert 200 <= encoder.budget <= 512


@pytest.mark.parametrize("fill", [fill_cpu, fill_mps])
def test_a_device_without_an_error_of_its_own_may_be_full_too(load, monkeypatch, fill):
    encoder = load("bert")
    expected = encoder.encode(LONG_AND_SHORT, MEAN)
    run_out_of_memory(monkeypatch, 400, fill)
    assert_equal(encoder.encode(LONG_AND_SHORT, MEAN), expected)
    assert encoder.budget <= 512


def test_an_error_that_is_not_about_memory_halves_nothing(load, monkeypatch):
    def fail(self, batch, last, use):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    encoder = load("bert")
    before = encoder.budget
    monkeypatch.setattr(Network, "run", fail)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        encoder.encode(LONG_AND_SHORT, MEAN)
    assert encoder.budget == before


def test_later_calls_begin_with_the_smaller_budget(load, monkeypatch):
    encoder = load("bert")
    tried = run_out_of_memory(monkeypatch, 400)
    encoder.encode(LONG_AND_SHORT, MEAN)
    tried.clear()
    encoded = encoder.encode(LONG_AND_SHORT, MEAN)
    assert max(tried) <= 400
    assert encoded.n_passes == len(tried)


def test_a_batch_that_fails_in_the_middle_of_a_call_loses_nothing(load, monkeypatch):
    encoder = load("bert")
    encoder.budget = 300
    expected = encoder.encode(LONG_AND_SHORT, PLAN)
    run, numbers = Network.run, count(1)  # each thread has one of its own

    def failing_once(self, batch, last, use):
        number = next(numbers)
        output = run(self, batch, last, use)
        if number == 4:
            raise torch.OutOfMemoryError("out of memory")
        return output

    monkeypatch.setattr(Network, "run", failing_once)
    result = encoder.encode(LONG_AND_SHORT, PLAN)
    assert_equal(result, expected)
    assert result.n_passes == next(numbers) - 2


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_batch_size_that_does_not_fit_is_halved(load, monkeypatch, layout):
    encoder = load("bert", layout=layout)
    plan = Plan(COLUMNS, 64, batch_size=64)
    expected = encoder.encode(LONG_AND_SHORT, plan)
    run_out_of_memory(monkeypatch, 600)
    result = encoder.encode(LONG_AND_SHORT, plan)
    assert_equal(result, expected)
    assert expected.n_passes == 2 < result.n_passes <= 15  # 8 texts or more each


def test_a_batch_size_that_does_not_fit_never_raises_the_budget(load, monkeypatch):
    encoder = load("bert")
    before = encoder.budget
    run_out_of_memory(monkeypatch, 3 * before)
    texts = SENTENCES * 12
    assert encoder.count_tokens(texts).sum() > 3 * before
    encoder.encode(texts, Plan({"mean": (0,)}, 64, batch_size=len(texts)))
    assert encoder.budget <= before


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_a_single_text_that_does_not_fit_says_how_long_it_is(
    load, monkeypatch, batch_size
):
    encoder = load("bert")
    run_out_of_memory(monkeypatch, 20)
    plan = Plan({"mean": (3,)}, 64, batch_size=batch_size)
    expected = r"A single text of 32 tokens .* of cpu\. Pass a smaller .*bfloat16'\.$"
    with pytest.raises(torch.OutOfMemoryError, match=expected):
        encoder.encode(["a", "dog " * 30, "b", "c d"], plan)
    assert encoder.encode(["a", "dog"], plan).n_passes > 0  # it is still of use


# Stopping early, and the attention that is in place


def count_blocks(encoder):
    """Return a list that grows by one with each block that runs to its end."""
    ran = []
    for block in set(encoder.network._blocks):
        block.register_forward_hook(lambda *_: ran.append(1))
    return ran


@pytest.mark.parametrize("layer", EVERY)
@pytest.mark.parametrize("name", ["bert", "albert", "modernbert", "deberta_v2"])
def test_no_block_above_the_highest_layer_runs(load, name, layer):
    encoder = load(name)
    ran = count_blocks(encoder)
    encoded = encoder.encode(TEXTS, Plan({"mean": (layer,), "max": (0,)}, 64))
    assert encoded.n_passes == 1
    assert len(ran) == layer


@pytest.mark.parametrize("name", ["bert", "roberta", "albert"])
def test_the_pooler_runs_padded_and_the_next_pass_packed_again(load, monkeypatch, name):
    encoder = load(name)
    before = encoder.encode(TEXTS, PLAN)
    batches = record_batches(monkeypatch)
    result = encoder.encode(TEXTS, Plan({"pooler": (3,), "mean": EVERY}, 64))
    assert [batch.packing for batch in batches] == [None]
    expected = naive_features(
        directory(encoder), TEXTS, layer=3, pooling="pooler", max_length=64
    )
    np.testing.assert_allclose(result.columns["pooler"][0], expected, atol=1e-5)
    mean = before.columns["mean"]
    atol = 1e-5 * np.abs(mean).max()
    np.testing.assert_allclose(result.columns["mean"], mean, rtol=0, atol=atol)
    after = encoder.encode(TEXTS, PLAN)
    assert batches[-1].packing is not None
    assert encoder.network._runner.attention == PACKED
    np.testing.assert_array_equal(after.columns["mean"], mean)


def test_attention_and_pooler_of_one_padded_pass_equal_those_of_two(load):
    encoder = load("bert")
    both = encoder.encode(TEXTS, Plan({"pooler": (3,), "attention": (1, 2, 3)}, 64))
    for column, layers in both.layers.items():
        alone = encoder.encode(TEXTS, Plan({column: layers}, 64)).columns[column]
        np.testing.assert_allclose(both.columns[column], alone, rtol=0, atol=1e-4)


def test_threads_may_share_an_encoder(load):
    encoder = load("bert")
    plans = [
        Plan({"mean": (3,)}, 64),
        Plan({"pooler": (3,)}, 64),
        Plan({"attention": (1, 2)}, 64, batch_size=2),
        Plan({"pooler": (3,), "attention": (2,)}, 16),
        Plan({"max-content": (0,), "cls": (1,)}, 64, batch_size=3),
    ]
    expected = [encoder.encode(TEXTS, plan) for plan in plans]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda plan: encoder.encode(TEXTS, plan), plans * 8))
    for k, result in enumerate(results):
        assert_equal(result, expected[k % len(plans)], 1e-6)


# What a vectorizer says of it


def test_execution_is_a_named_tuple_of_how_it_runs(tiny):
    vectorizer = BertVectorizer(tiny, device="cpu").fit(TEXTS)
    execution = vectorizer.execution()
    assert execution == ("packed", "prepacked", "cpu", "float32")
    assert execution._fields == ("layout", "linear", "device", "dtype")


def test_execution_before_fit_is_refused(tiny):
    with pytest.raises(NotFittedError, match=r"This BertVectorizer instance is not"):
        BertVectorizer(tiny).execution()


def test_the_html_view_loads_no_encoder(tiny, monkeypatch):
    monkeypatch.setattr(sklearn_bert.encoder, "_registry", OrderedDict())
    vectorizer = BertVectorizer(tiny, device="cpu").fit(TEXTS)
    assert "BertVectorizer" in vectorizer._repr_html_()
    assert not sklearn_bert.encoder._registry
    vectorizer.execution()
    assert len(sklearn_bert.encoder._registry) == 1


def test_a_half_precision_in_software_warns_once_naming_dtype(tiny, monkeypatch):
    monkeypatch.setattr(features, "_has_warned", set())
    operators = torch.ops.mkldnn
    monkeypatch.setattr(operators, "_is_mkldnn_bf16_supported", lambda: False)
    BertVectorizer(tiny, device="cpu").fit_transform(["float32 never warns"])
    vectorizer = BertVectorizer(tiny, device="cpu", dtype="bfloat16").fit(TEXTS)
    with pytest.warns(UserWarning, match=r"software: dtype='bfloat16' takes") as caught:
        vectorizer.transform(["one text"])
    assert [warning.filename for warning in caught] == [__file__]
    vectorizer.transform(["another text"])


def test_a_processor_with_the_arithmetic_does_not_warn(tiny, monkeypatch):
    monkeypatch.setattr(features, "_has_warned", set())
    operators = torch.ops.mkldnn
    monkeypatch.setattr(operators, "_is_mkldnn_bf16_supported", lambda: True)
    BertVectorizer(tiny, device="cpu", dtype="bfloat16").fit_transform(["one text"])
    assert features._has_warned == set()


@pytest.mark.parametrize("name", ["bert", "deberta_v2"])
def test_a_checkpoint_that_asks_for_tuples_is_served_all_the_same(tmp_path, name):
    path = build_checkpoint(name, tmp_path / name)
    config = path / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "return_dict": False}))
    encoder = Encoder(find_checkpoint(str(path)), "cpu", "float32")
    assert encoder.encode(["a text"], Plan({"mean": (3,)}, 64)).n_passes == 1


@pytest.mark.parametrize("error", [ValueError, KeyError])
def test_a_network_that_refuses_the_packing_in_its_own_way_runs_padded(
    tmp_path, monkeypatch, error
):
    forward = BertSelfAttention.forward

    def strict(self, *args, **kwargs):
        if "packing" in kwargs:
            raise error("packing")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(BertSelfAttention, "forward", strict)
    path = build_checkpoint("bert", tmp_path / "bert")
    encoder = Encoder(find_checkpoint(str(path)), "cpu", "float32")
    assert encoder.execution.layout == "padded"


@pytest.mark.parametrize(
    ("fill", "error"), [(fill_gpu, torch.OutOfMemoryError), (fill_cpu, RuntimeError)]
)
def test_running_out_of_memory_while_loading_is_no_refusal(
    tmp_path, monkeypatch, fill, error
):
    run_out_of_memory(monkeypatch, 0, fill)
    path = build_checkpoint("bert", tmp_path / "bert")
    with pytest.raises(error, match=r"(of|allocate|enough) memory"):
        Encoder(find_checkpoint(str(path)), "cpu", "float32")


def test_a_padded_batch_for_the_pooler_keeps_to_the_budget(load, monkeypatch):
    encoder = load("bert")
    monkeypatch.setattr(encoder, "budget", 200)
    run, n_rows = Network.run, []

    def count(self, batch, last, use):
        n_rows.append(batch.n_rows)
        return run(self, batch, last, use)

    monkeypatch.setattr(Network, "run", count)
    texts = ["dogs " * 50, *["a"] * 40]
    encoder.encode(texts, Plan({"pooler": (3,)}, 64))
    assert max(n_rows) <= 200
