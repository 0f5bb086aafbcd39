"""Attention over texts packed end to end, without padding.

A packed batch holds its texts one after the other in a single row. transformers lets an
attention function be registered by name; the one here keeps every text to itself. Texts
come sorted by length, so neighbours of equal length form a *run*, and each run is one
call of torch's own kernel on a view, with neither mask nor copy; in bfloat16, on a CPU
with arithmetic for it, two matrix products take its place. On CUDA, in half precision,
all texts are one call of the variable-length kernel. The mask function
registered under the same name makes none.

Whether a network can be served so is found by trying (see `network`): one that does not
pass the `Packing` on to its attention, or asks for something unknown, raises here.

Level 0 of the module map: only `network` imports it; it imports nothing of the package.
"""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

varlen_attn: Any = None
with contextlib.suppress(ImportError):  # an older torch
    from torch.nn.attention.varlen import varlen_attn

__all__ = ["PACKED", "Packing", "has_variable_length_kernel"]

PACKED = "sklearn_bert_packed"
"""Name of the attention and mask functions in transformers."""

# Where weights are wanted, they are made for so many queries at a time: the memory that
# they take grows with the tokens of a batch, not with the square of a text's length.
_QUERIES = 256
# Where attention may be two matrix products: tokens of a run from which on it is, and
# scores in memory at a time. Both measured in bfloat16 with AVX-512.
_PRODUCTS_FROM = 32
_SCORES = 2**21
_LANES = 32  # numbers in a register

# Arguments that other kernels take and that change nothing here when they are given.
_HARMLESS = {
    "deterministic", "output_attentions", "position_ids", "return_dict",
    "token_type_ids", "use_cache",
}  # fmt: skip


class Packing:
    """Where each text of a packed batch lies, and the attention that was asked for.

    Parameters
    ----------
    lengths : list of int
        Tokens per text, in the order of the batch, equal ones next to each other.
    n_spare : int
        Tokens after the last text that belong to none.
    wants_received : bool
        Whether to keep the attention that each token receives.
    offsets : Tensor of shape (n_texts + 1,), int32
        Where each text begins, and the last one ends, on the device.

    Attributes
    ----------
    runs : list of (int, int)
        How many neighbours have which length.
    received : Tensor of shape (n_tokens,) or None
        Attention that each token received in the first attention since it was None,
        averaged over heads and over the queries of its own text.
    """

    def __init__(
        self, lengths: list[int], n_spare: int, wants_received: bool, offsets: Tensor
    ) -> None:
        self.runs: list[tuple[int, int]] = []
        for length in lengths:
            if self.runs and self.runs[-1][1] == length:
                self.runs[-1] = (self.runs[-1][0] + 1, length)
            else:
                self.runs.append((1, length))
        self.longest = max(lengths)
        self.n_spare = n_spare
        self.wants_received = wants_received
        self.received: Tensor | None = None
        self.offsets = offsets


def has_variable_length_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether torch has a kernel for packed texts on a device other than CPU."""
    return (
        varlen_attn is not None
        and device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within each text of a packed batch.

    Parameters
    ----------
    query, key, value : Tensor of shape (1, n_heads, n_tokens, head_size)
        Keys and values may have fewer heads.

    Returns
    -------
    output : Tensor of shape (1, n_tokens, n_heads, head_size)
    weights : None
    """
    asked = {k for k, v in others.items() if v is not None} - _HARMLESS
    if asked or attention_mask is not None or is_causal or dropout:
        raise TypeError(f"attention is asked for what packing cannot do: {asked}")
    # (n_tokens, n_heads, head_size): texts lie along the first axis
    packed = [states[0].transpose(0, 1) for states in (query, key, value)]
    wants_received = packing.wants_received and packing.received is None
    n_tokens = len(packed[0]) - packing.n_spare
    if query.is_cuda and not wants_received:
        result = _in_one_call(packed, packing, n_tokens, scaling, sliding_window)
    else:
        result = _run_by_run(packed, packing, wants_received, scaling, sliding_window)
    return result.unsqueeze(0), None


