"""Pictures of geometry: a quantity by layer, layers alike, texts, values of features.

The first two draw what `_geometry` computes; the other two draw any features.

Imports `_validation` and `geometry`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted, column_or_1d

from .._validation import check_choice
from ..geometry import as_features, centre, outlier_dimensions
from ._drawing import COLOURS, MARKERS, axes_for, title_of
from ._geometry import (
    DECIDED,
    LayerGeometry,
    LayerSimilarity,
    layer_geometry,
    layer_similarity,
)
from ._texts import parameters_of

__all__ = [
    "FeatureHistogramDisplay",
    "LayerGeometryDisplay",
    "LayerSimilarityDisplay",
    "ProjectionDisplay",
]

_MAX_CLASSES = 20


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
        own = parameters_of(estimator, DECIDED)
        return cls(layer_geometry(X, **{**own, **params})).plot(
            ax=ax, quantity=quantity
        )

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
                marker=MARKERS[p % 10], color=COLOURS[p % 10],
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
        ax.set_title(title_of(geometry.model, geometry.n_texts))
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
        similarity = layer_similarity(
            X, **{**parameters_of(estimator, DECIDED), **params}
        )
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
            f"{title_of(similarity.model, similarity.n_texts)}, {similarity.pooling}"
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
                color=COLOURS[i % 10], marker=MARKERS[(i + i // 10) % 10],
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
            (others, f"{others.shape[1]:,} dimensions", COLOURS[0], 0.75),
            (features[:, self.outliers_], self._name_outliers(), COLOURS[2], 0.3),
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
