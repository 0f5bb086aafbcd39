"""The shape of a representation: cones, ranks, layers alike, and their pictures.

`layer_geometry` and `layer_similarity` measure texts layer by layer, from one pass of
the encoder, by what `geometry` measures of arrays. Displays draw what they return.

Imports `_validation`, `checkpoint`, `features`, `geometry` and `vectorizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted, column_or_1d

from .._validation import check_bool, check_choice
from ..checkpoint import DEFAULT_MODEL
from ..features import WORK
from ..geometry import (
    MIN_TEXTS,
    ExplainedVariance,
    as_features,
    centre,
    cka_matrix,
    cumulative_shares,
    entropy_rank,
    mean_cosine,
    outlier_dimensions,
    squared_singular_values,
    unit_rows,
)
from ..vectorizer import BertVectorizer
from ._drawing import axes_for

__all__ = [
    "FeatureHistogramDisplay",
    "LayerGeometry",
    "LayerGeometryDisplay",
    "LayerSimilarity",
    "LayerSimilarityDisplay",
    "ProjectionDisplay",
    "layer_geometry",
    "layer_similarity",
]

# Petroff 2021, "Accessible color sequences for data visualization", ten colours.
_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_MARKERS = "os^DvPX*<>"
_MAX_CLASSES = 20

FloatArray = NDArray[np.float64]


# Texts, layer by layer


@dataclass(frozen=True)
class LayerGeometry:
    """The shape of the features of every layer under every pooling.

    Arrays have shape (n_poolings, n_layers).

    Attributes
    ----------
    model : str
        The encoder's name.
    layers : tuple of int
        Layers, counted from 0.
    poolings : tuple of str
    anisotropy : ndarray
        Mean cosine of two texts, see `anisotropy`.
    anisotropy_error : ndarray
        Its standard error.
    effective_rank : ndarray
        Of centred features, see `effective_rank`; 0 if all texts have the same.
    n_components_90 : ndarray of int
        Principal components that hold 90 % of the variance.
    n_outliers : ndarray of int
        Number of `outlier_dimensions`.
    mean_norm : ndarray
        Mean Euclidean length.
    width : int
        Features per cell, the most that a rank can be.
    n_texts : int
    n_texts_encoded : int
        Distinct texts that went through the encoder; the others were in the store.
    """

    model: str
    layers: tuple[int, ...]
    poolings: tuple[str, ...]
    anisotropy: FloatArray
    anisotropy_error: FloatArray
    effective_rank: FloatArray
    n_components_90: NDArray[np.int64]
    n_outliers: NDArray[np.int64]
    mean_norm: FloatArray
    width: int
    n_texts: int
    n_texts_encoded: int

    def __str__(self) -> str:
        """Return the table: a row per pooling and layer."""
        lines = [
            "pooling       layer   anisotropy      eff. rank  90 %  outliers   norm"
        ]
        for p, pooling in enumerate(self.poolings):
            lines += [
                f"{pooling:13} {layer:5d}   "
                f"{self.anisotropy[p, i]:6.3f} ±{self.anisotropy_error[p, i]:.3f}   "
                f"{self.effective_rank[p, i]:9.1f} {self.n_components_90[p, i]:5d} "
                f"{self.n_outliers[p, i]:9d} {self.mean_norm[p, i]:6.2f}"
                for i, layer in enumerate(self.layers)
            ]
        lines.append(
            f"{self.n_texts:,} texts, {self.width:,} features; ± standard error; "
            "90 %: components with that much variance"
        )
        return "\n".join(lines)


def layer_geometry(
    X: Any,
    *,
    model: str = DEFAULT_MODEL,
    layers: Any = "all",
    poolings: str | Sequence[str] = ("cls", "mean", "max"),
    **vectorizer_params: Any,
) -> LayerGeometry:
    """Measure the shape of every layer's features under every pooling, from one pass.

    Parameters
    ----------
    X : iterable of str of shape (n_texts,)
        At least 4 texts; a few hundred different ones for numbers to rely on. Ranks
        cannot exceed n_texts, so compare encoders on as many texts.
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `BertVectorizer`.
    layers : int, sequence of int, or "all", default="all"
        As ``layer`` in `BertVectorizer`.
    poolings : str or sequence of str, default=("cls", "mean", "max")
        As ``pooling`` in `BertVectorizer`. "attention" needs `layers` without 0, and
        "pooler" the last layer alone.
    **vectorizer_params
        Other parameters of `BertVectorizer`, such as ``memory`` or ``max_length``.

    Returns
    -------
    LayerGeometry
        ``print`` shows the table, `LayerGeometryDisplay` the picture.

    Raises
    ------
    TypeError
        A parameter is given that this decides: ``layer``, ``pooling``,
        ``layer_combination`` or ``normalize``.
    ValueError
        There are fewer than 4 texts, or a text has a zero vector.

    Notes
    -----
    Features are measured as the encoder gives them, before any normalisation.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> from sklearn_bert.inspection import layer_geometry
    >>> encoder = make_tiny_encoder(tempfile.mkdtemp())
    >>> X = ["spring", "summer", "autumn", "winter"]
    >>> geometry = layer_geometry(X, model=encoder)
    >>> geometry.anisotropy.shape, geometry.n_texts_encoded
    ((3, 3), 4)
    >>> round(float(geometry.anisotropy[0, 0]), 3)  # [CLS] has read nothing yet
    1.0
    """
    vectorizer, block, n_encoded = _raw_features(
        "layer_geometry", X, model, layers, poolings, vectorizer_params
    )
    cells = [
        _measure(block[:, p, i], f"X at layer {layer} under {pooling!r}")
        for p, pooling in enumerate(vectorizer.pooling_)
        for i, layer in enumerate(vectorizer.layers_)
    ]
    measured = {
        name: np.reshape([cell[name] for cell in cells], block.shape[1:3])
        for name in cells[0]
    }
    return LayerGeometry(
        model=str(model),
        layers=vectorizer.layers_,
        poolings=vectorizer.pooling_,
        width=block.shape[3],
        n_texts=len(block),
        n_texts_encoded=n_encoded,
        **measured,
    )


def _measure(features: NDArray[np.float32], name: str) -> dict[str, float]:
    """Return the numbers of one cell of `LayerGeometry`."""
    cell = as_features(name, features)
    squares = squared_singular_values(centre(cell))
    n_90 = 0
    if squares.any():
        n_90 = ExplainedVariance(cumulative_shares(squares)).n_components(0.9)
    value, error = mean_cosine(unit_rows(name, cell))
    return {
        "anisotropy": value,
        "anisotropy_error": error,
        "effective_rank": entropy_rank(squares),
        "n_components_90": n_90,
        "n_outliers": len(outlier_dimensions(cell)),
        "mean_norm": float(np.linalg.norm(cell, axis=1).mean()),
    }


@dataclass(frozen=True)
class LayerSimilarity:
    """How alike the layers of an encoder are, two by two.

    Attributes
    ----------
    model : str
        The encoder's name.
    layers : tuple of int
        Layers, counted from 0.
    pooling : str
    matrix : ndarray of shape (n_layers, n_layers)
        Symmetric; NaN where a layer gives all texts the same features.
    measure : str
        What the values are, in words.
    n_texts : int
    n_texts_encoded : int
        Distinct texts that went through the encoder; the others were in the store.
    """

    model: str
    layers: tuple[int, ...]
    pooling: str
    matrix: FloatArray
    measure: str
    n_texts: int
    n_texts_encoded: int

    def __str__(self) -> str:
        """Return the matrix, with layers above and beside it."""
        lines = ["layer " + "".join(f"{layer:7d}" for layer in self.layers)]
        for layer, row in zip(self.layers, self.matrix, strict=True):
            lines.append(f"{layer:5d} " + "".join(f"{value:7.3f}" for value in row))
        lines.append(f"{self.measure}, {self.pooling} pooling, {self.n_texts:,} texts")
        return "\n".join(lines)


def layer_similarity(
    X: Any,
    *,
    model: str = DEFAULT_MODEL,
    layers: Any = "all",
    pooling: str = "mean",
    measure: str = "cka",
    debiased: bool = True,
    **vectorizer_params: Any,
) -> LayerSimilarity:
    """Compare the layers of an encoder with each other, from one pass.

    Parameters
    ----------
    X : iterable of str of shape (n_texts,)
        At least 4 texts; a few hundred for numbers to rely on.
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `BertVectorizer`.
    layers : int, sequence of int, or "all", default="all"
        As ``layer`` in `BertVectorizer`.
    pooling : str, default="mean"
        One pooling, as in `BertVectorizer`.
    measure : {"cka", "cosine"}, default="cka"
        "cka" asks whether two layers place the texts alike among each other, and is
        blind to rotations: `linear_cka`. "cosine" asks whether a text's vector stays
        the same from layer to layer: the mean over texts of the cosine of its two
        vectors. Outlier dimensions and a narrow cone raise it.
    debiased : bool, default=True
        As in `linear_cka`; "cosine" does not use it.
    **vectorizer_params
        Other parameters of `BertVectorizer`, such as ``memory`` or ``max_length``.

    Returns
    -------
    LayerSimilarity
        ``print`` shows the matrix, `LayerSimilarityDisplay` the picture. CKA is NaN for
        a layer that gives all texts the same features: layer 0 under "cls".

    Raises
    ------
    TypeError
        A parameter is given that this decides: ``layer``, ``layer_combination`` or
        ``normalize``; or `pooling` is not a single name.
    ValueError
        There are fewer than 4 texts, `measure` is neither of the two, or a text has a
        zero vector.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> from sklearn_bert.inspection import layer_similarity
    >>> encoder = make_tiny_encoder(tempfile.mkdtemp())
    >>> X = ["north", "east", "south", "west", "here"]
    >>> layer_similarity(X, model=encoder).matrix.diagonal().round(6)
    array([1., 1., 1.])
    """
    check_choice("measure", measure, ("cka", "cosine"))
    check_bool("debiased", debiased)
    if not isinstance(pooling, str):
        raise TypeError(
            f"pooling must be one name, such as 'mean', got {pooling!r}; call "
            "layer_similarity once per pooling."
        )
    vectorizer, block, n_encoded = _raw_features(
        "layer_similarity", X, model, layers, pooling, vectorizer_params
    )
    if measure == "cka":
        by_layer = [as_features("X", part) for part in np.moveaxis(block[:, 0], 1, 0)]
        matrix = cka_matrix(by_layer, debiased=debiased)
        in_words = "debiased linear CKA" if debiased else "linear CKA"
    else:
        units = np.stack(
            [
                unit_rows(f"X at layer {layer}", block[:, 0, i])
                for i, layer in enumerate(vectorizer.layers_)
            ]
        )  # (n_layers, n_texts, width)
        matrix = np.einsum("ind,jnd->ij", units, units, optimize=True) / len(block)
        in_words = "mean cosine"
    return LayerSimilarity(
        model=str(model),
        layers=vectorizer.layers_,
        pooling=vectorizer.pooling_[0],
        matrix=matrix,
        measure=in_words,
        n_texts=len(block),
        n_texts_encoded=n_encoded,
    )


def _raw_features(
    caller: str,
    X: Any,
    model: str,
    layers: Any,
    poolings: str | Sequence[str],
    params: dict[str, Any],
) -> tuple[BertVectorizer, NDArray[np.float32], int]:
    """Return a fitted vectorizer, the block of all cells, and how many were encoded."""
    for name in ("layer", "pooling", "layer_combination", "normalize"):
        if name in params:
            raise TypeError(
                f"{caller} does not take {name!r}: it measures every layer of `layers` "
                "by itself, as the encoder gives it."
            )
    if not isinstance(poolings, str):
        poolings = list(poolings)
    vectorizer = BertVectorizer(model, layer=layers, pooling=poolings, **params)
    texts = vectorizer._read_texts(X, is_fit=True)
    if len(texts) < MIN_TEXTS:
        raise ValueError(
            f"X has {len(texts)} texts; {caller} needs at least {MIN_TEXTS}, and "
            "a few hundred for numbers to rely on."
        )
    vectorizer.fit(texts)
    before = WORK.copy()
    block = vectorizer._by_layer(texts)
    return vectorizer, block, WORK.since(before).n_texts


# Pictures


def _parameters_of(estimator: Any) -> dict[str, Any]:
    """Return a vectorizer's parameters, other than those that a function decides."""
    vectorizer = estimator[0] if isinstance(estimator, Pipeline) else estimator
    if not isinstance(vectorizer, BertVectorizer):
        raise TypeError(
            "estimator must be a BertVectorizer or a Pipeline that begins with one, "
            f"got {type(vectorizer).__name__}."
        )
    params: dict[str, Any] = vectorizer.get_params(deep=False)
    for name in ("layer", "layer_combination", "pooling", "normalize"):
        params.pop(name)
    return params


