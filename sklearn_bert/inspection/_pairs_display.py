"""Pictures of pairs of texts: cosines of similar and dissimilar ones, cell by cell."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._drawing import COLOURS, axes_for
from ._pairs import DECIDED, PairComparison, compare_pairs
from ._texts import parameters_of

__all__ = ["PairsDisplay"]


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
        estimator : BertVectorizer or Pipeline that begins with one
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
        others = [name for name in DECIDED if name != "layer"]
        own = parameters_of(estimator, others)
        own["layers"] = own.pop("layer")
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
            ("similar", COLOURS[0], "o", -0.14),
            ("dissimilar", COLOURS[6], "s", 0.14),
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
