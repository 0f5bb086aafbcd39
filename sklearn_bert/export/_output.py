"""Outputs: features that grow on disk part by part, and a run that may be killed.

An output is one ``.npy`` file, one Parquet file, or a directory of either. Until it is
complete it grows in a directory beside it::

    <out>.partial/
        _manifest.json   what is being made: settings, compared when a run goes on
        journal.jsonl    a line per finished part, with a checksum; locked by its writer
        features.npy     rows that are finished, after a header without their number
        ids.jsonl        an id a line, if there are ids
        part-00000.parquet ...    files that are full, for a directory of Parquet

A part is on disk before its line is, and the line before the next part, so that a
process may be killed at any moment: whatever the journal does not list is cut off. What
has the final name is complete, always.

This part does not know texts, encoders or what the settings mean.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..claims import release, try_lock
from ._parquet import count_rows, write_parquet
from ._place import Place

__all__ = ["Output", "Part"]

_VERSION = 1  # of what lies on disk
_CURE = "Name another out, or pass overwrite=True (--overwrite) to replace it."
_OURS = re.compile(
    r"(_manifest\.json|journal\.jsonl|features\.(npy|parquet)|ids\.jsonl"
    r"|part-\d+\.parquet)(\.tmp)?"
)
_HEADER_BYTES = 128  # room for any number of rows
_FILE_BYTES = 2**28  # of features per file, in a directory of Parquet


@dataclasses.dataclass(frozen=True)
class Part:
    """One line of the journal.

    Attributes
    ----------
    n_rows : int
    digest : str
        Of what the rows up to and with this part were made of.
    crc : int
        Of its features.
    ids_bytes, ids_crc : int
        Size and checksum of its ids.
    facts : dict of str to int
        Whatever the caller counts.
    """

    n_rows: int
    digest: str
    crc: int
    ids_bytes: int
    ids_crc: int
    facts: dict[str, int]


class Output:
    """One output, from its first part to its final name.

    Parameters
    ----------
    place : Place
    settings : mapping
        What decides the output, of JSON values. A run goes on only with the same.
    n_features : int
    dtype : {"float32", "float16"}
    id : str or None
        Name of the ids; None numbers the rows, in Parquet.
    file_rows : int or None
        Rows after which a file of a directory of Parquet is full.
    """

    def __init__(
        self,
        place: Place,
        *,
        settings: Mapping[str, Any],
        n_features: int,
        dtype: str,
        id: str | None,
        file_rows: int | None = None,
    ) -> None:
        self.place = place
        self.settings = json.loads(json.dumps({"format": place.format, **settings}))
        self.parts: list[Part] = []
        self._n_features = n_features
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._row_bytes = n_features * self.dtype.itemsize
        self._id = id
        self._file_rows: int | None = None
        if place.format == "parquet" and not place.is_file:
            self._file_rows = file_rows or max(1, _FILE_BYTES // self._row_bytes)
        self._n_sealed = 0  # files of a directory of Parquet
        self._rows_sealed = 0
        self._rows_open = 0  # in the file that grows
        self._ids_open = 0  # bytes
        self._journal: int | None = None
        self._may_discard = False  # what is in `partial`, if it is no row

    # Beginning, or going on

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        if self._may_discard and self._journal is not None and not self.parts:
            shutil.rmtree(self.place.partial, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let others write this output."""
        if self._journal is not None:
            release(self._journal)
            self._journal = None

    def open(self, *, overwrite: bool = False) -> Mapping[str, Any] | None:
        """Begin, or find `parts` that are finished and go on after them.

        Returns
        -------
        mapping or None
            The manifest, if the output is complete already. Then nothing is open:
            `discard` begins anew.

        Raises
        ------
        ValueError
            There is another output, of other settings or not of this module's making.
        BlockingIOError
            Another process is writing it.
        """
        place = self.place
        with contextlib.suppress(OSError):  # unless it is empty
            place.partial.rmdir()
        finished = _read_manifest(place.manifest)
        begun = _read_manifest(place.begun)
        if begun is not None and begun.get("finished"):
            is_same = begun["settings"] == self.settings
            source = place.sealed(0) if place.format == "parquet" else place.rows
            is_moved = place.is_file and not source.exists()
            if finished is None or (overwrite and is_same) or is_moved:
                self._lock()  # a run was killed just before, or meanwhile
                self.publish()
                finished = _read_manifest(place.manifest)
                begun = _read_manifest(place.begun)
        if finished is not None and not place.is_file:  # or just after
            self._tidy()
        self._refuse_foreign(finished, overwrite)
        if finished is not None:
            wrong = None
            if difference := _difference(finished["settings"], self.settings):
                wrong = f"{place.out} was made with other settings: {difference}."
            elif finished["has_ids"] and not place.ids.is_file():
                wrong = f"{place.ids}, of which {place.manifest} tells, is not there."
            elif not self._has_rows(finished["n_rows"]):
                wrong = (
                    f"{place.features} does not hold the {finished['n_rows']:,} rows "
                    f"that {place.manifest} tells of."
                )
            if wrong is None and (begun is None or not overwrite):
                return finished
            if not overwrite:
                raise ValueError(f"{wrong} {_CURE}")
        self._begin(overwrite)
        return None

    def _has_rows(self, n_rows: int) -> bool:
        """Whether an output that is complete is there as a whole."""
        features = self.place.features
        if self.place.format == "npy":
            n_bytes = _HEADER_BYTES + n_rows * self._row_bytes
            return features.is_file() and features.stat().st_size == n_bytes
        files = [features] if self.place.is_file else sorted(features.glob("*.parquet"))
        return sum(count_rows(file) or 0 for file in files) == n_rows

    def discard(self) -> None:
        """Begin anew; an output that is complete stays until it is replaced."""
        if self._journal is None:
            self._begin(overwrite=True)
        else:
            self._wipe()
            self._restore([])
            self._may_discard = True

    def _refuse_foreign(
        self, finished: Mapping[str, Any] | None, overwrite: bool
    ) -> None:
        """Refuse to replace what this module has not written."""
        out, replaced = self.place.out, self.place.replaced
        if not self.place.is_file and (finished is None or overwrite):
            if replaced.exists() and not _is_ours(replaced):
                raise FileExistsError(
                    f"{replaced}, to which {out} is moved when it is replaced, holds "
                    "other files. Move them, or name another out."
                )
            if finished is not None and not _is_ours(out):
                names = ", ".join(_others(out))
                raise FileExistsError(
                    f"{out} holds other files beside the features: {names}. Move them, "
                    "or name another out."
                )
        if finished is None and self.place.is_file and not overwrite:
            for path in (self.place.ids, self.place.manifest):
                if path.exists():  # what is written there would replace it
                    raise FileExistsError(
                        f"{path} exists, and is not of an encoded file {out}. {_CURE}"
                    )
        if finished is not None or not out.exists():
            return
        if self.place.is_file and not overwrite:
            raise FileExistsError(
                f"{out} exists, without the manifest of an encoded file. {_CURE}"
            )
        if not self.place.is_file and any(out.iterdir()):
            raise FileExistsError(
                f"{out} holds files, but no manifest of encoded ones. Name a new or "
                "empty directory."
            )

    def _begin(self, overwrite: bool) -> None:
        place = self.place
        place.partial.mkdir(exist_ok=True)
        if not _is_ours(place.partial):
            raise FileExistsError(
                f"{place.partial}, in which {place.out} would grow, holds other files. "
                "Remove it, or name another out."
            )
        self._lock()
        begun = _read_manifest(place.begun)
        parts, n_bytes = self._read_journal()
        difference = None
        if begun is not None:
            difference = _difference(begun["settings"], self.settings)
        if difference is not None and parts and not overwrite:
            n_rows = sum(part.n_rows for part in parts)
            raise ValueError(
                f"{place.partial} holds {n_rows:,} rows of a run that did not end and "
                f"had other settings: {difference}. {_CURE}"
            )
        if begun is None or difference is not None or begun.get("finished"):
            self._wipe()
            parts, n_bytes = [], 0
        for path in place.partial.glob("*.tmp"):
            path.unlink()
        assert self._journal is not None
        os.ftruncate(self._journal, n_bytes)
        self._restore(parts)
        self._may_discard = True

    def _wipe(self) -> None:
        """Begin with nothing; whenever this ends, what is left is no row."""
        assert self._journal is not None
        os.ftruncate(self._journal, 0)
        self.place.begun.unlink(missing_ok=True)
        for path in self.place.partial.iterdir():
            if path != self.place.journal:
                path.unlink()
        self._write_manifest({"finished": False})

    def _lock(self) -> None:
        """Open the journal, for this process alone."""
        path = self.place.journal
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        while True:
            self.place.partial.mkdir(exist_ok=True)
            descriptor = os.open(path, flags, 0o666)
            is_mine = True
            with contextlib.suppress(OSError):  # a file system without locks
                is_mine = try_lock(descriptor)
            if not is_mine:
                os.close(descriptor)
                raise BlockingIOError(
                    f"Another process is writing {self.place.out}. Wait for it, or "
                    "name another out."
                )
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    self._journal = descriptor
                    return
            release(descriptor)  # it was completed just now

    def _read_journal(self) -> tuple[list[Part], int]:
        """Return the parts listed, and the size of their lines."""
        parts, n_bytes = [], 0
        with open(self.place.journal, "rb") as stream:
            for line in stream:
                content, _, checksum = line.rpartition(b"\t")
                if checksum != b"%08x\n" % zlib.crc32(content):
                    break
                parts.append(Part(**json.loads(content)))
                n_bytes += len(line)
        return parts, n_bytes

    def _restore(self, parts: list[Part]) -> None:
        """Keep the parts whose rows are there, and cut off everything else."""
        self._n_sealed = self._rows_sealed = self._rows_open = 0
        kept: list[Part] = []
        for file in self._full_files(parts):
            n_rows = sum(part.n_rows for part in file)
            if count_rows(self.place.sealed(self._n_sealed)) != n_rows:
                break
            kept += file
            self._n_sealed += 1
            self._rows_sealed += n_rows
        for path in self.place.partial.glob("*.parquet"):
            if path not in map(self.place.sealed, range(self._n_sealed)):
                path.unlink()
        whole, ids_end = self._whole_parts(parts[len(kept) :])
        kept += whole
        self._rows_open = sum(part.n_rows for part in whole)
        self._ids_open = ids_end
        _cut(self.place.rows, _HEADER_BYTES + self._rows_open * self._row_bytes)
        _cut(self.place.row_ids, ids_end)
        self.parts = kept
        if len(kept) < len(parts):
            n_rows = sum(part.n_rows for part in kept)
            n_lost = sum(part.n_rows for part in parts) - n_rows
            warnings.warn(
                f"{n_lost:,} finished rows in {self.place.partial}, after the first "
                f"{n_rows:,}, are damaged and will be encoded again.",
                UserWarning,
                stacklevel=5,
            )
            self._rewrite_journal()
        if self._file_rows is not None and self._rows_open >= self._file_rows:
            self._seal()

    def _full_files(self, parts: Sequence[Part]) -> Iterator[list[Part]]:
        """Yield the parts of each file that is full."""
        if self._file_rows is None:
            return
        file: list[Part] = []
        n_rows = 0
        for part in parts:
            file.append(part)
            n_rows += part.n_rows
            if n_rows >= self._file_rows:
                yield file
                file, n_rows = [], 0

    def _whole_parts(self, parts: Sequence[Part]) -> tuple[list[Part], int]:
        """Return the first parts that match their checksums, and where ids end."""
        whole: list[Part] = []
        ids_end = 0
        if not (self.place.rows.exists() and self.place.row_ids.exists()):
            return whole, ids_end
        with open(self.place.rows, "rb") as rows, open(self.place.row_ids, "rb") as ids:
            rows.seek(_HEADER_BYTES)
            for part in parts:
                is_whole = (
                    zlib.crc32(rows.read(part.n_rows * self._row_bytes)) == part.crc
                    and zlib.crc32(ids.read(part.ids_bytes)) == part.ids_crc
                )
                if not is_whole:
                    break
                whole.append(part)
                ids_end += part.ids_bytes
        return whole, ids_end

    # Growing

    def append(
        self,
        features: np.ndarray,
        ids: Sequence[str | int] | None,
        digest: str,
        facts: Mapping[str, int],
    ) -> None:
        """Keep a part; once this returns, it is finished.

        Parameters
        ----------
        features : ndarray of shape (n_rows, n_features)
        ids : sequence of length n_rows, or None
        digest : str
        facts : mapping of str to int
        """
        raw = np.ascontiguousarray(features, dtype=self.dtype).data
        lines = "".join(f"{json.dumps(one)}\n" for one in ids or ()).encode()
        self._check_alone()
        _extend(self.place.rows, raw)
        if lines:
            _extend(self.place.row_ids, lines)
        crcs = zlib.crc32(raw), zlib.crc32(lines)
        part = Part(len(features), digest, crcs[0], len(lines), crcs[1], dict(facts))
        self._journalize(part)
        self.parts.append(part)
        self._rows_open += part.n_rows
        self._ids_open += part.ids_bytes
        if self._file_rows is not None and self._rows_open >= self._file_rows:
            self._seal()

    def _check_alone(self) -> None:
        """Refuse to go on where a file system has no locks and another writes too."""
        n_bytes = _HEADER_BYTES + self._rows_open * self._row_bytes
        sizes = _size(self.place.rows), _size(self.place.row_ids)
        if sizes != (n_bytes, self._ids_open):
            self._may_discard = False  # what the other has written
            raise BlockingIOError(
                f"Another process is writing {self.place.out} as well. Wait for it, or "
                "name another out."
            )

    def _journalize(self, part: Part) -> None:
        assert self._journal is not None
        content = json.dumps(dataclasses.asdict(part)).encode()
        os.lseek(self._journal, 0, os.SEEK_END)
        os.write(self._journal, content + b"\t%08x\n" % zlib.crc32(content))
        os.fsync(self._journal)

    def _rewrite_journal(self) -> None:
        assert self._journal is not None
        os.ftruncate(self._journal, 0)
        for part in self.parts:
            self._journalize(part)

    # Completing

    def finish(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Complete the output, which `publish` then moves; return its manifest."""
        self._check_alone()
        if self.place.format == "npy":
            self._write_header()
        elif self._rows_open or not self._n_sealed:
            self._write_sealed()
        self._may_discard = False
        manifest = self._write_manifest({"finished": True, **facts})
        return manifest

    def publish(self) -> None:
        """Give what is complete its final name, and let others write it."""
        self._publish()
        self.close()

    def _write_header(self) -> None:
        """Say how many rows there are, as an .npy file does."""
        shape = (self._rows_open, self._n_features)
        facts = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        text = repr(facts).encode()
        start = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
        text += b" " * (_HEADER_BYTES - len(start) - len(text) - 1) + b"\n"
        with open(self.place.rows, "r+b") as stream:
            stream.write(start + text)
            _sync(stream)

    def _seal(self) -> None:
        """Write the file that is full as Parquet, and begin another."""
        self._write_sealed()
        self._n_sealed += 1
        self._rows_sealed += self._rows_open
        self._rows_open = self._ids_open = 0
        _cut(self.place.rows, _HEADER_BYTES)
        _cut(self.place.row_ids, 0)

    def _write_sealed(self) -> None:
        with (
            _replacing(self.place.sealed(self._n_sealed)) as stream,
            open(self.place.rows, "rb") as rows,
            open(self.place.row_ids, "rb") as lines,
        ):
            rows.seek(_HEADER_BYTES)
            ids: Iterator[str | int] = itertools.count(self._rows_sealed)
            if self._id is not None:
                ids = map(json.loads, lines)
            write_parquet(
                stream, rows, self._rows_open, self._n_features, self.dtype,
                self._id or "row", itertools.islice(ids, self._rows_open),
                {"sklearn_bert": json.dumps(self.settings)},
            )  # fmt: skip

    def _write_manifest(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        manifest = {
            "version": _VERSION,
            **facts,
            "has_ids": self._id is not None and self.place.format == "npy",
            "settings": self.settings,
        }
        with _replacing(self.place.begun) as stream:
            stream.write(f"{json.dumps(manifest, indent=1)}\n".encode())
        return manifest

    def _publish(self) -> None:
        """Move what is complete to its final name; may be done again after a kill.

        The lock is held until it is there: who else gets it finds nothing to move.
        """
        place = self.place
        manifest = _read_manifest(place.begun)
        if manifest is not None and not manifest.get("finished"):  # another, anew
            return
        if os.name == "nt":  # moves and removes no open file
            self.close()
        if manifest is None:
            place.journal.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another's by now
                place.partial.rmdir()
            return
        if manifest["settings"]["format"] == "parquet":  # another run's, perhaps
            place.rows.unlink(missing_ok=True)
        if not manifest["has_ids"]:
            place.row_ids.unlink(missing_ok=True)
        if place.is_file:
            complete = place.sealed(0) if place.format == "parquet" else place.rows
            for source, target in ((complete, place.out), (place.row_ids, place.ids)):
                with contextlib.suppress(FileNotFoundError):  # moved before a kill
                    os.replace(source, target)
            if not manifest["has_ids"]:
                place.ids.unlink(missing_ok=True)
            place.journal.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):  # by another, since just now
                os.replace(place.begun, place.manifest)
            with contextlib.suppress(OSError):  # another's by now
                place.partial.rmdir()
        else:
            if _read_manifest(place.manifest) is not None:
                os.rename(place.out, place.replaced)
            elif place.out.exists():
                place.out.rmdir()  # the user's, and empty
            os.rename(place.partial, place.out)
            self._tidy()
        _sync_directory(place.out.parent)

    def _tidy(self) -> None:
        """Remove what a directory needs no more once it has its final name."""
        (self.place.out / self.place.journal.name).unlink(missing_ok=True)
        if _is_ours(self.place.replaced):
            shutil.rmtree(self.place.replaced, ignore_errors=True)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Name the first setting that differs."""
    for name in [*new, *old]:
        if old.get(name) != new.get(name):
            return f"{name} was {old.get(name)!r}, is now {new.get(name)!r}"
    return None


def _is_ours(directory: Path) -> bool:
    """Whether this is a directory that holds nothing but what is written here."""
    return directory.is_dir() and not _others(directory)


def _others(directory: Path) -> list[str]:
    """Name what others have put into a directory."""
    names = sorted(os.listdir(directory))
    return [name for name in names if not _OURS.fullmatch(name)]


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """Return a manifest, or None where there is none that this version reads."""
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    is_ours = isinstance(manifest, dict) and manifest.get("version") == _VERSION
    return manifest if is_ours and isinstance(manifest.get("settings"), dict) else None


# Files, so that what was written stays written


def _sync(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _sync_directory(path: Path) -> None:
    with contextlib.suppress(OSError):  # Windows opens no directories
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """Write a file under another name, then give it its own."""
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as stream:
        yield stream
        _sync(stream)
    os.replace(temporary, path)
    _sync_directory(path.parent)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _extend(path: Path, content: Any) -> None:
    with open(path, "ab") as stream:
        stream.write(content)
        _sync(stream)


def _cut(path: Path, n_bytes: int) -> None:
    """Make a file this long; what is missing is zeros."""
    with open(path, "ab") as stream:
        stream.truncate(n_bytes)
        _sync(stream)
