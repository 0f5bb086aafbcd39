"""What the rows of a question are: texts, or the words of texts that are split.

Words of one text know each other, as the encoder has seen them together. So folds, and
the portions of a code, are over texts in any case: a text's words are never on both
sides. Which of the two X holds shows in X: a text that is split is a sequence of words.

Imports `_validation`, `heads` and `ragged`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._validation import check_choice, check_labels, check_tags, check_words
from ..heads import folds_of
from ..ragged import expand, starts_of

__all__ = ["Sample", "flatten", "splits_over_texts"]

Splits = list[tuple[NDArray[np.intp], NDArray[np.intp]]]


@dataclass(frozen=True)
class Sample:
    """Texts, or texts that are split into words.

    Attributes
    ----------
    texts : list of str, or of tuple of str
    n_words : ndarray of shape (n_texts,) or None
        Words of each text; None where the rows are texts.
    """

    texts: list[Any]
    n_words: NDArray[np.intp] | None

    @classmethod
    def read(cls, X: Any, missing: Any) -> Sample:
        """Read X as `BertVectorizer` or `BertTokenVectorizer` does."""
        check_choice("missing", missing, ("raise", "empty"))
        texts: list[Any] = list(check_words(X, missing=missing))
        if not texts or isinstance(texts[0], str):
            return cls(texts, None)
        n_words = np.array([len(words) for words in texts], dtype=np.intp)
        if not n_words.sum():
            raise ValueError("X holds texts that are split, and none has a word.")
        return cls(texts, n_words)

    @property
    def is_split(self) -> bool:
        """Whether the rows are words."""
        return self.n_words is not None

    @property
    def n_rows(self) -> int:
        """How many rows are scored."""
        return len(self.texts) if self.n_words is None else int(self.n_words.sum())

    def labels(self, y: Any) -> NDArray[Any]:
        """Return one label per row, of y as it belongs to X."""
        if self.n_words is not None:
            return check_tags(y, self.n_words.tolist())
        y = check_labels(y)
        n_rows = len(y) if y.ndim else 0
        if n_rows != len(self.texts):
            raise ValueError(f"y has {n_rows} rows for {len(self.texts)} texts in X.")
        return y

    def splits(self, cv: Any, y: NDArray[Any], *, classifier: bool) -> Splits:
        """Return the rows to train on and to score, split by split."""
        if self.n_words is not None:
            return splits_over_texts(cv, self.n_words)
        return folds_of(cv, self.texts, y, classifier=classifier)


def splits_over_texts(cv: Any, n_words: NDArray[np.intp]) -> Splits:
    """Split texts, a number of folds as `KFold` does, and return their words."""
    starts = starts_of(n_words)
    return [
        (expand(starts[train], n_words[train]), expand(starts[test], n_words[test]))
        for train, test in folds_of(cv, n_words)
    ]


def flatten(name: str, rows: Any, n_words: NDArray[np.intp]) -> list[Any]:
    """Return what is given word by word, end to end; `name` is for the refusal."""
    rows = list(rows)
    if len(rows) != len(n_words):
        raise ValueError(f"{name} has {len(rows)} rows for {len(n_words)} texts.")
    for i, (row, n) in enumerate(zip(rows, n_words.tolist(), strict=True)):
        is_row = isinstance(row, (Sequence, np.ndarray)) and not isinstance(row, str)
        if not is_row or len(row) != n:
            has = len(row) if is_row else "no sequence"
            raise ValueError(
                f"{name} must hold one entry per word: it has {has} in row {i}, where "
                f"there are {n} words."
            )
    return [entry for row in rows for entry in row]
