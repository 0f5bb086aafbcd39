"""What every Display shares: axes, colours, titles and legends.

Only the display parts import this, and it imports nothing of the package. matplotlib is
imported when axes are asked for, and the error where it lacks is worded here.
"""

from __future__ import annotations

from typing import Any

__all__ = ["COLOURS", "MARKERS", "add_legend", "axes_for", "title_of"]

# Petroff 2021, "Accessible color sequences for data visualization", ten colours: told
# apart by colour-blind readers too.
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKERS = "os^DvPX*<>"


def axes_for(display: object, ax: Any, figsize: tuple[float, float]) -> Any:
    """Return the axes given, or those of a new figure.

    Raises
    ------
    ImportError
        matplotlib is not installed; the message names the display.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{type(display).__name__} needs matplotlib; "
            'pip install "sklearn-bert[plot]".'
        ) from error
    if ax is None:
        _, ax = plt.subplots(figsize=figsize, layout="constrained")
    return ax


def title_of(model: str, n_texts: int) -> str:
    """Return the last part of a model's name and the number of texts, if known."""
    name = model.rstrip("/").rpartition("/")[2]
    return ", ".join(filter(None, (name, f"{n_texts:,} texts" if n_texts else "")))


def add_legend(ax: Any, handles: list[Any] | None = None) -> None:
    """Add a legend above the data, and make room for it there."""
    if handles is None:
        handles = ax.get_legend_handles_labels()[0]
    ax.margins(y=0.06)
    ax.autoscale_view()
    n = len(handles)
    for n_columns in range(n, 0, -1):
        # matplotlib fills columns; read row by row, the given order stays.
        order = [i for column in range(n_columns) for i in range(column, n, n_columns)]
        legend = ax.legend(
            handles=[handles[i] for i in order], ncols=n_columns, loc="upper left",
            fontsize=9, frameon=False, borderaxespad=0.3, columnspacing=1.4,
            handletextpad=0.5,
        )  # fmt: skip
        box = legend.get_window_extent().transformed(ax.transAxes.inverted())
        if box.width < 0.96:
            break
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, bottom + (top - bottom) / max(0.3, 1 - box.height - 0.02))
