"""`RemoveTopComponents`: the one step after the encoder that scikit-learn lacks.

Works on any array of numbers and knows nothing of texts, encoders or stores.
Subtracting the mean is scikit-learn's ``StandardScaler(with_std=False)``, whitening its
``PCA(whiten=True)``; neither is repeated here. Imports nothing of the package.

Level 0 of the module map: any module may import it.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["RemoveTopComponents"]


class RemoveTopComponents(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Subtract the mean, and remove the directions in which features vary most.

    In features of a language model these few directions are shared by all texts: they
    carry how frequent the words are rather than what they mean, and they dominate every
    cosine ("all-but-the-top", Mu & Viswanath 2018). What is left has as many columns
    as before, and no part along the directions removed.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Directions to remove. "auto" is the paper's rule of thumb, one per hundred
        features and at least one: 3 of 384, 7 of 768. 0 only subtracts the mean. Too
        many remove meaning as well.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
        Mean of the training rows.
    components_ : ndarray of shape (n_components, n_features)
        Directions removed, orthonormal, the largest variance first.
    explained_variance_ratio_ : ndarray of shape (n_components,)
        Share of the training variance that went with each.
    n_components_ : int
        How many are removed.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, if `X` had any.

    See Also
    --------
    sklearn.preprocessing.StandardScaler : ``with_std=False`` subtracts the mean alone.
    sklearn.decomposition.PCA : ``whiten=True`` gives all directions the same variance.

    Notes
    -----
    Mean and directions are learned from the rows that `fit` sees: keep this in a
    pipeline, so that each fold of a cross-validation has its own. The projection is
    taken after the mean is subtracted; algorithm 1 of the paper takes that of the
    uncentred vector, which shifts all rows by the same vector.

    It is meant for similarity. A linear classifier can ignore a direction by itself,
    and may need one of those that are removed here.

    References
    ----------
    Mu & Viswanath 2018, "All-but-the-top: simple and effective postprocessing for word
    representations", ICLR.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_bert.postprocessing import RemoveTopComponents
    >>> X = np.array([[9.0, 1.0], [-9.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    >>> RemoveTopComponents(n_components=1).fit_transform(X)
    array([[ 0.,  0.],
           [ 0.,  0.],
           [ 0.,  1.],
           [ 0., -1.]])
    """

    def __init__(self, n_components: Any = "auto") -> None:
        self.n_components = n_components

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: Any, y: Any = None) -> RemoveTopComponents:
        """Learn the mean and the top directions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least 2 rows of finite numbers.
        y : ignored
            Present for compatibility with scikit-learn.

        Returns
        -------
        RemoveTopComponents
            This estimator.

        Raises
        ------
        ValueError, TypeError
            `n_components` or `X` is not valid; the message names it.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        n_components = self._resolve(*X.shape)
        centred = X.astype(np.float64)
        mean = centred.mean(axis=0)
        centred -= mean
        variances, directions = _principal_axes(centred)
        total = variances.sum() or 1.0  # constant features have none to share
        self.mean_ = mean.astype(X.dtype)
        self.components_ = directions[:n_components].astype(X.dtype)
        self.explained_variance_ratio_ = variances[:n_components] / total
        self.n_components_ = n_components
        return self

    def transform(self, X: Any) -> Any:
        """Return rows without the mean and the top directions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            float32 if `X` is, else float64; or a frame, if `set_output` asks for one.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        centred = X - self.mean_.astype(X.dtype, copy=False)
        components = self.components_.astype(X.dtype, copy=False)
        centred -= (centred @ components.T) @ components
        return centred

    def _resolve(self, n_samples: int, n_features: int) -> int:
        """Return how many components to remove, else raise."""
        largest = min(n_samples - 1, n_features)  # directions in which rows can differ
        n_components = self.n_components
        if isinstance(n_components, str) and n_components == "auto":
            return min(max(1, n_features // 100), largest)
        if not isinstance(n_components, numbers.Integral) or isinstance(
            n_components, (bool, np.bool_)
        ):
            raise TypeError(
                f"n_components must be an integer or 'auto', got {n_components!r}."
            )
        if not 0 <= int(n_components) <= largest:
            raise ValueError(
                f"n_components={n_components} is out of range: {n_samples} rows of "
                f"{n_features} features vary in at most {largest} directions. Pass a "
                f"number from 0 to {largest}, or 'auto'."
            )
        return int(n_components)


def _principal_axes(
    centred: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return variances, up to a factor, and directions, in descending order."""
    n_samples, n_features = centred.shape
    if n_samples < n_features:
        _, singular, directions = np.linalg.svd(centred, full_matrices=False)
        variances = singular**2
    else:
        # The matrix of n_features by n_features: many times faster for many rows.
        variances, vectors = np.linalg.eigh(centred.T @ centred)
        variances = np.clip(variances[::-1], 0.0, None)
        directions = vectors.T[::-1]
    # Signs are arbitrary; fixed, so that a fit does not depend on the LAPACK.
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    return variances, directions * signs[:, np.newaxis]
