"""Claims: which live process computes which rows, so that no other computes them too.

A claim is a file with the keys of some rows, next to the shards of a space::

    <space>/claims/
        <32 hex digits>.claim    16-byte text keys, locked while its process lives
        mutex, merge             locked while one process claims, or merges shards

The kernel releases the lock when a process dies, so that its claim dies with it. These
are claims, not one lock, so that several processes encode different texts of one grid
at the same time.

No lock is needed for correctness. Where the file system has none, or nothing can be
written, every process computes everything it needs itself.

This module does not know what is computed or where it is kept. Level 0 of the module
map: `store`, `export` and `training` import it; it imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import stat
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Claims", "refuse_links", "release", "try_lock"]

logger = logging.getLogger(__name__)

_CLAIM = re.compile(r"[0-9a-f]{32}\.claim")
_KEY = np.dtype("S16")
_CLAIM_SECONDS = 600.0  # a stopped process must not keep others waiting for ever
_MUTEX_SECONDS = 30.0
_WAIT_SECONDS = 1.0
_CLAIM_BYTES = 2**26  # of a claim: four million rows; a window has thousands at most
_OPEN = os.O_RDWR | getattr(os, "O_BINARY", 0)
# Links lead elsewhere, and a pipe would never end.
_OPEN |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

Keys = NDArray[np.bytes_]
Indices = NDArray[np.intp]


class Claims:
    """The claims of one space.

    Parameters
    ----------
    directory : Path
        Where claims lie; made when it is needed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextlib.contextmanager
    def claim(self, keys: Keys, at_most: int) -> Iterator[Indices | None]:
        """Claim the first rows that no live process is computing.

        Parameters
        ----------
        keys : ndarray of shape (n_keys,), S16
            Distinct rows still missing, in the order in which they should be computed.
            Look them up again inside the block: rows may have come meanwhile.
        at_most : int
            Largest number of rows to claim.

        Yields
        ------
        ndarray of int or None
            Positions in `keys` that are now this caller's, possibly none because others
            hold them all; None where the file system has no locks or nothing can be
            written, so that the caller must compute everything itself.
        """
        path = self.directory / f"{uuid.uuid4().hex}.claim"
        mine: Indices | None = None
        descriptor = None
        try:
            try:
                with self.exclusive("mutex", patience=_MUTEX_SECONDS) as is_mine:
                    if is_mine:
                        free = self._free(keys, at_most)
                        if len(free):
                            descriptor = os.open(path, _OPEN | os.O_CREAT, 0o666)
                            # In this order: a claim that can be read is locked.
                            if try_lock(descriptor):
                                os.write(descriptor, keys[free].tobytes())
                        mine = free
            except OSError as error:
                logger.info("no claims in %s: %s", self.directory, error)
            yield mine
        finally:
            if descriptor is not None:
                release(descriptor)
                with contextlib.suppress(OSError):
                    path.unlink()

    def wait(self, keys: Keys) -> None:
        """Wait until one of the live claims on keys has ended, at most a second."""
        deadline = time.monotonic() + _WAIT_SECONDS
        before = self._claims_on(keys)
        while before and time.monotonic() < deadline:
            time.sleep(0.02)
            if self._claims_on(keys) != before:
                return

    @contextlib.contextmanager
    def exclusive(self, name: str, patience: float = 0.0) -> Iterator[bool]:
        """Hold a lock of the space; yields False where that is not possible."""
        path = self.directory / name
        deadline = time.monotonic() + patience
        descriptor, is_mine = None, False
        try:
            try:
                refuse_links(self.directory, 3)
                self.directory.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, _OPEN | os.O_CREAT, 0o666)
                while not (is_mine := try_lock(descriptor)):
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.005)
            except OSError as error:
                logger.info("no lock in %s: %s", path, error)
            yield is_mine
        finally:
            if descriptor is not None:
                release(descriptor)

    def _free(self, keys: Keys, at_most: int) -> Indices:
        """Return the first positions in distinct keys that nobody claims."""
        taken = [claimed for _, claimed in self._live()]
        head = keys[: at_most + sum(map(len, taken))]  # enough, and keys may be many
        is_free = ~np.isin(head, np.concatenate([head[:0], *taken]))
        return np.flatnonzero(is_free)[:at_most]

    def _claims_on(self, keys: Keys) -> set[str]:
        return {name for name, held in self._live() if np.isin(keys, held).any()}

    def _live(self) -> list[tuple[str, Keys]]:
        """Return the claims of live processes, removing those of dead ones."""
        claims: list[tuple[str, Keys]] = []
        try:
            names = os.listdir(self.directory)
        except OSError:
            return claims
        for name in filter(_CLAIM.fullmatch, names):
            path = self.directory / name
            with contextlib.suppress(OSError, ValueError):  # ended just now
                descriptor = os.open(path, _OPEN)
                try:
                    n_bytes = _size_of_recent(descriptor)
                    keys = np.frombuffer(os.read(descriptor, n_bytes), dtype=_KEY)
                    if not len(keys):
                        continue
                    is_dead = try_lock(descriptor)
                finally:
                    release(descriptor)
                if is_dead:
                    path.unlink()
                else:
                    claims.append((name, keys))
        return claims


def refuse_links(directory: Path, n_levels: int) -> None:
    """Raise OSError if a directory, or one that it lies in, is a symbolic link.

    Parameters
    ----------
    directory : Path
    n_levels : int
        How many directories to look at, this one included.
    """
    for place in (directory, *directory.parents[: n_levels - 1]):
        if place.is_symlink():
            raise OSError(errno.ELOOP, "a symbolic link, unknown to joblib", str(place))


def _size_of_recent(descriptor: int) -> int:
    """Return the size of a claim; 0 if it is none, or dated long ago or ahead."""
    status = os.fstat(descriptor)
    age = abs(time.time() - status.st_mtime)  # a clock may have been set back
    is_claim = stat.S_ISREG(status.st_mode) and status.st_size <= _CLAIM_BYTES
    return status.st_size if is_claim and age <= _CLAIM_SECONDS else 0


def try_lock(descriptor: int) -> bool:
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


def release(descriptor: int) -> None:
    """Close a file and free its lock, also where a forked child has a copy of it."""
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
