"""What counts as a text, a word, a row and a parameter value: the single gate.

Every estimator reads its ``X`` through `check_texts` or `check_words`, and its
parameters through the ``check_*`` functions below, so that an error is worded once; a
warning points at the line that `level_outside` finds.
This module knows nothing of encoders or stores, imports nothing of the package, and
never turns texts into a fixed-width array (one long text in a million rows would cost
80 GB).

Level 0 of the module map: any module may import it.
"""

from __future__ import annotations

import difflib
import numbers
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

__all__ = [
    "check_bool",
    "check_choice",
    "check_indicator",
    "check_integer",
    "check_labels",
    "check_positive",
    "check_several_classes",
    "check_tags",
    "check_texts",
    "check_within",
    "check_words",
    "is_integer",
    "level_outside",
    "what_was_meant",
]

_ONE_COLUMN = (
    "Pass one column of texts: a list, a Series, an array of shape (n_texts,) or "
    "(n_texts, 1), or a frame with one column."
)


def check_texts(X: Any, *, missing: str = "raise") -> list[str]:
    """Read one column of texts from any usual container.

    Parameters
    ----------
    X : iterable of str
        List, tuple, generator, NumPy array (object, str or StringDType), pandas or
        polars Series, Arrow string array, or a 2-D container with exactly one column.
    missing : {"raise", "empty"}, default="raise"
        Whether None, NaN and ``pd.NA`` are refused or read as ``""``.

    Returns
    -------
    list of str
        One plain ``str`` per row, in the order given.

    Raises
    ------
    TypeError
        A row is not a ``str``; the message names the row.
    ValueError
        `X` is a bare string, has more than one column, or holds a missing value.
    """
    rows = _rows(X)
    for i, row in enumerate(rows):
        if type(row) is str:
            continue
        if isinstance(row, str):  # np.str_
            rows[i] = str(row)
        elif _is_missing(row):
            if missing != "empty":
                raise ValueError(
                    f"X must hold str only, got a missing value ({row!r}) in row {i}; "
                    'pass missing="empty" to read it as "".'
                )
            rows[i] = ""
        else:
            raise TypeError(
                f"X must hold str only, got {type(row).__name__} in row {i}: "
                f"{_shorten(row)}. {_cure(row)}"
            )
    return rows


def check_words(X: Any, *, missing: str = "raise") -> list[str] | list[tuple[str, ...]]:
    """Read texts, or texts that are split into words.

    Parameters
    ----------
    X : iterable of str, or of sequences of str
        As in `check_texts`; or one list, tuple or 1-D array of words per text.
    missing : {"raise", "empty"}, default="raise"
        Whether None, NaN and ``pd.NA`` are refused, or read as a text without words
        or, in place of a word, as ``""``.

    Returns
    -------
    list of str, or list of tuple of str
        One entry per text, in the order given.

    Raises
    ------
    TypeError
        Some rows are texts and others are split, or something is no ``str``; the
        message names the row, and the word.
    ValueError
        As in `check_texts`.
    """
    rows = _rows(X)
    split = [i for i, row in enumerate(rows) if _is_sequence(row)]
    if not split:
        return check_texts(rows, missing=missing)
    whole = [i for i, row in enumerate(rows) if isinstance(row, str)]
    if whole:
        raise TypeError(
            "X must hold texts, or texts split into words, not both: row "
            f"{whole[0]} is a str and row {split[0]} a {type(rows[split[0]]).__name__}."
            " Split all of them or none."
        )
    return [_words_of(row, i, missing) for i, row in enumerate(rows)]


def check_tags(y: Any, n_words: Sequence[int]) -> np.ndarray:
    """Read one tag per word.

    Parameters
    ----------
    y : iterable of sequences of str or int
        One list, tuple or 1-D array of tags per text.
    n_words : sequence of int of length n_texts
        Words of each text.

    Returns
    -------
    ndarray of shape (n_words_in_all,)
        The tags of all texts, end to end.

    Raises
    ------
    TypeError
        A row is no sequence, or a tag neither a ``str`` nor an integer.
    ValueError
        A text has more or fewer tags than words. All messages name the row.
    """
    if isinstance(y, (str, bytes, Mapping, Set)) or not isinstance(y, Iterable):
        raise TypeError(
            f"y must hold one sequence of tags per text, got {type(y).__name__}."
        )
    rows, flat = _rows(y, "y"), []
    if len(rows) != len(n_words):
        raise ValueError(f"y has {len(rows)} rows for {len(n_words)} texts in X.")
    for i, (row, n) in enumerate(zip(rows, n_words, strict=True)):
        if not _is_sequence(row):
            raise TypeError(
                "y must hold one sequence of tags per text, got "
                f"{type(row).__name__} in row {i}: {_shorten(row)}. Pass a list of "
                "lists, one tag per word."
            )
        tags = _plain_list(row)
        if len(tags) != n:
            raise ValueError(
                f"y has {len(tags)} tags in row {i}, where X has {n} words; every word "
                "needs one tag."
            )
        for j, tag in enumerate(tags):
            if not (isinstance(tag, str) or is_integer(tag)):
                raise TypeError(
                    f"y must hold tags that are str or integers, got "
                    f"{type(tag).__name__} in row {i}, word {j}: {_shorten(tag)}."
                )
        flat += tags
    if len({isinstance(tag, str) for tag in flat}) > 1:
        raise TypeError(
            "y must hold tags that are all str or all integers, got some of each."
        )
    return np.array(flat)


