"""Pictures of what layers hold: a panel per probing metric."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._drawing import COLOURS, add_legend, axes_for
from ._layer_probes import DECIDED, LayerProbes, probe_layers
from ._texts import parameters_of, words_for

__all__ = ["ProbingDisplay"]


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
        estimator : BertVectorizer or Pipeline that begins with one
            Its parameters are used, other than ``layer`` and ``layer_combination``;
            the other steps of a pipeline are not. Or a `BertTokenVectorizer`, for
            words, which splits texts that are not split.
        X, y : see `probe_layers`
        ax : matplotlib Axes or sequence of them, default=None
            As in `plot`.
        **params
            Of `probe_layers`.

        Returns
        -------
        ProbingDisplay
        """
        own = parameters_of(
            estimator, DECIDED, hint="; pass a probe as estimator= of probe_layers"
        )
        X = words_for(estimator, X)
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
        ax.plot(self.probes.layers, means, "o-", color=COLOURS[0], markersize=5)
        ax.fill_between(
            self.probes.layers, means - spreads, means + spreads, color=COLOURS[0],
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
        ax.plot(layers, task, "o-", color=COLOURS[0], markersize=5, label="task")
        ax.plot(
            layers, control, "s--", color=COLOURS[2], markersize=5, label="control task"
        )
        ax.fill_between(
            layers, control, task, color="0.5", alpha=0.15, lw=0, label="selectivity"
        )
        ax.set_title("Selectivity")
        ax.set_ylabel("held-out accuracy, types seen in training")
        add_legend(ax)

    def _draw_mdl(self, ax: Any) -> None:
        given = self.probes.description_lengths
        assert given is not None
        kbits = [d.codelength / 1000 for d in given]
        ax.plot(
            self.probes.layers, kbits, "^-", color=COLOURS[4], markersize=5,
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
        add_legend(ax)
