"""Texts in, pooled layers out: one encoder on one device, and who holds it.

An `Encoder` joins a checkpoint's tokenizer and network. It cuts and windows texts,
sorts them by length into batches under a budget of tokens, has the network run no
further than the highest layer needed, and pools each layer as it passes, so that no
more than one layer of token states is alive; or it keeps the states themselves, each
token's from the window that shows most of its surroundings. The vectors of the windows
of one text are joined, or kept as they are. On a GPU the budget comes from the free
memory, and results travel while the next batch runs; on a CPU several threads run a
batch each. A batch that does not fit is halved.

Encoders live in a small process-wide registry, never on an estimator.

Level 4 of the module map: imports `checkpoint`, `network`, `pooling`, `ragged`,
`request`, `threads` and `tokenizer`. Only `features` imports this module, when a text
has to be encoded, and `tuned`, for `resolve_device`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .checkpoint import Checkpoint, find_again, fingerprint_of
from .network import Batch, Execution, Network, is_out_of_memory, send
from .pooling import (
    Members,
    aggregate,
    has_rows,
    is_of_chunks,
    of_one_chunk,
    pool,
    row_type,
    split_column,
)
from .ragged import expand, starts_of
from .request import Text
from .threads import can_share_threads, share_threads
from .tokenizer import PROBES, Ids, Tokenizer

__all__ = [
    "Encoded", "Encoder", "Plan", "get_encoder", "resolve_device", "runs_in_software",
]  # fmt: skip

_CPU_TOKENS = 2048  # tokens per batch; 1,024 to 4,096 measured alike
_MAX_WORKERS = 4  # threads with a batch each, so that no more than four are in memory
_TOKENS_PER_WORKER = 512  # with fewer, all threads work on one batch; measured
_GPU_TOKENS = 131_072  # at most, and less where memory is short
_MAX_LOADED = 3  # encoders kept per process
_PROBE_TOKENS = 40

logger = logging.getLogger(__name__)

Indices = NDArray[np.intp]
FloatArray = NDArray[np.float32]
# Pooled vectors of one batch: column, index of the layer in it, (n_texts, width).
Vectors = list[tuple[str, int, Tensor]]
# First token of a piece that counts, and the one after the last, (n_pieces,) each.
Span = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Plan:
    """What one pass computes.

    Attributes
    ----------
    columns : mapping of str to tuple of int
        Layers wanted per column (see `pooling.column_name`).
    max_length : int or None
        Longest input in tokens, special ones included.
    stride : int or None
        None cuts longer texts; a number splits them into windows that share this many
        tokens.
    excluded_prompt : str
        A prompt that texts begin with and whose tokens never count in a pooling.
    batch_size : int or None
        Texts per batch; None for a token budget.
    optional : frozenset of str
        Columns to leave out where the encoder cannot serve them ([CLS] without one).
    """

    columns: Mapping[str, tuple[int, ...]]
    max_length: int | None
    stride: int | None = None
    excluded_prompt: str = ""
    batch_size: int | None = None
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Encoded:
    """The features of some texts.

    Attributes
    ----------
    layers : mapping of str to tuple of int
        Layers per column.
    columns : mapping of str to ndarray of shape (n_layers, n_texts, width)
        Or (n_layers, n_rows, width), for columns of any number of rows per text.
    n_rows : ndarray of shape (n_texts,) or None
        Rows per text of such columns, which lie end to end; None if there are none.
    n_tokens : ndarray of shape (n_texts,)
        Tokens per text, special ones included, before any cut.
    n_tokens_run : int
        Tokens that went through the encoder, padding left out.
    n_passes : int
        Forward passes.
    """

    layers: Mapping[str, tuple[int, ...]]
    columns: Mapping[str, NDArray[np.floating[Any]]]
    n_rows: Indices | None
    n_tokens: NDArray[np.int32]
    n_tokens_run: int
    n_passes: int


class Encoder:
    """A frozen encoder with its tokenizer, on one device and in one precision.

    Parameters
    ----------
    checkpoint : Checkpoint
    device : str
        A torch device.
    dtype : {"float32", "bfloat16", "float16"}

    Attributes
    ----------
    execution : Execution
        How it runs on this machine.

    Raises
    ------
    ValueError
        The checkpoint lacks weights, or its architecture is not served.
    """

    def __init__(self, checkpoint: Checkpoint, device: str, dtype: str) -> None:
        self.checkpoint = checkpoint
        self.tokenizer = Tokenizer(checkpoint)
        contents = self.tokenizer.content_ids(list(PROBES))
        probes = [self.tokenizer.surround(ids[:_PROBE_TOKENS]) for ids in contents]
        self.network = Network(checkpoint, device, dtype, probes, self.tokenizer.pad_id)
        self.budget = _token_budget(self.network)
        self._lock = threading.Lock()

    @property
    def execution(self) -> Execution:
        """How this encoder runs on this machine."""
        return self.network.execution

    def count_tokens(self, texts: list[str]) -> NDArray[np.int32]:
        """Return tokens per text, special ones included, before any cut."""
        return self.tokenizer.count(texts)

    def encode(self, texts: Sequence[Text], plan: Plan) -> Encoded:
        """Run texts through the encoder and pool them.

        Parameters
        ----------
        texts : list of str, or of tuple of str
            Texts, or the words of each.
        plan : Plan
            Columns of words need texts given as words.

        Returns
        -------
        Encoded
            In the order of `texts`.
        """
        self.tokenizer.check_lengths(plan.max_length, plan.stride)
        columns = self._servable(plan)
        contents, edges = self._tokenize(texts)
        n_special = self.tokenizer.n_special
        pieces: list[Ids] = []
        owners: list[int] = []
        for i, content in enumerate(contents):
            cut = self.tokenizer.cut(content, plan.max_length, plan.stride)
            pieces += cut
            owners += [i] * len(cut)
        is_first = np.diff(owners, prepend=-1) > 0
        n_skipped = self._skipped(is_first, plan)

        # The vectors of windows are what is pooled before windows are joined.
        asked = columns
        columns = _before_windows_are_joined(asked)
        kept = {}
        for column in columns:
            if has_rows(column):
                kept[column] = span = self._span(pieces, column, n_skipped)
                if not is_first.all():
                    self._share_out(span, pieces, is_first, edges, plan)
        width = self.checkpoint.width
        n_rows = {
            c: _counts(kept[c]).sum() if c in kept else len(pieces) for c in columns
        }
        pooled = {
            column: np.zeros((len(layers), n_rows[column], width), dtype=np.float32)
            for column, layers in columns.items()
        }
        n_passes = self._run_all(
            pieces, columns, n_skipped, kept, plan.batch_size, pooled
        )
        n_rows_of = None
        answer = {}
        for column, layers in asked.items():
            if is_of_chunks(column):
                name = of_one_chunk(column)
                answer[column] = _some_layers(pooled[name], columns[name], layers)
                n_rows_of = np.bincount(owners, minlength=len(texts)).astype(np.intp)
        self._join_windows(pooled, pieces, is_first, n_skipped)
        for column, span in kept.items():
            n_rows_of = np.add.reduceat(_counts(span), np.flatnonzero(is_first)).astype(
                np.intp
            )
            if column.startswith("words"):
                n_rows_of = np.array([len(e) - 1 for e in edges], dtype=np.intp)
                pooled[column] = _by_word(column, pooled[column], edges)
            pooled[column] = _rounded(column, pooled[column])
        for column, layers in asked.items():
            if column not in answer:
                answer[column] = _some_layers(pooled[column], columns[column], layers)
        n_tokens = np.array([len(c) + n_special for c in contents], dtype=np.int32)
        return Encoded(
            layers=asked,
            columns=answer,
            n_rows=n_rows_of,
            n_tokens=n_tokens,
            n_tokens_run=sum(map(len, pieces)) + len(pieces) * n_special,
            n_passes=n_passes,
        )

    def _tokenize(self, texts: Sequence[Text]) -> tuple[list[Ids], list[Ids]]:
        """Return the content tokens of texts, and the edges between their units.

        Units are words in texts given as words, else tokens.
        """
        words = [text for text in texts if isinstance(text, tuple)]
        if words:
            both = self.tokenizer.of_words(words)
            return [ids for ids, _ in both], [edges for _, edges in both]
        contents = self.tokenizer.content_ids([str(text) for text in texts])
        return contents, [np.arange(len(content) + 1) for content in contents]

    def _servable(self, plan: Plan) -> dict[str, tuple[int, ...]]:
        """Return the columns to compute, refusing those that must but cannot be."""
        columns = {}
        for column, layers in plan.columns.items():
            name, _ = split_column(of_one_chunk(column))
            reason = ""
            if name == "cls" and not len(self.tokenizer.prefix):
                reason = "its tokenizer begins texts with no special token"
            if name == "pooler" and not self.network.has_pooler:
                reason = "it has no trained pooler"
            if reason and column not in plan.optional:
                raise ValueError(self.checkpoint.refusal(reason, f"pooling={name!r}"))
            if not reason:
                columns[column] = layers
        return columns

    # Batches

    def _run_all(
        self,
        pieces: list[Ids],
        columns: Mapping[str, tuple[int, ...]],
        n_skipped: NDArray[np.int64],
        kept: Mapping[str, Span],
        batch_size: int | None,
        out: Mapping[str, FloatArray],
    ) -> int:
        """Run pieces batch by batch, the longest first; return the forward passes."""
        lengths = np.array([len(p) for p in pieces], dtype=np.int64)
        lengths += self.tokenizer.n_special
        starts = {column: starts_of(_counts(span)) for column, span in kept.items()}
        # Poolers pick the first token of each row of a padded batch.
        has_pooler = any(split_column(column)[0] == "pooler" for column in columns)
        layout = "padded" if has_pooler else self.execution.layout

        def work() -> int:
            # What was copied from a GPU is written while it works on the next batch.
            on_the_way: deque[
                tuple[Mapping[str, Indices], Vectors, torch.Event | None]
            ] = deque()
            n_passes = 0
            while (rows := batches.take()) is not None:
                some = [pieces[row] for row in rows]
                spans = {
                    c: (first[rows], after[rows]) for c, (first, after) in kept.items()
                }
                vectors = self._run_if_it_fits(
                    some, columns, n_skipped[rows], spans, layout,
                    is_alone=n_workers == 1,
                )  # fmt: skip
                if vectors is None:
                    torch.cuda.empty_cache()
                    budget = batches.put_back(rows)
                    logger.info("out of memory: batches of %d tokens from now", budget)
                    continue
                places = {
                    column: expand(starts[column][rows], _counts(spans[column]))
                    if column in kept
                    else rows
                    for column in columns
                }
                on_the_way.append((places, *_to_host(vectors)))
                if len(on_the_way) > 1:
                    _write(*on_the_way.popleft(), out)
                n_passes += 1
            for arrived in on_the_way:
                _write(*arrived, out)
            return n_passes

        with self._lock:  # one call at a time, with all threads
            n_workers = self._n_workers(int(lengths.sum()))
            batches = _Batches(lengths, self.budget, batch_size, layout, n_workers)
            n_workers = max(1, min(n_workers, len(batches)))
            try:
                n_passes = sum(share_threads(work, n_workers, batches.clear))
                n_workers = 1
                if batches.take_up_singles():  # that did not fit beside others
                    n_passes += work()
            finally:
                self.budget = batches.budget
            return n_passes

    def _n_workers(self, n_tokens: int) -> int:
        """Return how many threads work on a batch each."""
        if self.execution.linear != "prepacked" or not can_share_threads():
            return 1  # a GPU, or a machine on which this was not measured
        n_threads = min(torch.get_num_threads(), _MAX_WORKERS)
        return self.network.prepare_for(
            max(1, min(n_threads, n_tokens // _TOKENS_PER_WORKER))
        )

    def _run_if_it_fits(
        self,
        pieces: list[Ids],
        columns: Mapping[str, tuple[int, ...]],
        n_skipped: NDArray[np.int64],
        kept: Mapping[str, Span],
        layout: str,
        *,
        is_alone: bool,
    ) -> Vectors | None:
        """Run one batch, or return None, its memory free again, if it is too large.

        A text that is too large by itself is refused, unless other batches run beside.
        """
        try:
            return self._run(pieces, columns, n_skipped, kept, layout)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(pieces) > 1 or not is_alone:
                return None
            n_tokens = len(pieces[0]) + self.tokenizer.n_special
            cure = "a smaller max_length, dtype='bfloat16', or device='cpu'"
            if self.network.device.type == "cpu":
                cure = "a smaller max_length or dtype='bfloat16'"
            raise torch.OutOfMemoryError(
                f"A single text of {n_tokens} tokens does not fit in the memory of "
                f"{self.execution.device}. Pass {cure}."
            ) from error

    def _run(
        self,
        pieces: list[Ids],
        columns: Mapping[str, tuple[int, ...]],
        n_skipped: NDArray[np.int64],
        kept: Mapping[str, Span],
        layout: str,
    ) -> Vectors:
        """Run one batch and pool it, or take the rows kept of it."""
        poolings = {column: split_column(column) for column in columns}
        names = {name for name, _ in poolings.values()}
        batch = self.network.lay_out(
            [self.tokenizer.surround(piece) for piece in pieces],
            layout=layout,
            wants_attention="attention" in names,
        )
        # One column stands for all that count the same tokens.
        pooled_by = {poolings[c][1]: c for c in columns if c not in kept}
        members = {
            special: self._members(batch, *self._span(pieces, column, n_skipped))
            for special, column in pooled_by.items()
        }
        rows = {
            column: self._on_device(
                expand(batch.starts + starts, _counts((starts, ends)))
            )
            for column, (starts, ends) in kept.items()
        }
        # With a prompt left out, the first token that counts stands for [CLS].
        first = self._on_device(batch.starts + np.minimum(n_skipped, batch.lengths - 1))
        vectors: Vectors = []

        def use(layer: int, states: Tensor, received: Tensor | None) -> None:
            states = states.float()
            for column, layers in columns.items():
                name, special = poolings[column]
                if layer not in layers or name == "pooler":
                    continue
                if column in rows:
                    pooled = states[rows[column]]
                elif name == "cls":
                    pooled = states[first]
                elif name == "attention" and received is None:
                    reason = "its attention weights cannot be read"
                    raise ValueError(
                        self.checkpoint.refusal(reason, f"pooling={name!r}")
                    )
                else:
                    pooled = pool(name, states, members[special], received)
                vectors.append((column, layers.index(layer), pooled))

        last = max(max(layers) for layers in columns.values())
        output = self.network.run(batch, last, use)
        for column, (name, _) in poolings.items():
            if name == "pooler":
                vectors.append((column, 0, output.pooler_output.float()))
        return vectors

    def _on_device(self, array: NDArray[Any]) -> Tensor:
        return send(array, self.network.device)

    def _members(
        self, batch: Batch, starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> Members:
        """Return which rows count; starts and ends are places in each text."""
        counts = _counts((starts, ends))
        owners = np.full(batch.n_rows, len(counts), dtype=np.int64)
        owners[expand(batch.starts + starts, counts)] = np.repeat(
            np.arange(len(counts)), counts
        )
        return Members(
            self._on_device(owners),
            self._on_device(counts[:, np.newaxis].astype(np.float32)),
        )

    def _span(
        self, pieces: list[Ids], column: str, n_skipped: NDArray[np.int64]
    ) -> Span:
        """Return which tokens of each piece count in a column."""
        tokenizer = self.tokenizer
        name, special = split_column(column)
        ends = np.array([len(piece) for piece in pieces]) + tokenizer.n_special
        if special and not name.startswith("words"):
            return n_skipped.copy(), ends
        starts = np.maximum(n_skipped, len(tokenizer.prefix))
        return starts, ends - len(tokenizer.suffix)

    # Windows of one text

    def _skipped(self, is_first: NDArray[np.bool_], plan: Plan) -> NDArray[np.int64]:
        """Return how many tokens of each window belong to a prompt that never counts.

        With them go the special tokens before it. It may be longer than a window.
        """
        n_excluded = self.tokenizer.n_excluded(plan.excluded_prompt)
        if not n_excluded or is_first.all():
            return np.full(len(is_first), n_excluded)
        assert plan.max_length is not None
        assert plan.stride is not None
        step = plan.max_length - self.tokenizer.n_special - plan.stride
        windows = np.arange(len(is_first))
        rank = windows - np.maximum.accumulate(np.where(is_first, windows, 0))
        n_skipped = n_excluded - rank * step
        is_within = is_first | (n_skipped > len(self.tokenizer.prefix))
        return np.where(is_within, n_skipped, 0)

    def _share_out(
        self,
        span: Span,
        pieces: list[Ids],
        is_first: NDArray[np.bool_],
        edges: list[Ids],
        plan: Plan,
    ) -> None:
        """Narrow a span so that every token counts in one window only.

        It is the one in whose middle the token, or the word that it belongs to, lies
        most nearly.
        """
        assert plan.max_length is not None
        assert plan.stride is not None
        starts, ends = span
        room = plan.max_length - self.tokenizer.n_special
        n_prefix = len(self.tokenizer.prefix)
        first = np.flatnonzero(is_first)
        for text, (a, b) in enumerate(
            zip(first, np.append(first[1:], len(pieces)), strict=True)
        ):
            cut = 0
            for piece in range(a + 1, b):
                left = (piece - a) * (room - plan.stride)  # where this window begins
                right = left + plan.stride  # where the one before it ends
                cut = max(cut, _fair_cut(edges[text], int(left), int(right)))
                ends[piece - 1] = n_prefix + cut - (left - (room - plan.stride))
                starts[piece] = max(starts[piece], n_prefix + cut - left)

    def _join_windows(
        self,
        pooled: dict[str, NDArray[Any]],
        pieces: list[Ids],
        is_first: NDArray[np.bool_],
        n_skipped: NDArray[np.int64],
    ) -> None:
        """Make one vector per text where some texts have several windows."""
        if is_first.all():
            return
        starts = np.flatnonzero(is_first)
        ends = np.append(starts[1:], len(is_first))
        for column, values in pooled.items():
            if has_rows(column):
                continue
            counts = _counts(self._span(pieces, column, n_skipped))
            result = values[:, starts].copy()
            for i in np.flatnonzero(ends - starts > 1):
                window = slice(starts[i], ends[i])
                name, _ = split_column(column)
                result[:, i] = aggregate(name, values[:, window], counts[window])
            pooled[column] = result


def _before_windows_are_joined(
    columns: Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
    """Return what is pooled of each window: one column for rows and their join."""
    pooled: dict[str, tuple[int, ...]] = {}
    for column, layers in columns.items():
        name = of_one_chunk(column)
        pooled[name] = tuple(dict.fromkeys((*pooled.get(name, ()), *layers)))
    return pooled


def _some_layers(
    values: NDArray[Any], has: tuple[int, ...], layers: tuple[int, ...]
) -> NDArray[Any]:
    """Return some layers of a column; where they are all, it is not copied."""
    return values if has == layers else values[[has.index(layer) for layer in layers]]


def _counts(span: Span) -> NDArray[np.int64]:
    starts, ends = span
    counts: NDArray[np.int64] = np.maximum(ends - starts, 0)
    return counts


def _fair_cut(edges: Ids, left: int, right: int) -> int:
    """Return where to cut what two windows share, at an edge if one lies there.

    What lies before the middle has more context in the earlier window.
    """
    # A word belongs to the earlier window unless its centre lies beyond the middle.
    word = int(np.searchsorted(edges[:-1] + edges[1:], left + right, side="right"))
    cut = int(edges[word])
    return cut if left <= cut <= right else (left + right + 1) // 2


def _by_word(column: str, states: FloatArray, edges: list[Ids]) -> FloatArray:
    """Turn rows per token into rows per word; zeros for a word without a token."""
    ends = starts_of(np.array([e[-1] for e in edges]))
    bounds = [e + shift for e, shift in zip(edges, ends, strict=True)]
    starts = np.concatenate([np.empty(0, np.intp), *(e[:-1] for e in bounds)])
    after = np.concatenate([np.empty(0, np.intp), *(e[1:] for e in bounds)])
    has_tokens = after > starts
    starts, after = starts[has_tokens], after[has_tokens]
    out = np.zeros((len(states), len(has_tokens), states.shape[2]), dtype=np.float32)
    if not len(starts):
        return out
    if column.startswith("words_first"):
        out[:, has_tokens] = states[:, starts]
    elif column.startswith("words_last"):
        out[:, has_tokens] = states[:, after - 1]
    else:
        lengths = (after - starts).astype(np.float32)[:, np.newaxis]
        out[:, has_tokens] = np.add.reduceat(states, starts, axis=1) / lengths
    return out


def _rounded(column: str, values: FloatArray) -> NDArray[np.floating[Any]]:
    """Return values in the precision that a column keeps."""
    if row_type(column) is np.float32:
        return values
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise ValueError(
            f"token_dtype='float16' holds numbers up to 65,504, and this encoder's "
            f"states reach {np.abs(values).max():.3g}. Pass token_dtype='float32'."
        )
    return rounded


def _token_budget(network: Network) -> int:
    """Return how many tokens a batch may hold."""
    if network.device.type == "cpu":
        return _CPU_TOKENS
    if network.device.type != "cuda":
        return _GPU_TOKENS // 2
    free, _ = torch.cuda.mem_get_info(network.device)
    # A block holds some ten vectors per token and the wide ones between its two
    # linear layers, four times as wide; pooling holds one in float32.
    bytes_per_token = 4 * 20 * network.checkpoint.width
    return max(_CPU_TOKENS, min(_GPU_TOKENS, free // 2 // bytes_per_token))


class _Batches:
    """Texts in batches, the longest first, for one thread or several.

    Parameters
    ----------
    lengths : ndarray of shape (n_texts,)
        Tokens. Texts without any are in no batch: their features are zeros.
    budget : int
        Tokens per batch; kept as an attribute, as it shrinks.
    batch_size : int or None
        Texts per batch, instead.
    layout : {"packed", "padded"}
    n_workers : int
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        budget: int,
        batch_size: int | None,
        layout: str,
        n_workers: int,
    ) -> None:
        self._lengths, self.budget = lengths, budget
        self._batch_size, self._layout = batch_size, layout
        self._n_workers = n_workers
        self._lock = threading.Lock()
        self._singles: list[Indices] = []
        self._is_cleared = False
        order = np.argsort(-lengths, kind="stable")
        self._batches = deque(self._cut(order[lengths[order] > 0]))

    def __len__(self) -> int:
        return len(self._batches)

    def take(self) -> Indices | None:
        """Return the texts of the next batch, or None if none is left."""
        with self._lock:
            return self._batches.popleft() if self._batches else None

    def put_back(self, rows: Indices) -> int:
        """Take back a batch that does not fit into memory; return the new budget.

        It is cut anew, into halves at the most, with all that is left. A single text
        waits until no other batch runs.
        """
        with self._lock:
            if self._is_cleared:
                return self.budget
            if len(rows) == 1:
                self._singles.append(rows)
                return self.budget
            n_tokens = int(self._lengths[rows].sum())
            self.budget = max(1, min(self.budget, n_tokens // 2))
            if self._batch_size is not None:
                self._batch_size = max(1, min(self._batch_size, len(rows) // 2))
            left = np.concatenate([rows, *self._batches])
            left = left[np.argsort(-self._lengths[left], kind="stable")]
            self._batches = deque(self._cut(left))
            return self.budget

    def take_up_singles(self) -> bool:
        """Have single texts taken again; return whether there are any."""
        with self._lock:
            self._batches.extend(self._singles)
            self._singles = []
            return len(self._batches) > 0

    def clear(self) -> None:
        """Leave nothing to take."""
        with self._lock:
            self._batches.clear()
            self._is_cleared = True

    def _cut(self, order: Indices) -> Iterator[Indices]:
        n_tokens = int(self._lengths[order].sum())
        n_batches = 0  # at least
        if self._n_workers > 1:  # each gets as many
            n_rounds = -(-n_tokens // (self.budget * self._n_workers))
            n_batches = n_rounds * self._n_workers
        while len(order):
            size = self._size(self._lengths[order], n_batches)
            yield order[:size]
            order, n_batches = order[size:], n_batches - 1

    def _size(self, lengths: NDArray[np.int64], n_batches: int) -> int:
        """Return how many of these texts make the next batch.

        Packed ones are as few as the budget allows, and of like size: a small one at
        the end would be slow, and of a size that was not met before.
        """
        if self._batch_size is not None:
            return min(self._batch_size, len(lengths))
        if self._layout == "packed":
            total = int(lengths.sum())
            share = -(-total // max(n_batches, -(-total // self.budget)))
            n_tokens = np.cumsum(lengths[: self.budget])
            size = int(np.searchsorted(n_tokens, share)) + 1
            fits = int(np.searchsorted(n_tokens, self.budget, side="right"))
            return max(1, min(size, fits))
        return min(len(lengths), max(1, self.budget // int(lengths[0])))


def _to_host(vectors: Vectors) -> tuple[Vectors, torch.Event | None]:
    """Begin to copy vectors to the CPU, and return what says that they are there."""
    if not vectors or not vectors[0][2].is_cuda:
        return [(column, i, pooled.cpu()) for column, i, pooled in vectors], None
    copies = []
    for column, i, pooled in vectors:
        copy = torch.empty(pooled.shape, dtype=pooled.dtype, pin_memory=True)
        copies.append((column, i, copy.copy_(pooled, non_blocking=True)))
    device = vectors[0][2].device  # which need not be the current one
    event = torch.Event(device=device)
    event.record(torch.cuda.current_stream(device))
    return copies, event


def _write(
    places: Mapping[str, Indices],
    vectors: Vectors,
    event: torch.Event | None,
    out: Mapping[str, FloatArray],
) -> None:
    """Write the vectors of one batch to their places, when they have arrived."""
    if event is not None:
        event.synchronize()
    for column, i, pooled in vectors:
        out[column][i, places[column]] = pooled.numpy()


def runs_in_software(dtype: str) -> bool:
    """Return whether this processor lacks arithmetic of its own for a precision."""
    if dtype == "float32":
        return False
    kind = {"bfloat16": "bf16", "float16": "fp16"}[dtype]
    try:
        return not getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported")()
    except (AttributeError, RuntimeError):  # private to torch, and gone
        return False


_registry: OrderedDict[tuple[str, str, str, str], Encoder] = OrderedDict()
_registry_lock = threading.Lock()


def get_encoder(checkpoint: Checkpoint, device: str, dtype: str) -> Encoder:
    """Return the encoder of a checkpoint, loading it once per process.

    Parameters
    ----------
    checkpoint : Checkpoint
    device : str
        As `resolve_device` returns it.
    dtype : str

    Returns
    -------
    Encoder
    """
    key = (checkpoint.fingerprint, repr(checkpoint.declared), device, dtype)
    with _registry_lock:
        if key in _registry:
            _registry.move_to_end(key)
            return _registry[key]
        directory = find_again(checkpoint)
        encoder = Encoder(replace(checkpoint, directory=str(directory)), device, dtype)
        now = fingerprint_of(directory, checkpoint.trust_remote_code)
        if now != checkpoint.fingerprint:
            raise ValueError(
                f"The files of model={checkpoint.name!r} in {directory} changed while "
                "they were loaded; fit again."
            )
        _registry[key] = encoder
        while len(_registry) > _MAX_LOADED:
            _registry.popitem(last=False)
        return encoder


def _after_fork() -> None:
    """Forget encoders of the parent: their locks and threads did not come along."""
    global _registry_lock
    _registry_lock = threading.Lock()
    _registry.clear()
    torch.set_num_threads(1)  # OpenMP hangs in a fork of a process that has used it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def resolve_device(device: str) -> str:
    """Return the torch device for a `device` parameter; a GPU has its number.

    Raises
    ------
    ValueError
        There is no such device here.
    RuntimeError
        CUDA was initialised before this process was forked.
    """
    if device == "auto":
        if torch.cuda.is_available():
            device = "cuda"
        elif torch.backends.mps.is_available():
            device = "mps"
        else:
            device = "cpu"
    kind = device.partition(":")[0]
    if kind == "cuda":
        if torch.cuda._is_in_bad_fork():
            raise RuntimeError(
                "CUDA cannot be used in a process forked after CUDA was initialised. "
                'Use joblib\'s default backend ("loky"), start processes with "spawn", '
                'or pass device="cpu" in the workers.'
            )
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(device.partition(":")[2] or 0)
        if index >= n_devices:
            raise ValueError(
                f"device={device!r} is not here: torch sees {n_devices} CUDA devices. "
                'Pass device="auto" or "cpu".'
            )
        if device == "cuda":  # by its number, so that no encoder is loaded twice
            device = f"cuda:{torch.cuda.current_device()}"
    elif kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError(
            f"device={device!r} is not here: torch sees no MPS device. "
            'Pass device="auto" or "cpu".'
        )
    return device


def encode(
    checkpoint: Checkpoint, device: str, dtype: str, texts: Sequence[Text], plan: Plan
) -> Encoded:
    """Encode texts in this process: what a joblib worker is sent."""
    return get_encoder(checkpoint, resolve_device(device), dtype).encode(texts, plan)