def _in_one_call(
    packed: list[Tensor],
    packing: Packing,
    n_tokens: int,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    # An older torch has fewer of these.
    options: dict[str, Any] = {}
    if scaling is not None and scaling != packed[0].shape[-1] ** -0.5:
        options["scale"] = scaling
    if sliding_window is not None:
        options["window_size"] = (sliding_window - 1, sliding_window - 1)
    if packed[1].shape[1] != packed[0].shape[1]:
        options["enable_gqa"] = True
    query, key, value = (states[:n_tokens].contiguous() for states in packed)
    result = packed[0].new_zeros(packed[0].shape)
    result[:n_tokens] = varlen_attn(
        query, key, value, packing.offsets, packing.offsets,
        packing.longest, packing.longest, **options,
    )  # fmt: skip
    return result


def _run_by_run(
    packed: list[Tensor],
    packing: Packing,
    wants_received: bool,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    if scaling is None:
        scaling = packed[0].shape[-1] ** -0.5
    result = torch.empty_like(packed[0], memory_format=torch.contiguous_format)
    received = []
    start = 0
    for n_texts, length in packing.runs:
        part = slice(start, start + n_texts * length)
        start = part.stop
        # (n_texts, n_heads, length, head_size)
        query, key, value = (
            states[part].unflatten(0, (n_texts, length)).transpose(1, 2)
            for states in packed
        )
        mask = None
        if sliding_window is not None and length > sliding_window:
            places = torch.arange(length, device=query.device)
            mask = (places - places[:, None]).abs() < sliding_window
        if n_texts * length >= _PRODUCTS_FROM and _products_are_faster(query):
            output = _by_products(query, key, value, mask, scaling)
        else:
            output = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, scale=scaling,
                enable_gqa=key.shape[1] != query.shape[1],
            )  # fmt: skip
        result[part] = output.transpose(1, 2).flatten(0, 1)
        if wants_received:
            received.append(_received(query, key, mask, scaling).flatten())
    result[start:] = 0
    if wants_received:
        received.append(received[0].new_zeros(packing.n_spare))
        packing.received = torch.cat(received)
    return result


def _products_are_faster(query: Tensor) -> bool:
    """Whether matrix products beat torch's own kernel, which computes in float32.

    With arithmetic for bfloat16 they do, about twice; in float32 they do not.
    """
    return (
        query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and _has_bfloat16_arithmetic()
    )


@cache
def _has_bfloat16_arithmetic() -> bool:
    try:  # private to torch
        return bool(torch.cpu._is_avx512_bf16_supported())
    except AttributeError:
        return False


def _by_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
) -> Tensor:
    """Attend by two matrix products, with a bounded part of the scores in memory."""
    key, value = (_of_all_heads(states, query) for states in (key, value))
    shape, length = query.shape, query.shape[2]
    n_keys = length
    if length % _LANES > _LANES // 4:  # the softmax is slow in the rest of a row
        n_keys += -length % _LANES
        spare = (0, 0, 0, n_keys - length)
        key, value = F.pad(key, spare), F.pad(value, spare)
    # (n_texts * n_heads, length or n_keys, head_size)
    query, key, value = (states.flatten(0, 1) for states in (query, key, value))
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    n_queries = max(1, _SCORES // n_keys)
    n_heads = max(1, n_queries // length)
    for first in range(0, len(query), n_heads):
        heads = slice(first, first + n_heads)
        for start in range(0, length, n_queries):
            some = heads, slice(start, start + n_queries)
            scores = torch.baddbmm(
                query.new_empty(1), query[some], key[heads].mT, beta=0, alpha=scaling
            )
            if mask is not None:
                scores[..., :length].masked_fill_(~mask[some[1]], -float("inf"))
            scores[..., length:] = -float("inf")
            torch.softmax(scores, dim=-1, out=scores)
            output[some] = scores @ value[heads]
    return output.view(shape)


def _received(
    query: Tensor, key: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """Return the attention that each token of a run receives, (n_texts, length)."""
    key = _of_all_heads(key, query)
    n_texts, n_heads, length, _ = query.shape
    received = query.new_zeros((n_texts, length), dtype=torch.float32)
    for start in range(0, length, _QUERIES):
        some = slice(start, start + _QUERIES)
        scores = (query[:, :, some] @ key.transpose(2, 3)) * scaling
        if mask is not None:
            scores = scores.masked_fill(~mask[some], -float("inf"))
        received += scores.softmax(dim=-1, dtype=torch.float32).sum(dim=(1, 2))
    return received / (n_heads * length)


def _of_all_heads(states: Tensor, query: Tensor) -> Tensor:
    """Repeat keys or values that several heads of the query share."""
    n_shared = query.shape[1] // states.shape[1]
    return states if n_shared == 1 else states.repeat_interleave(n_shared, dim=1)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Make no mask: texts of a packed batch are kept apart by their `Packing`."""


AttentionInterface.register(PACKED, _packed_attention)
AttentionMaskInterface.register(PACKED, _no_mask)
