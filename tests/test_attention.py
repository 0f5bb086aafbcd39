"""Packed attention keeps every text to itself, in one call or run by run."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from sklearn_bert import attention
from sklearn_bert.attention import Packing, has_variable_length_kernel

LENGTHS = [9, 5, 5, 5, 2, 1, 1]  # as batches are: sorted, some equal
N_HEADS, HEAD_SIZE = 4, 8


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def packing(lengths=LENGTHS, *, n_spare=0, wants_received=False):
    ends = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    return Packing(lengths, n_spare, wants_received, ends)


def random_states(n_rows, *, n_key_heads=N_HEADS):
    """Return query, key and value of shape (1, n_heads, n_rows, head_size)."""
    torch.manual_seed(0)
    return [
        torch.randn(1, n_heads, n_rows, HEAD_SIZE)
        for n_heads in (N_HEADS, n_key_heads, n_key_heads)
    ]


def naive_attention(query, key, value, lengths, *, scaling=None, window=None):
    """Attend under one mask over all rows; return the output and what is received."""
    n_rows, n_texts = query.shape[2], len(lengths)
    texts = torch.repeat_interleave(torch.arange(n_texts), torch.tensor(lengths))
    sees = torch.zeros(n_rows, n_rows, dtype=torch.bool)
    sees[: len(texts), : len(texts)] = texts == texts[:, None]
    if window is not None:
        places = torch.arange(n_rows)
        sees &= (places - places[:, None]).abs() < window
    key, value = (
        states.repeat_interleave(N_HEADS // states.shape[1], dim=1).double()
        for states in (key, value)
    )
    scores = query.double() @ key.mT * (scaling or HEAD_SIZE**-0.5)
    weights = scores.masked_fill(~sees, -torch.inf).softmax(dim=-1).nan_to_num()
    by_key = weights.mean(dim=1).sum(dim=1)[0]  # over the queries of the own text
    by_key[: len(texts)] /= torch.tensor(lengths)[texts]
    return (weights @ value).transpose(1, 2).float(), by_key.float()


def naive_varlen_attn(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *,
    scale=None, window_size=(-1, -1), enable_gqa=False,
):  # fmt: skip
    """Do what torch documents of its kernel, which only runs on CUDA."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert all(states.is_contiguous() for states in (query, key, value))
    assert cu_seq_q[-1] == len(query)
    assert cu_seq_k[-1] == len(key)
    assert max_q == cu_seq_q.diff().max()
    assert max_k == cu_seq_k.diff().max()
    outputs = []
    for start, end in pairwise(cu_seq_q):
        text = [states[start:end].transpose(0, 1) for states in (query, key, value)]
        ahead = torch.arange(end - start) - torch.arange(end - start)[:, None]
        left, right = window_size
        sees = torch.ones_like(ahead, dtype=torch.bool)
        if left >= 0:
            sees &= ahead >= -left
        if right >= 0:
            sees &= ahead <= right
        output = F.scaled_dot_product_attention(
            *text, attn_mask=sees, scale=scale, enable_gqa=enable_gqa
        )
        outputs.append(output.transpose(0, 1))
    return torch.cat(outputs)


