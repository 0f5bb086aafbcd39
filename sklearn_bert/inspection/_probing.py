"""What a representation holds: control tasks and description length.

`control_labels`, `selectivity` and `minimum_description_length` take features and
labels, one row per text or, text by text, one per word, wherever they come from;
`_layer_probes` applies them to an encoder layer by layer.

A probe's accuracy alone says little: a strong probe memorises, a weak one may miss what
is there.

Imports `_validation`, `heads` and `ragged`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import type_of_target

from .._validation import check_labels, check_several_classes, check_tags
from ..heads import folds_of
from ..ragged import expand, starts_of
from ._classifiers import default_classifier
from ._words import flatten, splits_over_texts

__all__ = [
    "DescriptionLength",
    "Selectivity",
    "check_gives_probabilities",
    "control_labels",
    "control_of_splits",
    "describe",
    "minimum_description_length",
    "selectivity",
]

# Voita & Titov 2020, section 3.1: shares of the rows at which portions end.
_FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True, repr=False)
class Selectivity:
    """Held-out accuracy on a task and on its control task, on the same rows.

    Attributes
    ----------
    accuracies, control_accuracies : ndarray of shape (n_splits,)
        On the test rows whose type occurs among the training rows.
    n_types : int
        Distinct types.
    seen : float
        Share of all test rows that were scored.
    """

    accuracies: NDArray[np.float64]
    control_accuracies: NDArray[np.float64]
    n_types: int
    seen: float

    @property
    def accuracy(self) -> float:
        """Mean accuracy on the task."""
        return float(self.accuracies.mean())

    @property
    def control_accuracy(self) -> float:
        """Mean accuracy on the control task."""
        return float(self.control_accuracies.mean())

    @property
    def selectivity(self) -> float:
        """Mean accuracy on the task minus that on the control task."""
        return self.accuracy - self.control_accuracy

    def __repr__(self) -> str:
        """Return the three numbers, and on what they were measured."""
        spread = float((self.accuracies - self.control_accuracies).std())
        return (
            f"selectivity {self.selectivity:.3f} ±{spread:.3f}: accuracy "
            f"{self.accuracy:.3f}, control task {self.control_accuracy:.3f}\n"
            f"{len(self.accuracies)} splits, {self.n_types:,} types; scored on "
            f"{self.seen:.0%} of the test rows, whose type occurs in training"
        )


@dataclass(frozen=True, repr=False)
class DescriptionLength:
    """Length in bits of labels, given features, under the online code.

    Attributes
    ----------
    portion_ends : ndarray of shape (n_portions,)
        Rows seen when each portion ends.
    portion_bits : ndarray of shape (n_portions,)
        Bits of the labels of each portion; of the first, by the uniform code.
    n_classes : int
    """

    portion_ends: NDArray[np.intp]
    portion_bits: NDArray[np.float64]
    n_classes: int

    @property
    def n_rows(self) -> int:
        """Labels that were described."""
        return int(self.portion_ends[-1])

    @property
    def codelength(self) -> float:
        """Bits of all labels."""
        return float(self.portion_bits.sum())

    @property
    def uniform_codelength(self) -> float:
        """Bits of all labels without features: ``n_rows * log2(n_classes)``."""
        return self.n_rows * float(np.log2(self.n_classes))

    @property
    def compression(self) -> float:
        """Uniform code length over code length; 1 is no better than knowing nothing."""
        return self.uniform_codelength / self.codelength

    @property
    def bits_per_row(self) -> NDArray[np.float64]:
        """Mean bits of a label in each portion, shape (n_portions,)."""
        return self.portion_bits / np.diff(self.portion_ends, prepend=0)

    def __repr__(self) -> str:
        """Return the code length, and a line per portion."""
        lines = [
            f"{self.codelength:,.0f} bits, uniform code {self.uniform_codelength:,.0f} "
            f"bits: compression {self.compression:.2f}",
            f"{self.n_rows:,} rows, {self.n_classes} classes",
            "rows trained on  rows described  bits per row",
        ]
        starts = np.concatenate([[0], self.portion_ends[:-1]])
        for start, end, bits in zip(
            starts, self.portion_ends, self.bits_per_row, strict=True
        ):
            lines.append(f"{start:15,}  {end - start:14,}  {bits:12.3f}")
        return "\n".join(lines)


def control_labels(types: Any, y: Any, *, random_state: Any = 0) -> NDArray[Any]:
    """Give every type a random label: a task that can only be learned by heart.

    Parameters
    ----------
    types : array-like of shape (n_rows,)
        The type of each row: the word of a token, or whatever of a text returns in
        other texts, such as its first word or its template. Rows of a type share a
        label.
    y : array-like of shape (n_rows,)
        The task's labels. Control labels are drawn from their frequencies.
    random_state : int, RandomState or None, default=0
        Draws the labels. The same seed gives a type the same label whatever the order
        of the rows; None gives other labels at every call.

    Returns
    -------
    ndarray of shape (n_rows,)
        Of the type of `y`.

    Raises
    ------
    ValueError
        `types` and `y` differ in length, or `y` does not hold classes.

    References
    ----------
    Hewitt & Liang 2019, "Designing and interpreting probes with control tasks", EMNLP.

    Examples
    --------
    >>> from sklearn_bert.inspection import control_labels
    >>> words = ["the", "cat", "saw", "the", "dog"]
    >>> control = control_labels(words, ["D", "N", "V", "D", "N"])
    >>> bool(control[0] == control[3])
    True
    """
    y = check_classes(y)
    names = np.asarray([str(kind) for kind in types], dtype=object)
    if len(names) != len(y):
        raise ValueError(f"types has {len(names)} rows for {len(y)} labels in y.")
    classes, counts = np.unique(y, return_counts=True)
    distinct, which = np.unique(names, return_inverse=True)
    rng = check_random_state(random_state)
    drawn = rng.choice(len(classes), size=len(distinct), p=counts / len(y))
    return np.asarray(classes[drawn[which]])


def selectivity(
    features: Any,
    y: Any,
    types: Any,
    *,
    estimator: BaseEstimator | None = None,
    cv: Any = 5,
    random_state: Any = 0,
) -> Selectivity:
    """Compare a probe's held-out accuracy on a task with that on a control task.

    A probe that does about as well on labels drawn at random per type can memorise, so
    its accuracy on the task does not show that the features hold what the task asks.

    Parameters
    ----------
    features : array-like of shape (n_rows, n_features), or list of them
        Of texts; or of words, an array of shape (n_words, n_features) for each text, as
        `BertTokenVectorizer.transform` returns them.
    y : array-like of shape (n_rows,), or iterable of sequences
        The task's labels; of words, one sequence per text.
    types : array-like of shape (n_rows,), or iterable of sequences
        As in `control_labels`; of words, one sequence per text, such as its words.
        Types must occur in several rows.
    estimator : classifier, default=None
        The probe. None standardises and fits ``LogisticRegression(C=0.01)``.
    cv : int, cross-validation generator or iterable, default=5
        Splits of the rows; the probe is trained anew on each, once per task. Of words,
        splits of the texts, since words of one text know each other.
    random_state : int, RandomState or None, default=0
        Of the control labels.

    Returns
    -------
    Selectivity

    Raises
    ------
    ValueError
        Arrays differ in length, no type occurs in both parts of a split, or all control
        labels are the same.

    Notes
    -----
    The control label of a type that training has not seen cannot be known. So both
    accuracies are taken on the same rows: the test rows whose type occurs in training;
    `Selectivity.seen` is their share. Both count rows, not types.

    References
    ----------
    Hewitt & Liang 2019, "Designing and interpreting probes with control tasks", EMNLP.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_bert.inspection import selectivity
    >>> rng = np.random.default_rng(0)
    >>> types = rng.integers(50, size=500)
    >>> features = rng.normal(size=(50, 8))[types]
    >>> result = selectivity(features, features[:, 0] > 0, types)
    >>> result.accuracy > 0.85 > 0.75 > result.control_accuracy
    True
    """
    features, y, n_words = _check_rows(features, y)
    if n_words is None:
        splits = folds_of(cv, features, y)
    else:
        types = flatten("types", types, n_words)
        splits = splits_over_texts(cv, n_words)
    control, seen = control_of_splits(types, y, splits, random_state)
    estimator = default_classifier() if estimator is None else estimator
    accuracies: list[float] = []
    controls: list[float] = []
    for (train, _), rows in zip(splits, seen, strict=True):
        for labels, into in ((y, accuracies), (control, controls)):
            predicted = labels[train][:1]  # rightly so if training has one class only
            if len(np.unique(labels[train])) > 1:
                probe = clone(estimator).fit(features[train], labels[train])
                predicted = probe.predict(features[rows])
            into.append(float(np.mean(predicted == labels[rows])))
    return Selectivity(
        np.array(accuracies),
        np.array(controls),
        len(set(map(str, types))),
        sum(map(len, seen)) / sum(len(test) for _, test in splits),
    )


def control_of_splits(
    types: Any, y: NDArray[Any], splits: Sequence[Any], random_state: Any
) -> tuple[NDArray[Any], list[NDArray[np.intp]]]:
    """Return control labels, and the test rows of each split whose types it has seen.

    Raises ValueError where they could tell nothing.
    """
    control = control_labels(types, y, random_state=random_state)
    if len(np.unique(control)) < 2:
        raise ValueError(
            "types leads to control labels that are all the same: it has too few "
            "distinct values, or y too rare a second class. Pass finer types, or "
            "another random_state."
        )
    names = np.array([str(kind) for kind in types])
    seen = []
    for train, test in splits:
        seen.append(np.asarray(test)[np.isin(names[test], names[train])])
        if not len(seen[-1]):
            raise ValueError(
                "types has no value that occurs in both the training and the test rows "
                "of a split, so no control label could be known. Pass types that "
                "return, such as the word of a token or the first word of a text."
            )
    return control, seen


def check_gives_probabilities(estimator: BaseEstimator) -> None:
    if not hasattr(estimator, "predict_proba"):
        raise TypeError(
            f"estimator must have predict_proba, and {type(estimator).__name__} has "
            "not; for support vector machines, wrap it in CalibratedClassifierCV."
        )


def minimum_description_length(
    features: Any,
    y: Any,
    *,
    estimator: BaseEstimator | None = None,
    fractions: Sequence[float] = _FRACTIONS,
    random_state: Any = 0,
) -> DescriptionLength:
    """Measure in bits how well features describe labels, by the online code.

    Labels are sent in portions. The first costs ``log2(n_classes)`` bits a label; each
    other one is coded by a probe that was trained on all portions before it. Features
    from which the labels are easily learned give a short code: it counts how few rows
    the probe needs as well as how right it is in the end.

    Parameters
    ----------
    features : array-like of shape (n_rows, n_features), or list of them
        Of texts; or of words, an array of shape (n_words, n_features) for each text, as
        `BertTokenVectorizer.transform` returns them. Portions then end where texts do,
        since words of one text know each other.
    y : array-like of shape (n_rows,), or iterable of sequences
        Labels; of words, one sequence per text.
    estimator : classifier with ``predict_proba``, default=None
        The probe. None standardises and fits ``LogisticRegression(C=0.01)``.
    fractions : sequence of float, default=(0.001, 0.002, 0.004, 0.008, 0.016, 0.032, \
0.0625, 0.125, 0.25, 0.5, 1.0)
        Shares of the rows at which portions end, rising to 1. Those that would add no
        row are left out.
    random_state : int, RandomState or None, default=0
        Order of the rows, which are shuffled. None gives another at every call.

    Returns
    -------
    DescriptionLength

    Raises
    ------
    ValueError
        Arrays differ in length, `y` has one class, or `fractions` does not rise to 1.
    TypeError
        `estimator` has no ``predict_proba``.

    Notes
    -----
    A probe trained on ``t`` rows cannot know classes that it has not met. Its
    probabilities are mixed with the uniform distribution at weight ``1 / (t + 1)``, as
    if one row shared by all ``K`` classes had been seen beside the ``t``: a new class
    costs ``log2(K * (t + 1))`` bits, and no label an infinite number. Before there are
    two classes, the probe is the one class met, mixed in the same way. Sender and
    receiver know the set of classes.

    References
    ----------
    Voita & Titov 2020, "Information-theoretic probing with minimum description length",
    EMNLP.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_bert.inspection import minimum_description_length
    >>> features = np.random.default_rng(0).normal(size=(500, 8))
    >>> mdl = minimum_description_length(features, features[:, 0] > 0)
    >>> mdl.uniform_codelength, mdl.codelength < 400
    (500.0, True)
    """
    features, y, n_words = _check_rows(features, y)
    n_words = np.ones(len(y), dtype=np.intp) if n_words is None else n_words
    return describe(
        features, y, n_words, estimator=estimator, fractions=fractions,
        random_state=random_state,
    )  # fmt: skip


def describe(
    features: NDArray[Any],
    y: NDArray[Any],
    n_words: NDArray[np.intp],
    *,
    estimator: BaseEstimator | None = None,
    fractions: Sequence[float] = _FRACTIONS,
    random_state: Any = 0,
) -> DescriptionLength:
    """Return the code length of checked rows that lie text by text."""
    classes, y = np.unique(y, return_inverse=True)
    check_several_classes(classes)
    estimator = default_classifier() if estimator is None else estimator
    check_gives_probabilities(estimator)
    ends = _portion_ends(fractions, len(y))
    texts = check_random_state(random_state).permutation(len(n_words))
    order = expand(starts_of(n_words)[texts], n_words[texts])
    features, y = features[order], y[order]
    ends_of_texts = np.cumsum(n_words[texts])
    ends = np.unique(ends_of_texts[np.searchsorted(ends_of_texts, ends)])
    bits = [ends[0] * float(np.log2(len(classes)))]
    for start, end in itertools.pairwise(ends.tolist()):
        known = np.unique(y[:start])
        proba = np.zeros((end - start, len(classes)))
        if len(known) == 1:
            proba[:, known] = 1.0
        else:
            probe = clone(estimator).fit(features[:start], y[:start])
            proba[:, known] = probe.predict_proba(features[start:end])
        proba = (start * proba + 1 / len(classes)) / (start + 1)
        likely = proba[np.arange(end - start), y[start:end]]
        bits.append(float(-np.log2(likely).sum()))
    return DescriptionLength(ends, np.array(bits), len(classes))


def _portion_ends(fractions: Sequence[float], n_rows: int) -> NDArray[np.intp]:
    shares = np.asarray(fractions, dtype=float)
    if not (
        shares.ndim == 1
        and len(shares)
        and (shares > 0).all()
        and (np.diff(shares) > 0).all()
        and shares[-1] == 1
    ):
        raise ValueError(
            f"fractions={fractions!r} must be numbers above 0 that rise to 1, the "
            "shares of the rows at which portions end."
        )
    ends = np.unique(np.rint(shares * n_rows).astype(np.intp))
    return np.asarray(ends[ends > 0])


def check_classes(y: Any) -> NDArray[Any]:
    y = check_labels(y)
    if y.ndim != 1 or type_of_target(y) not in ("binary", "multiclass"):
        raise ValueError(
            f"y must hold one class per row, got {type_of_target(y)} data of shape "
            f"{y.shape}."
        )
    return y


def _check_rows(
    features: Any, y: Any
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.intp] | None]:
    """Return features and labels, row by row; of words also how many each text has."""
    n_words = None
    if isinstance(features, (list, tuple)) and all(
        isinstance(rows, np.ndarray) and rows.ndim == 2 for rows in features
    ):
        n_words = np.array([len(rows) for rows in features], dtype=np.intp)
        y = check_tags(y, n_words.tolist())
        features = np.concatenate(features) if len(features) else np.empty((0, 0))
    features, y = np.asarray(features), check_classes(y)
    if features.ndim != 2 or len(features) != len(y):
        raise ValueError(
            "features must be of shape (n_rows, n_features) with a row per label, got "
            f"shape {features.shape} for {len(y)} labels."
        )
    return features, y, n_words
