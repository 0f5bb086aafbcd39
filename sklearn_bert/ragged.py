"""Several rows per text, end to end: token states, and what belongs to words.

A `Ragged` is one flat array and, per text, where its rows begin and how many they are.
It is indexed like an array of texts, so that code which handles one row per text
handles several. `Spool` gathers one block by block, in a file where it would be large.

Level 0 of the module map: imports nothing of the package.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ragged", "Spool", "expand", "gather", "join", "room", "starts_of"]

_SPOOL_BYTES = 2**29  # kept in memory; more than that lies in a temporary file

Indices = NDArray[np.intp]


def starts_of(counts: NDArray[Any]) -> Indices:
    """Return where each text's rows begin if texts lie end to end.

    Examples
    --------
    >>> starts_of(np.array([2, 0, 3]))
    array([0, 2, 2])
    """
    counts = np.asarray(counts, dtype=np.intp)
    return np.cumsum(counts) - counts


def expand(starts: NDArray[Any], counts: NDArray[Any]) -> Indices:
    """Return the rows of texts that begin at `starts`, one text after the other.

    Examples
    --------
    >>> expand(np.array([7, 2]), np.array([2, 3]))
    array([7, 8, 2, 3, 4])
    """
    counts = np.asarray(counts, dtype=np.intp)
    rows = np.repeat(np.asarray(starts, dtype=np.intp) - starts_of(counts), counts)
    rows += np.arange(len(rows))
    return rows


@dataclass(eq=False)
class Ragged:
    """Some rows for every text.

    Attributes
    ----------
    values : ndarray of shape (n_rows, ...)
    starts, counts : ndarray of shape (n_texts,)
        Text i has the rows ``values[starts[i] : starts[i] + counts[i]]``. Texts may lie
        in any order, and equal ones may share their rows.
    """

    values: NDArray[Any]
    starts: Indices
    counts: Indices

    @classmethod
    def end_to_end(cls, values: NDArray[Any], counts: NDArray[Any]) -> Ragged:
        """Return texts whose rows lie one after the other."""
        counts = np.asarray(counts, dtype=np.intp)
        return cls(values, starts_of(counts), counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, which: Indices) -> Ragged:
        """Return some texts; rows are shared, not copied."""
        return Ragged(self.values, self.starts[which], self.counts[which])

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for start, count in zip(
            self.starts.tolist(), self.counts.tolist(), strict=True
        ):
            yield self.values[start : start + count]

    @property
    def rows(self) -> NDArray[Any]:
        """The rows of all texts in order; a view where they lie so already."""
        if len(self) and np.array_equal(
            self.starts, self.starts[0] + starts_of(self.counts)
        ):
            return self.values[self.starts[0] : self.starts[0] + self.counts.sum()]
        return self.values[expand(self.starts, self.counts)]

    def batches(self, n_rows: int) -> Iterator[tuple[Indices, NDArray[Any]]]:
        """Yield texts in order and their rows, about `n_rows` rows at a time.

        Yields
        ------
        which : ndarray of shape (n_which,)
            Texts.
        rows : ndarray
            Their rows, see `rows`.
        """
        batch_of = starts_of(self.counts) // max(1, n_rows)
        bounds = [0, *(np.flatnonzero(np.diff(batch_of)) + 1).tolist(), len(self)]
        for a, b in itertools.pairwise(bounds):
            if a < b:
                which = np.arange(a, b)
                yield which, self[which].rows


def join(rows: Ragged, how: str) -> NDArray[Any]:
    """Return one row per text: the mean, the maximum or the first of its rows.

    Parameters
    ----------
    rows : Ragged
        Of at least one row per text.
    how : {"mean", "max", "first"}

    Returns
    -------
    ndarray of shape (n_texts, ...)

    Examples
    --------
    >>> rows = Ragged.end_to_end(np.array([1.0, 3.0, 5.0]), np.array([2, 1]))
    >>> join(rows, "mean"), join(rows, "max"), join(rows, "first")
    (array([2., 5.]), array([3., 5.]), array([1., 5.]))
    """
    if how == "first":
        return rows.values[rows.starts]
    values, starts = rows.rows, starts_of(rows.counts)
    if how == "max":
        return np.asarray(np.maximum.reduceat(values, starts, axis=0))
    sums = np.asarray(np.add.reduceat(values, starts, axis=0))
    sums /= rows.counts.reshape(-1, *[1] * (sums.ndim - 1)).astype(sums.dtype)
    return sums


def room(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an array to fill: in a temporary file, mapped, if it is large."""
    if np.prod(shape, dtype=float) * np.dtype(dtype).itemsize <= _SPOOL_BYTES:
        return np.empty(shape, dtype=dtype)
    with tempfile.TemporaryFile() as file:  # the map keeps what it needs
        return np.asarray(np.memmap(file, dtype=dtype, mode="w+", shape=shape))


