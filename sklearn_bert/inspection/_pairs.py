"""Do similar texts come out similar? Cosines of pairs per layer and pooling.

`compare_pairs` needs pairs of texts that are known to be similar, and pairs that are
not; `PairsDisplay` draws what it returns.

Imports `checkpoint`, `features` and `vectorizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ..checkpoint import DEFAULT_MODEL
from ..features import WORK
from ..vectorizer import BertVectorizer
from ._drawing import axes_for

__all__ = ["PairComparison", "PairsDisplay", "compare_pairs"]

_SIMILAR, _DISSIMILAR = "#3f90da", "#e76300"  # apart for all kinds of colour vision

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class PairComparison:
    """Cosines of similar and dissimilar pairs under every layer and pooling.

    Attributes
    ----------
    model : str
        The encoder's name.
    layers : tuple of int
        Layers, counted from 0.
    poolings : tuple of str
    similar : ndarray of shape (n_poolings, n_layers, n_similar)
        Cosine of each similar pair.
    dissimilar : ndarray of shape (n_poolings, n_layers, n_dissimilar)
        Cosine of each dissimilar pair.
    n_texts_encoded : int
        Distinct texts that went through the encoder; the others were in the store.
    """

    model: str
    layers: tuple[int, ...]
    poolings: tuple[str, ...]
    similar: FloatArray
    dissimilar: FloatArray
    n_texts_encoded: int

    @property
    def margin(self) -> FloatArray:
        """Mean cosine of similar minus that of dissimilar pairs, per cell.

        Shape (n_poolings, n_layers). A narrow cone makes it small, however well the
        order of the pairs is kept: compare cells by `auc`.
        """
        return np.asarray(self.similar.mean(axis=2) - self.dissimilar.mean(axis=2))

    @property
    def auc(self) -> FloatArray:
        """Chance that a similar pair has a higher cosine than a dissimilar one.

        Shape (n_poolings, n_layers). 0.5 is chance, 1 is all; ties count half. Shifting
        or stretching all cosines does not change it.
        """
        cosines = np.concatenate([self.similar, self.dissimilar], axis=2)
        is_similar = np.arange(cosines.shape[2]) < self.similar.shape[2]
        return np.array(
            [[roc_auc_score(is_similar, cell) for cell in row] for row in cosines]
        )

    def __str__(self) -> str:
        """Return the table: a row per pooling and layer."""
        lines = ["pooling       layer  similar  dissimilar   margin    AUC"]
        auc, margin = self.auc, self.margin
        for p, pooling in enumerate(self.poolings):
            lines += [
                f"{pooling:13} {layer:5d}  {self.similar[p, i].mean():7.3f}  "
                f"{self.dissimilar[p, i].mean():10.3f}  {margin[p, i]:7.3f}  "
                f"{auc[p, i]:5.3f}"
                for i, layer in enumerate(self.layers)
            ]
        lines.append(
            f"mean cosines of {self.similar.shape[2]:,} similar and "
            f"{self.dissimilar.shape[2]:,} dissimilar pairs"
        )
        return "\n".join(lines)


def compare_pairs(
    similar: Any,
    dissimilar: Any,
    *,
    model: str = DEFAULT_MODEL,
    layers: Any = -1,
    poolings: str | Sequence[str] = ("cls", "mean", "max"),
    **vectorizer_params: Any,
) -> PairComparison:
    """Tell how well cosines separate similar from dissimilar texts, from one pass.

    Parameters
    ----------
    similar : sequence of pairs of str, of shape (n_similar, 2)
        Texts that should be close: a list of pairs, an array or a frame of two columns.
    dissimilar : sequence of pairs of str, of shape (n_dissimilar, 2)
        Texts that should be apart. Unrelated texts are easy; texts that share words and
        not meaning tell more.
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `BertVectorizer`.
    layers : int, sequence of int, or "all", default=-1
        As ``layer`` in `BertVectorizer`.
    poolings : str or sequence of str, default=("cls", "mean", "max")
        As ``pooling`` in `BertVectorizer`. "attention" needs `layers` without 0, and
        "pooler" the last layer alone.
    **vectorizer_params
        Other parameters of `BertVectorizer`, such as ``memory`` or ``max_length``.

    Returns
    -------
    PairComparison
        ``print`` shows the table, `PairsDisplay` the picture.

    Raises
    ------
    TypeError
        A parameter is given that this decides: ``layer``, ``pooling``,
        ``layer_combination`` or ``normalize``, which cosines do not depend on; or a row
        does not hold texts.
    ValueError
        There are no pairs, a row does not hold two, or a text has a zero vector.

    See Also
    --------
    alignment : The distance of similar pairs alone, on any features.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> from sklearn_bert.inspection import compare_pairs
    >>> pairs = compare_pairs(
    ...     [("a red car", "a red bus")], [("a red car", "seven times six")],
    ...     model=make_tiny_encoder(tempfile.mkdtemp()),
    ... )
    >>> pairs.margin.shape, pairs.n_texts_encoded
    ((3, 1), 3)
    """
    for name in ("layer", "pooling", "layer_combination", "normalize"):
        if name in vectorizer_params:
            raise TypeError(
                f"compare_pairs does not take {name!r}: it compares the cosines of "
                "every layer of `layers` under every pooling of `poolings`."
            )
    if not isinstance(poolings, str):
        poolings = list(poolings)
    vectorizer = BertVectorizer(
        model, layer=layers, pooling=poolings, **vectorizer_params
    )
    rows = {"similar": _pairs("similar", similar)}
    rows["dissimilar"] = _pairs("dissimilar", dissimilar)
    texts: list[str] = []
    for side in (0, 1):
        for name, pairs in rows.items():
            try:
                column = [pair[side] for pair in pairs]
                texts += vectorizer._read_texts(column, is_fit=True)
            except (TypeError, ValueError) as error:
                place = ("first", "second")[side]
                raise type(error)(f"{place} texts of {name}: {error}") from error
    vectorizer.fit(texts)

    before = WORK.copy()
    block = vectorizer._by_layer(texts)
    n_encoded = WORK.since(before).n_texts
    firsts, seconds = np.split(block, 2)
    n = len(rows["similar"])
    return PairComparison(
        model=str(model),
        layers=vectorizer.layers_,
        poolings=vectorizer.pooling_,
        similar=_cosines("similar", firsts[:n], seconds[:n], vectorizer),
        dissimilar=_cosines("dissimilar", firsts[n:], seconds[n:], vectorizer),
        n_texts_encoded=n_encoded,
    )


def _pairs(name: str, pairs: Any) -> list[tuple[Any, Any]]:
    """Return pairs as a list of tuples, else raise."""
    if hasattr(pairs, "to_numpy"):  # a frame iterates over its columns
        pairs = pairs.to_numpy()
    rows = [pairs] if isinstance(pairs, str) else list(pairs)
    if not rows:
        raise ValueError(f"{name} holds no pairs; pass at least one pair of texts.")
    for i, row in enumerate(rows):
        if not isinstance(row, (list, tuple, np.ndarray)):
            raise TypeError(
                f"{name} must hold pairs of texts, got {type(row).__name__} in row "
                f"{i}; pass a list such as [('a text', 'another')]."
            )
        if len(row) != 2:
            raise ValueError(
                f"{name} must hold pairs of texts, got {len(row)} in row {i}."
            )
    return [(row[0], row[1]) for row in rows]


def _cosines(
    name: str,
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    vectorizer: BertVectorizer,
) -> FloatArray:
    """Return the cosine of each pair, shape (n_poolings, n_layers, n_pairs)."""
    norms = [np.linalg.norm(side.astype(np.float64), axis=3) for side in (a, b)]
    product = norms[0] * norms[1]  # (n_pairs, n_poolings, n_layers)
    if not product.all():
        row, p, i = np.argwhere(product == 0)[0]
        raise ValueError(
            f"{name} has a text in row {row} whose vector is zero at layer "
            f"{vectorizer.layers_[i]} under {vectorizer.pooling_[p]!r}, and so has no "
            "direction. Drop texts without tokens, or pass special_tokens=True."
        )
    dots = np.einsum("npld,npld->npl", a, b, dtype=np.float64)
    return np.moveaxis(np.clip(dots / product, -1.0, 1.0), 0, 2)


class PairsDisplay:
    """Picture of the cosines of similar and dissimilar pairs, a line per cell.

    Parameters
    ----------
    comparison : PairComparison

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, comparison: PairComparison) -> None:
        self.comparison = comparison

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        similar: Any,
        dissimilar: Any,
        *,
        ax: Any = None,
        **params: Any,
    ) -> PairsDisplay:
        """Compare pairs under a vectorizer's encoder and draw the result.

        Parameters
        ----------
        estimator : BertVectorizer
            Its parameters are used, other than ``layer_combination``, ``pooling`` and
            ``normalize``.
        similar, dissimilar : see `compare_pairs`
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **params
            Of `compare_pairs`: ``layers``, ``poolings``.

        Returns
        -------
        PairsDisplay
        """
        if not isinstance(estimator, BertVectorizer):
            raise TypeError(
                f"estimator must be a BertVectorizer, got {type(estimator).__name__}."
            )
        own = estimator.get_params(deep=False)
        own["layers"] = own.pop("layer")
        for name in ("layer_combination", "pooling", "normalize"):
            own.pop(name)
        return cls(compare_pairs(similar, dissimilar, **{**own, **params})).plot(ax=ax)

    def plot(self, ax: Any = None) -> PairsDisplay:
        """Draw the mean cosine of both kinds of pairs and the middle 80 % of each.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        PairsDisplay

        Raises
        ------
        ImportError
            matplotlib is not installed.
        """
        comparison = self.comparison
        n_layers = len(comparison.layers)
        n_cells = len(comparison.poolings) * n_layers
        ax = axes_for(self, ax, (6.8, 1.7 + 0.42 * n_cells))
        rows = np.arange(n_cells)
        for kind, colour, marker, shift in (
            ("similar", _SIMILAR, "o", -0.14),
            ("dissimilar", _DISSIMILAR, "s", 0.14),
        ):
            cosines = getattr(comparison, kind).reshape(n_cells, -1)
            low, high = np.quantile(cosines, [0.1, 0.9], axis=1)
            ax.hlines(rows + shift, low, high, color=colour, linewidth=3, alpha=0.35)
            ax.plot(
                cosines.mean(axis=1), rows + shift, color=colour, marker=marker,
                linestyle="none", markersize=6, label=f"{kind} ({cosines.shape[1]:,})",
            )  # fmt: skip
        for row, auc in zip(rows, comparison.auc.ravel(), strict=True):
            ax.annotate(
                f"AUC {auc:.3f}", (1.0, row), xycoords=("axes fraction", "data"),
                xytext=(6, 0), textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
        ax.set_yticks(
            rows,
            [f"{pool}, layer {k}" for pool in comparison.poolings
             for k in comparison.layers],
        )  # fmt: skip
        ax.set_ylim(n_cells - 0.5, -0.5)
        ax.set_xlabel("cosine (mean, and middle 80 % of the pairs)")
        name = comparison.model.rstrip("/").rpartition("/")[2]
        ax.legend(
            title=name, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0),
            borderaxespad=0.2, frameon=False, alignment="left",
        )  # fmt: skip
        ax.grid(axis="x", alpha=0.3)
        self.ax_, self.figure_ = ax, ax.figure
        return self
