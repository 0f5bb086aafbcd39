"""Where encoder and store meet: texts in, blocks of frozen features out.

`iter_features` collapses duplicates, reads what the store has, has the encoder compute
the rest window by window, keeps it, and hands out blocks with the rows they belong to,
so that a caller writes its own output in place and memory stays bounded. What is asked
for, and under which key it is kept, is the business of `request`.

A text has one vector per pooling, or any number of rows; then a block is `Ragged`.

Torch is not imported unless a text has to be encoded.

Level 5 of the module map: imports `_validation`, `exceptions`, `pooling`, `ragged`,
`request`, `store` and, for a text that has to be encoded or taken apart, `encoder` and
`tokenizer`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from numpy.typing import NDArray

from ._validation import level_outside
from .exceptions import CutWarning
from .pooling import has_rows, is_of_chunks
from .ragged import Ragged, expand, starts_of
from .request import Columns, Request, Text, keys_of, of_whole_texts
from .store import FeatureStore, Hits, Keys

if TYPE_CHECKING:
    from .encoder import Encoded, Encoder, Plan
    from .network import Execution

__all__ = [
    "WORK", "Engine", "Work", "chunks_of", "every_cut_told", "execution",
    "iter_features", "n_chunks_of", "tokens_of",
]  # fmt: skip

_WINDOW_TEXTS = 512  # texts per claim and shard: one to two seconds of work on a CPU
_WINDOW_BYTES = 64 * 2**20
_MAX_TOLD = 10**6  # cut texts that are remembered
_GPU_WINDOWS = 16  # times as much per window: a GPU takes all of it in a few batches
_READ_BYTES = 32 * 2**20
_LARGE_BYTES = 2**30
_CHARACTERS = 3  # a token, roughly; only the size of windows depends on it
_MERGE_EVERY = 64  # windows of one call
_PATIENCE = 10  # waits of about a second before a run says what it waits for
_REMEMBERED = 20_000  # texts counted to notice that they are encoded again and again

logger = logging.getLogger(__name__)

Indices = NDArray[np.intp]
FloatArray = NDArray[np.float32]
Block = FloatArray | Ragged


@dataclass(frozen=True)
class Engine:
    """What decides where and how fast the numbers are made, never the numbers."""

    location: str | None = None  # of the store, see `store.store_location`
    store_layers: str = "all"
    device: str = "auto"
    batch_size: int | None = None
    n_jobs: int | None = None
    verbose: bool = False


@dataclass
class Work:
    """What this process has encoded so far (texts read from a store do not count)."""

    n_texts: int = 0
    n_tokens: int = 0
    n_passes: int = 0
    seconds: float = 0.0

    def since(self, before: Work) -> Work:
        """Return the work done since a copy was taken."""
        return Work(
            self.n_texts - before.n_texts,
            self.n_tokens - before.n_tokens,
            self.n_passes - before.n_passes,
            self.seconds - before.seconds,
        )

    def copy(self) -> Work:
        """Return the present counts."""
        return Work(self.n_texts, self.n_tokens, self.n_passes, self.seconds)


WORK = Work()


@contextlib.contextmanager
def every_cut_told() -> Iterator[None]:
    """Within, warn of every cut text again."""
    before = _told.copy()
    _told.clear()
    try:
        yield
    finally:
        _told.clear()
        _told.update(before)


def tokens_of(texts: Sequence[str], request: Request) -> list[tuple[str, ...]]:
    """Return the tokens whose states are the rows of texts."""
    from .tokenizer import Tokenizer

    tokenizer = Tokenizer(request.checkpoint)
    excluded = "" if request.include_prompt else request.prompt
    return [
        tokenizer.tokens(
            request.prompt + text,
            request.max_length if request.overflow != "chunk" else None,
            special=request.special_tokens,
            excluded_prompt=excluded,
        )
        for text in texts
    ]


def n_chunks_of(texts: list[str], request: Request) -> NDArray[np.intp]:
    """Return the windows in which each text is encoded, (n_texts,)."""
    n_chunks = np.ones(len(texts), dtype=np.intp)
    if request.overflow != "chunk":
        return n_chunks
    from .tokenizer import Tokenizer

    tokenizer = Tokenizer(request.checkpoint)
    for start in range(0, len(texts), _WINDOW_TEXTS):
        some = [request.prompt + text for text in texts[start : start + _WINDOW_TEXTS]]
        n_chunks[start : start + len(some)] = tokenizer.count_windows(
            some, request.max_length, request.stride
        )
    return n_chunks


def chunks_of(texts: Sequence[str], request: Request) -> list[tuple[str, ...]]:
    """Return what the windows of texts show of them."""
    from .tokenizer import Tokenizer

    tokenizer, prompt = Tokenizer(request.checkpoint), request.prompt
    return [
        tokenizer.windows(
            prompt + text, request.max_length, request.stride, len(prompt)
        )
        for text in texts
    ]


def execution(request: Request, engine: Engine) -> Execution:
    """Return how the encoder runs on this machine, loading it."""
    return _load(request, engine).execution


def _load(request: Request, engine: Engine) -> Encoder:
    from .encoder import get_encoder, resolve_device

    device = resolve_device(engine.device)
    return get_encoder(request.checkpoint, device, request.dtype)


def iter_features(
    texts: Sequence[Text],
    request: Request,
    engine: Engine,
    out: NDArray[np.float32] | None = None,
) -> Iterator[tuple[Indices, Block]]:
    """Yield frozen features block by block, each row once, in no particular order.

    Parameters
    ----------
    texts : list of str, or of tuple of str
        Texts, or the words of each, which take no prompt.
    request : Request
    engine : Engine
    out : ndarray of shape (n_texts, n_poolings, n_layers, width), default=None
        Room for all features, where the caller will put what is yielded: what a store
        has may be read right into it, and is then not yielded.

    Yields
    ------
    rows : ndarray of shape (n_rows,)
        Positions in `texts`.
    block : ndarray of shape (n_rows, n_poolings, n_layers, width), float32
        Or `Ragged`, with values of shape (n, n_poolings, n_layers, width).

    Warns
    -----
    CutWarning
        With counts, if texts were cut (overflow="truncate") of which no call has warned
        yet.
    """
    distinct: dict[Text, int] = {}
    inverse = np.fromiter(
        (distinct.setdefault(text, len(distinct)) for text in texts),
        dtype=np.intp,
        count=len(texts),
    )
    by_text = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[by_text], np.arange(len(distinct) + 1))
    repeats = np.diff(starts)
    prompted = [
        request.prompt + text if isinstance(text, str) else text for text in distinct
    ]
    del distinct  # a hundred bytes per text
    run = _Run(prompted, request, engine)
    run.first_rows = by_text[starts[:-1]]
    if len(prompted) == len(texts) and not request.has_rows:
        run.out = out
    if request.overflow == "raise":
        run.refuse_long()
    n_tokens = np.zeros(len(prompted), dtype=np.int64)
    for which, lengths, block in run:
        n_tokens[which] = lengths
        if block is None:
            continue
        if len(prompted) == len(texts):
            yield by_text[starts[which]], block
            continue
        expand = np.repeat(np.arange(len(which)), repeats[which])
        rows = np.concatenate([by_text[starts[i] : starts[i + 1]] for i in which])
        yield rows, block[expand]
    if request.overflow == "truncate":
        _warn_if_cut(n_tokens, inverse, run.whole_keys, request)


_told: set[tuple[str, int, bytes]] = set()  # cut texts of which this process has warned


def _warn_if_cut(
    n_tokens: NDArray[np.int64], inverse: Indices, keys: Keys, request: Request
) -> None:
    """Warn of texts that were cut; tokens and keys are of distinct ones."""
    max_length, model = request.max_length, request.checkpoint.fingerprint
    if max_length is None:
        return
    cut = {(model, max_length, key.tobytes()) for key in keys[n_tokens > max_length]}
    if cut <= _told:
        return  # folds of the same texts are cut again and again
    n_tokens = n_tokens[inverse]
    excess = n_tokens[n_tokens > max_length] - max_length
    share = 100.0 * excess.sum() / n_tokens.sum()
    warning = CutWarning(
        f"{len(excess)} of {len(n_tokens)} texts are longer than "
        f"max_length={max_length} tokens and were cut; {share:.1f} % of all tokens are "
        f"lost (the longest text has {n_tokens.max()}). Pass overflow='chunk' to use "
        "whole texts, or overflow='raise' to refuse them."
    )
    warning.n_cut, warning.n_lost = len(excess), int(excess.sum())
    warning.longest = int(n_tokens.max())
    warnings.warn(warning, stacklevel=level_outside())
    if len(_told) > _MAX_TOLD:
        _told.clear()
    _told.update(cut)


def _is_cpu(device: str) -> bool:
    """Whether texts are encoded on a CPU, as far as this process can tell.

    Workers elsewhere may have a GPU that is not here, so that one is not asked for.
    """
    if device != "auto":
        return device == "cpu"
    from .encoder import resolve_device

    return resolve_device(device) == "cpu"


_has_warned: set[str] = set()


def _warn_if_slow(device: str, dtype: str) -> None:
    """Say once that this processor computes a half precision in software."""
    from .encoder import runs_in_software

    if dtype in _has_warned or not (_is_cpu(device) and runs_in_software(dtype)):
        return
    _has_warned.add(dtype)
    warnings.warn(
        f"This processor computes {dtype} in software: dtype={dtype!r} takes several "
        "times as long here as dtype='float32'.",
        UserWarning,
        stacklevel=level_outside(),
    )


def _n_workers(n_jobs: int | None) -> int:
    """Return how many tasks joblib runs at a time; one from within a task of dask.

    joblib would hand the work on to the workers of the same cluster, and those may be
    waiting for the very texts that this one has claimed.
    """
    get_worker = getattr(sys.modules.get("distributed"), "get_worker", None)
    if get_worker is not None:
        with contextlib.suppress(ValueError):  # this is no worker
            get_worker()
            return 1
    return int(joblib.effective_n_jobs(n_jobs))


class _Run:
    """One call: iterate over (which texts, their token counts, their block)."""

    def __init__(self, texts: list[Text], request: Request, engine: Engine) -> None:
        self.texts = texts
        self.request = request
        self.engine = engine
        self.first_rows = np.arange(len(texts))  # repeats come later
        self.out: NDArray[np.float32] | None = None  # room for all, at their first rows
        self.store: FeatureStore | None = None
        if engine.location is not None and texts:
            self.store = _get_store(engine.location, request)
            self.store.reopen()
        self._workers = contextlib.ExitStack()  # closed when the run ends
        self._parallel: joblib.Parallel | None = None

    @cached_property
    def whole_keys(self) -> Keys:
        """Keys of the texts as a whole."""
        return keys_of(self.texts, "")

    @cached_property
    def cut_keys(self) -> Keys:
        """Keys of the texts as the limit cuts them."""
        return keys_of(self.texts, self.request.cut())

    def _keys(self, which: Indices, *, is_cut: bool) -> Keys:
        if not len(which):  # most often nothing is cut, and no key of it is made
            return keys_of([], "")
        return (self.cut_keys if is_cut else self.whole_keys)[which]

    def __iter__(self) -> Iterator[tuple[Indices, NDArray[np.int32], Block | None]]:
        if not self.texts:
            return
        with self._workers:
            if self.store is None:
                yield from self._without_store()
            else:
                yield from self._with_store(self.store)

    # Encoding

    def _columns(self) -> Columns:
        """Return the layers per column that one pass computes and keeps."""
        is_kept = self.store is not None
        return self.request.columns(self.engine.store_layers if is_kept else None)

    def _new_columns(self, store: FeatureStore, window: Indices) -> Columns:
        """Leave out what was not asked for and the store has of all these texts."""
        columns, needed = self._columns(), self.request.needed
        extra = {column: columns[column] for column in columns if column not in needed}
        if extra and self._located(store, window, extra).all():
            return {column: columns[column] for column in needed}
        return columns

    def _plan(self, columns: Columns) -> Plan:
        from .encoder import Plan

        request = self.request
        return Plan(
            columns=columns,
            max_length=request.max_length,
            stride=request.stride if request.overflow == "chunk" else None,
            excluded_prompt="" if request.include_prompt else request.prompt,
            batch_size=self.engine.batch_size,
            optional=frozenset(columns) - frozenset(request.needed),
        )

    def _n_bytes(self, which: Indices) -> NDArray[np.float64]:
        """Return about how much each text's features take, (n_which,)."""
        fixed, per_row = self.request.bytes_per_row(self._columns())
        n_bytes = np.full(len(which), 20.0 + fixed)
        if not per_row:
            return n_bytes
        if is_of_chunks(self.request.poolings[0]):
            return n_bytes + per_row * self._n_pieces(which)
        n_rows = self._n_characters(which) / _CHARACTERS + 2
        if self.request.overflow != "chunk" and self.request.max_length:
            n_rows = np.minimum(n_rows, self.request.max_length)
        return n_bytes + per_row * n_rows

    def _n_pieces(self, which: Indices) -> NDArray[np.float64]:
        """Return about how many pieces each text is run in, (n_which,)."""
        pieces = np.ones(len(which))
        if self.request.overflow == "chunk" and self.request.max_length:
            room = max(1, self.request.max_length - self.request.stride)
            pieces += self._n_characters(which) // (_CHARACTERS * room)
        return pieces

    def _n_characters(self, which: Indices) -> NDArray[np.int64]:
        lengths = (
            len(text) if isinstance(text, str) else sum(map(len, text)) + len(text)
            for text in map(self.texts.__getitem__, which.tolist())
        )
        return np.fromiter(lengths, dtype=np.int64, count=len(which))

    @cached_property
    def _n_windows_in_one(self) -> int:
        """How many times larger than on a CPU a window is on this device."""
        return 1 if _is_cpu(self.engine.device) else _GPU_WINDOWS

    @property
    def _window_texts(self) -> int:
        return self._n_windows_in_one * _WINDOW_TEXTS

    def _windows(self, which: Indices) -> list[Indices]:
        """Split texts into windows, each of bounded size in memory."""
        if not len(which):
            return []
        pieces = self._n_pieces(which)
        share = self._n_bytes(which) / (self._n_windows_in_one * _WINDOW_BYTES)
        if not self.request.has_rows:
            share = np.minimum(share, 1 / 32)  # very small batches would be slow
        share = np.maximum(pieces / self._window_texts, share)
        window_of = np.floor(np.cumsum(share) - share + 1e-9)
        return np.split(which, np.flatnonzero(np.diff(window_of)) + 1)

    def _longest_first(self, which: Indices) -> Indices:
        """Order texts by characters, so that windows hold texts of like length."""
        # Ties by key: the order of the texts given must not change the batches.
        return which[np.lexsort((self.whole_keys[which], -self._n_characters(which)))]

    def _encode(
        self, windows: list[Indices], columns: Columns
    ) -> Iterator[tuple[Indices, Encoded]]:
        """Encode windows, in worker processes where joblib is told so."""
        from .encoder import encode

        request, engine, plan = self.request, self.engine, self._plan(columns)
        _warn_if_slow(engine.device, request.dtype)
        arguments = (
            (
                request.checkpoint, engine.device, request.dtype,
                [self.texts[i] for i in window], plan,
            )
            for window in windows
        )  # fmt: skip
        n_workers = min(_n_workers(engine.n_jobs), len(windows))
        results: Iterator[Encoded] = (encode(*given) for given in arguments)
        if n_workers > 1:
            results = self._in_workers(
                (joblib.delayed(encode)(*given) for given in arguments), n_workers
            )
        before = time.perf_counter()
        for window, encoded in zip(windows, results, strict=True):
            now = time.perf_counter()
            WORK.n_texts += len(window)
            WORK.n_tokens += encoded.n_tokens_run
            WORK.n_passes += encoded.n_passes
            WORK.seconds += now - before
            self._refuse_broken(window, encoded)
            yield window, encoded
            before = time.perf_counter()

    def _in_workers(self, calls: Iterator[Any], n_workers: int) -> Iterator[Encoded]:
        """Yield what workers return, in the order of the calls.

        One pool serves the whole run: those of Ray and multiprocessing begin with new
        processes, each of which loads the encoder.
        """
        backend, _ = joblib.parallel.get_active_backend()
        can_stream = backend.supports_return_generator
        if self._parallel is None or self._parallel.n_jobs < n_workers:
            self._workers.close()  # the first round may have been small
            self._parallel = self._workers.enter_context(
                joblib.Parallel(
                    n_jobs=n_workers, return_as="generator" if can_stream else "list"
                )
            )
        if can_stream:
            yield from self._parallel(calls)
            return
        while some := list(itertools.islice(calls, 2 * n_workers)):
            yield from self._parallel(some)

    def _refuse_broken(self, window: Indices, encoded: Encoded) -> None:
        """Raise, before anything is kept, if a number is NaN or infinite."""
        for column, values in encoded.columns.items():
            for layer, matrix in zip(encoded.layers[column], values, strict=True):
                is_broken = ~np.isfinite(matrix).all(axis=1)
                if not is_broken.any():
                    continue
                text = int(np.argmax(is_broken))
                if has_rows(column) and encoded.n_rows is not None:
                    ends = np.cumsum(encoded.n_rows)
                    text = int(np.searchsorted(ends, text, side="right"))
                row, content = self.first_rows[window[text]], self.texts[window[text]]
                name, dtype = self.request.checkpoint.name, self.request.dtype
                cure = (
                    "its weights are broken"
                    if dtype == "float32"
                    else f"dtype={dtype!r} may be too narrow: pass dtype='float32'"
                )
                raise ValueError(
                    f"model={name!r} gives NaN or infinity in layer {layer} for the "
                    f"text in row {row}, {_shortened(content)}; nothing of it was kept,"
                    f" and {cure}."
                )

    def _block(self, encoded: Encoded) -> Block:
        """Return the requested part: what `iter_features` yields."""
        n_rows = np.ones(len(encoded.n_tokens), dtype=np.intp)
        if self.request.has_rows:
            assert encoded.n_rows is not None
            n_rows = encoded.n_rows
        block, outs = self._room(n_rows)
        for (column, layers), out in zip(
            self.request.wanted.items(), outs, strict=True
        ):
            for i, layer in enumerate(layers):
                stored = encoded.layers[column].index(layer)
                out[:, i] = encoded.columns[column][stored]
        return block

    def _without_store(self) -> Iterator[tuple[Indices, NDArray[np.int32], Block]]:
        order = self._longest_first(np.arange(len(self.texts)))
        windows = self._windows(order)
        before = WORK.copy()
        with _progress(len(order), self.engine.verbose) as bar:
            for window, encoded in self._encode(windows, self._columns()):
                bar.update(len(window))
                yield window, encoded.n_tokens, self._block(encoded)
        _notice_repeats(self.whole_keys, self.request, WORK.since(before).seconds)

    def refuse_long(self) -> None:
        """Raise before any forward pass if a text is longer than max_length."""
        limit = self.request.max_length
        if limit is None or not self.texts:
            return
        n_tokens = np.zeros(len(self.texts), dtype=np.int64)
        unknown = np.arange(len(self.texts))
        if self.store is not None:
            for is_cut in (False, True):
                keys = self._keys(unknown, is_cut=is_cut)
                for hits in self.store.find(keys, self.request.wanted).values():
                    n_tokens[unknown[hits.found]] = hits.n_tokens[hits.found]
                unknown = np.flatnonzero(n_tokens == 0)
        if len(unknown):
            encoder = _load(self.request, self.engine)
            for start in range(0, len(unknown), _WINDOW_TEXTS):
                part = unknown[start : start + _WINDOW_TEXTS]
                n_tokens[part] = encoder.count_tokens([self.texts[i] for i in part])
        too_long = np.flatnonzero(n_tokens > limit)
        if len(too_long):
            row = self.first_rows[too_long].min()
            worst = n_tokens[too_long].max()
            raise ValueError(
                f"{len(too_long)} distinct texts are longer than max_length={limit} "
                f"tokens (first in row {row}, longest {worst}) and overflow='raise'. "
                "Pass overflow='truncate' or 'chunk', or shorten them."
            )

    # With a store

    def _with_store(
        self, store: FeatureStore
    ) -> Iterator[tuple[Indices, NDArray[np.int32], Block | None]]:
        seen = store.refresh()  # shards in which nothing pending is left
        pending = np.arange(len(self.texts))
        pending = yield from self._read_found(store, pending)
        if not len(pending):
            return
        pending = self._longest_first(pending)
        self._announce(store, pending)
        n_workers = _n_workers(self.engine.n_jobs)
        waited = n_unmerged = 0
        with _progress(len(pending), self.engine.verbose) as bar:
            while len(pending):
                next_windows = self._windows(pending[: n_workers * self._window_texts])
                at_most = sum(map(len, next_windows[:n_workers]))
                with store.claim(self.whole_keys[pending], at_most) as mine:
                    window = pending[:at_most] if mine is None else pending[mine]
                    new = store.refresh() - seen
                    if new:
                        window = window[~self._located(store, window)]
                    blocks = list(self._encode_and_keep(store, window, seen))
                for which, encoded in blocks:
                    yield which, encoded.n_tokens, self._block(encoded)
                n_unmerged += len(blocks)
                if n_unmerged >= _MERGE_EVERY:  # every window looks into every shard
                    store.merge(seen)
                    n_unmerged = 0
                done = len(pending)
                pending = pending[~np.isin(pending, window)]
                new |= store.refresh() - seen
                if new:  # else this would cost a look at every pending text
                    pending = yield from self._read_found(store, pending)
                    seen |= new
                bar.update(done - len(pending))
                if len(pending) == done:  # others are computing all of it
                    store.wait(self.whole_keys[pending])
                    waited += 1
                    if waited == _PATIENCE:
                        logger.warning(
                            "waiting for other processes to encode %d texts; their "
                            "claims lie in %s and end within ten minutes if they stop",
                            len(pending), store.directory / "claims",
                        )  # fmt: skip
        store.merge()

    def _encode_and_keep(
        self, store: FeatureStore, window: Indices, seen: set[str]
    ) -> Iterator[tuple[Indices, Encoded]]:
        if not len(window):
            return
        columns = self._new_columns(store, window)
        for part, encoded in self._encode(self._windows(window), columns):
            is_whole = np.full(len(part), True)
            if self.request.max_length is not None:
                is_whole = encoded.n_tokens <= self.request.max_length
            keys = self.whole_keys[part].copy()
            keys[~is_whole] = self._keys(part[~is_whole], is_cut=True)
            for facts in self._shards_of(keys, is_whole, encoded):
                name = store.append(*facts)
                if name is not None:
                    seen.add(name)
            yield part, encoded

    def _shards_of(
        self, keys: Keys, is_whole: NDArray[np.bool_], encoded: Encoded
    ) -> Iterator[tuple[Any, ...]]:
        """Yield what `FeatureStore.append` is given: vectors, and rows beside them."""
        kinds: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        for column, values in encoded.columns.items():
            kinds[has_rows(column)][column] = encoded.layers[column], values
        vectors, rows = kinds
        if vectors:
            yield keys, encoded.n_tokens, vectors
        if not rows:
            return
        n_rows = encoded.n_rows
        assert n_rows is not None
        if is_of_chunks(self.request.poolings[0]):  # the rest has its vector
            cut = np.flatnonzero(~is_whole)
            places = expand(starts_of(n_rows)[cut], n_rows[cut])
            rows = {
                c: (layers, values[:, places]) for c, (layers, values) in rows.items()
            }
            yield keys[cut], encoded.n_tokens[cut], rows, n_rows[cut]
        else:
            yield keys, encoded.n_tokens, rows, n_rows

    def _lookups(
        self, store: FeatureStore, which: Indices, extra: Columns | None = None
    ) -> Iterator[tuple[Indices, Indices, dict[str, Hits]]]:
        """Yield (texts found, their positions in the hits, the hits), as on disk.

        `extra` is looked up instead of what is wanted.
        """
        limit, wanted = self.request.max_length, extra or self.request.wanted
        for is_cut in (False,) if limit is None else (False, True):
            if not len(which):
                return
            columns = wanted if is_cut else of_whole_texts(wanted)
            hits = store.find(self._keys(which, is_cut=is_cut), columns)
            first = next(iter(hits.values()))
            found = np.logical_and.reduce([h.found for h in hits.values()])
            firsts: dict[bool, Hits] = {}  # of vectors, and of rows
            for column, of_column in hits.items():  # whatever the shards say
                same = firsts.setdefault(has_rows(column), of_column)
                found &= of_column.n_rows == same.n_rows
                if not has_rows(column):
                    found &= of_column.n_rows == 1
                elif is_of_chunks(column):
                    found &= of_column.n_rows > 0
            if not is_cut and limit is not None:
                found &= first.n_tokens <= limit
            positions = np.flatnonzero(found)
            positions = positions[first.order(positions)]
            yield which[positions], positions, hits
            which = which[~found]

    def _located(
        self,
        store: FeatureStore,
        which: Indices,
        extra: Columns | None = None,
    ) -> NDArray[np.bool_]:
        """Return which of these texts the store has."""
        found = [texts for texts, _, _ in self._lookups(store, which, extra)]
        return np.isin(which, np.concatenate(found) if found else [])

    def _read_found(
        self, store: FeatureStore, pending: Indices
    ) -> Generator[tuple[Indices, NDArray[np.int32], Block | None], None, Indices]:
        """Yield what the store has of the pending texts; return the rest, in order.

        The block is None where it was read into `out`.
        """
        layers = self.request.layers
        done = np.zeros(len(self.texts), dtype=bool)
        is_intact = False
        while not is_intact:
            is_intact = True
            for texts, positions, hits in self._lookups(store, pending[~done[pending]]):
                first = next(iter(hits.values()))
                for span in self._portions(first.n_rows[positions]):
                    part, where = texts[span], positions[span]
                    block: Block | None = None
                    rows = None
                    if self.out is None:
                        block, outs = self._room(first.n_rows[where])
                    else:
                        outs, rows = _parts(self.out), self.first_rows[part]
                    is_intact = all(
                        store.read(hits[column], where, column, layers, out, rows)
                        for column, out in zip(hits, outs, strict=True)
                    )
                    if not is_intact:
                        break
                    done[part] = True
                    yield part, first.n_tokens[where], block
                if not is_intact:
                    break
        return pending[~done[pending]]

    def _portions(self, n_rows: Indices) -> Iterator[slice]:
        """Split texts with so many rows each into portions of bounded size."""
        one, _ = self._room(np.ones(1, dtype=np.intp))
        n_bytes = n_rows * (one.values if isinstance(one, Ragged) else one).nbytes
        portion_of = starts_of(n_bytes) // _READ_BYTES
        bounds = [0, *(np.flatnonzero(np.diff(portion_of)) + 1).tolist(), len(n_rows)]
        yield from (slice(a, b) for a, b in itertools.pairwise(bounds) if a < b)

    def _room(self, n_rows: Indices) -> tuple[Block, list[NDArray[Any]]]:
        """Return an empty block, and its part for every column wanted."""
        if self.request.has_rows:
            rows = self.request.empty_rows(n_rows)
            return rows, _parts(rows.values)
        block = self.request.empty_block(len(n_rows))
        return block, _parts(block)

    def _announce(self, store: FeatureStore, pending: Indices) -> None:
        """Warn, once per store and process, before it grows beyond a gigabyte."""
        growth = float(self._n_bytes(pending).sum())
        with _stores_lock:
            if store.directory in _announced:
                return
            total = growth + store.n_bytes()
            if total < _LARGE_BYTES:
                return
            _announced.add(store.directory)
        advice = (
            " Pass store_layers='requested' to keep only the layers and poolings asked "
            "for, or bound the store with Memory.reduce_size."
            if self.engine.store_layers == "all"
            else " Memory.reduce_size bounds the store."
        )
        warnings.warn(
            f"The store grows by {growth / 1e9:.1f} GB to {total / 1e9:.1f} GB "
            f"({growth / len(pending) / 1e3:.1f} kB per text, {len(pending)} new "
            f"texts) in {store.directory}.{advice}",
            UserWarning,
            stacklevel=level_outside(),
        )