class Spool:
    """Gathers the rows of `n_texts` texts that come block by block.

    Parameters
    ----------
    n_texts : int
    max_bytes : int
        Rows of more bytes are moved to a temporary file, which goes with the array.
    """

    def __init__(self, n_texts: int, max_bytes: int = _SPOOL_BYTES) -> None:
        self._starts = np.zeros(n_texts, dtype=np.intp)
        self._counts = np.zeros(n_texts, dtype=np.intp)
        self._max_bytes = max_bytes
        self._blocks: list[NDArray[Any]] = []
        self._file: Any = None
        self._n_rows = self._n_bytes = 0
        self._kind: tuple[tuple[int, ...], np.dtype[Any]] | None = None

    def add(self, texts: Indices, block: Ragged) -> None:
        """Add the rows of some texts; `block` has one entry per text."""
        values, shift = block.values, self._n_rows
        self._kind = values.shape[1:], values.dtype
        self._starts[texts] = block.starts + shift
        self._counts[texts] = block.counts
        self._n_rows += len(values)
        self._n_bytes += values.nbytes
        self._blocks.append(values)
        if self._file is not None or self._n_bytes > self._max_bytes:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives on
            for each in self._blocks:
                self._file.write(np.ascontiguousarray(each).data)
            self._blocks.clear()

    def finish(self) -> Ragged:
        """Return all texts; in memory, rows lie in the order of the texts."""
        shape, dtype = self._kind or ((), np.dtype(np.float32))
        values: NDArray[Any]
        if self._file is not None:
            self._file.flush()
            values = np.memmap(
                self._file, dtype=dtype, mode="r", shape=(self._n_rows, *shape)
            )
            self._file.close()  # the map keeps what it needs
            return Ragged(values, self._starts, self._counts)
        # Equal texts share rows: each begins where the first of them does.
        old, first, inverse = np.unique(
            self._starts, return_index=True, return_inverse=True
        )
        order = np.argsort(first)
        counts = (
            np.maximum.reduceat(
                self._counts[np.argsort(inverse, kind="stable")],
                starts_of(np.bincount(inverse)),
            )
            if len(old)
            else old
        )
        new = np.empty_like(old)
        new[order] = starts_of(counts[order])
        values = np.empty((self._n_rows, *shape), dtype)
        shift = 0
        for block in self._blocks:
            a, b = np.searchsorted(old, [shift, shift + len(block)])
            values[expand(new[a:b], counts[a:b])] = block[
                expand(old[a:b] - shift, counts[a:b])
            ]
            shift += len(block)
        self._blocks.clear()
        return Ragged(values, new[inverse], self._counts)


def gather(blocks: Iterable[tuple[Indices, Ragged]], n_texts: int) -> Ragged:
    """Return all texts that come in blocks with their numbers: see `Spool`."""
    spool = Spool(n_texts)
    for texts, block in blocks:
        spool.add(texts, block)
    return spool.finish()
