"""What every layer of an encoder holds of a task, from one pass.

`probe_layers` applies the measures of `_probing` layer by layer, to texts or to words.
Computes only: `_layer_probes_display` draws.

Imports `_validation`, `checkpoint`, `tokens` and `vectorizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import cross_val_score

from .._validation import check_integer, check_several_classes
from ..checkpoint import DEFAULT_MODEL
from ..tokens import BertTokenVectorizer
from ..vectorizer import BertVectorizer
from ._classifiers import default_classifier, map_on_one_thread
from ._probing import (
    DescriptionLength,
    Selectivity,
    check_classes,
    check_gives_probabilities,
    control_of_splits,
    describe,
    selectivity,
)
from ._texts import (
    Meter,
    features_by_layer,
    make_vectorizer,
    make_word_vectorizer,
    word_features_by_layer,
)
from ._words import Sample, flatten

__all__ = ["LayerProbes", "probe_layers"]

# Parameters of a vectorizer that are decided here.
DECIDED = ("layer", "layer_combination")
_METRICS = ("accuracy", "selectivity", "mdl")


@dataclass(frozen=True, repr=False)
class LayerProbes:
    """Probing metrics of every layer of an encoder.

    Attributes
    ----------
    model : str
        The encoder's name.
    pooling : str
        Of words, ``subwords``.
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
    n_words : int or None
        Words probed; None where rows are texts.
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
    n_words: int | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """What was measured, of "accuracy", "selectivity" and "mdl"."""
        results = (self.accuracies, self.selectivities, self.description_lengths)
        return tuple(
            name
            for name, result in zip(_METRICS, results, strict=True)
            if result is not None
        )

    def __repr__(self) -> str:
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
        what = f"{self.pooling} pooling, {self.n_texts:,} texts"
        if self.n_words is not None:
            what = f"{self.pooling} of a word's tokens, {self.n_words:,} words of "
            what += f"{self.n_texts:,} texts"
        lines.append(f"{what}; * best")
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
    X : iterable of str, or of sequences of str, of length n_texts
        Texts; or texts that are split into words, which are then what is probed.
    y : array-like of shape (n_texts,), or iterable of sequences of length n_texts
        Classes. For words, one tag per word.
    types : array-like of shape (n_texts,), or as `y` for words, default=None
        For "selectivity", see `control_labels`. None is the first word of each text in
        lower case: something on the surface that returns in other texts. For words it
        is the word itself in lower case, as many encoders read it so.
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `BertVectorizer`.
    layers : int, sequence of int, or "all", default="all"
        As ``layer`` in `BertVectorizer`.
    pooling : str, default="auto"
        As in `BertVectorizer`, one only; "auto" is what the checkpoint declares. For
        words, ``subwords`` of `BertTokenVectorizer`, and "auto" is "mean".
    metrics : sequence of {"accuracy", "selectivity", "mdl"}, default=all three
        "accuracy" trains a probe per layer and split, "selectivity" two, "mdl" one per
        portion.
    estimator : classifier, default=None
        The probe. None standardises and fits ``LogisticRegression(C=0.01)``.
    cv : int, cross-validation generator or iterable, default=5
        The same splits for every layer. For words, folds and portions are over texts,
        as words of one text know each other.
    random_state : int, default=0
        Of the control labels and the order of the portions: the same for every layer.
    n_jobs : int, default=None
        Processes for the probes, as in joblib. Each probe gets one thread.
    **vectorizer_params
        Other parameters of `BertVectorizer`, or for words of `BertTokenVectorizer`,
        such as ``memory`` or ``max_length``.

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
    sample = Sample.read(X, vectorizer_params.get("missing", "raise"))
    caller = "probe_layers", "it probes every layer of `layers` by itself.", DECIDED
    given: dict[str, Any] = {
        "model": model, "layers": layers, "params": vectorizer_params
    }  # fmt: skip
    vectorizer: BertVectorizer | BertTokenVectorizer
    if sample.is_split:
        pooling = "mean" if pooling == "auto" else pooling
        vectorizer = make_word_vectorizer(*caller, subwords=[pooling], **given)
    else:
        vectorizer = make_vectorizer(*caller, poolings=pooling, **given)
    y = check_classes(sample.labels(y))
    check_several_classes(y)
    vectorizer.fit([])
    if isinstance(vectorizer, BertVectorizer):
        if len(vectorizer.pooling_) > 1:
            raise ValueError(
                f"pooling={pooling!r} is {vectorizer.pooling_} for this checkpoint; "
                "name one of them."
            )
        (pooling,) = vectorizer.pooling_
    types = _types(sample, types)
    splits = sample.splits(cv, y, classifier=True)
    probe = default_classifier() if estimator is None else estimator
    random_state = check_integer("random_state", random_state)
    if "selectivity" in metrics:
        control_of_splits(types, y, splits, random_state)
    if "mdl" in metrics:
        check_gives_probabilities(probe)

    meter = Meter()
    if isinstance(vectorizer, BertVectorizer):
        block = features_by_layer(vectorizer, sample.texts)
    else:
        block = word_features_by_layer(vectorizer, sample.texts, [pooling])
    seconds_features = meter.seconds
    n_words = np.ones(len(y), np.intp) if sample.n_words is None else sample.n_words
    asked = (probe, splits, n_words, random_state)
    results = map_on_one_thread(
        _probe_layer,
        (
            (block[:, 0, i], y, types, tuple(metrics), *asked)
            for i in range(block.shape[2])
        ),
        n_jobs=n_jobs,
        is_shown=vectorizer._is_verbose(),
    )
    accuracies, selectivities, lengths = zip(*results, strict=True)
    return LayerProbes(
        model=str(model),
        pooling=pooling,
        layers=vectorizer.layers_,
        accuracies=np.array(accuracies) if "accuracy" in metrics else None,
        selectivities=selectivities if "selectivity" in metrics else None,
        description_lengths=lengths if "mdl" in metrics else None,
        n_texts=len(sample.texts),
        n_texts_encoded=meter.n_texts_encoded,
        seconds_features=seconds_features,
        seconds_scoring=meter.seconds - seconds_features,
        n_words=sample.n_rows if sample.is_split else None,
    )


def _probe_layer(
    features: NDArray[np.float32],
    y: NDArray[Any],
    types: list[Any],
    metrics: tuple[str, ...],
    probe: BaseEstimator,
    splits: list[Any],
    n_words: NDArray[np.intp],
    random_state: int,
) -> tuple[Any, Any, Any]:
    """Return the results of one layer, None for a metric that is not asked for."""
    features = np.ascontiguousarray(features, dtype=np.float32)
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
        lengths = describe(features, y, n_words, estimator=probe, **seed)
    return accuracies, selectivities, lengths


def _types(sample: Sample, types: Any) -> list[Any]:
    """Return the type of each row."""
    if sample.n_words is not None:
        if types is None:
            return [word.lower() for words in sample.texts for word in words]
        return flatten("types", types, sample.n_words)
    texts = sample.texts
    if types is None:
        return [(text.split(maxsplit=1) or [""])[0].lower() for text in texts]
    types = list(types)
    if len(types) != len(texts):
        raise ValueError(f"types has {len(types)} rows for {len(texts)} texts in X.")
    return types
