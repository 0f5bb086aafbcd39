"""One shard: how the features of some texts lie on disk.

A shard is a directory of immutable files::

    header.json      what the shard holds, with a checksum of its own
    keys.npy         16-byte text keys, sorted
    n_tokens.npy     tokens per text, special ones included, before any cut
    n_rows.npy       rows per text, where it may have other than one
    checksums.npy    CRC-32 of every block of rows of every column and layer
    <column>.npy     float32 or float16, shape (n_stored_layers, n_rows, width)
    output.pkl       not a pickle; its time of access is the shard's, for joblib

`write_shard` writes them, `open_shard` reads all but the columns, and `Shard.read`
reads rows of a column. Nothing is ever unpickled; every block is checked whenever it is
read, and whatever does not match its checksum or belongs to another space is refused
with `Unreadable`. Files are open only while they are read: a shard may be removed at
any time, also on Windows and on network file systems.

This module does not know where shards lie, which there are, or who writes one when.
Level 1 of the module map: only `store` imports it; imports `ragged`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import operator
import os
import re
import shutil
import stat
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ragged import expand, starts_of

__all__ = [
    "FORMAT",
    "FloatArray",
    "Indices",
    "Keys",
    "Shard",
    "Unreadable",
    "is_gone",
    "open_shard",
    "remove_shard",
    "write_shard",
]

FORMAT = 2
_COLUMN = re.compile(r"[a-z][a-z0-9_]*(-content)?")
_SIZES = ("n_texts", "n_rows", "width", "n_block_rows")
_KEY = np.dtype("S16")
_COUNT = np.dtype("<i4")
_CRC = np.dtype("<u4")
_FLOATS = {kind: np.dtype(kind) for kind in ("<f4", "<f2")}
# joblib takes the time of access of a file of this name for its item's; without one,
# that of the directory, which joblib's own search renews (relatime).
_STAMP = "output.pkl"
_STAMP_SECONDS = 60.0  # how often the stamp is renewed, at most
_BLOCK_BYTES = 2**14  # per checksum: reading one row costs reading one block
_HEADER_BYTES = 2**20  # a few hundred in fact
_RUN_BLOCKS = 128  # blocks read at once: 2 MB stay in the processor's cache
# Windows has neither, nor pipes and devices among its files.
_PLAINLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_FOLLOWS_LINKS = os.utime not in os.supports_follow_symlinks

Keys = NDArray[np.bytes_]
FloatArray = NDArray[np.floating[Any]]
Indices = NDArray[np.intp]


class Unreadable(Exception):
    """A shard that must not be used; the message says why."""


@dataclass(eq=False)
class Shard:
    """What is known of a shard without reading its columns."""

    path: Path
    keys: Keys  # (n_texts,), sorted
    n_tokens: NDArray[np.int32]  # (n_texts,)
    starts: Indices | None  # (n_texts + 1,), rows of text i; None: row i alone
    columns: dict[str, tuple[int, ...]]  # column -> stored layers
    n_rows: int
    width: int
    dtype: np.dtype[Any]
    n_block_rows: int
    checksums: NDArray[np.uint32]  # (n_column_layers, n_blocks)
    stamped: float = -np.inf

    @property
    def n_bytes(self) -> int:
        """Size of the columns, which is nearly all."""
        return len(self.checksums) * self.n_rows * self.width * self.dtype.itemsize

    @property
    def signature(self) -> tuple[Any, ...]:
        """What shards must have in common to be merged."""
        kind = self.width, self.dtype.str, self.starts is None
        return *kind, *sorted(self.columns.items())

    def counts(self, texts: Indices) -> Indices:
        """Return how many rows these texts have."""
        if self.starts is None:
            return np.ones(len(texts), dtype=np.intp)
        return self.starts[texts + 1] - self.starts[texts]

    def holds(self, column: str, layers: tuple[int, ...]) -> bool:
        """Whether all these layers of the column are stored."""
        return set(layers) <= set(self.columns.get(column, ()))

    def read(
        self,
        column: str,
        layers: tuple[int, ...],
        texts: Indices,
        out: FloatArray,
        where: Indices,
    ) -> None:
        """Check the rows of texts and copy them to out, (n_rows, n_layers, width).

        The rows of texts[i] are put at out[where[i]] and after it.

        Raises Unreadable, or OSError.
        """
        rows = texts
        if self.starts is not None:
            counts = self.counts(texts)
            rows, where = expand(self.starts[texts], counts), expand(where, counts)
        if not len(rows):
            return
        order = np.argsort(rows, kind="stable")
        rows, where = rows[order], where[order]
        n_rows, n = self.n_rows, self.n_block_rows
        # Adjoining blocks are read at once.
        blocks, starts = np.unique(rows // n, return_index=True)
        starts = np.append(starts, len(rows))
        is_new = (np.diff(blocks) != 1) | (blocks[1:] % _RUN_BLOCKS == 0)
        bounds = [0, *(np.flatnonzero(is_new) + 1).tolist(), len(blocks)]

        stored = self.columns[column]
        names = list(self.columns)
        line = sum(len(self.columns[name]) for name in names[: names.index(column)])
        header = _npy_header(self.dtype, (len(stored), n_rows, self.width))
        row_bytes = self.width * self.dtype.itemsize
        with open(self.path / f"{column}.npy", "rb", opener=_open_file) as stream:
            size = len(header) + len(stored) * n_rows * row_bytes
            has = os.fstat(stream.fileno()).st_size
            if has != size or stream.read(len(header)) != header:
                raise Unreadable(f"{column}.npy is not what header.json says")
            if self.width != out.shape[2]:
                raise Unreadable(f"its rows hold {self.width} numbers")
            room = min(_RUN_BLOCKS * n, n_rows), self.width
            buffer = np.empty(room, dtype=self.dtype)
            for position, layer in enumerate(layers):
                i = stored.index(layer)
                for a, b in itertools.pairwise(bounds):
                    first = int(blocks[a]) * n
                    part = buffer[: min((int(blocks[b - 1]) + 1) * n, n_rows) - first]
                    stream.seek(len(header) + (i * n_rows + first) * row_bytes)
                    stream.readinto(part.data)
                    crcs = _block_crcs(part, n)
                    if crcs != self.checksums[line + i, blocks[a:b]].tolist():
                        raise Unreadable(f"{column}.npy does not match its checksum")
                    mine = slice(starts[a], starts[b])
                    to, of = _as_slice(where[mine]), _as_slice(rows[mine] - first)
                    out[to, position] = part[of]

    def stamp(self) -> None:
        """Say to joblib that the shard was used, at most once a minute."""
        now = time.monotonic()
        if now - self.stamped > _STAMP_SECONDS:
            self.stamped = now
            with contextlib.suppress(OSError):  # read-only, or just removed
                os.utime(self.path / _STAMP, follow_symlinks=_FOLLOWS_LINKS)

    def last_access(self) -> float:
        """Return when the shard was last used, in seconds since the epoch."""
        try:
            return os.lstat(self.path / _STAMP).st_atime
        except OSError:
            return 0.0


def open_shard(path: Path, space: str) -> Shard:
    """Read and check all of a shard but its columns."""
    raw = _read_file(path / "header.json", at_most=_HEADER_BYTES)
    header, _, checksum = raw.partition(b"\n")
    if checksum != b"%08x\n" % zlib.crc32(header):
        raise Unreadable("header.json does not match its checksum")
    try:
        content = json.loads(header)
        found = content["format"], content["space"]
        dtype = _FLOATS[content["dtype"]]
        columns = {
            name: tuple(map(operator.index, layers))
            for name, layers in content["columns"].items()
        }
        sizes = [operator.index(content[name]) for name in _SIZES]
        crcs = dict(content["crcs"])
    except Exception as error:  # a header that is none may raise anything
        raise Unreadable(f"header.json is not a header ({error!r})") from error
    if found[0] != FORMAT:
        raise Unreadable(f"it has format {found[0]}, this version reads {FORMAT}")
    if found[1] != space:
        raise Unreadable(f"it belongs to other features ({found[1]})")
    n_texts, n_rows, width, n_block_rows = sizes
    is_possible = all(map(_COLUMN.fullmatch, columns)) and n_rows >= 0
    if not is_possible or min(n_texts, width, n_block_rows) < 1:
        raise Unreadable("header.json holds impossible values")

    def load(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        start = _npy_header(dtype, shape)
        size = len(start) + dtype.itemsize * math.prod(shape)
        raw = _read_file(path / f"{name}.npy", at_most=size)
        is_whole = len(raw) == size and raw.startswith(start)
        if not is_whole or zlib.crc32(raw) != crcs.get(name):
            raise Unreadable(f"{name}.npy does not match its checksum")
        return np.frombuffer(raw, dtype, offset=len(start)).reshape(shape)

    starts = None
    if "n_rows" in crcs:
        counts = load("n_rows", _COUNT, (n_texts,)).astype(np.intp)
        starts = np.append(starts_of(counts), counts.sum())
        if starts[-1] != n_rows or counts.min() < 0:
            raise Unreadable("n_rows.npy is not what header.json says")
    elif n_rows != n_texts:
        raise Unreadable("header.json holds impossible values")
    n_lines, n_blocks = sum(map(len, columns.values())), -(-n_rows // n_block_rows)
    return Shard(
        path=path,
        keys=load("keys", _KEY, (n_texts,)),
        n_tokens=load("n_tokens", _COUNT, (n_texts,)),
        starts=starts,
        columns=columns,
        n_rows=n_rows,
        width=width,
        dtype=dtype,
        n_block_rows=max(1, min(n_block_rows, n_rows)),
        checksums=load("checksums", _CRC, (n_lines, n_blocks)),
    )


def write_shard(
    directory: Path,
    space: str,
    keys: Keys,
    n_tokens: NDArray[np.int32],
    columns: Mapping[str, tuple[tuple[int, ...], Callable[[int], FloatArray]]],
    n_rows: NDArray[Any] | None = None,
    last_access: float | None = None,
) -> None:
    """Write a shard's files; columns give their layers and a function i -> matrix.

    All matrices are of one shape and, once written, of one type: float16 if the first
    one is, else float32.
    """
    shape, dtype, n = (len(keys), 0), _FLOATS["<f4"], 0
    checksums: list[list[int]] = []
    for column, (layers, matrix_of) in columns.items():
        with open(directory / f"{column}.npy", "wb") as stream:
            for i in range(len(layers)):
                matrix = matrix_of(i)
                if not checksums and matrix.dtype == np.float16:
                    dtype = _FLOATS["<f2"]
                matrix = np.ascontiguousarray(matrix, dtype=dtype)
                shape = matrix.shape
                n = max(1, _BLOCK_BYTES // (shape[1] * dtype.itemsize))
                if i == 0:
                    stream.write(_npy_header(dtype, (len(layers), *shape)))
                stream.write(matrix.data)
                checksums.append(_block_crcs(matrix, n))
    arrays = {
        "keys": np.asarray(keys, dtype=_KEY),
        "n_tokens": np.asarray(n_tokens, dtype=_COUNT),
        "checksums": np.array(checksums, dtype=_CRC),
    }
    if n_rows is not None:
        arrays["n_rows"] = np.asarray(n_rows, dtype=_COUNT)
    crcs = {}
    for name, array in arrays.items():
        raw = _npy_header(array.dtype, array.shape) + array.tobytes()
        crcs[name] = zlib.crc32(raw)
        _write_file(directory / f"{name}.npy", raw)
    header = json.dumps(
        {
            "format": FORMAT,
            "space": space,
            "dtype": dtype.str,
            **dict(zip(_SIZES, (len(keys), *shape, n), strict=True)),
            "columns": {column: layers for column, (layers, _) in columns.items()},
            "crcs": crcs,
        }
    ).encode()
    _write_file(directory / "header.json", header + b"\n%08x\n" % zlib.crc32(header))
    _write_file(directory / _STAMP, b"Not a pickle: joblib reads its time of access.\n")
    if len(os.listdir(directory)) != len(columns) + len(arrays) + 2:
        raise FileNotFoundError(errno.ENOENT, "removed while written", str(directory))
    if last_access is not None:
        os.utime(directory / _STAMP, (last_access, last_access))


def is_gone(path: Path, error: OSError) -> bool:
    """Whether a shard that cannot be read is gone, or just being removed."""
    if isinstance(error, FileNotFoundError):
        for _ in range(20):  # joblib removes the files of a shard one by one
            if not os.path.lexists(path):
                return True
            time.sleep(0.01)
    return not os.path.lexists(path)


def remove_shard(path: Path) -> None:
    """Remove a shard; it is never seen in part."""
    temporary = path.with_name(f"{path.name}.tmp")
    os.rename(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def _open_file(path: str, flags: int) -> int:
    """Open a file as `open` asks, but no link, which leads elsewhere, and no pipe."""
    name = os.path.basename(path)
    try:
        descriptor = os.open(path, flags | _PLAINLY)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Unreadable(f"{name} is a symbolic link") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unreadable(f"{name} is not a file")
    return descriptor


def _read_file(path: Path, at_most: int) -> bytes:
    with open(path, "rb", opener=_open_file) as stream:
        if os.fstat(stream.fileno()).st_size > at_most:
            raise Unreadable(f"{path.name} is too large")
        return stream.read()


def _write_file(path: Path, content: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(content)


def _as_slice(rows: Indices) -> Indices | slice:
    """Return rows that follow each other as a slice, which NumPy need not gather."""
    if (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


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
