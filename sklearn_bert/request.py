"""What is asked of an encoder, and under which key the answer is kept.

A `Request` is everything that decides the numbers. From it follow the *space* (encoder
files, precision and the like), the columns that one pass computes, and how a text that
is too long is cut; with the text, these are the key of a stored row, which is decided
here and nowhere else.

A text is a str, or a tuple of its words. It has one vector per pooling, or any number
of rows: its tokens, its words, or the windows that it is cut into (`pooling.has_rows`).
A text that the limit does not cut has one window, whose row is its plain vector, and is
kept as that: short texts are the same whatever is done about long ones.

Level 2 of the module map: imports `checkpoint`, `pooling`, `ragged` and `shard`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import Checkpoint
from .pooling import (
    CHEAP_POOLINGS,
    column_name,
    has_rows,
    is_of_chunks,
    of_chunks,
    of_one_chunk,
    row_type,
    split_column,
)
from .ragged import Ragged
from .shard import FORMAT, Keys

__all__ = ["Columns", "Request", "Text", "keys_of", "of_whole_texts"]

_NUMBERS = 2  # raise it when a change of ours moves the numbers beyond float noise

Text = str | tuple[str, ...]  # a tuple holds the words of one text
Columns = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Request:
    """What decides the numbers.

    Attributes
    ----------
    checkpoint : Checkpoint
    poolings : tuple of str
        All give one vector per text, or all the same rows: of tokens, of words, or of
        windows.
    layers : tuple of int
        Between 0 and n_layers.
    special_tokens : bool
    max_length : int or None
        In tokens, special ones included.
    overflow : {"truncate", "chunk", "raise"}
    stride : int
        Tokens that consecutive windows share, for overflow="chunk".
    prompt : str
    include_prompt : bool
    dtype : str
    """

    checkpoint: Checkpoint
    poolings: tuple[str, ...]
    layers: tuple[int, ...]
    special_tokens: bool
    max_length: int | None
    overflow: str
    stride: int
    prompt: str
    include_prompt: bool
    dtype: str

    @property
    def has_rows(self) -> bool:
        """Whether a text has any number of rows, instead of one vector per pooling."""
        return has_rows(self.poolings[0])

    @property
    def wanted(self) -> Columns:
        """The layers wanted per column."""
        return {
            column_name(pooling, self.special_tokens): self.layers
            for pooling in self.poolings
        }

    @property
    def needed(self) -> Columns:
        """The layers per column that answer this, of texts cut and not cut."""
        return {**of_whole_texts(self.wanted), **self.wanted}

    def columns(self, store_layers: str | None) -> Columns:
        """Return the layers per column that one pass computes.

        Parameters
        ----------
        store_layers : {"all", "requested"} or None
            What is kept; None where nothing is.
        """
        if store_layers is None:
            return self.wanted
        if store_layers == "requested":
            return self.needed
        every = tuple(range(self.checkpoint.n_layers + 1))
        names = list(CHEAP_POOLINGS)
        if is_of_chunks(self.poolings[0]):
            names += map(of_chunks, CHEAP_POOLINGS)
        columns = dict.fromkeys(
            (column_name(name, self.special_tokens) for name in names), every
        )
        for column, layers in self.needed.items():
            pooling, _ = split_column(of_one_chunk(column))
            columns[column] = {"attention": every[1:], "pooler": every[-1:]}.get(
                pooling, every
            )
            if has_rows(pooling):  # large: no layer more than was asked for
                columns[column] = layers
        return columns

    @property
    def space(self) -> str:
        """Name everything that changes the numbers but the text and the column."""
        facts = {
            "numbers": _NUMBERS,
            "encoder": self.checkpoint.fingerprint,
            "dtype": self.dtype,
            "lower_case": self.checkpoint.declared.lower_case,
            "excluded_prompt": "" if self.include_prompt else self.prompt,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return f"v{FORMAT}-{digest[:32]}"

    def cut(self) -> str:
        """Name how a text that is too long is cut."""
        if self.overflow == "chunk":
            return f"chunk {self.max_length} {self.stride}"
        return f"truncate {self.max_length}"

    # Room for the answer

    def shape_of_block(self, n_rows: int) -> tuple[int, ...]:
        """Return the shape of features, (n_rows, n_poolings, n_layers, width)."""
        return (n_rows, *self._shape)

    def empty_block(self, n_rows: int) -> NDArray[np.float32]:
        """Return room for features of some texts."""
        return np.empty(self.shape_of_block(n_rows), dtype=np.float32)

    def empty_rows(self, counts: NDArray[Any]) -> Ragged:
        """Return room for rows, values (n_rows, n_poolings, n_layers, width)."""
        shape = (int(counts.sum()), *self._shape)
        values = np.empty(shape, dtype=row_type(self.poolings[0]))
        return Ragged.end_to_end(values, counts)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return len(self.poolings), len(self.layers), self.checkpoint.width

    def bytes_per_row(self, columns: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
        """Return what columns take per text, and per row of those that have rows."""
        n_bytes = [0, 0]
        for column, layers in columns.items():
            size = np.dtype(row_type(column)).itemsize
            n_bytes[has_rows(column)] += size * self.checkpoint.width * len(layers)
        return n_bytes[0], n_bytes[1]


def of_whole_texts(columns: Columns) -> Columns:
    """Return the columns that hold the same of texts that the limit does not cut."""
    return {of_one_chunk(column): layers for column, layers in columns.items()}


def keys_of(texts: Sequence[Text], cut: str) -> Keys:
    """Return the 16-byte keys of texts, shape (n_texts,); `cut` is "" for whole ones.

    Texts are hashed, so that a store never holds them.
    """
    keys = np.empty(len(texts), dtype="S16")
    key = cut.encode()
    make = hashlib.blake2b(digest_size=16, person=b"sklearn_bert", key=key)
    of_words = hashlib.blake2b(digest_size=16, person=b"sklearn_bert-w", key=key)
    for i, text in enumerate(texts):
        if isinstance(text, str):
            state = make.copy()
            state.update(text.encode("utf-8", "surrogatepass"))
        else:
            state = of_words.copy()
            for word in text:
                content = word.encode("utf-8", "surrogatepass")
                state.update(len(content).to_bytes(8, "little") + content)
        keys[i] = state.digest()
    return keys
