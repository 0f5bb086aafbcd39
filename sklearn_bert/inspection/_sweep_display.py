"""Pictures of sweeps: curves with bands, heat maps, and what a grid search found.

Draws what `_sweep` computes, or `_search_results` arranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from ._drawing import COLOURS, MARKERS, add_legend, axes_for, title_of
from ._search_results import sweep_of_search
from ._sweep import DECIDED, LayerSweep, layer_sweep, name_of_cell, name_of_layer
from ._texts import parameters_of, words_for

__all__ = ["LayerSweepDisplay"]


class LayerSweepDisplay:
    """Picture of a layer sweep: one curve with a band per pooling, or a heat map.

    Parameters
    ----------
    sweep : LayerSweep

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One per pooling; empty for a heat map.
    """

    def __init__(self, sweep: LayerSweep) -> None:
        self.sweep = sweep

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        ax: Any = None,
        kind: str = "curves",
        **params: Any,
    ) -> LayerSweepDisplay:
        """Sweep all layers of a vectorizer's encoder and draw the result.

        Parameters
        ----------
        estimator : BertVectorizer or Pipeline that begins with one
            Its parameters are used, other than ``layer``, ``layer_combination`` and
            ``pooling``. The other steps of a pipeline score the features. Or a
            `BertTokenVectorizer`, for words, which splits texts that are not split.
        X, y : see `layer_sweep`
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        kind : {"curves", "heatmap"}, default="curves"
            As in `plot`.
        **params
            Of `layer_sweep`: ``layers``, ``poolings``, ``estimator``, ``cv``,
            ``scoring``, ``untrained``, ``random_state``, ``n_jobs``.

        Returns
        -------
        LayerSweepDisplay
        """
        own = parameters_of(estimator, DECIDED)
        if isinstance(estimator, Pipeline) and len(estimator) > 1:
            params = {"estimator": estimator[1:], **params}
        X = words_for(estimator, X)
        return cls(layer_sweep(X, y, **{**own, **params})).plot(ax=ax, kind=kind)

    @classmethod
    def from_cv_results(
        cls,
        search: Any,
        *,
        scoring: str | None = None,
        ax: Any = None,
        kind: str = "curves",
    ) -> LayerSweepDisplay:
        """Draw what a grid search over ``layer`` and ``pooling`` found.

        Parameters
        ----------
        search : fitted GridSearchCV or RandomizedSearchCV, or its ``cv_results_``
            Must have searched parameters that end in ``layer`` and ``pooling``,
            whatever the steps before them are called. Of its other parameters, the
            best setting counts for each cell, so cells are optimistic. Layers that were
            concatenated stand beside the single ones, poolings joined by "+".
        scoring : str, default=None
            Which score of a search with several; None is its only one, or the one that
            it refits by.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        kind : {"curves", "heatmap"}, default="curves"
            As in `plot`.

        Returns
        -------
        LayerSweepDisplay
            Its `sweep` holds the scores as a `LayerSweep`; negative layers are counted
            from 0 where the search was refitted.

        Raises
        ------
        ValueError
            The search is not fitted, has not searched both parameters, or several
            scores could be meant.
        """
        return cls(sweep_of_search(search, scoring)).plot(ax=ax, kind=kind)

    def plot(self, ax: Any = None, *, kind: str = "curves") -> LayerSweepDisplay:
        """Draw mean scores by layer.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        kind : {"curves", "heatmap"}, default="curves"
            "curves" draws a line per pooling with a band of one standard deviation over
            splits, dashed ones for an untrained encoder, and a ring around the best
            cell. "heatmap" writes the score into each cell and frames the best, for
            more poolings than curves could show.

        Returns
        -------
        LayerSweepDisplay

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            `kind` is neither.
        """
        if kind not in ("curves", "heatmap"):
            raise ValueError(f"kind={kind!r} must be 'curves' or 'heatmap'.")
        sweep = self.sweep
        n_poolings, n_layers = sweep.means.shape
        size = (6.4, 4.4)
        if kind == "heatmap":
            size = (max(4.0, 1.8 + 0.62 * n_layers), 1.3 + 0.45 * n_poolings)
        ax = axes_for(self, ax, size)
        self.lines_ = [] if kind == "heatmap" else self._draw_curves(ax)
        if kind == "heatmap":
            self._draw_cells(ax)
        ax.set_xlabel("layer (0 = embedding output)" if 0 in sweep.layers else "layer")
        title = title_of(sweep.model, sweep.n_texts)
        of_words = "" if sweep.n_words is None else f", {sweep.n_words:,} words"
        ax.set_title(title + of_words)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_curves(self, ax: Any) -> list[Any]:
        from matplotlib.lines import Line2D

        sweep, untrained = self.sweep, self.sweep.untrained_means
        x, is_one = _positions(sweep.layers)
        best_p, best_i = sweep._position("best", sweep._best_cell)
        ring: dict[str, Any] = {
            "ls": "",
            "marker": "o",
            "mfc": "none",
            "color": "black",
        }
        dashed: dict[str, Any] = {"ls": "--", "lw": 1.1}
        lines = []
        for p, pooling in enumerate(sweep.poolings):
            means, spreads = sweep.means[p], sweep.spreads[p]
            color, marker = COLOURS[p % 10], MARKERS[p % 10]
            # Concatenations stand side by side, so that their spreads can be read.
            at = x + np.where(is_one, 0, 0.12 * (p - (len(sweep.poolings) - 1) / 2))
            (line,) = ax.plot(
                at[is_one], means[is_one], color=color, marker=marker, markersize=5,
                label=pooling,
            )  # fmt: skip
            ax.fill_between(
                at[is_one], (means - spreads)[is_one], (means + spreads)[is_one],
                alpha=0.15, color=color, linewidth=0,
            )  # fmt: skip
            if not is_one.all():
                ax.errorbar(
                    at[~is_one], means[~is_one], spreads[~is_one], ls="", marker=marker,
                    markersize=5, color=color, capsize=2, elinewidth=1,
                )  # fmt: skip
            if untrained is not None:
                ax.plot(
                    at, untrained[p], color=color, marker=marker, markersize=3, **dashed
                )
            if p == best_p:
                ax.plot(at[best_i], means[best_i], markersize=12, **ring)
            lines.append(line)
        best = f"best: layer {name_of_cell(sweep._best_cell, '')}"
        best += f", {sweep.means[best_p, best_i]:.3f}"
        legend = [*lines, Line2D([], [], markersize=8, label=best, **ring)]
        if untrained is not None:
            legend.append(Line2D([], [], color="0.4", label="untrained", **dashed))
        ax.set_xticks(x, [name_of_layer(layer) for layer in sweep.layers])
        ax.set_ylabel(f"{sweep.scoring.replace('_', ' ')} (mean ± std over splits)")
        add_legend(ax, legend)
        return lines

    def _draw_cells(self, ax: Any) -> None:
        from matplotlib.patches import Rectangle

        sweep = self.sweep
        n_poolings, n_layers = sweep.means.shape
        image = ax.imshow(sweep.means, cmap="cividis", aspect="auto")
        middle = (np.nanmin(sweep.means) + np.nanmax(sweep.means)) / 2
        cell = ax.get_window_extent().width / ax.figure.dpi * 72 / n_layers  # points
        size = min(9.0, cell / 2.6)  # ".752" is about 2.2 times as wide as high
        for p in range(n_poolings if size > 4 else 0):
            for i in range(n_layers):
                if np.isfinite(sweep.means[p, i]):
                    ax.text(
                        i, p, f"{sweep.means[p, i]:.3f}".replace("0.", ".", 1),
                        ha="center", va="center", fontsize=size,
                        color="black" if sweep.means[p, i] > middle else "white",
                    )  # fmt: skip
        p, i = sweep._position("best", sweep._best_cell)
        ax.add_patch(
            Rectangle(
                (i - 0.48, p - 0.46),
                0.96,
                0.92,
                fill=False,
                ec=COLOURS[2],
                lw=2,
                clip_on=False,
            )
        )
        ax.set_xticks(range(n_layers), [name_of_layer(k) for k in sweep.layers])
        ax.set_yticks(range(n_poolings), sweep.poolings)
        ax.set_ylabel("pooling" if sweep.n_words is None else "subwords")
        ax.figure.colorbar(image, ax=ax, label=sweep.scoring.replace("_", " "))


def _positions(layers: Sequence[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return where layers stand on the axis, and which are single layers."""
    is_one = np.array([isinstance(layer, int) for layer in layers])
    singles = [layer for layer in layers if isinstance(layer, int)]
    end = max(singles, default=-1)
    others = iter(range(end + 1, end + 1 + len(layers)))
    x = [
        layer if one else next(others)
        for layer, one in zip(layers, is_one, strict=True)
    ]
    return np.array(x), is_one
