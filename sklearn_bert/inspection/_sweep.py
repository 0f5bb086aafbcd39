"""Which layer, which pooling: cross-validated sweeps and their pictures.

`layer_sweep` scores a classifier on every layer under every pooling from one pass of
the encoder; `LayerSweepDisplay` draws what it returns. Computing and drawing are two
things: nothing here needs matplotlib until `plot` is called.

Imports `checkpoint`, `features` and `vectorizer`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import check_cv, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import type_of_target

from ..checkpoint import DEFAULT_MODEL
from ..features import WORK
from ..vectorizer import BertVectorizer
from ._drawing import axes_for

__all__ = ["LayerSweep", "LayerSweepDisplay", "layer_sweep"]


@dataclass(frozen=True)
class LayerSweep:
    """Scores of a classifier on every layer under every pooling.

    Attributes
    ----------
    model : str
        The encoder's name.
    layers : tuple of int
        Layers, counted from 0.
    poolings : tuple of str
    scores : ndarray of shape (n_poolings, n_layers, n_splits)
        Test scores; higher is better.
    scoring : str
        What the scores are.
    n_texts : int
        Rows scored.
    n_texts_encoded : int
        Distinct texts that went through the encoder; the others were in the store.
    seconds_features, seconds_scoring : float
        Time to encode or read, and time of the classifiers.
    params : dict
        Other parameters of the `BertVectorizer` that was swept.
    """

    model: str
    layers: tuple[int, ...]
    poolings: tuple[str, ...]
    scores: NDArray[np.float64]
    scoring: str
    n_texts: int
    n_texts_encoded: int
    seconds_features: float
    seconds_scoring: float
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean score per cell, shape (n_poolings, n_layers)."""
        return np.asarray(self.scores.mean(axis=2))

    @property
    def spreads(self) -> NDArray[np.float64]:
        """Standard deviation over splits per cell, shape (n_poolings, n_layers)."""
        return np.asarray(self.scores.std(axis=2))

    @property
    def best(self) -> dict[str, Any]:
        """Parameters of `BertVectorizer` for the best cell, the model among them.

        Its score is optimistic: it is the largest of many.
        """
        p, i = np.unravel_index(int(self.means.argmax()), self.means.shape)
        return {
            **self.params,
            "model": self.model,
            "layer": self.layers[i],
            "pooling": self.poolings[p],
        }

    def __str__(self) -> str:
        """Return the table: a row per layer, a column per pooling, mean and spread."""
        best = int(self.means.argmax())
        lines = ["layer " + "".join(f"{pooling:>16}" for pooling in self.poolings)]
        for i, layer in enumerate(self.layers):
            cells = []
            for p in range(len(self.poolings)):
                mark = "*" if p * len(self.layers) + i == best else " "
                cell = f"{self.means[p, i]:.3f} ±{self.spreads[p, i]:.3f}{mark}"
                cells.append(f"{cell:>16}")
            lines.append(f"{layer:5d} " + "".join(cells))
        lines.append(f"{self.scoring}, mean ± standard deviation over splits; * best")
        return "\n".join(lines)


def layer_sweep(
    X: Any,
    y: Any,
    *,
    model: str = DEFAULT_MODEL,
    layers: Any = "all",
    poolings: str | Sequence[str] = ("cls", "mean", "max"),
    estimator: BaseEstimator | None = None,
    cv: Any = 5,
    scoring: Any = None,
    n_jobs: int | None = None,
    **vectorizer_params: Any,
) -> LayerSweep:
    """Score a classifier on every layer under every pooling, from one pass.

    Parameters
    ----------
    X : iterable of str of shape (n_texts,)
        Texts.
    y : array-like of shape (n_texts,)
        Labels, or numbers if `estimator` is a regressor.
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `BertVectorizer`.
    layers : int, sequence of int, or "all", default="all"
        As ``layer`` in `BertVectorizer`.
    poolings : str or sequence of str, default=("cls", "mean", "max")
        As ``pooling`` in `BertVectorizer`. "attention" needs `layers` without 0, which
        no attention precedes, and "pooler" the last layer alone.
    estimator : estimator, default=None
        Scored on the features of each cell. None standardises them and fits
        ``LogisticRegression(C=0.01)``: strong regularisation suits a few hundred
        standardised features and a few thousand texts, and scaled features make it
        several times faster.
    cv : int, cross-validation generator or iterable, default=5
        Every cell is scored on the same splits.
    scoring : str or callable, default=None
        None is the estimator's own score.
    n_jobs : int, default=None
        Processes for the classifiers, as in joblib.
    **vectorizer_params
        Other parameters of `BertVectorizer`, such as ``memory`` or ``max_length``.

    Returns
    -------
    LayerSweep
        ``print`` shows the table, `LayerSweepDisplay` the picture.

    Notes
    -----
    The best of many cells is an optimistic estimate of its own score. To report a
    number, choose inside cross-validation (``GridSearchCV`` over the pipeline) and
    score on texts that took no part in the choice.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> from sklearn_bert.inspection import layer_sweep
    >>> encoder = make_tiny_encoder(tempfile.mkdtemp())
    >>> X = ["red", "green", "blue", "one", "two", "three"] * 3
    >>> y = [0, 0, 0, 1, 1, 1] * 3
    >>> sweep = layer_sweep(X, y, model=encoder, cv=3)
    >>> sweep.scores.shape, sweep.n_texts_encoded
    ((3, 3, 3), 6)
    """
    for name in ("layer", "pooling", "layer_combination"):
        if name in vectorizer_params:
            raise TypeError(
                f"layer_sweep does not take {name!r}: it scores every layer of "
                "`layers` by itself, under every pooling of `poolings`."
            )
    if not isinstance(poolings, str):
        poolings = list(poolings)
    vectorizer = BertVectorizer(
        model, layer=layers, pooling=poolings, **vectorizer_params
    )
    texts = vectorizer._read_texts(X, is_fit=True)
    vectorizer.fit(texts)
    y = np.asarray(y)
    n_rows = len(y) if y.ndim else 0
    if n_rows != len(texts):
        raise ValueError(f"y has {n_rows} rows for {len(texts)} texts in X.")
    if estimator is None and type_of_target(y).startswith("continuous"):
        raise ValueError(
            "y holds numbers, and the default estimator is a classifier; pass a "
            "regressor, such as estimator=Ridge()."
        )
    if estimator is None:
        estimator = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)
        )
    splits = list(check_cv(cv, y, classifier=is_classifier(estimator)).split(texts, y))

    before, started = WORK.copy(), time.perf_counter()
    block = vectorizer._by_layer(texts)
    if vectorizer.normalize_:
        block /= np.maximum(np.linalg.norm(block, axis=3, keepdims=True), 1e-12)
    encoded_at = time.perf_counter()
    n_poolings, n_layers = block.shape[1:3]
    cells = joblib.Parallel(n_jobs=n_jobs)(
        joblib.delayed(cross_val_score)(
            clone(estimator), block[:, p, i], y,
            cv=splits, scoring=scoring, error_score="raise",
        )
        for p in range(n_poolings)
        for i in range(n_layers)
    )  # fmt: skip
    scores = np.array(cells).reshape(n_poolings, n_layers, len(splits))
    return LayerSweep(
        model=str(model),
        layers=vectorizer.layers_,
        poolings=vectorizer.pooling_,
        scores=scores,
        scoring=_name_of_score(scoring, estimator),
        n_texts=len(texts),
        n_texts_encoded=WORK.since(before).n_texts,
        seconds_features=encoded_at - started,
        seconds_scoring=time.perf_counter() - encoded_at,
        params=vectorizer_params,
    )