def _title(model: str, n_texts: int) -> str:
    return f"{model.rstrip('/').rpartition('/')[2]}, {n_texts:,} texts"


class LayerGeometryDisplay:
    """Picture of one quantity by layer: one curve per pooling.

    Parameters
    ----------
    geometry : LayerGeometry

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One per pooling.
    """

    def __init__(self, geometry: LayerGeometry) -> None:
        self.geometry = geometry

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        quantity: str = "anisotropy",
        ax: Any = None,
        **params: Any,
    ) -> LayerGeometryDisplay:
        """Measure all layers of a vectorizer's encoder and draw the result.

        Parameters
        ----------
        estimator : BertVectorizer or Pipeline that begins with one
            Its parameters are used, other than ``layer``, ``layer_combination``,
            ``pooling`` and ``normalize``.
        X : iterable of str of shape (n_texts,)
            Texts.
        quantity : see `plot`
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **params
            Of `layer_geometry`: ``layers``, ``poolings``.

        Returns
        -------
        LayerGeometryDisplay
        """
        geometry = layer_geometry(X, **{**_parameters_of(estimator), **params})
        return cls(geometry).plot(ax=ax, quantity=quantity)

    def plot(
        self, ax: Any = None, *, quantity: str = "anisotropy"
    ) -> LayerGeometryDisplay:
        """Draw a quantity by layer.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        quantity : {"anisotropy", "effective_rank", "n_components_90", "n_outliers", \
"mean_norm"}, default="anisotropy"
            Attribute of the `LayerGeometry`. "anisotropy" has a band of two standard
            errors.

        Returns
        -------
        LayerGeometryDisplay

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            `quantity` is none of these.
        """
        labels = {
            "anisotropy": "mean cosine of two texts (± 2 standard errors)",
            "effective_rank": "effective rank, centred",
            "n_components_90": "components with 90 % of the variance",
            "n_outliers": "outlier dimensions",
            "mean_norm": "mean norm",
        }
        check_choice("quantity", quantity, labels)
        ax = axes_for(self, ax, (6.4, 4.2))
        geometry = self.geometry
        values = getattr(geometry, quantity)
        self.lines_ = []
        for p, pooling in enumerate(geometry.poolings):
            (line,) = ax.plot(
                geometry.layers, values[p], label=pooling, markersize=5,
                marker=_MARKERS[p % 10], color=_COLOURS[p % 10],
            )  # fmt: skip
            self.lines_.append(line)
            if quantity == "anisotropy":
                margin = 2 * geometry.anisotropy_error[p]
                ax.fill_between(
                    geometry.layers, values[p] - margin, values[p] + margin,
                    alpha=0.2, color=line.get_color(), linewidth=0,
                )  # fmt: skip
        if quantity == "anisotropy":
            ax.set_ylim(min(-0.03, 1.1 * values.min()), 1.03)
        ax.yaxis.get_major_locator().set_params(integer="n_" in quantity)
        ax.set_xticks(geometry.layers)
        ax.set_xlabel("layer (0 = embedding output)")
        ax.set_ylabel(labels[quantity])
        ax.set_title(_title(geometry.model, geometry.n_texts))
        ax.legend(title="pooling")
        self.ax_, self.figure_ = ax, ax.figure
        return self


