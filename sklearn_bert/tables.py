"""Texts and labels from files: CSV, TSV, JSON lines, Parquet, plain text.

`iter_batches` yields a file's columns in batches, so that a file of any size is read in
bounded memory; `read_labelled` reads what a classifier needs and checks it. Every
error names the file, says where in it, and what to do.

This module does not know what texts are used for, guesses no separators or encodings,
and converts no values: those of CSV and TSV are ``str``. pyarrow is imported where
Parquet is read.

Level 1 of the module map: imports `_validation`.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import os
import random
import re
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ._validation import what_was_meant

__all__ = ["iter_batches", "read_labelled"]

FORMATS = ("csv", "tsv", "jsonl", "parquet", "text")
_SUFFIXES = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".parquet": "parquet", ".pq": "parquet", ".txt": "text",
}  # fmt: skip
# Labels spelt as text that are numbers; "007" is a name.
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_SHOWN = 5  # rows named of those that are refused
_GZIP = b"\x1f\x8b"
# What a file begins with that is none of the text formats.
_MAGIC = {
    _GZIP: "gzip data; give its name the ending .gz",
    b"PAR1": "Parquet data; give its name the ending .parquet",
    b"PK\x03\x04": "a zip archive or a spreadsheet; save it as CSV",
    b"\xff\xfe": "text in UTF-16; pass encoding='utf-16'",
    b"\xfe\xff": "text in UTF-16; pass encoding='utf-16'",
}
# What surrogateescape makes of a byte that is not UTF-8; no valid text has them.
_UNDECODED = re.compile("[\udc80-\udcff]")

Batch = dict[str, list[Any]]


def iter_batches(
    source: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    *,
    format: str | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    batch_rows: int = 1000,
    report: Callable[[int], None] | None = None,
) -> Iterator[Batch]:
    r"""Yield the columns of a file in batches of rows, in the order of the file.

    One batch is in memory at a time, so that files of any size can be read. Nothing is
    opened or checked before the first batch is asked for.

    Parameters
    ----------
    source : str or path-like
        A file, or "-" for the standard input. With the ending ``.gz`` it is
        decompressed as it is read, and so is compressed standard input.
    columns : sequence of str, default=None
        Which columns, by their names in the header, in the objects of JSON lines or in
        the Parquet schema. Plain text has one column, "text": its lines. None is all.
    format : {"csv", "tsv", "jsonl", "parquet", "text"}, default=None
        None goes by the ending of the name: ``.csv``, ``.tsv`` or ``.tab``, ``.jsonl``
        or ``.ndjson``, ``.parquet`` or ``.pq``, ``.txt``. Standard input without a
        format is JSON lines if it begins with ``{``, else CSV.
    delimiter : str, default=None
        One character between the fields of CSV or TSV; None is a comma or a tab.
    encoding : str, default="utf-8"
        Of text formats. A byte-order mark is skipped.
    batch_rows : int, default=1000
        Rows per batch; the last one may have fewer.
    report : callable, default=None
        Called before each batch with the number of bytes of the file read so far, as it
        lies on disk, for a progress bar. Not called for standard input.

    Yields
    ------
    dict of str to list
        The values of each column. Those of CSV, TSV and plain text are ``str``, others
        what the format says; None is a missing value.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        `source` cannot be opened.
    ValueError
        A column is not there (the message names those that are), the file is not what
        its name says, a line cannot be decoded or read, or a parameter is not valid.
    ImportError
        Parquet needs pyarrow: the extra ``parquet``.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sklearn_bert.tables import iter_batches
    >>> file = pathlib.Path(tempfile.mkdtemp(), "notes.jsonl")
    >>> _ = file.write_text('{"text": "one", "n": 1}\n{"text": "two", "n": 2}\n')
    >>> for batch in iter_batches(file, ["text"], batch_rows=1):
    ...     print(batch)
    {'text': ['one']}
    {'text': ['two']}
    """
    name = "standard input" if source == "-" else os.fspath(source)
    if format is not None and format not in FORMATS:
        raise ValueError(f"format={format!r} must be one of {FORMATS}.")
    if batch_rows < 1:
        raise ValueError(f"batch_rows={batch_rows} must be at least 1.")
    if source != "-":
        _check_is_file(Path(source), name)
        format = format or _format_of(name)
    try:
        with _opened(source, name) as (stream, file):
            begin = _peek(stream, name)
            if format is None:
                format = "jsonl" if begin.lstrip()[:1] == b"{" else "csv"
            _check_magic(name, begin, format, encoding)
            if format == "parquet":
                n_bytes = os.fstat(file.fileno()).st_size if file else 0
                n_read = 0
                for batch, n_rows in _parquet_batches(
                    stream, name, columns, batch_rows
                ):
                    n_read += len(next(iter(batch.values()), ()))
                    if report is not None and file is not None:
                        report(n_bytes * n_read // max(1, n_rows))
                    yield batch
                return
            lines = _lines(stream, name, encoding)
            rows: Iterator[Batch]
            if format == "text":
                rows = _text_batches(lines, name, columns, batch_rows)
            elif format == "jsonl":
                rows = _json_batches(lines, name, columns, batch_rows)
            else:
                delimiter = delimiter or ("," if format == "csv" else "\t")
                rows = _csv_batches(lines, name, columns, batch_rows, delimiter)
            for batch in rows:
                if report is not None and file is not None:
                    report(file.tell())
                yield batch
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{name} is not whole gzip data ({error}); the file may be cut or wrongly "
            "named."
        ) from error


def read_labelled(
    source: str | os.PathLike[str],
    *,
    text: str = "text",
    label: str = "label",
    min_per_label: int = 1,
    sample: int | None = None,
    random_state: int = 0,
    format: str | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
) -> tuple[list[str], np.ndarray]:
    r"""Read a column of texts and a column of labels, and check both.

    Parameters
    ----------
    source : str or path-like
        As in `iter_batches`.
    text, label : str
        Names of the columns.
    min_per_label : int, default=1
        Fewest rows that each label must have: the number of folds, for a stratified
        cross-validation.
    sample : int, default=None
        Rows to draw, in the order of the file; memory is that of these rows. None, or
        more than there are, reads all.
    random_state : int, default=0
        Draws the sample.
    format, delimiter, encoding : as in `iter_batches`

    Returns
    -------
    texts : list of str
    labels : ndarray of shape (n_texts,)
        Of ``str``, unless all values are numbers or booleans, or spell whole numbers,
        as the 0 and 1 of a CSV file do, which are ``int``; "007" does not.

    Raises
    ------
    ValueError
        A text or a label is missing, all labels are the same, a label has fewer than
        `min_per_label` rows, or what `iter_batches` refuses.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sklearn_bert.tables import read_labelled
    >>> file = pathlib.Path(tempfile.mkdtemp(), "notes.csv")
    >>> _ = file.write_text('text,label\n"good, fun",yes\nbad,no\n')
    >>> texts, labels = read_labelled(file)
    >>> texts, labels.tolist()
    (['good, fun', 'bad'], ['yes', 'no'])
    """
    if sample is not None and sample < 1:
        raise ValueError(f"sample={sample} must be at least 1.")
    name = "standard input" if source == "-" else os.fspath(source)
    batches = iter_batches(
        source, (text, label), format=format, delimiter=delimiter, encoding=encoding
    )
    pairs = (
        pair
        for batch in batches
        for pair in zip(batch[text], batch[label], strict=True)
    )
    rows = _drawn(enumerate(pairs, start=1), sample, random_state)
    where = name if sample is None else f"the sample of {name}"
    _check_rows(where, rows, text, label)
    labels = [of_one for _, (_, of_one) in rows]
    _check_labels(name, label, labels, min_per_label)
    if len({type(value) for value in labels}) > 1:
        labels = [str(value) for value in labels]
    if all(isinstance(value, str) and _WHOLE.fullmatch(value) for value in labels):
        labels = [int(value) for value in labels]  # as pandas reads such a column
    is_text = isinstance(labels[0], str)
    return [one for _, (one, _) in rows], np.array(labels, object if is_text else None)


# What is checked of rows


def _drawn(
    rows: Iterable[tuple[int, Any]], sample: int | None, seed: int
) -> list[tuple[int, Any]]:
    """Return rows, or a sample of them in their order (Vitter 1985, algorithm R)."""
    if sample is None:
        return list(rows)
    rng, kept = random.Random(seed), []
    for i, row in enumerate(rows):
        if i < sample:
            kept.append(row)
        elif (at := rng.randrange(i + 1)) < sample:
            kept[at] = row
    return sorted(kept, key=lambda row: row[0])


def _check_rows(
    name: str, rows: list[tuple[int, tuple[Any, Any]]], text: str, label: str
) -> None:
    without_text, without_label = [], []
    for number, (one, of_one) in rows:
        where = f"row {number} of {name}"
        if one is not None and not isinstance(one, str):
            raise ValueError(
                f"{where} has {type(one).__name__} in column {text!r}, which must hold "
                "texts."
            )
        if not one or not one.strip():
            without_text.append(number)
        if of_one is None or of_one == "" or of_one != of_one:
            without_label.append(number)
        elif not isinstance(of_one, (str, int, float)):
            raise ValueError(
                f"{where} has {type(of_one).__name__} in column {label!r}, which must "
                "hold one label per row."
            )
    for numbers, what, column in (
        (without_text, "an empty text", text), (without_label, "no label", label),
    ):  # fmt: skip
        if numbers:
            raise ValueError(
                f"{_of_rows(numbers, name, what)} in column {column!r}; leave such "
                "rows out."
            )


def _of_rows(numbers: list[int], name: str, what: str) -> str:
    """Return "row 3 of FILE has no label", or how many and the first few."""
    if len(numbers) == 1:
        return f"row {numbers[0]} of {name} has {what}"
    first = ", ".join(map(str, numbers[:_SHOWN]))
    more = ", ..." if len(numbers) > _SHOWN else ""
    return f"{len(numbers):,} rows of {name} (rows {first}{more}) have {what}"


def _check_labels(name: str, label: str, labels: list[Any], fewest: int) -> None:
    counts = Counter(labels)
    if len(counts) < 2:
        what = f"one label, {labels[0]!r}" if labels else "no rows"
        raise ValueError(
            f"{name} has {what} in column {label!r}; a classifier needs at least two."
        )
    rare = [value for value, count in counts.items() if count < fewest]
    if rare:
        raise ValueError(
            f"{name} has {len(rare)} of {len(counts)} labels with fewer than {fewest} "
            f"rows in column {label!r}, such as {rare[0]!r} with {counts[rare[0]]}; "
            f"{fewest} folds need {fewest} of each. Use fewer folds, or leave these "
            "rows out."
        )


# Files


@contextlib.contextmanager
def _opened(
    source: str | os.PathLike[str], name: str
) -> Iterator[tuple[BinaryIO, BinaryIO | None]]:
    """Open a file, or standard input, and decompress it if it says so.

    Yields what is to be read, and the file as it lies on disk, if it is one.
    """
    if source == "-":
        yield _peekable(sys.stdin.buffer), None
        return
    path = Path(source)
    with path.open("rb") as file:
        if path.suffix.lower() == ".gz":
            yield _peekable(gzip.GzipFile(fileobj=file)), file
        else:
            yield file, file


def _check_is_file(path: Path, name: str) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{name} is a directory; name a file in it.")
    if not path.exists():
        raise FileNotFoundError(f"{name} does not exist.")


def _peekable(stream: Any) -> Any:
    """Return a stream that can be looked into, decompressed if it is compressed."""
    if not hasattr(stream, "peek"):
        stream = io.BufferedReader(stream)
    if stream.peek(2)[:2] == _GZIP:
        stream = io.BufferedReader(gzip.GzipFile(fileobj=stream))
    return stream


def _peek(stream: BinaryIO, name: str) -> bytes:
    begin: bytes = stream.peek(64)[:64]  # type: ignore[attr-defined]
    if not begin:
        raise ValueError(f"{name} is empty.")
    return begin


def _format_of(name: str) -> str:
    path = Path(name)
    suffix = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix
    if suffix.lower() not in _SUFFIXES:
        raise ValueError(
            f"{name} has no ending that tells its format; say which of {FORMATS} it "
            "is, or rename it."
        )
    return _SUFFIXES[suffix.lower()]


def _check_magic(name: str, begin: bytes, format: str, encoding: str) -> None:
    if format == "parquet":
        if not begin.startswith(b"PAR1"):
            raise ValueError(
                f"{name} is not Parquet data, although it is named or said to be."
            )
        return
    is_wide = "16" in encoding or "32" in encoding
    for magic, what in _MAGIC.items():
        if begin.startswith(magic) and not (is_wide and "UTF-16" in what):
            raise ValueError(f"{name} is not {format}: it begins like {what}.")


def _lines(stream: BinaryIO, name: str, encoding: str) -> Iterator[str]:
    """Yield decoded lines with their ends, else say which line cannot be decoded."""
    if encoding.lower().replace("-", "").replace("_", "") == "utf8":
        encoding = "utf-8-sig"
    try:
        decoded = io.TextIOWrapper(
            stream, encoding, errors="surrogateescape", newline=""
        )
    except LookupError as error:
        raise ValueError(f"encoding={encoding!r} is not known to Python.") from error
    number = 0
    try:
        for number, line in enumerate(decoded, start=1):
            if not line.isascii() and (found := _UNDECODED.search(line)):
                byte = ord(found[0]) - 0xDC00
                raise _not_decoded(name, number, f"byte 0x{byte:02x}", encoding)
            yield line
    except UnicodeError as error:  # UTF-16 and the like
        raise _not_decoded(name, number + 1, str(error), encoding) from error
    finally:
        with contextlib.suppress(ValueError):  # closed already
            decoded.detach()


def _not_decoded(name: str, number: int, what: str, encoding: str) -> ValueError:
    return ValueError(
        f"{name} is not {encoding.removesuffix('-sig')} text: {what} in line {number}. "
        "Pass its encoding, such as encoding='cp1252', or convert it to UTF-8."
    )


# Formats


def _chosen(
    name: str, there: Sequence[str], columns: Sequence[str] | None
) -> list[str]:
    """Return the columns asked for, after checking that each is there, once."""
    for column in there if columns is None else columns:
        if column not in there:
            those = ", ".join(map(repr, there))
            raise ValueError(
                f"{name} has no column {column!r}; it has {those}."
                + what_was_meant(column, there)
            )
        if list(there).count(column) > 1:
            raise ValueError(f"{name} has several columns named {column!r}.")
    return list(there if columns is None else columns)


def _csv_batches(
    lines: Iterator[str],
    name: str,
    columns: Sequence[str] | None,
    batch_rows: int,
    delimiter: str,
) -> Iterator[Batch]:
    try:
        reader = csv.reader(lines, delimiter=delimiter)
    except TypeError as error:
        raise ValueError(
            f"delimiter={delimiter!r} must be one character, such as ';'."
        ) from error
    with _long_fields():
        header = _next_row(reader, name) or []
    try:
        columns = _chosen(name, header, columns)
    except ValueError as error:
        others = re.findall(r"[;,\t|]", "".join(header).replace(delimiter, ""))
        if len(header) == 1 and others:
            message = f"{error} Its fields seem to be separated by another character;"
            raise ValueError(f"{message} pass delimiter={others[0]!r}.") from error
        raise
    positions = [header.index(column) for column in columns]
    while True:
        rows: list[list[Any]] = []
        with _long_fields():
            while len(rows) < batch_rows and (row := _next_row(reader, name)):
                if len(row) != len(header):
                    raise ValueError(
                        f"{name} has {len(row)} fields in line {reader.line_num}, and "
                        f"{len(header)} in its header; a text that holds "
                        f"{delimiter!r} must be quoted."
                    )
                rows.append([row[at] for at in positions])
        if not rows:
            return
        yield _transposed(columns, rows)


def _next_row(reader: Any, name: str) -> list[str] | None:
    """Return the next row that is not blank, None at the end."""
    try:
        return next((row for row in reader if row), None)
    except csv.Error as error:
        raise ValueError(
            f"{name} cannot be read in line {reader.line_num}: {error}."
        ) from error


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Read fields of any length; the limit is 128 kB otherwise, for the process."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _json_batches(
    lines: Iterator[str], name: str, columns: Sequence[str] | None, batch_rows: int
) -> Iterator[Batch]:
    rows: list[list[Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{name} is not JSON lines: line {number}: {error}. It must have one "
                "object a line."
            ) from error
        if not isinstance(entry, dict):
            raise ValueError(
                f"{name} has {type(entry).__name__} in line {number}; JSON lines have "
                "one object a line."
            )
        columns = _chosen(f"line {number} of {name}", list(entry), columns)
        rows.append([entry[column] for column in columns])
        if len(rows) == batch_rows:
            yield _transposed(columns, rows)
            rows = []
    if rows and columns is not None:
        yield _transposed(columns, rows)


def _text_batches(
    lines: Iterator[str], name: str, columns: Sequence[str] | None, batch_rows: int
) -> Iterator[Batch]:
    if columns is not None and list(columns) != ["text"]:
        missing = next(column for column in columns if column != "text")
        raise ValueError(
            f"{name} has no column {missing!r}: plain text has one, 'text'. Labels "
            "need CSV, TSV, JSON lines or Parquet."
        )
    while batch := list(itertools.islice(lines, batch_rows)):
        yield {"text": [line.rstrip("\r\n") for line in batch]}


def _parquet_batches(
    stream: BinaryIO, name: str, columns: Sequence[str] | None, batch_rows: int
) -> Iterator[tuple[Batch, int]]:
    """Yield batches, each with the number of rows in the whole file."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            f'{name} is Parquet; pip install "sklearn-bert[parquet]" to read it.'
        ) from error
    try:
        with tempfile.TemporaryFile() as copy:
            raw = getattr(stream, "raw", stream)
            if not stream.seekable() or isinstance(raw, gzip.GzipFile):
                shutil.copyfileobj(stream, copy)  # its end is read first
                stream = copy
            file = parquet.ParquetFile(stream)
            columns = _chosen(name, file.schema_arrow.names, columns)
            for batch in file.iter_batches(batch_rows, columns=list(columns)):
                values = {name: batch.column(name).to_pylist() for name in columns}
                yield values, file.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{name} cannot be read as Parquet: {error}") from error


def _transposed(columns: Sequence[str], rows: list[list[Any]]) -> Batch:
    values = zip(*rows, strict=True)
    return {column: list(part) for column, part in zip(columns, values, strict=True)}
