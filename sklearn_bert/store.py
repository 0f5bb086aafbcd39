"""How frozen features lie on disk.

A `FeatureStore` is one directory of immutable shards inside the user's joblib
`Memory`::

    <memory.store_backend.location>/sklearn_bert-features/<space>/<32 hex digits>/
        header.json      what the shard holds, with a checksum of its own
        keys.npy         16-byte text keys, sorted
        n_tokens.npy     tokens per text, special ones included, before any cut
        checksums.npy    CRC-32 of every block of rows of every column and layer
        <column>.npy     float32, shape (n_stored_layers, n_texts, width)
        output.pkl       not a pickle; its time of access is the shard's, for joblib

The *space* names everything that changes the numbers but the text and the column. A
shard is written to ``<32 hex digits>.tmp`` and renamed, never changed, and never
unpickled; every block is checked whenever it is read, and whatever cannot be read, does
not match its checksum or belongs to another space is left out with one warning: the
store may lose, never lie. Files are open only while they are read: a shard may be
removed at any time, also on Windows and on network file systems.

joblib counts every directory named by 32 hex digits as a cache item, so
``Memory.reduce_size`` and ``Memory.clear`` manage shards like any cached result.

No lock is needed for correctness. `FeatureStore.claim` only keeps concurrent processes
from computing the same rows twice, and a claim dies with its process.

This module knows nothing of texts, encoders or torch. Level 0 of the module map: any
module may import it; it imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import logging
import math
import operator
import os
import re
import shutil
import struct
import sys
import threading
import time
import uuid
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMAT", "FeatureStore", "Hits", "StoreWarning", "store_location"]

logger = logging.getLogger(__name__)

FORMAT = 1
_FOLDER = "sklearn_bert-features"
_SHARD = re.compile(r"[0-9a-f]{32}")
_DEBRIS = re.compile(r"[0-9a-f]{32}\.(tmp|claim)")
_COLUMN = re.compile(r"[a-z_]+(-content)?")
_SIZES = ("n_texts", "width", "n_block_rows")
_KEY = np.dtype("S16")
_COUNT = np.dtype("<i4")
_CRC = np.dtype("<u4")
_FLOAT = np.dtype("<f4")
# joblib takes the time of access of a file of this name for its item's; without one,
# that of the directory, which joblib's own search renews (relatime).
_STAMP = "output.pkl"
_STAMP_SECONDS = 60.0  # how often the stamp is renewed, at most
_BLOCK_BYTES = 2**14  # per checksum: reading one row costs reading one block
_HEADER_BYTES = 2**20  # a few hundred in fact
_RUN_BLOCKS = 128  # blocks read at once: 2 MB stay in the processor's cache
_MERGE_AT = 8  # shards of about one size that become one: rows are rewritten log8 times
_MERGE_MAX_BYTES = 2**28  # of a merged shard: larger ones would make eviction coarse
_CLAIM_SECONDS = 600.0  # a stopped process must not keep others waiting for ever
_MUTEX_SECONDS = 30.0
_WAIT_SECONDS = 1.0
_OPEN = os.O_RDWR | getattr(os, "O_BINARY", 0)
_DEBRIS_SECONDS = 3600.0  # age at which an unfinished shard or claim is removed

Keys = NDArray[np.bytes_]
FloatArray = NDArray[np.float32]
Indices = NDArray[np.intp]


class StoreWarning(UserWarning):
    """Something in the store could not be read or kept; features are still right."""


class _Unreadable(Exception):
    """A shard that must not be used; the message says why."""


def store_location(memory: Any) -> str | None:
    """Return the directory in which a joblib Memory keeps its results.

    Parameters
    ----------
    memory : None, str, path-like or joblib.Memory

    Returns
    -------
    str or None
        None where nothing is to be kept.

    Raises
    ------
    TypeError
        `memory` is of another type.
    ValueError
        `memory` keeps its results elsewhere than in a file system.
    """
    import joblib
    from joblib._store_backends import FileSystemStoreBackend

    if memory is None:
        return None
    if isinstance(memory, (str, os.PathLike)):
        path = os.path.expanduser(os.fsdecode(memory))
        location = os.path.join(os.path.abspath(path), "joblib")
        if not os.path.isdir(location):
            with contextlib.suppress(OSError):  # `append` says so, if it comes to that
                joblib.Memory(path, verbose=0)  # also writes a .gitignore
        return location
    if not isinstance(memory, joblib.Memory):
        raise TypeError(
            "memory must be None, a path or a joblib.Memory, "
            f"got {type(memory).__name__}."
        )
    if memory.store_backend is None:
        return None
    if not isinstance(memory.store_backend, FileSystemStoreBackend):
        raise ValueError(
            "memory must keep its results in a file system: features are read in parts "
            f"from files there, and {type(memory.store_backend).__name__} has none. "
            "Pass a local or shared directory."
        )
    return os.path.abspath(str(memory.store_backend.location))


# One shard


@dataclass(eq=False)
class _Shard:
    """What is known of a shard without reading its columns."""

    path: Path
    keys: Keys  # (n_texts,), sorted
    n_tokens: NDArray[np.int32]  # (n_texts,)
    columns: dict[str, tuple[int, ...]]  # column -> stored layers
    width: int
    n_block_rows: int
    checksums: NDArray[np.uint32]  # (n_column_layers, n_blocks)
    stamped: float = -np.inf

    @property
    def n_bytes(self) -> int:
        """Size of the columns, which is nearly all."""
        return len(self.checksums) * len(self.keys) * self.width * _FLOAT.itemsize

    @property
    def signature(self) -> tuple[Any, ...]:
        """What shards must have in common to be merged."""
        return self.width, *sorted(self.columns.items())

    def holds(self, column: str, layers: tuple[int, ...]) -> bool:
        return set(layers) <= set(self.columns.get(column, ()))

    def read(
        self,
        column: str,
        layers: tuple[int, ...],
        rows: Indices,
        out: FloatArray,
        where: Indices,
    ) -> None:
        """Check rows and copy them to out[where], of shape (n_rows, n_layers, width).

        Raises _Unreadable, or OSError.
        """
        if not len(rows):
            return
        order = np.argsort(rows, kind="stable")
        rows, where = rows[order], where[order]
        n_texts, n = len(self.keys), self.n_block_rows
        # Adjoining blocks are read at once.
        blocks, starts = np.unique(rows // n, return_index=True)
        starts = np.append(starts, len(rows))
        is_new = (np.diff(blocks) != 1) | (blocks[1:] % _RUN_BLOCKS == 0)
        bounds = [0, *(np.flatnonzero(is_new) + 1).tolist(), len(blocks)]

        stored = self.columns[column]
        names = list(self.columns)
        line = sum(len(self.columns[name]) for name in names[: names.index(column)])
        header = _npy_header(_FLOAT, (len(stored), n_texts, self.width))
        row_bytes = self.width * _FLOAT.itemsize
        with open(self.path / f"{column}.npy", "rb") as stream:
            size = len(header) + len(stored) * n_texts * row_bytes
            has = os.fstat(stream.fileno()).st_size
            if has != size or stream.read(len(header)) != header:
                raise _Unreadable(f"{column}.npy is not what header.json says")
            buffer = np.empty((min(_RUN_BLOCKS * n, n_texts), self.width), dtype=_FLOAT)
            for position, layer in enumerate(layers):
                i = stored.index(layer)
                for a, b in itertools.pairwise(bounds):
                    first = int(blocks[a]) * n
                    part = buffer[: min((int(blocks[b - 1]) + 1) * n, n_texts) - first]
                    stream.seek(len(header) + (i * n_texts + first) * row_bytes)
                    stream.readinto(part.data)
                    crcs = _block_crcs(part, n)
                    if crcs != self.checksums[line + i, blocks[a:b]].tolist():
                        raise _Unreadable(f"{column}.npy does not match its checksum")
                    mine = slice(starts[a], starts[b])
                    out[where[mine], position] = part[rows[mine] - first]


def _open_shard(path: Path, space: str) -> _Shard:
    """Read and check all of a shard but its columns."""
    raw = _read_file(path / "header.json", at_most=_HEADER_BYTES)
    header, _, checksum = raw.partition(b"\n")
    if checksum != b"%08x\n" % zlib.crc32(header):
        raise _Unreadable("header.json does not match its checksum")
    try:
        content = json.loads(header)
        found = content["format"], content["space"]
        columns = {
            name: tuple(map(operator.index, layers))
            for name, layers in content["columns"].items()
        }
        sizes = [operator.index(content[name]) for name in _SIZES]
        crcs = dict(content["crcs"])
    except Exception as error:  # a header that is none may raise anything
        raise _Unreadable(f"header.json is not a header ({error!r})") from error
    if found[0] != FORMAT:
        raise _Unreadable(f"it has format {found[0]}, this version reads {FORMAT}")
    if found[1] != space:
        raise _Unreadable(f"it belongs to other features ({found[1]})")
    if not all(map(_COLUMN.fullmatch, columns)) or min(sizes) < 1:
        raise _Unreadable("header.json holds impossible values")
    n_texts, width, n_block_rows = sizes

    def load(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        start = _npy_header(dtype, shape)
        size = len(start) + dtype.itemsize * math.prod(shape)
        raw = _read_file(path / f"{name}.npy", at_most=size)
        if not raw.startswith(start) or zlib.crc32(raw) != crcs.get(name):
            raise _Unreadable(f"{name}.npy does not match its checksum")
        return np.frombuffer(raw, dtype, offset=len(start)).reshape(shape)

    n_lines, n_blocks = sum(map(len, columns.values())), -(-n_texts // n_block_rows)
    return _Shard(
        path=path,
        keys=load("keys", _KEY, (n_texts,)),
        n_tokens=load("n_tokens", _COUNT, (n_texts,)),
        columns=columns,
        width=width,
        n_block_rows=min(n_block_rows, n_texts),
        checksums=load("checksums", _CRC, (n_lines, n_blocks)),
    )


def _write_shard(
    directory: Path,
    space: str,
    keys: Keys,
    n_tokens: NDArray[np.int32],
    columns: Mapping[str, tuple[tuple[int, ...], Callable[[int], FloatArray]]],
) -> None:
    """Write a shard's files; columns give their layers and a function i -> matrix."""
    n_texts, width, n, checksums = len(keys), 0, 0, []
    for column, (layers, matrix_of) in columns.items():
        with open(directory / f"{column}.npy", "wb") as stream:
            for i in range(len(layers)):
                matrix = np.ascontiguousarray(matrix_of(i), dtype=_FLOAT)
                width = matrix.shape[1]
                n = max(1, _BLOCK_BYTES // (width * _FLOAT.itemsize))
                if i == 0:
                    stream.write(_npy_header(_FLOAT, (len(layers), n_texts, width)))
                stream.write(matrix.data)
                checksums.append(_block_crcs(matrix, n))
    crcs = {}
    for name, array in (
        ("keys", np.asarray(keys, dtype=_KEY)),
        ("n_tokens", np.asarray(n_tokens, dtype=_COUNT)),
        ("checksums", np.array(checksums, dtype=_CRC)),
    ):
        raw = _npy_header(array.dtype, array.shape) + array.tobytes()
        crcs[name] = zlib.crc32(raw)
        _write_file(directory / f"{name}.npy", raw)
    header = json.dumps(
        {
            "format": FORMAT,
            "space": space,
            **dict(zip(_SIZES, (n_texts, width, n), strict=True)),
            "columns": {column: layers for column, (layers, _) in columns.items()},
            "crcs": crcs,
        }
    ).encode()
    _write_file(directory / "header.json", header + b"\n%08x\n" % zlib.crc32(header))
    _write_file(directory / _STAMP, b"Not a pickle: joblib reads its time of access.\n")
    if len(os.listdir(directory)) != len(columns) + 5:
        raise FileNotFoundError(errno.ENOENT, "removed while written", str(directory))


def _read_file(path: Path, at_most: int) -> bytes:
    with open(path, "rb") as stream:
        if os.fstat(stream.fileno()).st_size > at_most:
            raise _Unreadable(f"{path.name} is too large")
        return stream.read()


def _write_file(path: Path, content: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(content)


def _block_crcs(matrix: FloatArray, n_block_rows: int) -> list[int]:
    return [
        zlib.crc32(matrix[start : start + n_block_rows].data)
        for start in range(0, len(matrix), n_block_rows)
    ]


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return what begins an .npy file, byte for byte the same in every NumPy."""
    facts = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    text = repr(facts).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


# All shards of a space


@dataclass(eq=False)
class Hits:
    """Where the rows that were found lie.

    Attributes
    ----------
    found : ndarray of shape (n_keys,), bool
    n_tokens : ndarray of shape (n_keys,), int32
        0 where not found.
    """

    found: NDArray[np.bool_]
    n_tokens: NDArray[np.int32]
    _shards: list[_Shard]
    _shard: Indices  # (n_keys,) index into _shards, -1 where not found
    _row: Indices  # (n_keys,)

    def order(self, which: Indices) -> Indices:
        """Return the order in which to read found rows: as they lie on disk.

        Reading many rows in parts costs several times as much in any other order.
        """
        return np.lexsort((self._row[which], self._shard[which]))


def _search(keys: Keys, shards: list[_Shard]) -> Hits:
    """Look every key up in every shard; the first shard that has it serves it."""
    distinct, inverse = np.unique(keys, return_inverse=True)
    shard_of = np.full(len(distinct), -1, dtype=np.intp)
    row_of = np.zeros(len(distinct), dtype=np.intp)
    n_tokens = np.zeros(len(distinct), dtype=np.int32)
    n_missing = len(distinct)
    for s, shard in enumerate(shards):
        if not n_missing:
            break
        if len(shard.keys) < len(distinct):  # the fewer are looked up in the more
            at = np.searchsorted(distinct, shard.keys)
            at[at == len(distinct)] = 0
            rows = np.flatnonzero((distinct[at] == shard.keys) & (shard_of[at] < 0))
            at = at[rows]
        else:
            rows = np.searchsorted(shard.keys, distinct)
            rows[rows == len(shard.keys)] = 0
            at = np.flatnonzero((shard.keys[rows] == distinct) & (shard_of < 0))
            rows = rows[at]
        shard_of[at], row_of[at] = s, rows
        n_tokens[at] = shard.n_tokens[rows]
        n_missing -= len(at)
    shard_of = shard_of[inverse]
    return Hits(shard_of >= 0, n_tokens[inverse], shards, shard_of, row_of[inverse])


class FeatureStore:
    """The shards of one space.

    Parameters
    ----------
    location : str
        Where the joblib Memory keeps its results.
    space : str
        Names everything that changes the numbers but the text and the column. It must
        not begin with 32 hexadecimal digits, lest joblib take it for a cache item.
    description : mapping, default={}
        Facts for people, written beside the shards.
    """

    def __init__(
        self, location: str, space: str, description: Mapping[str, Any] | None = None
    ) -> None:
        if _SHARD.match(space):
            raise ValueError(f"space must not look like a shard, got {space!r}.")
        self.directory = Path(location) / _FOLDER / space
        self.space = space
        self._description = dict(description or {})
        self._shards: dict[str, _Shard] = {}
        self._refused: set[str] = set()
        self._lock = threading.RLock()
        self._can_write = True

    # Reading

    def reopen(self) -> None:
        """Begin a run: take notice of changes, and try to write again."""
        self._can_write = True
        self.refresh()

    def refresh(self) -> set[str]:
        """Take notice of what others added and removed; return the names of all shards.

        What is not among the names of an earlier call has come since.
        """
        with self._lock:
            names: set[str] = set()
            links: set[str] = set()
            with contextlib.suppress(OSError), os.scandir(self.directory) as entries:
                for entry in entries:
                    if _SHARD.fullmatch(entry.name):
                        (links if entry.is_symlink() else names).add(entry.name)
            for gone in self._shards.keys() - names:
                del self._shards[gone]
            for name in links - self._refused:
                self._refuse(name, "it is a symbolic link, unknown to joblib")
            for name in sorted(names - self._shards.keys() - self._refused):
                try:
                    self._shards[name] = _open_shard(self.directory / name, self.space)
                except (_Unreadable, OSError) as error:
                    self._drop(name, error)
            return set(self._shards)

    def _drop(self, name: str, error: Exception) -> None:
        """Use a shard no longer, and say so unless it was merged or evicted."""
        with self._lock:
            self._shards.pop(name, None)
            if isinstance(error, OSError) and _vanishes(self.directory / name, error):
                return
            if name not in self._refused:
                self._refuse(name, str(error))

    def _refuse(self, name: str, why: str) -> None:
        self._refused.add(name)
        _warn_once(
            self.directory / name,
            f"Stored features in {self.directory / name} are left out and will be "
            f"computed again: {why}. Remove that directory, or let "
            "Memory.reduce_size do it.",
        )

    def find(
        self,
        keys: Keys,
        wanted: Mapping[str, tuple[int, ...]],
        among: Collection[str] | None = None,
    ) -> dict[str, Hits]:
        """Look rows up, column by column.

        Parameters
        ----------
        keys : ndarray of shape (n_keys,), S16
        wanted : mapping of str to tuple of int
            Layers per column.
        among : collection of str, optional
            Names of the shards to look in; default all that are known.

        Returns
        -------
        dict of str to Hits
            One entry per column.
        """
        with self._lock:
            known = [
                self._shards[name]
                for name in (self._shards if among is None else among)
                if name in self._shards
            ]
        answers: dict[str, Hits] = {}
        shared: dict[tuple[int, ...], Hits] = {}
        for column, layers in wanted.items():
            shards = [shard for shard in known if shard.holds(column, layers)]
            identity = tuple(map(id, shards))
            if identity not in shared:
                shared[identity] = _search(keys, shards)
            answers[column] = shared[identity]
        return answers

    def read(
        self,
        hits: Hits,
        which: Indices,
        column: str,
        layers: tuple[int, ...],
        out: FloatArray,
    ) -> bool:
        """Copy found rows to out, of shape (n_which, n_layers, width).

        Returns False, having left out the shard at fault, if one is gone or damaged:
        `find` again.
        """
        shard_of, row_of = hits._shard[which], hits._row[which]
        for s in np.unique(shard_of):
            shard = hits._shards[s]
            mine = np.flatnonzero(shard_of == s)
            try:
                shard.read(column, layers, row_of[mine], out, mine)
            except (_Unreadable, OSError) as error:
                self._drop(shard.path.name, error)
                return False
            now = time.monotonic()
            if now - shard.stamped > _STAMP_SECONDS:
                shard.stamped = now
                with contextlib.suppress(OSError):  # read-only, or just removed
                    os.utime(shard.path / _STAMP)
        return True

    # Writing

    def append(
        self,
        keys: Keys,
        n_tokens: NDArray[np.int32],
        columns: Mapping[str, tuple[tuple[int, ...], FloatArray]],
    ) -> str | None:
        """Keep rows as a new shard.

        Parameters
        ----------
        keys : ndarray of shape (n_texts,), S16
            Distinct.
        n_tokens : ndarray of shape (n_texts,), int32
        columns : mapping of str to (layers, values)
            Values of shape (n_layers, n_texts, width).

        Returns
        -------
        str or None
            The name of the shard; None if nothing could be written, a warning said so
            once, or there was nothing to write.
        """
        if not self._can_write or not len(keys):
            return None
        order = np.argsort(keys, kind="stable")
        parts = {
            column: (layers, lambda i, values=values: values[i][order])
            for column, (layers, values) in columns.items()
        }
        try:
            try:
                return self._keep(keys[order], n_tokens[order], parts)
            except FileNotFoundError:  # the store was cleared meanwhile
                return self._keep(keys[order], n_tokens[order], parts)
        except OSError as error:
            self._can_write = False
            _warn_once(
                self.directory,
                f"Features are not kept in {self.directory}: {error}. They are right, "
                "but the next run computes them again.",
            )
            return None

    def _keep(
        self,
        keys: Keys,
        n_tokens: NDArray[np.int32],
        columns: Mapping[str, tuple[tuple[int, ...], Callable[[int], FloatArray]]],
        last_access: float | None = None,
    ) -> str:
        """Write a shard, all or nothing, and return its name."""
        name = uuid.uuid4().hex
        temporary = self.directory / f"{name}.tmp"
        self.directory.mkdir(parents=True, exist_ok=True)
        about = self.directory / "about.json"
        if not about.exists():
            _write_file(temporary, json.dumps(self._description, indent=2).encode())
            os.replace(temporary, about)
        temporary.mkdir()
        try:
            _write_shard(temporary, self.space, keys, n_tokens, columns)
            if last_access is not None:
                os.utime(temporary / _STAMP, (last_access, last_access))
            os.rename(temporary, self.directory / name)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        with self._lock, contextlib.suppress(_Unreadable, OSError):
            self._shards[name] = _open_shard(self.directory / name, self.space)
        return name

    def merge(self) -> int:
        """Merge shards of about one size where there are many; return how many went.

        Rows stay readable throughout: the merged shard appears before the old ones go.
        """
        removed = 0
        if not self._can_write:
            return removed
        with self._exclusive("merge") as is_mine:
            if not is_mine:
                return removed
            self._sweep()
            try:
                while group := self._mergeable():
                    with contextlib.suppress(_Unreadable):  # left out from now on
                        removed += self._merge_group(group)
            except OSError as error:
                logger.info("merging shards of %s: %s", self.directory, error)
        return removed

    def _mergeable(self) -> list[_Shard]:
        """Return shards of one kind and about one size, if there are enough."""
        self.refresh()
        groups: dict[tuple[Any, ...], list[_Shard]] = {}
        with self._lock:
            shards = list(self._shards.values())
        for shard in shards:
            if shard.n_bytes < _MERGE_MAX_BYTES // _MERGE_AT:
                size = (len(shard.keys).bit_length() - 1) // 3  # log8, rounded down
                groups.setdefault((size, *shard.signature), []).append(shard)
        for group in groups.values():
            if len(group) >= _MERGE_AT:
                sizes = np.cumsum([shard.n_bytes for shard in group])
                return group[: int(np.searchsorted(sizes, _MERGE_MAX_BYTES, "right"))]
        return []

    def _merge_group(self, group: list[_Shard]) -> int:
        keys, first = np.unique(
            np.concatenate([shard.keys for shard in group]), return_index=True
        )
        n_tokens = np.concatenate([shard.n_tokens for shard in group])[first]
        ends = np.cumsum([len(shard.keys) for shard in group])
        owner = np.searchsorted(ends, first, "right")

        def matrix_of(column: str, i: int) -> FloatArray:
            matrix = np.empty((len(keys), 1, group[0].width), dtype=np.float32)
            layers = group[0].columns[column]
            for s, shard in enumerate(group):
                where = np.flatnonzero(owner == s)
                rows = first[where] - (ends[s] - len(shard.keys))
                try:
                    shard.read(column, (layers[i],), rows, matrix, where)
                except (_Unreadable, OSError) as error:
                    self._drop(shard.path.name, error)
                    raise _Unreadable(str(error)) from error
            return matrix[:, 0]

        columns = {
            column: (layers, functools.partial(matrix_of, column))
            for column, layers in group[0].columns.items()
        }
        name = self._keep(keys, n_tokens, columns, max(map(_last_access, group)))
        for shard in group:
            try:
                _remove(shard.path)
            except FileNotFoundError:  # evicted meanwhile
                pass
            except OSError:
                if shard is group[0]:  # another user's, say: leave all as it was
                    _remove(self.directory / name)
                raise
            with self._lock:
                self._shards.pop(shard.path.name, None)
        return len(group)

    def _sweep(self) -> None:
        """Remove what killed writers left behind long ago."""
        deadline = time.time() - _DEBRIS_SECONDS
        for place in (self.directory, self.directory / "claims"):
            with contextlib.suppress(OSError), os.scandir(place) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        if not _DEBRIS.fullmatch(entry.name):
                            continue
                        if entry.stat(follow_symlinks=False).st_mtime > deadline:
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            shutil.rmtree(entry.path, ignore_errors=True)
                        else:
                            os.unlink(entry.path)

    # One process computes a row, the others wait

    @contextlib.contextmanager
    def claim(self, keys: Keys, at_most: int) -> Iterator[Indices | None]:
        """Claim the first rows that no live process is computing.

        Parameters
        ----------
        keys : ndarray of shape (n_keys,), S16
            Distinct rows still missing, in the order in which they should be computed.
            Call `refresh` and `find` inside the block: rows may have come meanwhile.
        at_most : int
            Largest number of rows to claim.

        Yields
        ------
        ndarray of int or None
            Positions in `keys` that are now this caller's, possibly none because others
            hold them all; None where the file system has no locks or nothing can be
            written, so that the caller must compute everything itself.
        """
        path = self.directory / "claims" / f"{uuid.uuid4().hex}.claim"
        mine: Indices | None = None
        descriptor = None
        try:
            try:
                with self._exclusive("mutex", patience=_MUTEX_SECONDS) as is_mine:
                    if is_mine:
                        free = self._free(keys, at_most)
                        if len(free):
                            descriptor = os.open(path, _OPEN | os.O_CREAT, 0o666)
                            # In this order: a claim that can be read is locked.
                            if _try_lock(descriptor):
                                os.write(descriptor, keys[free].tobytes())
                        mine = free
            except OSError as error:
                logger.info("no claims in %s: %s", self.directory, error)
            yield mine
        finally:
            if descriptor is not None:
                os.close(descriptor)
                with contextlib.suppress(OSError):
                    path.unlink()

    def _free(self, keys: Keys, at_most: int) -> Indices:
        """Return the first positions in distinct keys that nobody claims."""
        taken = [claimed for _, claimed in self._claims()]
        head = keys[: at_most + sum(map(len, taken))]  # enough, and keys may be many
        is_free = ~np.isin(head, np.concatenate([head[:0], *taken]))
        return np.flatnonzero(is_free)[:at_most]

    def wait(self, keys: Keys) -> None:
        """Wait until one of the live claims on keys has ended, at most a second."""
        deadline = time.monotonic() + _WAIT_SECONDS
        before = self._claims_on(keys)
        while before and time.monotonic() < deadline:
            time.sleep(0.02)
            if self._claims_on(keys) != before:
                return

    def _claims_on(self, keys: Keys) -> set[str]:
        return {name for name, held in self._claims() if np.isin(keys, held).any()}

    def _claims(self) -> list[tuple[str, Keys]]:
        """Return the claims of live processes, removing those of dead ones."""
        claims: list[tuple[str, Keys]] = []
        oldest = time.time() - _CLAIM_SECONDS
        try:
            names = os.listdir(self.directory / "claims")
        except OSError:
            return claims
        for name in filter(_DEBRIS.fullmatch, names):
            path = self.directory / "claims" / name
            with contextlib.suppress(OSError, ValueError):  # ended just now
                keys = np.frombuffer(path.read_bytes(), dtype=_KEY)
                if not len(keys) or path.stat().st_mtime < oldest:
                    continue
                descriptor = os.open(path, _OPEN)
                try:
                    is_dead = _try_lock(descriptor)
                finally:
                    os.close(descriptor)
                if is_dead:
                    path.unlink()
                else:
                    claims.append((name, keys))
        return claims

    @contextlib.contextmanager
    def _exclusive(self, name: str, patience: float = 0.0) -> Iterator[bool]:
        """Hold a lock of the space; yields False where that is not possible."""
        path = self.directory / "claims" / name
        deadline = time.monotonic() + patience
        descriptor, is_mine = None, False
        try:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, _OPEN | os.O_CREAT, 0o666)
                while not (is_mine := _try_lock(descriptor)):
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.005)
            except OSError as error:
                logger.info("no lock in %s: %s", path, error)
            yield is_mine
        finally:
            if descriptor is not None:
                os.close(descriptor)

    # For people

    def info(self) -> dict[str, Any]:
        """Return how much this space holds: shards, rows, distinct texts, bytes."""
        with self._lock:
            self.refresh()
            shards = list(self._shards.values())
        keys = [shard.keys for shard in shards]
        return {
            "directory": str(self.directory),
            "n_shards": len(shards),
            "n_rows": sum(map(len, keys)),
            "n_keys": len(np.unique(np.concatenate(keys))) if keys else 0,
            "n_bytes": sum(shard.n_bytes for shard in shards),
        }


_warned: set[Path] = set()


def _warn_once(path: Path, message: str) -> None:
    """Warn, once per place and process."""
    if path not in _warned:
        _warned.add(path)
        warnings.warn(message, StoreWarning, stacklevel=4)


def _vanishes(path: Path, error: OSError) -> bool:
    """Whether a shard that cannot be read is gone, or just being removed."""
    if isinstance(error, FileNotFoundError):
        for _ in range(20):  # joblib removes the files of a shard one by one
            if not os.path.lexists(path):
                return True
            time.sleep(0.01)
    return not os.path.lexists(path)


def _remove(path: Path) -> None:
    """Remove a shard; it is never seen in part."""
    temporary = path.with_name(f"{path.name}.tmp")
    os.rename(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def _last_access(shard: _Shard) -> float:
    try:
        return os.stat(shard.path / _STAMP).st_atime
    except OSError:
        return 0.0


def _try_lock(descriptor: int) -> bool:
    """Lock an open file; closing it, or the death of its process, frees the lock."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 2**30, os.SEEK_SET)  # readers need the bytes before
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):  # held by another
            return False
        raise
    return True