def _name_of_score(scoring: Any, estimator: BaseEstimator) -> str:
    if scoring is None:
        return "accuracy" if is_classifier(estimator) else "R²"
    return (
        scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
    )


class LayerSweepDisplay:
    """Picture of a layer sweep: one curve with a band per pooling.

    Parameters
    ----------
    sweep : LayerSweep

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One per pooling.
    """

    def __init__(self, sweep: LayerSweep) -> None:
        self.sweep = sweep

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, ax: Any = None, **params: Any
    ) -> LayerSweepDisplay:
        """Sweep all layers of a vectorizer's encoder and draw the result.

        Parameters
        ----------
        estimator : BertVectorizer or Pipeline that begins with one
            Its parameters are used, other than ``layer``, ``layer_combination`` and
            ``pooling``. The other steps of a pipeline score the features.
        X, y : see `layer_sweep`
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **params
            Of `layer_sweep`: ``layers``, ``poolings``, ``estimator``, ``cv``,
            ``scoring``, ``n_jobs``.

        Returns
        -------
        LayerSweepDisplay
        """
        vectorizer = estimator
        if isinstance(estimator, Pipeline):
            vectorizer = estimator[0]
            params = {"estimator": estimator[1:], **params}
        if not isinstance(vectorizer, BertVectorizer):
            raise TypeError(
                "estimator must be a BertVectorizer or a Pipeline that begins with "
                f"one, got {type(vectorizer).__name__}."
            )
        own = vectorizer.get_params(deep=False)
        for name in ("layer", "layer_combination", "pooling"):
            own.pop(name)
        if "n_jobs" in params:
            own.pop("n_jobs")
        return cls(layer_sweep(X, y, **{**own, **params})).plot(ax=ax)

    def plot(self, ax: Any = None) -> LayerSweepDisplay:
        """Draw mean scores by layer, with a band of one standard deviation.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        LayerSweepDisplay

        Raises
        ------
        ImportError
            matplotlib is not installed.
        """
        ax = axes_for(self, ax, (6.4, 4.2))
        sweep = self.sweep
        self.lines_ = []
        for pooling, means, spreads in zip(
            sweep.poolings, sweep.means, sweep.spreads, strict=True
        ):
            (line,) = ax.plot(
                sweep.layers, means, marker="o", markersize=4, label=pooling
            )
            ax.fill_between(
                sweep.layers, means - spreads, means + spreads,
                alpha=0.15, color=line.get_color(), linewidth=0,
            )  # fmt: skip
            self.lines_.append(line)
        best = sweep.best
        p, i = sweep.poolings.index(best["pooling"]), sweep.layers.index(best["layer"])
        ax.annotate(
            f"best: layer {best['layer']}, {best['pooling']}, {sweep.means[p, i]:.3f}",
            (best["layer"], sweep.means[p, i]),
            xytext=(0, 14), textcoords="offset points", fontsize=9,
            ha="left" if 2 * i < len(sweep.layers) - 1 else "right",
            arrowprops={"arrowstyle": "-", "linewidth": 0.7},
        )  # fmt: skip
        ax.margins(y=0.15)
        ax.set_xticks(sweep.layers)
        ax.set_xlabel("layer (0 = embedding output)")
        ax.set_ylabel(f"{sweep.scoring.replace('_', ' ')} (mean ± std over splits)")
        ax.set_title(f"{sweep.model.rpartition('/')[2]}, {sweep.n_texts:,} texts")
        ax.legend(title="pooling")
        self.ax_, self.figure_ = ax, ax.figure
        return self
