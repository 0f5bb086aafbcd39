"""The store: all shards of a space, found, read, added to and merged as one.

A `FeatureStore` is one directory of immutable shards inside the user's joblib
`Memory`::

    <memory.store_backend.location>/sklearn_bert-features/<space>/
        about.json          facts for people
        <32 hex digits>/    a shard
        claims/             who computes what

The *space* names everything that changes the numbers but the text and the column. A
shard is written to ``<32 hex digits>.tmp`` and renamed, never changed; whatever cannot
be read or belongs to another space is left out with one warning: the store may lose,
never lie.

joblib counts every directory named by 32 hex digits as a cache item, so
``Memory.reduce_size`` and ``Memory.clear`` manage shards like any cached result.

This module knows nothing of texts, encoders or torch; nor of a shard's files, which
`shard` reads and writes, or of locks, which `claims` holds. Level 2 of the module map:
imports `claims`, `exceptions`, `ragged` and `shard`, and nothing else of the package.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import re
import shutil
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .claims import Claims, refuse_links
from .exceptions import StoreWarning
from .ragged import expand, starts_of
from .shard import (
    FORMAT,
    FloatArray,
    Indices,
    Keys,
    Shard,
    Unreadable,
    is_gone,
    open_shard,
    remove_shard,
    write_shard,
)

__all__ = [
    "FORMAT",
    "FeatureStore",
    "Hits",
    "Keys",
    "StoreWarning",
    "features_directory",
    "find_spaces",
    "store_location",
]

logger = logging.getLogger(__name__)

_FOLDER = "sklearn_bert-features"
_SHARD = re.compile(r"[0-9a-f]{32}")
_DEBRIS = re.compile(r"[0-9a-f]{32}\.(tmp|claim)")
_MERGE_AT = 8  # shards of about one size that become one: rows are rewritten log8 times
_MERGE_MAX_BYTES = 2**28  # of a merged shard: larger ones would make eviction coarse
_DEBRIS_SECONDS = 3600.0  # age at which an unfinished shard or claim is removed


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
        if os.path.isfile(path):
            raise ValueError(f"memory={path!r} is a file; pass a directory.")
        location = os.path.join(os.path.abspath(path), "joblib")
        if not os.path.isdir(location):
            with contextlib.suppress(OSError):  # `append` says so, if it comes to that
                joblib.Memory(path, verbose=0)  # from 1.5 on writes a .gitignore
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


@dataclass(eq=False)
class Hits:
    """Where the rows that were found lie.

    Attributes
    ----------
    found : ndarray of shape (n_keys,), bool
    n_tokens : ndarray of shape (n_keys,), int32
        0 where not found.
    n_rows : ndarray of shape (n_keys,)
        0 where not found.
    """

    found: NDArray[np.bool_]
    n_tokens: NDArray[np.int32]
    n_rows: Indices
    _shards: list[Shard]
    _shard: Indices  # (n_keys,) index into _shards, -1 where not found
    _text: Indices  # (n_keys,), place in its shard

    def order(self, which: Indices) -> Indices:
        """Return the order in which to read found rows: as they lie on disk.

        Reading many rows in parts costs several times as much in any other order.
        """
        return np.lexsort((self._text[which], self._shard[which]))


def _search(keys: Keys, shards: list[Shard]) -> Hits:
    """Look every key up in every shard; the first shard that has it serves it."""
    distinct, inverse = np.unique(keys, return_inverse=True)
    shard_of = np.full(len(distinct), -1, dtype=np.intp)
    text_of = np.zeros(len(distinct), dtype=np.intp)
    n_tokens = np.zeros(len(distinct), dtype=np.int32)
    n_rows = np.zeros(len(distinct), dtype=np.intp)
    n_missing = len(distinct)
    for s, shard in enumerate(shards):
        if not n_missing:
            break
        if len(shard.keys) < len(distinct):  # the fewer are looked up in the more
            at = np.searchsorted(distinct, shard.keys)
            at[at == len(distinct)] = 0
            texts = np.flatnonzero((distinct[at] == shard.keys) & (shard_of[at] < 0))
            at = at[texts]
        else:
            texts = np.searchsorted(shard.keys, distinct)
            texts[texts == len(shard.keys)] = 0
            at = np.flatnonzero((shard.keys[texts] == distinct) & (shard_of < 0))
            texts = texts[at]
        shard_of[at], text_of[at] = s, texts
        n_tokens[at] = shard.n_tokens[texts]
        n_rows[at] = shard.counts(texts)
        n_missing -= len(at)
    shard_of = shard_of[inverse]
    return Hits(
        shard_of >= 0,
        n_tokens[inverse],
        n_rows[inverse],
        shards,
        shard_of,
        text_of[inverse],
    )


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
        self._claims = Claims(self.directory / "claims")
        self._shards: dict[str, Shard] = {}
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
            try:
                refuse_links(self.directory, 2)
                with os.scandir(self.directory) as entries:
                    for entry in entries:
                        if _SHARD.fullmatch(entry.name):
                            (links if entry.is_symlink() else names).add(entry.name)
            except OSError as error:  # empty, as far as can be told
                if error.errno == errno.ELOOP:
                    _warn_once(
                        self.directory,
                        f"Features in {self.directory} are neither read nor kept: "
                        f"{error}. Put a directory there, or name another memory.",
                    )
            for gone in self._shards.keys() - names:
                del self._shards[gone]
            for name in links - self._refused:
                self._refuse(name, "it is a symbolic link, unknown to joblib")
            for name in sorted(names - self._shards.keys() - self._refused):
                try:
                    self._shards[name] = open_shard(self.directory / name, self.space)
                except (Unreadable, OSError) as error:
                    self._drop(name, error)
            return set(self._shards)

    def _drop(self, name: str, error: Exception) -> None:
        """Use a shard no longer, and say so unless it was merged or evicted."""
        with self._lock:
            self._shards.pop(name, None)
            if isinstance(error, OSError) and is_gone(self.directory / name, error):
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
        where: Indices | None = None,
    ) -> bool:
        """Copy the rows of found texts to out, of shape (n_rows, n_layers, width).

        Those of which[i] are put at out[where[i]] and after it; texts lie in out one
        after the other unless `where` is given. Returns False, having left out the
        shard at fault, if one is gone or damaged: `find` again.
        """
        shard_of, text_of = hits._shard[which], hits._text[which]
        starts = starts_of(hits.n_rows[which]) if where is None else where
        for s in np.unique(shard_of):
            shard = hits._shards[s]
            mine = np.flatnonzero(shard_of == s)
            try:
                shard.read(column, layers, text_of[mine], out, starts[mine])
            except (Unreadable, OSError) as error:
                self._drop(shard.path.name, error)
                return False
            shard.stamp()
        return True

    # Writing

    def append(
        self,
        keys: Keys,
        n_tokens: NDArray[np.int32],
        columns: Mapping[str, tuple[tuple[int, ...], FloatArray]],
        n_rows: NDArray[Any] | None = None,
    ) -> str | None:
        """Keep the rows of some texts as a new shard.

        Parameters
        ----------
        keys : ndarray of shape (n_texts,), S16
            Distinct.
        n_tokens : ndarray of shape (n_texts,), int32
        columns : mapping of str to (layers, values)
            Values of shape (n_layers, n_rows, width), texts one after the other.
        n_rows : ndarray of shape (n_texts,), default=None
            Rows per text; None is one.

        Returns
        -------
        str or None
            The name of the shard; None if nothing could be written, a warning said so
            once, or there was nothing to write.
        """
        if not self._can_write or not len(keys):
            return None
        rows = order = np.argsort(keys, kind="stable")
        if n_rows is not None:
            rows = expand(starts_of(n_rows)[order], n_rows[order])
            n_rows = n_rows[order]
        parts = {
            column: (layers, lambda i, values=values: values[i][rows])
            for column, (layers, values) in columns.items()
        }
        content = keys[order], n_tokens[order], parts, n_rows
        try:
            try:
                return self._keep(*content)
            except FileNotFoundError:  # the store was cleared meanwhile
                return self._keep(*content)
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
        n_rows: NDArray[Any] | None = None,
        last_access: float | None = None,
    ) -> str:
        """Write a shard, all or nothing, and return its name."""
        name = uuid.uuid4().hex
        temporary = self.directory / f"{name}.tmp"
        refuse_links(self.directory, 2)
        self.directory.mkdir(parents=True, exist_ok=True)
        about = self.directory / "about.json"
        if not about.exists():
            temporary.write_bytes(json.dumps(self._description, indent=2).encode())
            os.replace(temporary, about)
        temporary.mkdir()
        try:
            write_shard(
                temporary, self.space, keys, n_tokens, columns, n_rows, last_access
            )
            os.rename(temporary, self.directory / name)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        with self._lock, contextlib.suppress(Unreadable, OSError):
            self._shards[name] = open_shard(self.directory / name, self.space)
        return name

    def merge(self, seen: set[str] | None = None) -> int:
        """Merge shards of about one size where there are many; return how many went.

        Rows stay readable throughout: the merged shard appears before the old ones go.

        Parameters
        ----------
        seen : set of str, default=None
            Names of shards that the caller has looked into; a shard merged from such
            shards alone is added.

        Returns
        -------
        int
        """
        removed = 0
        if not self._can_write:
            return removed
        with self._claims.exclusive("merge") as is_mine:
            if not is_mine:
                return removed
            self._sweep()
            try:
                while group := self._mergeable():
                    with contextlib.suppress(Unreadable):  # left out from now on
                        removed += self._merge_group(group, seen)
            except OSError as error:
                logger.info("merging shards of %s: %s", self.directory, error)
        return removed

    def _mergeable(self) -> list[Shard]:
        """Return shards of one kind and about one size, if there are enough."""
        self.refresh()
        groups: dict[tuple[Any, ...], list[Shard]] = {}
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

    def _merge_group(self, group: list[Shard], seen: set[str] | None) -> int:
        keys, first = np.unique(
            np.concatenate([shard.keys for shard in group]), return_index=True
        )
        n_tokens = np.concatenate([shard.n_tokens for shard in group])[first]
        ends = np.cumsum([len(shard.keys) for shard in group])
        owner = np.searchsorted(ends, first, "right")
        mine = [np.flatnonzero(owner == s) for s in range(len(group))]
        texts = [  # of each shard, in the order of the keys
            first[which] - (end - len(shard.keys))
            for shard, which, end in zip(group, mine, ends, strict=True)
        ]
        counts = np.empty(len(keys), dtype=np.intp)
        for shard, which, these in zip(group, mine, texts, strict=True):
            counts[which] = shard.counts(these)
        starts = starts_of(counts)

        def matrix_of(column: str, i: int) -> FloatArray:
            shape = int(counts.sum()), 1, group[0].width
            matrix = np.empty(shape, dtype=group[0].dtype)
            layers = (group[0].columns[column][i],)
            for shard, which, these in zip(group, mine, texts, strict=True):
                try:
                    shard.read(column, layers, these, matrix, starts[which])
                except (Unreadable, OSError) as error:
                    self._drop(shard.path.name, error)
                    raise Unreadable(str(error)) from error
            return matrix[:, 0]

        columns = {
            column: (layers, functools.partial(matrix_of, column))
            for column, layers in group[0].columns.items()
        }
        name = self._keep(
            keys,
            n_tokens,
            columns,
            None if group[0].starts is None else counts,
            last_access=max(shard.last_access() for shard in group),
        )
        if seen is not None and seen.issuperset(shard.path.name for shard in group):
            seen.add(name)
        for shard in group:
            try:
                remove_shard(shard.path)
            except FileNotFoundError:  # evicted meanwhile
                pass
            except OSError:
                if shard is group[0]:  # another user's, say: leave all as it was
                    remove_shard(self.directory / name)
                raise
            with self._lock:
                self._shards.pop(shard.path.name, None)
        return len(group)

    def _sweep(self) -> None:
        """Remove what killed writers left behind long ago."""
        now = time.time()
        for place in (self.directory, self._claims.directory):
            with contextlib.suppress(OSError), os.scandir(place) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        if not _DEBRIS.fullmatch(entry.name):
                            continue
                        dated = entry.stat(follow_symlinks=False).st_mtime
                        if abs(now - dated) < _DEBRIS_SECONDS:  # or dated ahead
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            shutil.rmtree(entry.path, ignore_errors=True)
                        else:
                            os.unlink(entry.path)

    # One process computes a row, the others wait

    def claim(
        self, keys: Keys, at_most: int
    ) -> contextlib.AbstractContextManager[Indices | None]:
        """Claim the first rows that no live process is computing: see `Claims.claim`.

        Call `refresh` and `find` inside the block: rows may have come meanwhile.
        """
        return self._claims.claim(keys, at_most)

    def wait(self, keys: Keys) -> None:
        """Wait until one of the live claims on keys has ended, at most a second."""
        self._claims.wait(keys)

    # For people

    def n_bytes(self) -> int:
        """Return the size of all shards that are known."""
        with self._lock:
            return sum(shard.n_bytes for shard in self._shards.values())

    def info(self) -> dict[str, Any]:
        """Return how much this space holds, and when it was last used."""
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
            "last_used": max((shard.last_access() for shard in shards), default=None),
        }

    def about(self) -> dict[str, Any]:
        """Return the facts for people that lie beside the shards, if any."""
        try:
            facts = json.loads((self.directory / "about.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def verify(self) -> Iterator[tuple[Path, str | None]]:
        """Read every shard as a whole; yield each with what is wrong, or None."""
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = sorted(filter(_SHARD.fullmatch, os.listdir(self.directory)))
        for path in map(self.directory.joinpath, names):
            try:
                if path.is_symlink():
                    raise Unreadable("it is a symbolic link, unknown to joblib")
                _read_all(open_shard(path, self.space))
            except (Unreadable, OSError) as error:
                if not (isinstance(error, OSError) and is_gone(path, error)):
                    yield path, str(error)
            else:
                yield path, None


def _read_all(shard: Shard) -> None:
    """Check every block of a shard, a layer in memory at a time."""
    texts = np.arange(len(shard.keys))
    starts = starts_of(shard.counts(texts))
    out = np.empty((shard.n_rows, 1, shard.width), dtype=shard.dtype)
    for column, layers in shard.columns.items():
        for layer in layers:
            shard.read(column, (layer,), texts, out, starts)


def features_directory(location: str) -> Path:
    """Return the directory of all spaces of a place."""
    return Path(location, _FOLDER)


def find_spaces(location: str) -> tuple[list[FeatureStore], list[Path]]:
    """Return the spaces in a place, and the directories of other versions' spaces."""
    stores, others = [], []
    with contextlib.suppress(OSError):
        for path in sorted(features_directory(location).iterdir()):
            if path.name.startswith(f"v{FORMAT}-") and path.is_dir():
                stores.append(FeatureStore(location, path.name))
            elif path.is_dir():
                others.append(path)
    return stores, others


_warned: set[Path] = set()


def _warn_once(path: Path, message: str) -> None:
    """Warn, once per place and process."""
    if path not in _warned:
        _warned.add(path)
        warnings.warn(message, StoreWarning, stacklevel=4)