def check_labels(y: Any) -> np.ndarray:
    """Read labels or numbers, one row per text, of which none may be missing.

    Parameters
    ----------
    y : array-like or sparse matrix

    Returns
    -------
    ndarray
        NumPy's StringDType as ``str``.

    Raises
    ------
    ValueError
        A label is None, NaN, ``pd.NA``, masked or infinite; the message names the row.
    """
    if np.ma.isMaskedArray(y) and np.ma.getmaskarray(y).any():
        y = np.atleast_1d(y).tolist()  # None where masked
    if isinstance(y, (list, tuple)):  # NumPy would make NaN beside text the class "nan"
        for i, row in enumerate(y):
            if np.ma.isMaskedArray(row):
                row = row.tolist()
            _check_none_missing(row if isinstance(row, (list, tuple)) else [row], i)
    y = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        row = np.argwhere(~np.isfinite(y))[0][0]
        raise ValueError(f"Input y contains NaN or infinity, first in row {row}.")
    if y.dtype.kind not in "biufSU" and y.ndim and y.size:
        for i, row in enumerate(y.reshape(len(y), -1).tolist()):
            _check_none_missing(row, i)
    # A frame whose columns are of several types, or of types of pandas' own.
    is_frame = y.dtype.kind == "O" and y.ndim == 2 and y.size
    if is_frame and all(isinstance(v, (np.bool_, numbers.Integral)) for v in y.flat):
        return y.astype(np.int64)
    # NumPy's StringDType, which neither NumPy nor scikit-learn makes classes of.
    if y.dtype.kind == "T":
        return np.array(y.tolist(), dtype=str).reshape(y.shape)
    return y


def check_several_classes(y: np.ndarray, who: str = "") -> None:
    """Raise ValueError unless there are two distinct labels; `who` needs them."""
    classes = np.unique(y).tolist()
    if len(classes) < 2:
        needs = "y needs at least two classes"
        if who:
            needs = f"{who} needs at least two classes in y"
        found = f"one class: {classes[0]!r}" if classes else "no label"
        raise ValueError(f"{needs}, got {found}.")


def _check_none_missing(row: Iterable[Any], i: int) -> None:
    for label in row:
        if _is_missing(label):
            raise ValueError(
                f"Input y contains NaN or another missing label ({label!r}), first in "
                f"row {i}. Leave out rows without a label."
            )


def _is_sequence(row: Any) -> bool:
    """Whether a row holds words or tags rather than being one."""
    if isinstance(row, np.ndarray):
        return row.ndim == 1
    return isinstance(row, Sequence) and not isinstance(row, (str, bytes, bytearray))


def _plain_list(row: Any) -> list[Any]:
    return list(row.tolist()) if isinstance(row, np.ndarray) else list(row)


def _words_of(row: Any, i: int, missing: str) -> tuple[str, ...]:
    """Return the words of row i."""
    if _is_missing(row) and missing == "empty":
        return ()
    if not _is_sequence(row):
        cure = (
            'pass missing="empty" to read it as a text without words.'
            if _is_missing(row)
            else "pass a list of its words."
        )
        error = ValueError if _is_missing(row) else TypeError
        raise error(
            f"X must hold sequences of words, got {_shorten(row)} in row {i}; {cure}"
        )
    words = _plain_list(row)
    for j, word in enumerate(words):
        if type(word) is str:
            continue
        if isinstance(word, str):  # np.str_
            words[j] = str(word)
        elif not _is_missing(word):
            raise TypeError(
                f"X must hold words that are str, got {type(word).__name__} in row "
                f"{i}, word {j}: {_shorten(word)}."
            )
        elif missing == "empty":
            words[j] = ""
        else:
            raise ValueError(
                f"X must hold words that are str, got a missing value ({word!r}) in "
                f'row {i}, word {j}; pass missing="empty" to read it as "".'
            )
    return tuple(words)


