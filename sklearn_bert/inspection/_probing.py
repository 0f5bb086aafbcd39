"""What a representation holds: control tasks, description length, and both by layer.

`control_labels`, `selectivity` and `minimum_description_length` take features and
labels, one row per text or per token, wherever they come from. `probe_layers` applies
them to every layer of an encoder from one pass, and `ProbingDisplay` draws the result.

A probe's accuracy alone says little: a strong probe memorises, a weak one may miss what
is there. Nothing here needs matplotlib until `plot` is called.

Imports `features` and `vectorizer`, and what a checkpoint is called from `checkpoint`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import check_cv, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import type_of_target
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ..checkpoint import DEFAULT_MODEL
from ..features import WORK
from ..vectorizer import BertVectorizer
from ._drawing import axes_for

__all__ = [
    "DescriptionLength",
    "LayerProbes",
    "ProbingDisplay",
    "Selectivity",
    "control_labels",
    "minimum_description_length",
    "probe_layers",
    "selectivity",
]

# Voita & Titov 2020, section 3.1: shares of the rows at which portions end.
_FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
_METRICS = ("accuracy", "selectivity", "mdl")


@dataclass(frozen=True)
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

    def __str__(self) -> str:
        """Return the three numbers, and on what they were measured."""
        spread = float((self.accuracies - self.control_accuracies).std())
        return (
            f"selectivity {self.selectivity:.3f} ±{spread:.3f}: accuracy "
            f"{self.accuracy:.3f}, control task {self.control_accuracy:.3f}\n"
            f"{len(self.accuracies)} splits, {self.n_types:,} types; scored on "
            f"{self.seen:.0%} of the test rows, whose type occurs in training"
        )


@dataclass(frozen=True)
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

    def __str__(self) -> str:
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
    y = _check_labels(y)
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
    features : array-like of shape (n_rows, n_features)
        Of texts or of tokens.
    y : array-like of shape (n_rows,)
        The task's labels.
    types : array-like of shape (n_rows,)
        As in `control_labels`. Types must occur in several rows.
    estimator : classifier, default=None
        The probe. None standardises and fits ``LogisticRegression(C=0.01)``.
    cv : int, cross-validation generator or iterable, default=5
        Splits of the rows; the probe is trained anew on each, once per task.
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

    Tokens of one text should not be split: pass `cv` such as
    ``list(GroupKFold(5).split(features, y, text_of_row))``.

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
    features, y = _check_rows(features, y)
    control = control_labels(types, y, random_state=random_state)
    if len(np.unique(control)) < 2:
        raise ValueError(
            "types leads to control labels that are all the same: it has too few "
            "distinct values, or y too rare a second class. Pass finer types, or "
            "another random_state."
        )
    estimator = _default_probe() if estimator is None else estimator
    names = np.asarray([str(kind) for kind in types], dtype=object)
    accuracies: list[float] = []
    controls: list[float] = []
    n_seen = n_tested = 0
    for train, test in check_cv(cv, y, classifier=True).split(features, y):
        is_seen = np.isin(names[test].astype(str), np.unique(names[train].astype(str)))
        rows = np.asarray(test)[is_seen]
        n_seen, n_tested = n_seen + len(rows), n_tested + len(is_seen)
        if not len(rows):
            raise ValueError(
                "types has no value that occurs in both the training and the test rows "
                "of a split, so no control label could be known. Pass types that "
                "return, such as the word of a token or the first word of a text."
            )
        for labels, into in ((y, accuracies), (control, controls)):
            predicted = labels[train][:1]  # rightly so if training has one class only
            if len(np.unique(labels[train])) > 1:
                probe = clone(estimator).fit(features[train], labels[train])
                predicted = probe.predict(features[rows])
            into.append(float(np.mean(predicted == labels[rows])))
    return Selectivity(
        np.array(accuracies), np.array(controls), len(set(names)), n_seen / n_tested
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
    features : array-like of shape (n_rows, n_features)
        Of texts or of tokens.
    y : array-like of shape (n_rows,)
        Labels.
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
    features, y = _check_rows(features, y)
    classes, y = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y must hold at least two classes, got {classes.tolist()}.")
    estimator = _default_probe() if estimator is None else estimator
    if not hasattr(estimator, "predict_proba"):
        raise TypeError(
            f"estimator must have predict_proba, and {type(estimator).__name__} has "
            "not; for support vector machines, wrap it in CalibratedClassifierCV."
        )
    ends = _portion_ends(fractions, len(y))
    order = check_random_state(random_state).permutation(len(y))
    features, y = features[order], y[order]
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


def _check_labels(y: Any) -> NDArray[Any]:
    y = np.asarray(y)
    if y.ndim != 1 or type_of_target(y) not in ("binary", "multiclass"):
        raise ValueError(
            f"y must hold one class per row, got {type_of_target(y)} data of shape "
            f"{y.shape}."
        )
    return y


def _check_rows(features: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    features, y = np.asarray(features), _check_labels(y)
    if features.ndim != 2 or len(features) != len(y):
        raise ValueError(
            "features must be of shape (n_rows, n_features) with a row per label, got "
            f"shape {features.shape} for {len(y)} labels."
        )
    return features, y


def _default_probe() -> BaseEstimator:
    # As in `layer_sweep`, which measured it.
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, tol=1e-3, max_iter=1000)
    )


# By layer


@dataclass(frozen=True)
class LayerProbes:
    """Probing metrics of every layer of an encoder.

    Attributes
    ----------
    model : str
        The encoder's name.
    pooling : str
    layers : tuple of int
        Layers, counted from 0.
    accuracies : ndarray of shape (n_layers, n_splits) or None
        Held-out accuracy; None if not asked for, as below.
    selectivities : tuple of Selectivity or None
        One per layer.
    description_lengths : tuple of DescriptionLength or None
        One per layer.
    n_texts : int
    n_texts_encoded : int
        Distinct texts that went through the encoder; the others were in the store.
    seconds_features, seconds_scoring : float
        Time to encode or read, and time of the probes.
    """

    model: str
    pooling: str
    layers: tuple[int, ...]
    accuracies: NDArray[np.float64] | None
    selectivities: tuple[Selectivity, ...] | None
    description_lengths: tuple[DescriptionLength, ...] | None
    n_texts: int
    n_texts_encoded: int
    seconds_features: float
    seconds_scoring: float

    @property
    def metrics(self) -> tuple[str, ...]:
        """What was measured, of "accuracy", "selectivity" and "mdl"."""
        results = (self.accuracies, self.selectivities, self.description_lengths)
        return tuple(
            name
            for name, result in zip(_METRICS, results, strict=True)
            if result is not None
        )

    def __str__(self) -> str:
        """Return the table, a row per layer; * is the best of each column."""
        columns: dict[str, tuple[list[float], str, int]] = {}
        if self.accuracies is not None:
            columns["accuracy"] = (self.accuracies.mean(axis=1).tolist(), ".3f", 1)
        if self.selectivities is not None:
            given = self.selectivities
            columns["control"] = ([s.control_accuracy for s in given], ".3f", 0)
            columns["selectivity"] = ([s.selectivity for s in given], ".3f", 1)
        if self.description_lengths is not None:
            lengths = self.description_lengths
            columns["bits"] = ([d.codelength for d in lengths], ",.0f", -1)
            columns["compression"] = ([d.compression for d in lengths], ".2f", 1)
        lines = ["layer" + "".join(f"{name:>14} " for name in columns)]
        for i, layer in enumerate(self.layers):
            row = f"{layer:5d}"
            for values, form, sign in columns.values():
                is_best = sign and sign * values[i] == max(sign * v for v in values)
                row += f"{values[i]:>14{form}}{'*' if is_best else ' '}"
            lines.append(row)
        lines.append(f"{self.pooling} pooling, {self.n_texts:,} texts; * best")
        if self.selectivities is not None:
            lines.append(
                f"control and selectivity: on {self.selectivities[0].seen:.0%} of the "
                "test rows, whose type occurs in training"
            )
        if self.description_lengths is not None:
            uniform = self.description_lengths[0].uniform_codelength
            lines.append(f"uniform code: {uniform:,.0f} bits")
        return "\n".join(line.rstrip() for line in lines)


def probe_layers(
    X: Any,
    y: Any,
    *,
    types: Any = None,
    model: str = DEFAULT_MODEL,
    layers: Any = "all",
    pooling: str = "auto",
    metrics: Sequence[str] = _METRICS,
    estimator: BaseEstimator | None = None,
    cv: Any = 5,
    random_state: int = 0,
    n_jobs: int | None = None,
    **vectorizer_params: Any,
) -> LayerProbes:
    """Measure what every layer holds of a task, from one pass.

    Parameters
    ----------
    X : iterable of str of shape (n_texts,)
        Texts.
    y : array-like of shape (n_texts,)
        Classes.
    types : array-like of shape (n_texts,), default=None
        For "selectivity", see `control_labels`. None is the first word of each text in
        lower case: something on the surface that returns in other texts.
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `BertVectorizer`.
    layers : int, sequence of int, or "all", default="all"
        As ``layer`` in `BertVectorizer`.
    pooling : str, default="auto"
        As in `BertVectorizer`, one only; "auto" is what the checkpoint declares.
    metrics : sequence of {"accuracy", "selectivity", "mdl"}, default=all three
        "accuracy" trains a probe per layer and split, "selectivity" two, "mdl" one per
        portion.
    estimator : classifier, default=None
        The probe. None standardises and fits ``LogisticRegression(C=0.01)``.
    cv : int, cross-validation generator or iterable, default=5
        The same splits for every layer.
    random_state : int, default=0
        Of the control labels and the order of the portions: the same for every layer.
    n_jobs : int, default=None
        Processes for the probes, as in joblib. Each probe gets one thread.
    **vectorizer_params
        Other parameters of `BertVectorizer`, such as ``memory`` or ``max_length``.

    Returns
    -------
    LayerProbes
        ``print`` shows the table, `ProbingDisplay` the picture.

    Raises
    ------
    TypeError
        `vectorizer_params` names a parameter that is decided here.
    ValueError
        `y` does not fit `X`, or a parameter is not valid; nothing was encoded.

    See Also
    --------
    layer_sweep : Several poolings, any score, an untrained encoder beside it.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> from sklearn_bert.inspection import probe_layers
    >>> encoder = make_tiny_encoder(tempfile.mkdtemp())
    >>> X = [f"{word} {i}" for word in ("red", "green", "one", "two") for i in range(9)]
    >>> y = [0] * 18 + [1] * 18
    >>> probes = probe_layers(X, y, model=encoder, cv=3, metrics=["accuracy", "mdl"])
    >>> probes.accuracies.shape, len(probes.description_lengths)
    ((3, 3), 3)
    """
    for name in ("layer", "layer_combination"):
        if name in vectorizer_params:
            raise TypeError(
                f"probe_layers does not take {name!r}: it probes every layer of "
                "`layers` by itself."
            )
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    if not metrics or set(metrics) - set(_METRICS):
        raise ValueError(f"metrics={metrics!r} must name some of {_METRICS}.")
    if not isinstance(pooling, str):
        raise TypeError(
            f"pooling={pooling!r} must be one pooling; `layer_sweep` takes several."
        )
    vectorizer = BertVectorizer(
        model, layer=layers, pooling=pooling, **vectorizer_params
    )
    texts = vectorizer._read_texts(X, is_fit=True)
    y = _check_labels(y)
    if len(y) != len(texts):
        raise ValueError(f"y has {len(y)} rows for {len(texts)} texts in X.")
    vectorizer.fit(texts)
    if len(vectorizer.pooling_) > 1:
        raise ValueError(
            f"pooling={pooling!r} is {vectorizer.pooling_} for this checkpoint; name "
            "one of them."
        )
    types = _first_words(texts) if types is None else list(types)
    if len(types) != len(texts):
        raise ValueError(f"types has {len(types)} rows for {len(texts)} texts in X.")
    splits = list(check_cv(cv, y, classifier=True).split(texts, y))

    before, started = WORK.copy(), time.perf_counter()
    block = vectorizer._by_layer(texts)[:, 0]  # (n_texts, n_layers, width)
    if vectorizer.normalize_:
        block /= np.maximum(np.linalg.norm(block, axis=2, keepdims=True), 1e-12)
    encoded_at = time.perf_counter()
    probe = _default_probe() if estimator is None else estimator
    with threadpool_limits(1):
        results = joblib.Parallel(n_jobs=n_jobs)(
            joblib.delayed(_probe_layer)(
                np.ascontiguousarray(block[:, i]), y, types, tuple(metrics), probe,
                splits, random_state, os.getpid(),
            )
            for i in range(block.shape[1])
        )  # fmt: skip
    accuracies, selectivities, lengths = zip(*results, strict=True)
    return LayerProbes(
        model=str(model),
        pooling=vectorizer.pooling_[0],
        layers=vectorizer.layers_,
        accuracies=np.array(accuracies) if "accuracy" in metrics else None,
        selectivities=selectivities if "selectivity" in metrics else None,
        description_lengths=lengths if "mdl" in metrics else None,
        n_texts=len(texts),
        n_texts_encoded=WORK.since(before).n_texts,
        seconds_features=encoded_at - started,
        seconds_scoring=time.perf_counter() - encoded_at,
    )


def _probe_layer(
    features: NDArray[np.float32],
    y: NDArray[Any],
    types: list[Any],
    metrics: tuple[str, ...],
    probe: BaseEstimator,
    splits: list[Any],
    random_state: int,
    parent: int,
) -> tuple[Any, Any, Any]:
    """Return the results of one layer, None for a metric that is not asked for."""
    # A limit holds for a whole process: threads of one must not set and reset it.
    is_here = os.getpid() == parent
    seed: dict[str, Any] = {"random_state": random_state}
    with contextlib.nullcontext() if is_here else threadpool_limits(1):
        return (
            cross_val_score(
                clone(probe), features, y, cv=splits, scoring="accuracy",
                error_score="raise",
            )
            if "accuracy" in metrics
            else None,
            selectivity(features, y, types, estimator=probe, cv=splits, **seed)
            if "selectivity" in metrics
            else None,
            minimum_description_length(features, y, estimator=probe, **seed)
            if "mdl" in metrics
            else None,
        )  # fmt: skip


def _first_words(texts: list[str]) -> list[str]:
    return [(text.split(maxsplit=1) or [""])[0].lower() for text in texts]


# Pictures


class ProbingDisplay:
    """Picture of probing metrics by layer, a panel per metric.

    Parameters
    ----------
    probes : LayerProbes

    Attributes
    ----------
    axes_ : list of matplotlib Axes
        One per metric.
    figure_ : matplotlib Figure
    """

    def __init__(self, probes: LayerProbes) -> None:
        self.probes = probes

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, ax: Any = None, **params: Any
    ) -> ProbingDisplay:
        """Probe all layers of a vectorizer's encoder and draw the result.

        Parameters
        ----------
        estimator : BertVectorizer
            Its parameters are used, other than ``layer`` and ``layer_combination``.
        X, y : see `probe_layers`
        ax : matplotlib Axes or sequence of them, default=None
            As in `plot`.
        **params
            Of `probe_layers`.

        Returns
        -------
        ProbingDisplay
        """
        if not isinstance(estimator, BertVectorizer):
            raise TypeError(
                f"estimator must be a BertVectorizer, got {type(estimator).__name__}; "
                "pass a probe as estimator= of probe_layers."
            )
        own = estimator.get_params(deep=False)
        own.pop("layer"), own.pop("layer_combination")
        return cls(probe_layers(X, y, **{**own, **params})).plot(ax=ax)

    def plot(self, ax: Any = None, *, metrics: Any = None) -> ProbingDisplay:
        """Draw metrics by layer.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of them, default=None
            Where to draw, one per metric; None makes a figure with a panel each.
        metrics : {"accuracy", "selectivity", "mdl"} or sequence of them, default=None
            Which to draw; None draws all that were measured.

        Returns
        -------
        ProbingDisplay

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            A metric was not measured, or there are not as many axes as metrics.
        """
        names = self.probes.metrics if metrics is None else metrics
        names = [names] if isinstance(names, str) else list(names)
        if not names or set(names) - set(self.probes.metrics):
            raise ValueError(
                f"metrics={metrics!r} must be among those measured, "
                f"{self.probes.metrics}."
            )
        axes = self._axes(ax, len(names))
        for one, name in zip(axes, names, strict=True):
            getattr(self, f"_draw_{name}")(one)
            one.set_xticks(self.probes.layers)
            one.set_xlabel("layer")
        self.axes_, self.figure_ = axes, axes[0].figure
        return self

    def _axes(self, ax: Any, n: int) -> list[Any]:
        if ax is not None:
            axes = list(np.ravel(np.asarray(ax, dtype=object)))
            if len(axes) != n:
                raise ValueError(f"ax holds {len(axes)} axes for {n} metrics.")
            return axes
        first = axes_for(self, None, (4.4 * n, 3.8))
        if n == 1:
            return [first]
        figure = first.figure
        first.remove()
        return list(figure.subplots(1, n))

    def _draw_accuracy(self, ax: Any) -> None:
        scores = self.probes.accuracies
        assert scores is not None
        means, spreads = scores.mean(axis=1), scores.std(axis=1)
        ax.plot(self.probes.layers, means, "o-", color="#0072B2", markersize=5)
        ax.fill_between(
            self.probes.layers, means - spreads, means + spreads, color="#0072B2",
            alpha=0.15, linewidth=0,
        )  # fmt: skip
        ax.set_title("Accuracy")
        ax.set_ylabel("held-out accuracy (mean ± std over splits)")

    def _draw_selectivity(self, ax: Any) -> None:
        given = self.probes.selectivities
        assert given is not None
        layers = self.probes.layers
        task, control = (
            [s.accuracy for s in given],
            [s.control_accuracy for s in given],
        )
        ax.plot(layers, task, "o-", color="#0072B2", markersize=5, label="task")
        ax.plot(
            layers, control, "s--", color="#D55E00", markersize=5, label="control task"
        )
        ax.fill_between(
            layers, control, task, color="0.5", alpha=0.15, lw=0, label="selectivity"
        )
        ax.set_title("Selectivity")
        ax.set_ylabel("held-out accuracy, types seen in training")
        _add_legend(ax)

    def _draw_mdl(self, ax: Any) -> None:
        given = self.probes.description_lengths
        assert given is not None
        kbits = [d.codelength / 1000 for d in given]
        ax.plot(
            self.probes.layers, kbits, "^-", color="#009E73", markersize=5,
            label="online code",
        )  # fmt: skip
        ax.axhline(
            given[0].uniform_codelength / 1000,
            ls=":",
            color="0.3",
            label="uniform code",
        )
        ax.set_title("Description length, less is better")
        ax.set_ylabel("code length of all labels (kbit)")
        _add_legend(ax)


def _add_legend(ax: Any) -> None:
    """Add a legend above the data, and make room for it there."""
    ax.margins(y=0.06)
    ax.autoscale_view()
    for n_columns in (3, 2, 1):
        legend = ax.legend(
            ncols=n_columns, loc="upper left", fontsize=9, frameon=False,
            borderaxespad=0.3, columnspacing=1.4, handletextpad=0.5,
        )  # fmt: skip
        box = legend.get_window_extent().transformed(ax.transAxes.inverted())
        if box.width < 0.96:
            break
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, bottom + (top - bottom) / max(0.3, 1 - box.height - 0.02))
