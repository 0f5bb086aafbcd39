"""From token states to one vector per text, before the store.

Each pooling is one small function of a batch of token states and of which text each
counts for; padding never counts. The functions use tensor methods only, so importing
this module does not import torch. Also here: which poolings exist, which are
cheap enough to be stored with every pass, and how the vectors of the windows of one
long text become one vector.

A text may also keep several rows instead of one vector: its token states, one row per
word (`ROWS`), or one per window, pooled like a text of its own (`of_chunks`).

To add a pooling: write its function, enter it in `POOLINGS`, say in `aggregate` how
windows combine, and add it to the naive reference of the tests.

Level 1 of the module map: imports only `_validation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._validation import check_choice

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CHEAP_POOLINGS",
    "POOLINGS",
    "ROWS",
    "Members",
    "aggregate",
    "check_pooling",
    "column_name",
    "has_rows",
    "is_of_chunks",
    "of_chunks",
    "of_one_chunk",
    "pool",
    "read_pooling",
    "row_type",
    "split_column",
]

FloatArray = NDArray[np.float32]

CHEAP_POOLINGS = ("cls", "mean", "max")
"""Poolings that a pass stores for every layer: they cost less than 1 % of it."""

ROWS = ("tokens", "words_first", "words_mean", "words_last")
"""What has any number of rows per text; "_float16" after it rounds them to that."""

_CHUNKS = "chunks_"  # before a pooling: a row for every window of a text


@dataclass(frozen=True)
class Members:
    """Which rows of a layer's states count, and for which text.

    Attributes
    ----------
    owners : Tensor of shape (n_rows,), int64
        The text that a row counts for; `n_texts` for padding and for tokens left out.
    counts : Tensor of shape (n_texts, 1), float32
        Rows that count, per text.
    """

    owners: Tensor
    counts: Tensor


# In all of these: states (n_rows, width) in float32, received (n_rows,) or None, and
# the answer has shape (n_texts, width). A text of which no token counts gets zeros.


def _total(states: Tensor, members: Members) -> Tensor:
    n_texts, width = len(members.counts), states.shape[1]
    totals = states.new_zeros((n_texts + 1, width))
    return totals.index_add_(0, members.owners, states)[:n_texts]


def _mean(states: Tensor, members: Members, received: Tensor | None) -> Tensor:
    return _total(states, members) / members.counts.clamp(min=1.0)


def _mean_sqrt_len(states: Tensor, members: Members, received: Tensor | None) -> Tensor:
    return _total(states, members) / members.counts.clamp(min=1.0).sqrt()


def _max(states: Tensor, members: Members, received: Tensor | None) -> Tensor:
    n_texts, width = len(members.counts), states.shape[1]
    largest = states.new_zeros((n_texts + 1, width))
    owners = members.owners.unsqueeze(1).expand(-1, width)
    largest.scatter_reduce_(0, owners, states, "amax", include_self=False)
    return largest[:n_texts]


def _attention(states: Tensor, members: Members, received: Tensor | None) -> Tensor:
    assert received is not None
    weights = received.unsqueeze(1)
    total = _total(weights, members).clamp(min=1e-12)
    return _total(states * weights, members) / total


POOLINGS: dict[str, Callable[..., Any] | None] = {
    "cls": None,  # one token or the checkpoint's own head: the encoder picks them
    "mean": _mean,
    "max": _max,
    "mean_sqrt_len": _mean_sqrt_len,
    "attention": _attention,
    "pooler": None,
    "learned_attention": None,  # after the store, from token states: see `learning`
}


def pool(
    name: str, states: Tensor, members: Members, received: Tensor | None
) -> Tensor:
    """Pool the token states of a batch, packed or padded.

    Parameters
    ----------
    name : str
        A key of `POOLINGS` with a function.
    states : Tensor of shape (n_rows, width)
        States of one layer, float32, one row per token or padding.
    members : Members
        Which rows count, and for which text.
    received : Tensor of shape (n_rows,) or None
        Attention received per token, averaged over heads and queries.

    Returns
    -------
    Tensor of shape (n_texts, width)
    """
    function = POOLINGS[name]
    assert function is not None
    pooled: Tensor = function(states, members, received)
    return pooled


def aggregate(name: str, vectors: FloatArray, counts: NDArray[np.int64]) -> FloatArray:
    """Combine the pooled vectors of the windows of one text.

    Means are weighted by how many tokens each window counts, so that one window gives
    exactly the plain answer; "max" takes the maximum, "cls" and "pooler" the mean. A
    window of which no token counts is left out, but by "pooler".

    Parameters
    ----------
    name : str
        A key of `POOLINGS`.
    vectors : ndarray of shape (..., n_windows, width)
    counts : ndarray of shape (n_windows,)
        Tokens that count, per window.

    Returns
    -------
    ndarray of shape (..., width)
    """
    filled = counts > 0
    if name == "pooler" or (name == "cls" and not filled.any()):
        filled = np.ones_like(filled)
    if vectors.shape[-2] == 1 or not filled.any():
        combined = vectors[..., 0, :]
    elif name in ("cls", "pooler"):
        combined = vectors[..., filled, :].mean(axis=-2)
    elif name == "max":
        combined = vectors[..., filled, :].max(axis=-2)
    else:
        tokens = counts[filled].astype(np.float32)
        weights = np.sqrt(tokens / tokens.sum())
        if name != "mean_sqrt_len":
            weights = tokens / tokens.sum()
        combined = (vectors[..., filled, :] * weights[:, np.newaxis]).sum(axis=-2)
    return np.asarray(combined, dtype=np.float32)


def read_pooling(pooling: Any) -> Any:
    """Return the names in text such as "mean,max", anything else as it is."""
    if isinstance(pooling, str) and "," in pooling:
        return pooling.split(",")
    return pooling


def check_pooling(pooling: Any) -> tuple[str, ...] | str:
    """Return the poolings named as a tuple, or "auto"."""
    pooling = read_pooling(pooling)
    if isinstance(pooling, str):
        if pooling == "auto":
            return "auto"
        return (check_choice("pooling", pooling, ["auto", *POOLINGS]),)
    if not isinstance(pooling, (Sequence, np.ndarray)) or len(pooling) == 0:
        raise TypeError(
            "pooling must be one of "
            + ", ".join(map(repr, ["auto", *POOLINGS]))
            + ", or a non-empty sequence of these names without 'auto', "
            + f"got {pooling!r}."
        )
    names = tuple(
        check_choice(f"pooling[{i}]", name, POOLINGS) for i, name in enumerate(pooling)
    )
    if len(set(names)) < len(names):
        raise ValueError(f"pooling must not name a pooling twice, got {pooling!r}.")
    if "learned_attention" in names and len(names) > 1:
        raise ValueError(
            "pooling='learned_attention' is learned from token states and stands "
            f"alone, got {pooling!r}. Use FeatureUnion to set it beside others."
        )
    return names


def column_name(pooling: str, special_tokens: bool) -> str:
    """Name the stored column: "mean", or "mean-content" without special tokens."""
    if special_tokens or of_one_chunk(pooling) in ("cls", "pooler"):
        return pooling
    return pooling + "-content"


def split_column(column: str) -> tuple[str, bool]:
    """Return the pooling and the special_tokens that `column_name` was given."""
    pooling, _, content = column.partition("-")
    return pooling, not content


def of_chunks(pooling: str) -> str:
    """Name the rows that windows of a text have under a pooling."""
    return _CHUNKS + pooling


def is_of_chunks(name: str) -> bool:
    """Whether a pooling or a column has a row for every window."""
    return name.startswith(_CHUNKS)


def of_one_chunk(name: str) -> str:
    """Name the vector that is the row of a text with one window."""
    return name.removeprefix(_CHUNKS)


def has_rows(column: str) -> bool:
    """Whether a text has any number of rows in this column, instead of one."""
    name, _ = split_column(column)
    return is_of_chunks(name) or name.removesuffix("_float16") in ROWS


def row_type(column: str) -> type[np.floating[Any]]:
    """Return the type of the numbers in this column."""
    is_half = split_column(column)[0].endswith("_float16")
    return np.float16 if is_half else np.float32
