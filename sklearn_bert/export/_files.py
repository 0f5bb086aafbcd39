"""`encode_files`: parameters, what they resolve to, and the result."""

from __future__ import annotations

import codecs
import copy
import dataclasses
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import get_tags

from .._validation import check_bool, check_choice, check_integer
from ..checkpoint import find_checkpoint
from ..tables import FORMATS
from ..vectorizer import BertVectorizer
from ._output import Output
from ._parquet import require_pyarrow
from ._place import find_place
from ._rows import Rows
from ._run import Changed, Run

__all__ = ["EncodedFiles", "encode_files"]

_PART_BYTES = 2**26  # of the features of a part


@dataclasses.dataclass(frozen=True)
class EncodedFiles:
    """What `encode_files` made.

    Attributes
    ----------
    features : Path
        A ``.npy`` file, a Parquet file, or a directory of Parquet files.
    ids : Path or None
        JSON lines, an id a line; None without ids, and in Parquet, where they are a
        column.
    manifest : Path
        What the features are of and how they were made, as JSON.
    n_rows, n_features : int
    n_rows_encoded : int
        In this call; the others were finished before.
    seconds : float
        Of this call.
    """

    features: Path
    ids: Path | None
    manifest: Path
    n_rows: int
    n_features: int
    n_rows_encoded: int
    seconds: float