_announced: set[Any] = set()
_stores: OrderedDict[tuple[str, str], FeatureStore] = OrderedDict()
_stores_lock = threading.Lock()


def _parts(values: NDArray[Any]) -> list[NDArray[Any]]:
    """Return views of (n_rows, n_poolings, n_layers, width), one per pooling."""
    return list(np.swapaxes(values, 0, 1))


def _after_fork() -> None:
    """Forget the parent's stores: another thread of it may have held their locks."""
    global _stores_lock
    _stores_lock = threading.Lock()
    _stores.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _get_store(location: str, request: Request) -> FeatureStore:
    """Return this process's view of a store, so that files are checked once."""
    key = (location, request.space)
    checkpoint = request.checkpoint
    with _stores_lock:
        if key not in _stores:
            _stores[key] = FeatureStore(
                location,
                request.space,
                {
                    "model": checkpoint.name,
                    "model_type": checkpoint.model_type,
                    "encoder": checkpoint.fingerprint,
                    "n_layers": checkpoint.n_layers,
                    "width": checkpoint.width,
                    "dtype": request.dtype,
                },
            )
            while len(_stores) > 16:
                _stores.popitem(last=False)
        _stores.move_to_end(key)
        return _stores[key]


def _shortened(text: Text) -> str:
    """Return what a message can show of a text."""
    shown = repr(text if isinstance(text, tuple) else text[:41])
    return shown if len(shown) <= 43 else f"{shown[:40]}..."


def _progress(total: int, verbose: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="encoding", unit="text", disable=not verbose)


_encoded_before: dict[str, dict[bytes, int]] = {}
_has_noticed = False


def _notice_repeats(keys: Keys, request: Request, seconds: float) -> None:
    """Say once that texts are encoded for the third time, and how to avoid it."""
    global _has_noticed
    counts = _encoded_before.setdefault(request.space, {})
    if _has_noticed:
        return
    n_third = 0
    for start in range(0, len(keys), _REMEMBERED):
        for key in keys[start : start + _REMEMBERED].tolist():
            if key in counts or len(counts) < _REMEMBERED:
                counts[key] = counts.get(key, 0) + 1
                n_third += counts[key] == 3
    if n_third:
        _has_noticed = True
        counts.clear()
        saved = 2 * seconds * n_third / len(keys)
        warnings.warn(
            f"{n_third} texts were encoded for the third time in this process. Pass "
            "memory='some/directory' to keep their features: that would have saved "
            f"about {saved:.1f} seconds so far, and all of it next time.",
            UserWarning,
            stacklevel=level_outside(),
        )
