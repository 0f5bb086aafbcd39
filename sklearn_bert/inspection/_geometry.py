"""The shape of a representation, layer by layer: cones, ranks, layers alike.

`layer_geometry` and `layer_similarity` measure texts layer by layer, from one pass of
the encoder, by what `geometry` measures of arrays. Computes only: `_geometry_display`
draws.

Imports `_validation`, `checkpoint`, `geometry` and `vectorizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._validation import check_bool, check_choice
from ..checkpoint import DEFAULT_MODEL
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
from ._texts import Meter, features_by_layer, make_vectorizer

__all__ = ["LayerGeometry", "LayerSimilarity", "layer_geometry", "layer_similarity"]

# Parameters of a vectorizer that are decided here: features are measured as they are.
DECIDED = ("layer", "layer_combination", "pooling", "normalize")

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
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
        There are fewer than 4 texts, a text has a zero vector, or a pooling is
        "learned_attention", which has no frozen features.

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


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
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
        There are fewer than 4 texts, `measure` is neither of the two, a text has a zero
        vector, or `pooling` is "learned_attention", which has no frozen features.

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
    vectorizer = make_vectorizer(
        caller,
        "it measures every layer of `layers` by itself, as the encoder gives it.",
        DECIDED,
        model=model,
        layers=layers,
        poolings=poolings,
        params=params,
    )
    texts = vectorizer._read_texts(X, is_fit=True)
    if len(texts) < MIN_TEXTS:
        raise ValueError(
            f"X has {len(texts)} texts; {caller} needs at least {MIN_TEXTS}, and "
            "a few hundred for numbers to rely on."
        )
    vectorizer.fit(texts)
    meter = Meter()
    block = features_by_layer(vectorizer, texts)
    return vectorizer, block, meter.n_texts_encoded