def encode_files(
    vectorizer: BertVectorizer,
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    text: str = "text",
    id: str | None = None,
    format: str | None = None,
    out_dtype: str = "float32",
    part_rows: int = 8192,
    file_rows: int | None = None,
    input_format: str | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    overwrite: bool = False,
    verbose: bool = False,
) -> EncodedFiles:
    r"""Encode the texts of files of any size, in bounded memory, and go on if killed.

    The rows of all files become one output, in their order, equal to what the
    vectorizer's `transform` gives for them to 1e-6. The same call made again continues
    after the last part that was finished, or finds that all is done.

    Parameters
    ----------
    vectorizer : BertVectorizer
        Not fitted, or fitted on labels if it learns from them.
    files : str, path-like or iterable of them
        CSV, TSV, JSON lines, Parquet or plain text, all but Parquet also as ``.gz``;
        "-" is the standard input.
    out : str or path-like
        A file that ends in ``.npy`` or ``.parquet``, or a directory. Until it is
        complete, it grows in ``<out>.partial``.
    text : str, default="text"
        Column of the texts; the lines of plain text are "text".
    id : str, default=None
        Column of text or whole numbers that is kept beside the features. None keeps
        none; Parquet then has the number of the row, from 0.
    format : {"npy", "parquet"}, default=None
        None goes by the name of `out`; a directory is "npy". Parquet needs the extra
        ``parquet``.
    out_dtype : {"float32", "float16"}, default="float32"
        Of the features on disk; "float16" halves them and rounds to three digits.
    part_rows : int, default=8192
        Rows that are encoded and kept at once, at most; also at most a million
        characters and 64 MiB of features. A run that is killed loses less than a part.
    file_rows : int, default=None
        Rows after which a directory of Parquet begins another file; None is 256 MiB of
        features.
    input_format, delimiter, encoding : str, default=None, None, "utf-8"
        How files are read, as `sklearn_bert.tables.iter_batches` says.
    overwrite : bool, default=False
        Whether an output of other rows or other settings is replaced, or refused. The
        old one stays until the new one is complete.
    verbose : bool, default=False
        Whether a progress bar is shown.

    Returns
    -------
    EncodedFiles

    Raises
    ------
    FileNotFoundError, FileExistsError, BlockingIOError
        A file is not there, `out` is something else, or another process is writing it.
    ValueError
        A column is not there, a row is no text (the message names it), or `out` was
        begun with other rows or other settings (the message names the difference).

    Warns
    -----
    UserWarning
        Once, with counts, if texts were cut or are empty.

    Notes
    -----
    With `memory`, a run that is killed may go on with features of other batches, which
    differ by about 2e-7; without, an output does not depend on interruptions.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from sklearn_bert import BertVectorizer
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> from sklearn_bert.export import encode_files
    >>> place = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (place / "notes.txt").write_text("a short text\nanother one\n")
    >>> vectorizer = BertVectorizer(make_tiny_encoder(place / "encoder"))
    >>> made = encode_files(vectorizer, place / "notes.txt", place / "notes.npy")
    >>> np.load(made.features, mmap_mode="r").shape
    (2, 32)
    """
    started = time.perf_counter()
    _check_vectorizer(vectorizer)
    names = [os.fspath(file) for file in _each_path(files)]
    if input_format is not None:
        check_choice("input_format", input_format, FORMATS)
    reading = {"format": input_format, "delimiter": delimiter, "encoding": encoding}
    codec = _codec(encoding)
    rows = Rows(names, text, id, reading)
    place = find_place(out, format)
    check_choice("out_dtype", out_dtype, ("float32", "float16"))
    check_integer("part_rows", part_rows, minimum=1)
    check_bool("overwrite", overwrite)
    if file_rows is not None:
        check_integer("file_rows", file_rows, minimum=1)
        if place.format != "parquet" or place.is_file:
            raise ValueError(
                f"file_rows={file_rows} is for a directory of Parquet: pass "
                "format='parquet' and an out without an ending."
            )
    if place.format == "parquet":
        require_pyarrow()
    rows.check_beginnings()
    written = [place.out, place.ids, place.manifest]
    for name in names:
        for path in written if name != "-" else ():
            if path.exists() and os.path.samefile(name, path):
                beside = "" if path == place.out else f" would replace {path}, which"
                raise ValueError(
                    f"out={str(out)!r}{beside} is one of the files to be read."
                )

    vectorizer = _ready(vectorizer)
    n_features = len(vectorizer.get_feature_names_out())
    rows.part_rows = part_rows = min(part_rows, max(1, _PART_BYTES // (4 * n_features)))
    settings = {
        **_settings(vectorizer),
        "text": text, "id": id, "out_dtype": out_dtype, "part_rows": part_rows,
        "file_rows": file_rows, "input": {**reading, "encoding": codec},
    }  # fmt: skip
    run = Run(vectorizer, rows, verbose=bool(verbose))
    with Output(
        place, settings=settings, n_features=n_features, dtype=out_dtype, id=id,
        file_rows=file_rows,
    ) as output:  # fmt: skip
        complete = output.open(overwrite=overwrite)
        try:
            manifest = run.into(output) if complete is None else complete
            if complete is not None:
                run.compare_all(complete)
        except Changed as change:
            what = place.partial if output.parts else place.out
            if not overwrite:
                cure = "Name another out, or pass overwrite=True (--overwrite)."
            elif "-" in names:  # its rows are gone
                cure = "Remove it, and begin again."
            else:
                output.discard()
                manifest = run.into(output)
                cure = ""
            if cure:
                raise ValueError(
                    f"{what} was made of other rows: {change} {cure}"
                ) from None
    return EncodedFiles(
        features=place.features,
        ids=place.ids if id is not None and place.format == "npy" else None,
        manifest=place.manifest,
        n_rows=manifest["n_rows"],
        n_features=n_features,
        n_rows_encoded=run.n_rows_encoded,
        seconds=time.perf_counter() - started,
    )


def _check_vectorizer(vectorizer: Any) -> None:
    if not isinstance(vectorizer, BertVectorizer):
        raise TypeError(
            f"vectorizer must be a BertVectorizer, got {type(vectorizer).__name__}."
        )


def _each_path(files: Any) -> list[str | os.PathLike[str]]:
    """Return the paths of one file or of several, else raise."""
    is_table = hasattr(files, "columns") or hasattr(files, "column_names")
    is_one = isinstance(files, (str, os.PathLike)) or not isinstance(files, Iterable)
    paths = [files] if is_one or is_table else list(files)
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(
                "files must be the path of a file, or several, got "
                f"{type(path).__name__}; texts in memory are encoded by the "
                "vectorizer's transform."
            )
    return paths


def _ready(vectorizer: BertVectorizer) -> BertVectorizer:
    """Return a vectorizer that can transform, without a progress bar of its own."""
    if vectorizer.__sklearn_is_fitted__():
        vectorizer = copy.copy(vectorizer)
        if hasattr(vectorizer, "_sklearn_output_config"):  # the copy has the same dict
            config = dict(vectorizer._sklearn_output_config)
            vectorizer._sklearn_output_config = config
    elif get_tags(vectorizer).target_tags.required:
        raise ValueError(
            "This vectorizer learns from labels (layer_combination='scalar_mix' or "
            "pooling='learned_attention'): fit it on labelled texts first."
        )
    else:
        vectorizer = clone(vectorizer).fit([])
    return vectorizer.set_output(transform="default").set_params(verbose=False)


def _codec(encoding: str) -> str:
    """Return the one name of an encoding that has several."""
    try:
        return codecs.lookup(encoding).name
    except LookupError as error:
        raise ValueError(f"encoding={encoding!r} is not known to Python.") from error


def _settings(vectorizer: BertVectorizer) -> dict[str, Any]:
    """Return what decides the numbers, as JSON values."""
    from .. import __version__

    checkpoint = find_checkpoint(
        str(vectorizer.model),
        revision=vectorizer.revision,
        local_files_only=bool(vectorizer.local_files_only),
        trust_remote_code=bool(vectorizer.trust_remote_code),
    )
    combination = vectorizer.layer_combination_
    settings = {
        "encoder": vectorizer.fingerprint_,
        "lower_case": checkpoint.declared.lower_case,
        "layer": list(vectorizer.layers_),
        "layer_combination": combination
        if isinstance(combination, str)
        else np.asarray(combination).tolist(),
        "pooling": list(vectorizer.pooling_),
        "special_tokens": bool(vectorizer.special_tokens),
        "normalize": bool(vectorizer.normalize_),
        "max_length": vectorizer.max_length_,
        "overflow": vectorizer.overflow,
        "stride": vectorizer.stride_ if vectorizer.overflow == "chunk" else None,
        "chunk_pooling": vectorizer.chunk_pooling,
        "prompt": vectorizer.prompt_,
        "missing": vectorizer.missing,
        "dtype": vectorizer.dtype_,
        "token_dtype": vectorizer.token_dtype,
        "sklearn_bert": __version__,
    }
    learned = [
        np.asarray(getattr(vectorizer, name)).tobytes()
        for name in ("layer_weights_", "gamma_", "layer_scales_", "query_")
        if hasattr(vectorizer, name)
    ]
    if learned:
        settings["learned"] = hashlib.blake2b(
            b"".join(learned), digest_size=16
        ).hexdigest()
    return settings
