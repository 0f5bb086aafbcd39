"""What every layer of an encoder holds of a task, from one pass.

`probe_layers` applies the measures of `_probing` layer by layer. Computes only:
`_layer_probes_display` draws.

Imports `checkpoint`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import check_cv, cross_val_score

from ..checkpoint import DEFAULT_MODEL
from ._classifiers import default_classifier, map_on_one_thread
from ._probing import (
    DescriptionLength,
    Selectivity,
    check_classes,
    minimum_description_length,
    selectivity,
)
from ._texts import Meter, features_by_layer, make_vectorizer

__all__ = ["LayerProbes", "probe_layers"]

# Parameters of a vectorizer that are decided here.
DECIDED = ("layer", "layer_combination")
_METRICS = ("accuracy", "selectivity", "mdl")


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
        `y` does not fit `X`, a parameter is not valid, or `pooling` is
        "learned_attention", which has no frozen features; nothing was encoded.

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
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    if not metrics or set(metrics) - set(_METRICS):
        raise ValueError(f"metrics={metrics!r} must name some of {_METRICS}.")
    if not isinstance(pooling, str):
        raise TypeError(
            f"pooling={pooling!r} must be one pooling; `layer_sweep` takes several."
        )
    vectorizer = make_vectorizer(
        "probe_layers",
        "it probes every layer of `layers` by itself.",
        DECIDED,
        model=model,
        layers=layers,
        poolings=pooling,
        params=vectorizer_params,
    )
    texts = vectorizer._read_texts(X, is_fit=True)
    y = check_classes(y)
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

    meter = Meter()
    block = features_by_layer(vectorizer, texts)
    seconds_features = meter.seconds
    probe = default_classifier() if estimator is None else estimator
    asked = (probe, splits, random_state)
    results = map_on_one_thread(
        _probe_layer,
        (
            (np.ascontiguousarray(block[:, 0, i]), y, types, tuple(metrics), *asked)
            for i in range(block.shape[2])
        ),
        n_jobs=n_jobs,
        is_shown=vectorizer._is_verbose(),
    )
    accuracies, selectivities, lengths = zip(*results, strict=True)
    return LayerProbes(
        model=str(model),
        pooling=vectorizer.pooling_[0],
        layers=vectorizer.layers_,
        accuracies=np.array(accuracies) if "accuracy" in metrics else None,
        selectivities=selectivities if "selectivity" in metrics else None,
        description_lengths=lengths if "mdl" in metrics else None,
        n_texts=len(texts),
        n_texts_encoded=meter.n_texts_encoded,
        seconds_features=seconds_features,
        seconds_scoring=meter.seconds - seconds_features,
    )


def _probe_layer(
    features: NDArray[np.float32],
    y: NDArray[Any],
    types: list[Any],
    metrics: tuple[str, ...],
    probe: BaseEstimator,
    splits: list[Any],
    random_state: int,
) -> tuple[Any, Any, Any]:
    """Return the results of one layer, None for a metric that is not asked for."""
    accuracies = selectivities = lengths = None
    seed: dict[str, Any] = {"random_state": random_state}
    if "accuracy" in metrics:
        accuracies = cross_val_score(
            clone(probe), features, y, cv=splits, scoring="accuracy",
            error_score="raise",
        )  # fmt: skip
    if "selectivity" in metrics:
        selectivities = selectivity(
            features, y, types, estimator=probe, cv=splits, **seed
        )
    if "mdl" in metrics:
        lengths = minimum_description_length(features, y, estimator=probe, **seed)
    return accuracies, selectivities, lengths


def _first_words(texts: list[str]) -> list[str]:
    return [(text.split(maxsplit=1) or [""])[0].lower() for text in texts]