class LayerSimilarityDisplay:
    """Heat map of how alike layers are.

    Parameters
    ----------
    similarity : LayerSimilarity

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    image_ : matplotlib AxesImage
    """

    _MAX_ANNOTATED = 13  # layers of BERT-base; more values than that are too small

    def __init__(self, similarity: LayerSimilarity) -> None:
        self.similarity = similarity

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, ax: Any = None, **params: Any
    ) -> LayerSimilarityDisplay:
        """Compare all layers of a vectorizer's encoder and draw the result.

        Parameters
        ----------
        estimator : BertVectorizer or Pipeline that begins with one
            Its parameters are used, other than ``layer``, ``layer_combination``,
            ``pooling`` and ``normalize``.
        X : iterable of str of shape (n_texts,)
            Texts.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **params
            Of `layer_similarity`: ``layers``, ``pooling``, ``measure``, ``debiased``.

        Returns
        -------
        LayerSimilarityDisplay
        """
        similarity = layer_similarity(X, **{**_parameters_of(estimator), **params})
        return cls(similarity).plot(ax=ax)

    def plot(self, ax: Any = None) -> LayerSimilarityDisplay:
        """Draw the matrix; values are written in it for up to 13 layers.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        LayerSimilarityDisplay

        Raises
        ------
        ImportError
            matplotlib is not installed.
        """
        similarity = self.similarity
        layers, matrix = similarity.layers, similarity.matrix
        ax = axes_for(self, ax, (6.0, 5.0))
        from matplotlib import colormaps

        lowest = min(0.0, float(np.nanmin(matrix, initial=0.0)))
        self.image_ = ax.imshow(
            matrix, origin="lower", vmin=lowest, vmax=1.0,
            cmap=colormaps["cividis"].with_extremes(bad="0.9"),
        )  # fmt: skip
        if len(layers) <= self._MAX_ANNOTATED:
            for (i, j), value in np.ndenumerate(matrix):
                is_dark = value < (lowest + 1) / 2
                ax.text(
                    j, i, "n/a" if np.isnan(value) else f"{value:.2f}",
                    ha="center", va="center", fontsize=9 if len(layers) <= 9 else 7,
                    color="white" if is_dark else "black",
                )  # fmt: skip
        shown = range(0, len(layers), 1 + (len(layers) - 1) // 13)
        ax.set_xticks(shown, [layers[i] for i in shown])
        ax.set_yticks(shown, [layers[i] for i in shown])
        ax.set_xlabel("layer (0 = embedding output)")
        ax.set_ylabel("layer")
        ax.set_title(
            f"{_title(similarity.model, similarity.n_texts)}, {similarity.pooling}"
        )
        ax.figure.colorbar(self.image_, ax=ax, label=similarity.measure)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _features_of(estimator: Any, X: Any, y: Any = None) -> Any:
    """Transform with a fitted estimator, else with a copy fitted on the same texts."""
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return clone(estimator).fit_transform(X, y)
    return estimator.transform(X)


class ProjectionDisplay:
    """Texts on the two directions in which their features vary most.

    Parameters
    ----------
    coordinates : ndarray of shape (n_texts, 2)
        Features on the first two principal components.
    explained_variance_ratio : sequence of 2 floats
        Share of the variance on each.
    y : array-like of shape (n_texts,), default=None
        Classes, at most 20, each drawn in a colour and a marker of its own.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    scatters_ : list of matplotlib PathCollection
        One per class.

    Notes
    -----
    Classes that overlap here may still be far apart in other directions: look at the
    shares of variance on the axes first.
    """

    def __init__(
        self, coordinates: Any, explained_variance_ratio: Any, y: Any = None
    ) -> None:
        self.coordinates = coordinates
        self.explained_variance_ratio = explained_variance_ratio
        self.y = y

    @classmethod
    def from_features(
        cls, features: Any, y: Any = None, *, ax: Any = None
    ) -> ProjectionDisplay:
        """Project features by PCA and draw them.

        Parameters
        ----------
        features : array-like of shape (n_texts, n_features)
            At least 3 rows and 2 features, not all rows the same.
        y : array-like of shape (n_texts,), default=None
            Classes, at most 20.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        ProjectionDisplay

        Raises
        ------
        ValueError
            `features` cannot be projected, or `y` does not fit it.
        """
        features = as_features("features", features, min_rows=3)
        if features.shape[1] < 2:
            raise ValueError("features has 1 column; a projection needs at least 2.")
        centred = centre(features)
        if not centred.any():
            raise ValueError(
                "features has the same vector in every row: there is nothing to see. "
                "Layer 0 under pooling='cls' is such a case."
            )
        if y is not None:
            y = column_or_1d(y)
            if len(y) != len(features):
                raise ValueError(
                    f"y has {len(y)} rows for {len(features)} rows of features."
                )
        pca = PCA(n_components=2, svd_solver="full")
        coordinates = pca.fit_transform(centred)
        return cls(coordinates, pca.explained_variance_ratio_, y).plot(ax=ax)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any = None, *, ax: Any = None
    ) -> ProjectionDisplay:
        """Transform texts, project the features by PCA and draw them.

        Parameters
        ----------
        estimator : BertVectorizer, or a Pipeline of transformers
            Used as it is if fitted, so that a picture of other texts than it was fitted
            on can be drawn; else a copy is fitted on `X`.
        X : iterable of str of shape (n_texts,)
            Texts.
        y, ax : see `from_features`

        Returns
        -------
        ProjectionDisplay
        """
        return cls.from_features(_features_of(estimator, X, y), y, ax=ax)

    def plot(self, ax: Any = None) -> ProjectionDisplay:
        """Draw the texts, with a legend beside the axes if there are classes.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        ProjectionDisplay

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            There are more than 20 classes.
        """
        points = np.asarray(self.coordinates)
        y = np.zeros(len(points)) if self.y is None else np.asarray(self.y)
        classes = np.unique(y)
        if len(classes) > _MAX_CLASSES:
            raise ValueError(
                f"y has {len(classes)} classes, more than the {_MAX_CLASSES} that a "
                "picture can tell apart; pass y=None, or the texts of a few classes."
            )
        ax = axes_for(self, ax, (7.2, 4.8))
        self.scatters_ = []
        for i, name in enumerate(classes):
            rows = y == name
            scatter = ax.scatter(
                points[rows, 0], points[rows, 1], s=32, alpha=0.8, linewidth=0,
                color=_COLOURS[i % 10], marker=_MARKERS[(i + i // 10) % 10],
                label=str(name),
            )  # fmt: skip
            self.scatters_.append(scatter)
        ax.set_aspect("equal", adjustable="datalim")
        first, second = (100 * share for share in self.explained_variance_ratio)
        ax.set_xlabel(f"component 1 ({first:.1f} % of the variance)")
        ax.set_ylabel(f"component 2 ({second:.1f} % of the variance)")
        ax.set_title(f"{len(points):,} texts")
        if self.y is not None:
            ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
        self.ax_, self.figure_ = ax, ax.figure
        return self


class FeatureHistogramDisplay:
    """Histogram of the values of all features, outlier dimensions apart.

    Parameters
    ----------
    features : array-like of shape (n_texts, n_features)

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    outliers_ : ndarray of int
        The `outlier_dimensions`, the largest first.
    """

    _MAX_NAMED = 4

    def __init__(self, features: Any) -> None:
        self.features = features

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, ax: Any = None, bins: int = 80
    ) -> FeatureHistogramDisplay:
        """Transform texts and draw the values of their features.

        Parameters
        ----------
        estimator : BertVectorizer, or a Pipeline of transformers
            Used as it is if fitted; else a copy is fitted on `X`. Pass
            ``normalize=False`` to see an encoder's own values.
        X : iterable of str of shape (n_texts,)
            Texts.
        ax, bins : see `plot`

        Returns
        -------
        FeatureHistogramDisplay
        """
        return cls(_features_of(estimator, X)).plot(ax=ax, bins=bins)

    def plot(self, ax: Any = None, *, bins: int = 80) -> FeatureHistogramDisplay:
        """Draw how many values lie where, on a logarithmic axis.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        bins : int, default=80
            Bars over the whole range of values.

        Returns
        -------
        FeatureHistogramDisplay

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            A value is not finite.
        """
        features = as_features("features", self.features)
        self.outliers_ = outlier_dimensions(features)
        ax = axes_for(self, ax, (6.4, 4.2))
        edges = np.histogram_bin_edges(features, bins=bins)
        others = np.delete(features, self.outliers_, axis=1)
        for values, label, colour, opacity in (
            (others, f"{others.shape[1]:,} dimensions", _COLOURS[0], 0.75),
            (features[:, self.outliers_], self._name_outliers(), _COLOURS[2], 0.3),
        ):
            counts, _ = np.histogram(values, bins=edges)
            ax.hist(
                edges[:-1], bins=edges, weights=counts, log=True, label=label,
                histtype="stepfilled", facecolor=(colour, opacity), edgecolor=colour,
            )  # fmt: skip
        _, high = ax.get_ylim()
        ax.set_ylim(0.7, high**1.25)  # room above the bars for the legend
        ax.set_xlabel("value of a feature")
        ax.set_ylabel("number of values")
        ax.set_title(f"{len(features):,} texts, {features.shape[1]:,} dimensions")
        ax.legend(loc="upper right")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _name_outliers(self) -> str:
        n = len(self.outliers_)
        if not n:
            return "no outlier dimension"
        named = ", ".join(map(str, self.outliers_[: self._MAX_NAMED]))
        more = f" and {n - self._MAX_NAMED} more" if n > self._MAX_NAMED else ""
        return f"outlier dimension{'s' if n > 1 else ''} {named}{more}"
