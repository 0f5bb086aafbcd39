"""The shape of features, as numbers: cones, ranks, outliers, layers alike.

Works on arrays of features, wherever they come from, and knows nothing of texts or
encoders. Nothing is fitted and nothing changes features: that is `postprocessing`.
Users import these names from `inspection`, which measures texts layer by layer too.

Level 1 of the module map: imports `_validation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array

from ._validation import check_bool, check_positive

__all__ = [
    "Anisotropy",
    "ExplainedVariance",
    "alignment",
    "anisotropy",
    "effective_rank",
    "explained_variance",
    "linear_cka",
    "outlier_dimensions",
    "uniformity",
]

MIN_TEXTS = 4  # below it, debiased CKA divides by zero
_BLOCK_ROWS = 1024  # rows whose distances to all others are in memory at a time
_FLOAT_NOISE = 1e-6  # relative; float32 features differ by 2e-7 from batch to batch

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Anisotropy:
    """Mean cosine of two different texts, with its interval.

    Attributes
    ----------
    value : float
        Between -1 and 1; 0 if directions are spread evenly, 1 if all are the same.
    low, high : float
        Confidence interval.
    confidence : float
        Its level.
    n_texts : int
    """

    value: float
    low: float
    high: float
    confidence: float
    n_texts: int

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return (
            f"mean cosine {self.value:.3f}, {100 * self.confidence:g} % interval "
            f"{self.low:.3f} to {self.high:.3f} ({self.n_texts:,} texts)"
        )


def anisotropy(features: Any, *, confidence: float = 0.95) -> Anisotropy:
    """Measure how narrow the cone is: the mean cosine of two different texts.

    The mean is over all pairs of rows, exactly. It follows from the sum of the unit
    vectors, so that no pairs are drawn and the result has no seed.

    Parameters
    ----------
    features : array-like of shape (n_texts, n_features)
        At least 3 rows, none of them zero. Equal texts count as different ones and
        raise the mean: drop duplicates first.
    confidence : float, default=0.95
        Level of the interval, between 0 and 1.

    Returns
    -------
    Anisotropy
        ``float()`` gives the mean alone.

    Raises
    ------
    ValueError
        A row is zero, a value is not finite, or there are fewer than 3 rows.

    See Also
    --------
    layer_geometry : The same for each layer of an encoder.

    Notes
    -----
    Pairs share texts: 1,000 texts make 499,500 pairs, but only 1,000 independent draws.
    The mean over pairs is a U-statistic, whose standard error is taken by the jackknife
    over texts (Arvesen 1969), which on average is not too small (Efron & Stein 1981);
    the interval is the normal one. In simulations with 30 and 300 texts it held the
    true value 94 to 98 times in 100; counting pairs as independent gave an error 3 to
    10 times too small in a cone. The interval describes the sampling of texts alone.

    References
    ----------
    Ethayarajh 2019, "How contextual are contextualized word representations?", EMNLP;
    Arvesen 1969, "Jackknifing U-statistics", Annals of Mathematical Statistics; Efron &
    Stein 1981, "The jackknife estimate of variance", Annals of Statistics.

    Examples
    --------
    >>> from sklearn_bert.inspection import anisotropy
    >>> print(anisotropy([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    mean cosine 0.333, 95 % interval -0.973 to 1.000 (3 texts)
    """
    if not 0 < check_positive("confidence", confidence) < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}.")
    unit = unit_rows("features", features, min_rows=3)
    value, error = mean_cosine(unit)
    margin = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return Anisotropy(
        value=value,
        low=max(-1.0, value - margin),
        high=min(1.0, value + margin),
        confidence=float(confidence),
        n_texts=len(unit),
    )


def mean_cosine(unit: FloatArray) -> tuple[float, float]:
    """Return the mean over all pairs of rows, and its standard error."""
    n = len(unit)
    # Mean cosine of each row with all others.
    per_row = (unit @ unit.sum(axis=0) - 1) / (n - 1)
    value = min(1.0, float(per_row.mean()))
    # What the jackknife comes to for a mean over pairs.
    variance = 4 * (n - 1) / (n * (n - 2) ** 2) * ((per_row - value) ** 2).sum()
    return value, float(np.sqrt(variance))


def alignment(a: Any, b: Any, *, alpha: float = 2.0) -> float:
    """Measure how far apart the two texts of a similar pair are; lower is better.

    The mean of ``||u_i - v_i|| ** alpha`` over pairs, where u and v are the rows of `a`
    and `b` scaled to unit length (Wang & Isola 2020).

    Parameters
    ----------
    a, b : array-like of shape (n_pairs, n_features)
        Row i of each is a pair of texts that should be close. No row may be zero.
    alpha : float, default=2
        Power of the distance, above 0. With 2 the result is 2 minus twice the mean
        cosine of the pairs.

    Returns
    -------
    float
        Between 0 (each pair has one direction) and ``2 ** alpha``.

    Raises
    ------
    ValueError
        The shapes differ, a row is zero or a value is not finite.

    See Also
    --------
    uniformity : The other half: all features at the same place are aligned too.

    References
    ----------
    Wang & Isola 2020, "Understanding contrastive representation learning through
    alignment and uniformity on the hypersphere", ICML.

    Examples
    --------
    >>> from sklearn_bert.inspection import alignment
    >>> round(alignment([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 0.0]]), 6)
    1.0
    """
    check_positive("alpha", alpha)
    unit_a, unit_b = unit_rows("a", a), unit_rows("b", b)
    if unit_a.shape != unit_b.shape:
        raise ValueError(
            f"a has shape {unit_a.shape} and b {unit_b.shape}; row i of each is a "
            "pair, so both must have the same shape."
        )
    distances = np.linalg.norm(unit_a - unit_b, axis=1)
    return float((distances**alpha).mean())


def uniformity(features: Any, *, t: float = 2.0) -> float:
    """Measure how evenly features fill the sphere; lower is better.

    The logarithm of the mean of ``exp(-t * ||u_i - u_j|| ** 2)`` over all pairs of
    different rows, scaled to unit length (Wang & Isola 2020).

    Parameters
    ----------
    features : array-like of shape (n_texts, n_features)
        At least 2 rows, none of them zero.
    t : float, default=2
        Above 0; larger values weigh near pairs more.

    Returns
    -------
    float
        Between ``-4 * t`` and 0, where 0 means that all directions are the same. In
        many dimensions an even spread gives close to ``-2 * t``.

    Raises
    ------
    ValueError
        A row is zero, a value is not finite, or there is one row only.

    See Also
    --------
    anisotropy : The mean cosine, which only tells how far the mean is from 0.

    Notes
    -----
    Time grows with the square of n_texts: 10,000 texts of 384 features take seconds.
    Memory does not, as distances are taken block by block.

    References
    ----------
    Wang & Isola 2020, "Understanding contrastive representation learning through
    alignment and uniformity on the hypersphere", ICML.

    Examples
    --------
    >>> from sklearn_bert.inspection import uniformity
    >>> uniformity([[1.0, 0.0], [0.0, 1.0]])  # a distance of sqrt(2)
    -4.0
    """
    check_positive("t", t)
    unit = unit_rows("features", features, min_rows=2)
    n, total = len(unit), 0.0
    for start in range(0, n, _BLOCK_ROWS):
        cosines = unit[start : start + _BLOCK_ROWS] @ unit[start:].T
        # A squared distance of unit vectors is 2 - 2 * cosine.
        total += np.triu(np.exp(2 * t * (cosines - 1)), k=1).sum()
    return min(0.0, float(np.log(2 * total / (n * (n - 1)))))


def effective_rank(features: Any, *, center: bool = False) -> float:
    """Count the directions that features use, weighted by how much.

    The exponential of the entropy of the singular values, scaled to sum to 1 (Roy &
    Vetterli 2007). Unlike the rank it does not count directions that hardly occur.

    Parameters
    ----------
    features : array-like of shape (n_texts, n_features)
        At least one row. With fewer rows than features the result is bounded by the
        rows, so compare only numbers from as many texts.
    center : bool, default=False
        Whether the mean is subtracted first. False is the paper's definition, in which
        a narrow cone counts as few directions; True tells how many the texts differ in.

    Returns
    -------
    float
        Between 1 and ``min(n_texts, n_features)``; 0 if all is zero, which with
        ``center=True`` means that all texts have the same features.

    Raises
    ------
    ValueError
        A value is not finite.

    References
    ----------
    Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality",
    EUSIPCO.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_bert.inspection import effective_rank
    >>> round(effective_rank(np.eye(5)), 6)
    5.0
    """
    features = as_features("features", features)
    if check_bool("center", center):
        features = centre(features)
    return entropy_rank(squared_singular_values(features))


def entropy_rank(squares: FloatArray) -> float:
    singular = np.sqrt(squares[squares > 0])
    if not len(singular):
        return 0.0
    shares = singular / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def squared_singular_values(features: FloatArray) -> FloatArray:
    """Return them in descending order, those below float noise as 0."""
    n, d = features.shape
    # The smaller Gram matrix: several times faster than singular values.
    gram = features.T @ features if d <= n else features @ features.T
    squares = np.linalg.eigvalsh(gram)[::-1]
    noise = max(n, d) * np.finfo(np.float64).eps * max(squares[0], 0.0)
    return np.asarray(np.where(squares > noise, squares, 0.0))


@dataclass(frozen=True)
class ExplainedVariance:
    """How much of the variance the leading principal components hold.

    Attributes
    ----------
    cumulative : ndarray of shape (min(n_texts, n_features),)
        Share of the variance in the first component, the first two, and so on; the
        last is 1.
    """

    cumulative: FloatArray

    def n_components(self, share: float = 0.9) -> int:
        """Return how many components hold at least this share, between 0 and 1."""
        if not 0 < check_positive("share", share) <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share!r}.")
        return int(np.searchsorted(self.cumulative, share)) + 1

    def __str__(self) -> str:
        counts = ", ".join(
            f"{100 * share:.0f} % in {self.n_components(share):,}"
            for share in (0.5, 0.9, 0.99)
        )
        return f"variance: {counts} of {len(self.cumulative):,} components"


def explained_variance(features: Any) -> ExplainedVariance:
    """Tell how many principal components the variance of features lies in.

    Parameters
    ----------
    features : array-like of shape (n_texts, n_features)
        At least 2 rows. Components cannot be more than rows, so few texts make
        features look simpler than they are.

    Returns
    -------
    ExplainedVariance
        Cumulative shares; ``n_components(0.9)`` is how many hold 90 %.

    Raises
    ------
    ValueError
        All rows are the same, a value is not finite, or there is one row only.

    See Also
    --------
    sklearn.decomposition.PCA : Projects on these components.

    Examples
    --------
    >>> from sklearn_bert.inspection import explained_variance
    >>> ellipse = [[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    >>> explained_variance(ellipse).cumulative
    array([0.8, 1. ])
    """
    centred = centre(as_features("features", features, min_rows=2))
    squares = squared_singular_values(centred)
    if not squares.any():
        raise ValueError(
            "features has the same vector in every row: there is no variance to "
            "explain. Layer 0 under pooling='cls' is such a case."
        )
    return ExplainedVariance(cumulative_shares(squares))


def cumulative_shares(squares: FloatArray) -> FloatArray:
    shares = np.cumsum(squares)
    return np.asarray(shares / shares[-1])


def linear_cka(a: Any, b: Any, *, debiased: bool = True) -> float:
    """Compare two representations of the same texts, whatever their dimensions.

    Linear centred kernel alignment (Kornblith et al. 2019). Rotating, shifting or
    scaling either side as a whole does not change it; scaling single features does.

    Parameters
    ----------
    a : array-like of shape (n_texts, n_features_a)
    b : array-like of shape (n_texts, n_features_b)
        Features of the same texts, in the same order.
    debiased : bool, default=True
        Whether the unbiased estimate of HSIC is used (Song et al. 2012). False is the
        first definition, which few texts inflate: two independent representations with
        as many features as texts come to 0.5, instead of 0. It suits tens of texts per
        feature, where both agree.

    Returns
    -------
    float
        1 for the same representation; near 0 for unrelated ones. Debiased, it can be a
        little below 0.

    Raises
    ------
    ValueError
        The numbers of rows differ or are too small (4 if debiased, else 2), a value is
        not finite, or all rows of a side are the same or equally far apart.

    See Also
    --------
    layer_similarity : The same between the layers of an encoder.

    Notes
    -----
    Computed in feature space, in O(n_texts * n_features ** 2); no matrix of n_texts
    by n_texts is formed.

    References
    ----------
    Kornblith et al. 2019, "Similarity of neural network representations revisited",
    ICML; Song et al. 2012, "Feature selection via dependence maximization", JMLR;
    Nguyen et al. 2021, "Do wide and deep networks learn the same things?", ICLR.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_bert.inspection import linear_cka
    >>> a, b = np.random.default_rng(0).normal(size=(2, 100, 100))
    >>> round(linear_cka(a, 3 * a[:, ::-1]), 6), abs(linear_cka(a, b)) < 0.1
    (1.0, True)
    >>> linear_cka(a, b, debiased=False) > 0.4
    True
    """
    min_rows = MIN_TEXTS if check_bool("debiased", debiased) else 2
    a = as_features("a", a, min_rows=min_rows)
    b = as_features("b", b, min_rows=min_rows)
    if len(a) != len(b):
        raise ValueError(
            f"a has {len(a)} rows and b {len(b)}; row i of each is the same text, so "
            "both must have as many rows."
        )
    (own_a, _), (_, own_b) = matrix = cka_matrix([a, b], debiased=debiased)
    for name, own in (("a", own_a), ("b", own_b)):
        if np.isnan(own):
            raise ValueError(
                f"{name} has rows that are all the same or equally far apart, for "
                "which CKA is undefined."
            )
    return float(matrix[0, 1])


def cka_matrix(parts: Sequence[FloatArray], *, debiased: bool) -> FloatArray:
    """Return CKA between all; NaN beside those for which it is undefined."""
    parts = [centre(part) for part in parts]
    hsic = np.empty((len(parts), len(parts)))
    for i, one in enumerate(parts):
        for j, other in enumerate(parts[: i + 1]):
            hsic[i, j] = hsic[j, i] = _hsic(one, other, debiased=debiased)
    own = np.diagonal(hsic).copy()
    own[own <= [1e-12 * _hsic(part, part, debiased=False) for part in parts]] = np.nan
    return np.asarray(hsic / np.sqrt(np.outer(own, own)))


def _hsic(a: FloatArray, b: FloatArray, *, debiased: bool) -> float:
    """Return HSIC under linear kernels, up to a factor, of centred features."""
    shared = float(((a.T @ b) ** 2).sum())
    if not debiased:
        return shared
    n = len(a)
    # Kernels lose their diagonals; centred, their rows then sum to minus these.
    diagonal_a = np.einsum("ij,ij->i", a, a)
    diagonal_b = np.einsum("ij,ij->i", b, b)
    return float(
        shared
        - n / (n - 2) * (diagonal_a @ diagonal_b)
        + diagonal_a.sum() * diagonal_b.sum() / ((n - 1) * (n - 2))
    )


def outlier_dimensions(features: Any, *, factor: float = 5.0) -> NDArray[np.intp]:
    """Find the few dimensions that are far larger than the others.

    BERT-like encoders have some, and they decide most of a cosine (Timkey & van
    Schijndel 2021). A dimension is one if its root mean square over texts is more than
    `factor` times the median over dimensions.

    Parameters
    ----------
    features : array-like of shape (n_texts, n_features)
    factor : float, default=5
        How many times the median, above 0. No dimension of normally distributed
        features comes near 5.

    Returns
    -------
    ndarray of int
        Indices of dimensions, the largest first; empty if there is none.

    Raises
    ------
    ValueError
        A value is not finite.

    See Also
    --------
    FeatureHistogramDisplay : Draws them apart from the others.

    References
    ----------
    Timkey & van Schijndel 2021, "All bark and no bite: rogue dimensions in transformer
    language models obscure representational quality", EMNLP; Kovaleva et al. 2021,
    "BERT busters: outlier dimensions that disrupt transformers", Findings of ACL.

    Examples
    --------
    >>> from sklearn_bert.inspection import outlier_dimensions
    >>> outlier_dimensions([[1.0, -30.0, 1.0, 9.0], [1.0, -30.0, -1.0, 9.0]])
    array([1])
    """
    check_positive("factor", factor)
    sizes = np.sqrt((as_features("features", features) ** 2).mean(axis=0))
    order = np.argsort(-sizes, kind="stable")
    return np.asarray(order[sizes[order] > factor * np.median(sizes)])


def as_features(name: str, features: Any, *, min_rows: int = 1) -> FloatArray:
    """Return finite float64 features of at least min_rows rows, else raise."""
    array: FloatArray = check_array(
        features, dtype=np.float64, ensure_min_samples=0, input_name=name
    )
    if len(array) < min_rows:
        raise ValueError(
            f"{name} has {len(array)} row{'s' if len(array) != 1 else ''}; at least "
            f"{min_rows} are needed, one per text."
        )
    return array


def unit_rows(name: str, features: Any, *, min_rows: int = 1) -> FloatArray:
    """Return features with rows of unit length, else raise."""
    array = as_features(name, features, min_rows=min_rows)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    zero = np.flatnonzero(norms == 0)
    if len(zero):
        raise ValueError(
            f"{name} has a zero vector in row {zero[0]}, which has no direction; "
            f"{len(zero)} in all. Drop such rows."
        )
    return np.asarray(array / norms)


def centre(features: FloatArray) -> FloatArray:
    """Subtract the mean; what is left of equal rows is exactly 0."""
    centred = features - features.mean(axis=0)
    if np.linalg.norm(centred) <= _FLOAT_NOISE * np.linalg.norm(features):
        centred[:] = 0.0
    return np.asarray(centred)
