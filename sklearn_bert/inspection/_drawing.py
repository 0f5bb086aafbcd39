"""What every Display shares: axes to draw on, and the error where matplotlib lacks.

Imports nothing of the package.
"""

from __future__ import annotations

from typing import Any

__all__ = ["axes_for"]


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
