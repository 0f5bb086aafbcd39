"""Parquet: a column of ids, and one of features as lists of a fixed size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["count_rows", "require_pyarrow", "write_parquet"]

_GROUP_BYTES = 2**25  # of features per row group, which a reader holds at once


def require_pyarrow() -> None:
    """Raise ImportError, naming the extra, where Parquet cannot be written."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'Parquet needs pyarrow: pip install "sklearn-bert[parquet]", or write .npy.'
        ) from error


def write_parquet(
    stream: BinaryIO,
    rows: BinaryIO,
    n_rows: int,
    n_features: int,
    dtype: np.dtype[Any],
    id_name: str,
    ids: Iterator[str | int],
    about: Mapping[str, str],
) -> None:
    """Write a file from rows end to end, a row group in memory at a time.

    Parameters
    ----------
    stream : binary file
        To write to.
    rows : binary file
        Of `n_rows` x `n_features` numbers of `dtype`.
    id_name, ids
        The other column: all text or all whole numbers.
    about : mapping of str to str
        Kept in the schema.
    """
    import pyarrow
    from pyarrow import parquet

    first = list(itertools.islice(ids, 1))
    ids = itertools.chain(first, ids)
    kind = pyarrow.string() if first and isinstance(first[0], str) else pyarrow.int64()
    of_features = pyarrow.list_(pyarrow.from_numpy_dtype(dtype), n_features)
    schema = pyarrow.schema([(id_name, kind), ("features", of_features)], dict(about))
    row_bytes = n_features * dtype.itemsize
    n_group = max(1, _GROUP_BYTES // row_bytes)
    with parquet.ParquetWriter(
        stream, schema, use_dictionary=False, write_page_checksum=True
    ) as writer:
        for start in range(0, n_rows, n_group):
            n = min(n_group, n_rows - start)
            values = np.frombuffer(rows.read(n * row_bytes), dtype)
            columns = [
                pyarrow.array(itertools.islice(ids, n), kind),
                pyarrow.FixedSizeListArray.from_arrays(
                    pyarrow.array(values), n_features
                ),
            ]
            table = pyarrow.table(columns, schema=schema)
            writer.write_table(table, row_group_size=n_group)


def count_rows(path: Path) -> int | None:
    """Return how many rows a file has, None if it is not there or not whole."""
    import pyarrow
    from pyarrow import parquet

    try:
        return int(parquet.read_metadata(path).num_rows)
    except (OSError, pyarrow.ArrowException):
        return None