def assert_close(result, expected):
    torch.testing.assert_close(result, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("window", [None, 1, 2, 5, 8, 9])
@pytest.mark.parametrize("n_key_heads", [4, 2, 1])
@pytest.mark.parametrize("n_spare", [0, 3])
@pytest.mark.parametrize("n_queries", [3, 256])
def test_texts_attend_within_themselves(
    monkeypatch, n_queries, n_spare, n_key_heads, window, scaling
):
    monkeypatch.setattr(attention, "_QUERIES", n_queries)  # weights at a time
    states = random_states(sum(LENGTHS) + n_spare, n_key_heads=n_key_heads)
    batch = packing(n_spare=n_spare, wants_received=True)
    output, weights = attention._packed_attention(
        None, *states, None, packing=batch, scaling=scaling, sliding_window=window
    )
    expected, received = naive_attention(
        *states, LENGTHS, scaling=scaling, window=window
    )
    assert weights is None
    assert_close(output, expected)
    assert_close(batch.received, received)


def test_weights_of_a_long_text_are_never_all_in_memory(monkeypatch):
    sizes, softmax = [], torch.Tensor.softmax

    def measured(scores, *args, **kwargs):
        sizes.append(scores.numel())
        return softmax(scores, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "softmax", measured)
    n_tokens, n_heads = 1000, 4
    batch = packing([n_tokens], wants_received=True)
    states = random_states(n_tokens)
    attention._packed_attention(None, *states, None, packing=batch)
    assert sum(sizes) == n_heads * n_tokens**2
    assert max(sizes) == n_heads * attention._QUERIES * n_tokens


# Two matrix products in place of torch's kernel


@pytest.fixture
def products(monkeypatch):
    """Attend by matrix products, as in bfloat16; return their sizes and widths."""
    sizes, softmax = [], torch.softmax

    def measured(scores, *args, **kwargs):
        sizes.append((scores.numel(), scores.shape[-1]))
        return softmax(scores, *args, **kwargs)

    monkeypatch.setattr(torch, "softmax", measured)
    monkeypatch.setattr(attention, "_products_are_faster", lambda query: True)
    monkeypatch.setattr(attention, "_PRODUCTS_FROM", 1)
    return sizes


@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("window", [None, 1, 5])
@pytest.mark.parametrize("n_key_heads", [4, 2, 1])
@pytest.mark.parametrize("n_scores", [1, 40, 200, 2**21])
def test_products_give_what_the_kernel_does(
    monkeypatch, products, n_scores, n_key_heads, window, scaling
):
    monkeypatch.setattr(attention, "_SCORES", n_scores)
    lengths = [41, *LENGTHS]
    states = random_states(sum(lengths), n_key_heads=n_key_heads)
    output, _ = attention._packed_attention(
        None, *states, None, packing=packing(lengths), scaling=scaling,
        sliding_window=window,
    )  # fmt: skip
    expected, _ = naive_attention(*states, lengths, scaling=scaling, window=window)
    assert_close(output, expected)
    assert max(size for size, _ in products) <= max(n_scores, 64)  # a query's, at least
    widths = {width for _, width in products}
    assert {64, 5} <= widths  # 41 keys fill registers to the end; 5 stay as they are


def test_products_are_for_bfloat16_on_a_cpu_with_arithmetic_for_it(monkeypatch):
    states = {
        dtype: [state.to(dtype) for state in random_states(80)]
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }
    monkeypatch.setattr(attention, "_by_products", lambda query, *_: query * 0)

    def takes_products(dtype):
        output, _ = attention._packed_attention(
            None, *states[dtype], None, packing=packing([40, 40])
        )
        return not output.any()

    monkeypatch.setattr(attention, "_has_bfloat16_arithmetic", lambda: True)
    assert [takes_products(dtype) for dtype in states] == [False, True, False]
    monkeypatch.setattr(attention, "_has_bfloat16_arithmetic", lambda: False)
    assert not takes_products(torch.bfloat16)


def test_products_in_bfloat16_are_near_float32(products):
    lengths = [300, 60, 60, 20]
    states = [state.bfloat16().float() for state in random_states(sum(lengths))]
    expected, _ = naive_attention(*states, lengths)
    output, _ = attention._packed_attention(
        None, *(state.bfloat16() for state in states), None, packing=packing(lengths)
    )
    cosines = torch.cosine_similarity(output.float(), expected, dim=-1)
    assert cosines.min() > 0.999


def test_attention_received_by_a_text_sums_to_one():
    batch = packing(n_spare=3, wants_received=True)
    states = random_states(sum(LENGTHS) + 3)
    attention._packed_attention(None, *states, None, packing=batch)
    *texts, spare = batch.received.split([*LENGTHS, 3])
    assert_close(torch.stack([text.sum() for text in texts]), torch.ones(len(LENGTHS)))
    assert not spare.any()


def test_only_the_first_attention_of_a_block_is_kept_and_only_if_wanted():
    batch, unwanted = packing(wants_received=True), packing()
    states = random_states(sum(LENGTHS))
    attention._packed_attention(None, *states, None, packing=batch)
    first = batch.received
    attention._packed_attention(None, *states[::-1], None, packing=batch)
    attention._packed_attention(None, *states, None, packing=unwanted)
    assert batch.received is first
    assert unwanted.received is None


def test_neighbours_of_equal_length_form_a_run():
    batch = packing()
    assert batch.runs == [(1, 9), (3, 5), (1, 2), (2, 1)]
    assert batch.offsets.tolist() == [0, 9, 14, 19, 24, 26, 27, 28]
    assert batch.longest == 9


def test_each_run_is_one_call_of_torchs_kernel(monkeypatch):
    shapes, plain = [], F.scaled_dot_product_attention

    def counting(query, *args, **kwargs):
        shapes.append(tuple(query.shape))
        return plain(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
    states = random_states(sum(LENGTHS))
    attention._packed_attention(None, *states, None, packing=packing())
    assert shapes == [(1, 4, 9, 8), (3, 4, 5, 8), (1, 4, 2, 8), (2, 4, 1, 8)]


def test_spare_rows_come_out_as_zeros_whatever_they_hold():
    states = random_states(sum(LENGTHS) + 3)
    for tensor in states:
        tensor[:, :, -3:] = torch.nan
    output, _ = attention._packed_attention(
        None, *states, None, packing=packing(n_spare=3)
    )
    assert output.isfinite().all()
    assert not output[:, -3:].any()


@pytest.mark.parametrize(
    "asked",
    [
        {"softcap": 30.0},
        {"s_aux": torch.ones(4)},
        {"position_bias": torch.zeros(1)},
        {"is_causal": True},
        {"dropout": 0.1},
        {"attention_mask": torch.ones(1, 1, 28, 28)},
    ],
)
def test_what_packing_cannot_do_is_refused(asked):
    given = {"attention_mask": None, "packing": packing(), **asked}
    with pytest.raises(TypeError, match=r"asked for what packing cannot do"):
        attention._packed_attention(None, *random_states(28), **given)


def test_arguments_that_change_nothing_are_taken():
    states = random_states(28)
    expected, _ = attention._packed_attention(None, *states, None, packing=packing())
    result, _ = attention._packed_attention(
        None, *states, None, packing=packing(), is_causal=False, dropout=0.0,
        softcap=None, position_ids=torch.zeros(1, 28), output_attentions=False,
    )  # fmt: skip
    assert torch.equal(result, expected)


def test_attention_without_a_packing_does_not_run():
    with pytest.raises(TypeError, match=r"packing"):
        attention._packed_attention(None, *random_states(28), None)


# The kernel for CUDA, by what torch documents of it


@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("window", [None, 1, 2, 5, 9])
@pytest.mark.parametrize("n_key_heads", [4, 2, 1])
@pytest.mark.parametrize("n_spare", [0, 3])
def test_one_call_equals_run_by_run(monkeypatch, n_spare, n_key_heads, window, scaling):
    monkeypatch.setattr(attention, "varlen_attn", naive_varlen_attn)
    states = random_states(28 + n_spare, n_key_heads=n_key_heads)
    packed = [tensor[0].transpose(0, 1) for tensor in states]
    batch = packing(n_spare=n_spare)
    result = attention._in_one_call(packed, batch, 28, scaling, window)
    expected = attention._run_by_run(packed, batch, False, scaling, window)
    assert_close(result, expected)


def test_an_older_kernel_is_given_no_argument_that_it_lacks(monkeypatch):
    def older(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k):
        return naive_varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k)

    monkeypatch.setattr(attention, "varlen_attn", older)
    packed = [tensor[0].transpose(0, 1) for tensor in random_states(28)]
    batch = packing()
    for scaling in (None, HEAD_SIZE**-0.5):
        result = attention._in_one_call(packed, batch, 28, scaling, None)
        expected = attention._run_by_run(packed, batch, False, scaling, None)
        assert_close(result, expected)
    with pytest.raises(TypeError, match="scale"):
        attention._in_one_call(packed, batch, 28, 0.3, None)


@pytest.mark.parametrize("wants_received", [False, True])
def test_cuda_takes_one_call_unless_the_weights_are_wanted(monkeypatch, wants_received):
    class OnCuda(torch.Tensor):
        is_cuda = True

    calls = []

    def recording(*args, **kwargs):
        calls.append(kwargs)
        return naive_varlen_attn(*args, **kwargs)

    monkeypatch.setattr(attention, "varlen_attn", recording)
    states = random_states(28)
    batch = packing(wants_received=wants_received)
    query = states[0].as_subclass(OnCuda)
    output, _ = attention._packed_attention(
        None, query, *states[1:], None, packing=batch
    )
    assert len(calls) == (not wants_received)
    assert_close(torch.Tensor(output), naive_attention(*states, LENGTHS)[0])


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "has_it"),
    [
        ("cuda", torch.bfloat16, (8, 0), True),
        ("cuda", torch.float16, (9, 0), True),
        ("cuda", torch.float32, (9, 0), False),
        ("cuda", torch.float16, (7, 5), False),
        ("cpu", torch.bfloat16, (9, 0), False),
        ("mps", torch.float16, (9, 0), False),
    ],
)
def test_the_kernel_needs_cuda_a_half_precision_and_ampere(
    monkeypatch, device, dtype, capability, has_it
):
    monkeypatch.setattr(attention, "varlen_attn", naive_varlen_attn)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert has_variable_length_kernel(torch.device(device), dtype) == has_it


def test_an_older_torch_has_no_such_kernel(monkeypatch):
    monkeypatch.setattr(attention, "varlen_attn", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert not has_variable_length_kernel(torch.device("cuda"), torch.bfloat16)