def _rows(X: Any, name: str = "X") -> list[Any]:
    """Return the rows of the one column of X as a new list."""
    if isinstance(X, str):
        raise ValueError(
            "Iterable over raw text documents expected, string object received. "
            "Pass [text] to encode one text."
        )
    if isinstance(X, (bytes, bytearray, Mapping, Set)) or not (
        isinstance(X, Iterable) or hasattr(X, "__array__")
    ):
        raise TypeError(
            f"X must be a column of texts, got {type(X).__name__}. {_ONE_COLUMN}"
        )
    if isinstance(X, (list, tuple, Iterator)):
        return list(X)

    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) != 1:
        if len(shape) != 2 or shape[1] != 1:
            what, cure = "texts", _ONE_COLUMN
            if name == "y":
                what, cure = "lists of tags", "Pass that column."
            raise ValueError(
                f"{name} must be one column of {what}, got {type(X).__name__} of shape "
                f"{tuple(shape)}. {cure}"
            )
        X = _only_column(X)
    for to_list in ("tolist", "to_list", "to_pylist"):  # NumPy/pandas, polars, Arrow
        if hasattr(X, to_list):
            return list(getattr(X, to_list)())
    return list(X)


def _only_column(X: Any) -> Any:
    if hasattr(X, "iloc"):  # pandas
        return X.iloc[:, 0]
    if hasattr(X, "to_series"):  # polars
        return X.to_series(0)
    if hasattr(X, "column"):  # Arrow table
        return X.column(0)
    if isinstance(X, np.ndarray):
        return X[:, 0]
    raise TypeError(
        f"X must be a column of texts, got {type(X).__name__}. {_ONE_COLUMN}"
    )


def _is_missing(value: Any) -> bool:
    """Whether value is None, a NaN of any kind, masked, ``pd.NA`` or ``pd.NaT``."""
    if value is None or value is np.ma.masked:
        return True
    if type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (numbers.Real, np.datetime64)) and bool(value != value)


def _shorten(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _cure(row: Any) -> str:
    if isinstance(row, bytes):
        return 'Decode it first, as in row.decode("utf-8").'
    if isinstance(row, (Sequence, np.ndarray)):
        return _ONE_COLUMN
    return "Convert the column with str first if these values are meant as text."


def is_integer(value: Any) -> bool:
    """Whether value is an integer, NumPy's included, and not a bool."""
    return isinstance(value, numbers.Integral) and not isinstance(
        value, (bool, np.bool_)
    )


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Return value if it is one of choices, else raise ValueError."""
    choices = list(choices)
    for choice in choices:
        same_kind = isinstance(value, str) and isinstance(choice, str)
        if value is choice or (same_kind and value == choice):
            return choice
    options = ", ".join(repr(choice) for choice in choices)
    meant = what_was_meant(value, choices)
    raise ValueError(f"{name} must be one of {options}, got {value!r}.{meant}")


def what_was_meant(value: Any, choices: Iterable[Any]) -> str:
    """Return " Did you mean ...?" of the nearest name, or nothing."""
    if not isinstance(value, str):
        return ""
    names = {c.casefold(): c for c in choices if isinstance(c, str)}
    near = difflib.get_close_matches(value.casefold(), names, n=1)
    return f" Did you mean {names[near[0]]!r}?" if near else ""


def check_bool(name: str, value: Any) -> bool:
    """Return value as a bool if it is one, else raise TypeError."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}.")
    return bool(value)


def check_integer(
    name: str, value: Any, *, minimum: int | None = None, unit: str = ""
) -> int:
    """Return value as an int of at least minimum, else raise."""
    if not is_integer(value):
        raise TypeError(
            f"{name} must be an integer{unit and f' ({unit})'}, got {value!r}."
        )
    if minimum is not None and value < minimum:
        raise ValueError(
            f"{name} must be at least {minimum}{unit and f' ({unit})'}, got {value!r}."
        )
    return int(value)


def check_indicator(y: np.ndarray) -> None:
    """Refuse several labels that are not 0 and 1."""
    values = np.unique(y)
    if not np.isin(values, (0, 1)).all():
        raise ValueError(
            "y with several columns must be a multilabel indicator of 0 and 1, got "
            f"{', '.join(map(str, values[:3].tolist()))}."
        )


def check_positive(name: str, value: Any) -> float:
    """Return value as a float if it is a finite number above 0, else raise."""
    number = _check_number(name, value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{name} must be finite and above 0, got {value!r}.")
    return number


def _check_number(name: str, value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    return float(value)


def check_within(
    name: str, value: Any, highest: float, *, is_open: bool = False
) -> float:
    """Return value as a float if it is a number from 0 to highest, else raise.

    With `is_open` it must be below.
    """
    number = _check_number(name, value)
    is_within = 0 <= number <= highest and number < float("inf")
    if not is_within or (is_open and number == highest):
        if is_open:
            bound = f"at least 0 and below {highest:g}"
        elif highest == float("inf"):
            bound = "at least 0"
        else:
            bound = f"between 0 and {highest:g}"
        raise ValueError(f"{name} must be {bound}, got {value!r}.")
    return number


def level_outside() -> int:
    """Return the stacklevel of the first frame outside the libraries, for a warning."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("sklearn_bert.", "sklearn.", "joblib.", "torch.")):
            break
        frame, level = frame.f_back, level + 1
    return level
