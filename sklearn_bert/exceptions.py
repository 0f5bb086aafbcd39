"""The warnings that this package gives, by class, for filters.

Level 0 of the module map: imports nothing of the package.
"""

from __future__ import annotations

__all__ = ["CutWarning", "StoreWarning"]


class CutWarning(UserWarning):
    """Texts were longer than ``max_length`` and were cut.

    Given when a call meets cut texts that no call of this process has warned of: a
    grid over folds warns of each text once. The message and the attributes count all
    that the call cut.

    Attributes
    ----------
    n_cut : int
        Texts that were cut.
    n_lost : int
        Tokens that were lost.
    longest : int
        Tokens of the longest text.

    Examples
    --------
    >>> import warnings
    >>> from sklearn_bert.exceptions import CutWarning
    >>> warnings.simplefilter("ignore", CutWarning)  # I know
    """

    n_cut: int
    n_lost: int
    longest: int


class StoreWarning(UserWarning):
    """Something in the store could not be read or kept; features are still right."""
