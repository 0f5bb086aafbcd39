"""Rows of files, part by part, and a digest that tells whether they are the same.

A part is bounded in rows and in characters, and depends on nothing but the rows; parts
go on from file to file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

from ..tables import iter_batches

__all__ = ["Digest", "Rows", "RowsOfPart", "name_of"]

_PART_CHARACTERS = 2**20  # of a part: seconds on a GPU, a minute or so on a CPU
_READ_ROWS = 128

Id = str | int


@dataclasses.dataclass
class RowsOfPart:
    """The rows of one part."""

    texts: list[str] = dataclasses.field(default_factory=list)
    ids: list[Id] = dataclasses.field(default_factory=list)
    n_characters: int = 0
    # (position in the part, file, its row there), where a file begins
    starts: list[tuple[int, str, int]] = dataclasses.field(default_factory=list)

    def place(self, position: int) -> str:
        """Name a row as people find it."""
        # Of files that begin at one place all but the last have no row here.
        start, name, row = [s for s in self.starts if s[0] <= position][-1]
        return f"row {row + position - start} of {name}"


class Rows:
    """The rows of files, part by part."""

    def __init__(
        self, files: list[str], text: str, id: str | None, reading: dict[str, Any]
    ) -> None:
        if not files:
            raise ValueError("files must name at least one file.")
        if files.count("-") > 1:
            raise ValueError("The standard input ('-') can be read only once.")
        for file in files:
            if file != "-" and _is_pipe(file):
                raise ValueError(
                    f"{file} is a pipe, which can be read only once; pass '-' and pipe "
                    "it in."
                )
        if id == "features":
            raise ValueError("id='features' is the name of another column; rename it.")
        self.files = files
        self.text = text
        self.id = id
        self.columns = list(dict.fromkeys([text, *([] if id is None else [id])]))
        self.reading = reading
        self.part_rows = 1
        self.missing = "raise"
        self.n_rows = [0] * len(files)
        self.n_bytes = 0  # read so far, of files as they lie on disk
        self._kind: type[Id] | None = None  # of the ids

    def size(self) -> int | None:
        """Return the size of all files in bytes, None if one is the standard input."""
        if not all(os.path.isfile(file) for file in self.files):
            return None
        return sum(os.path.getsize(file) for file in self.files)

    def check_beginnings(self) -> None:
        """Read the first row of every file, so that mistakes show at once."""
        for file in self.files:
            if file == "-":
                continue
            batches = iter_batches(file, self.columns, batch_rows=1, **self.reading)
            for batch in itertools.islice(batches, 1):
                self._check_id(batch[self.id][0] if self.id else None, file, 1)

    def __iter__(self) -> Iterator[RowsOfPart]:
        self.n_rows, self.n_bytes = [0] * len(self.files), 0
        part = RowsOfPart()
        for i, file in enumerate(self.files):
            name = name_of(file)
            before = self.n_bytes
            part.starts.append((len(part.texts), name, 1))
            for text, one in self._of_file(file, before):
                self.n_rows[i] += 1
                part.texts.append(self._check_text(text, name, self.n_rows[i]))
                if self.id is not None:
                    part.ids.append(self._check_id(one, name, self.n_rows[i]))
                part.n_characters += len(part.texts[-1])
                if (
                    len(part.texts) == self.part_rows
                    or part.n_characters >= _PART_CHARACTERS
                ):
                    yield part
                    part = RowsOfPart(starts=[(0, name, self.n_rows[i] + 1)])
            if os.path.isfile(file):
                self.n_bytes = before + os.path.getsize(file)
        if part.texts:
            yield part

    def _of_file(self, file: str, before: int) -> Iterator[tuple[Any, Any]]:
        def report(n_bytes: int) -> None:
            self.n_bytes = before + n_bytes

        for batch in iter_batches(
            file, self.columns, batch_rows=_READ_ROWS, report=report, **self.reading
        ):
            texts = batch[self.text]
            yield from zip(texts, batch[self.id] if self.id else texts, strict=True)

    def _check_text(self, text: Any, name: str, row: int) -> str:
        if text is None and self.missing == "empty":
            return ""
        if text is None:
            raise ValueError(
                f"row {row} of {name} has no text in column {self.text!r}; pass "
                "missing='empty' (--missing empty) to read it as an empty one."
            )
        if not isinstance(text, str):
            raise ValueError(
                f"row {row} of {name} has {type(text).__name__} in column "
                f"{self.text!r}, which must hold texts."
            )
        return text

    def _check_id(self, one: Any, file: str, row: int) -> Id:
        """Check that ids are all text or all whole numbers, as a column must be."""
        if self.id is None:
            return 0
        where = f"row {row} of {name_of(file)}"
        if one is None:
            raise ValueError(f"{where} has no id in column {self.id!r}.")
        is_number = isinstance(one, int) and not isinstance(one, bool)
        if not (isinstance(one, str) or (is_number and -(2**63) <= one < 2**63)):
            raise ValueError(
                f"{where} has {type(one).__name__} {str(one)[:40]!r} in column "
                f"{self.id!r}; ids must be text, or "
                "whole numbers of at most 64 bits."
            )
        if isinstance(one, str) and not one.isascii():
            try:
                one.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{where} has an id in column {self.id!r} that is no valid text "
                    f"({error.reason})."
                ) from error
        kind: type[Id] = str if isinstance(one, str) else int
        self._kind = self._kind or kind
        if kind is not self._kind:
            words = {str: "text", int: "a number"}
            raise ValueError(
                f"{where} has {words[kind]}, {one!r}, in column {self.id!r}, where "
                f"rows before it have {words[self._kind]}; ids must be of one kind."
            )
        return one


def _is_pipe(file: str) -> bool:
    is_plain = os.path.isfile(file) or os.path.isdir(file)
    return os.path.exists(file) and not is_plain


def name_of(file: str) -> str:
    return "standard input" if file == "-" else file


class Digest:
    """Of all rows so far: their texts and ids, in order."""

    def __init__(self) -> None:
        self._state = hashlib.blake2b(digest_size=16)

    def after(self, part: RowsOfPart) -> str:
        """Take in a part; return the digest of everything so far."""
        for text in part.texts:
            raw = text.encode("utf-8", "surrogatepass")
            self._state.update(len(raw).to_bytes(8, "little") + raw)
        for one in part.ids:
            self._state.update(json.dumps(one).encode() + b"\n")
        return self._state.copy().hexdigest()
