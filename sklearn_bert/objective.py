"""The linear model of labels that a representation is learned with, and its minimisers.

One vector of parameters holds the logits of layers, a query, a linear head and its
intercepts; the loss of labels and one L2 penalty make the objective. Its gradient is
written out in NumPy. How features are read, weighted and pooled on the way to the head
is not known here: a `Source` adds its loss and gradient, of all texts or of some.

Level 1 of the module map: imports `_validation`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ._validation import check_indicator, check_labels, check_several_classes

__all__ = ["Labels", "Objective", "Parts", "Source", "check_learnable"]

FloatArray = NDArray[np.float32]
Indices = NDArray[np.intp]
Theta = NDArray[np.float64]
OnStep = Callable[[Callable[[], Theta]], bool]  # is given what was reached

# Of layer logits, query, head and intercepts. Measured on nine tasks of 800 texts: with
# 1 on the query it learns single words by heart, with 10 it finds too few that count.
_PENALTIES = (0.1, 3.0, 1.0, 0.0)
# By how much the logits' axes are stretched for the minimiser. On nine tasks it takes a
# tenth more steps with 5, and up to half as many more with 2 or 12. Beside a query it
# stays shorter: a long first step may choose a layer before the query finds its token.
_STRETCH, _STRETCH_BESIDE_QUERY = 8.0, 5.0
_ROWS_PER_FEATURE = 4  # from which the head's curvature is estimated
_MAX_FEATURES = 4096  # of more, each for itself: the root takes their square
# Of the largest slope: weights of layers are right to a hundredth, and a query to one
# per cent; what follows converges by itself.
_TOLERANCE = 5e-4
_MEMORY = 20  # steps that L-BFGS recalls; with 10 it takes up to an eighth more of them
# L-BFGS needs 10 to 100 passes. Where one reads more than this, and perhaps not from
# memory, mini-batches need five: 400,000 texts of 7 layers, 45,000 texts' token states,
# which a pass reads twice. Of layers in memory L-BFGS takes two thirds of the time
# (benchmarks/bench_mini_batches.py), and mini-batches move a weight by less than a
# tenth. Of tokens L-BFGS takes two to four times as long, and what is learned by
# either is within two points of accuracy.
_FULL_BYTES = 2**32
_EPOCHS = 5
_TEXTS_PER_STEP = 256
_STEP = 0.003  # of Adam, in coordinates in which the head's curvature is 1


class Source(Protocol):
    """Features of texts, as an objective reads them."""

    n_bytes: int  # that one pass reads

    def vectors(self, texts: Indices | None) -> FloatArray:
        """Return what the head sees of texts at the start, (n_texts, n_features)."""

    def add(self, parts: Parts, texts: Indices | None) -> tuple[float, Theta]:
        """Add gradients of texts; return their loss and its gradient for layers."""


@dataclass
class Parts:
    """A vector of parameters, taken apart; and the gradient of what is not shared."""

    weights: FloatArray  # (n_layers,), a softmax
    query: Theta
    head: FloatArray  # (n_features, n_outputs)
    intercepts: Theta
    theta: Theta
    gradient_of_query: Theta
    gradient_of_head: Theta
    gradient_of_intercepts: Theta


class Objective:
    """Softmax of layer logits, query, linear head and intercepts, in one vector.

    They share one L2 penalty of strength 1 / (C mass), times `_PENALTIES`: with `mass`
    the number of texts, or the sum of their weights.

    The mix's gamma is no parameter here: it scales what query and head multiply, so
    that only its product with them shows, and the best gamma for a product is known,
    see `gamma`. With both free, the minimiser creeps along a valley between them. Where
    a source standardizes what the head sees, there is no gamma at all.

    Parameters
    ----------
    labels : Labels
    n_features : int
        Of what the head sees.
    C : float
    n_layers : int, default=0
        To be weighted; 0 if layers are fixed.
    n_query : int, default=0
        Size of the query; 0 for none.
    has_gamma : bool, default=True
        Whether a scale is learned with the weights of layers.
    """

    def __init__(
        self,
        labels: Labels,
        n_features: int,
        C: float,
        *,
        n_layers: int = 0,
        n_query: int = 0,
        has_gamma: bool = True,
    ) -> None:
        self.labels = labels
        self._has_gamma = has_gamma and n_layers > 0
        self.n_layers = n_layers
        self.n_outputs = labels.targets.shape[1]
        self._shape = n_features, self.n_outputs
        sizes = [n_layers, n_query, n_features * self.n_outputs, self.n_outputs]
        self._ends = np.cumsum(sizes)
        self._strength = 1.0 / (C * labels.mass)
        self._penalty = np.repeat(np.array(_PENALTIES), sizes)

    def parts(self, theta: Theta) -> Parts:
        """Take a vector of parameters apart."""
        logits, query, head, intercepts = np.split(theta, self._ends[:-1])
        weights = np.exp(logits - logits.max(initial=-np.inf))
        return Parts(
            weights=(weights / weights.sum()).astype(np.float32),
            query=query,
            head=head.reshape(self._shape).astype(np.float32),
            intercepts=intercepts,
            theta=theta,
            gradient_of_query=np.zeros_like(query),
            gradient_of_head=np.zeros(self._shape),
            gradient_of_intercepts=np.zeros_like(intercepts),
        )

    def add_head(
        self, parts: Parts, vectors: FloatArray, which: Indices
    ) -> tuple[float, FloatArray]:
        """Add the head's gradient; return the loss of texts and its gradient for them.

        Parameters
        ----------
        parts : Parts
        vectors : ndarray of shape (n_which, n_features)
        which : ndarray of shape (n_which,)
            The texts that they belong to.
        """
        scores = (vectors @ parts.head).astype(np.float64) + parts.intercepts
        loss, residual = self.labels.loss(scores, which)
        residual32 = residual.astype(np.float32)
        parts.gradient_of_head += vectors.T @ residual32
        parts.gradient_of_intercepts += residual.sum(axis=0)
        return loss, residual32 @ parts.head.T

    def gamma(self, theta: Theta) -> float:
        """Return the gamma that is best for these products of it with query and head.

        It minimises squares / gamma**2 + log(gamma)**2.
        """
        from scipy.special import lambertw

        shared = slice(self._ends[0], None)
        squares = float((self._penalty[shared] * theta[shared] ** 2).sum())
        return float(np.exp(lambertw(2.0 * squares).real / 2.0))

    def minimise(self, source: Source, max_iter: int, on_step: OnStep | None) -> Theta:
        """Return the parameters that explain the labels best.

        By L-BFGS; where a pass reads more than 4 GB by Adam on mini-batches, from the
        head alone on `Source.vectors`. Both work in coordinates in which the head's
        curvature is about 1 in all directions: features of one encoder are so alike
        that the minimiser takes twice the steps without.

        L-BFGS does not begin with that head: with a weak penalty a head that explains
        the labels by layers all alike leaves no slope to learn their weights by.
        """
        start, axes = np.zeros_like(self._penalty), self._axes(source)

        def of_all(theta: Theta) -> tuple[float, Theta]:
            parts = self.parts(theta)
            loss, slopes = source.add(parts, None)
            return self._finish(parts, loss, slopes)

        if source.n_bytes <= _FULL_BYTES:
            return self._descend(of_all, axes, start, max_iter, on_step)
        vectors = source.vectors(None)
        every = np.arange(len(vectors))

        def of_head(theta: Theta) -> tuple[float, Theta]:
            parts = self.parts(theta)
            loss, _ = self.add_head(parts, vectors, every)
            return self._finish(parts, loss, np.zeros(len(parts.weights)))

        # Steps of the head alone are none of the representation: they are not told.
        theta = self._descend(of_head, axes, start, max_iter, None)
        return self._descend_by_parts(source, axes, theta, max_iter, on_step)

    def _axes(self, source: Source) -> _Axes:
        """Return coordinates in which the curvature at the start is about 1."""
        from scipy.linalg import cholesky

        n_texts, n_features = len(self.labels.targets), self._shape[0]
        every = max(1, n_texts // (_ROWS_PER_FEATURE * n_features))
        some = np.arange(0, n_texts, every)
        weights = self.labels.curvature * every * self.labels.share_of_rows[some]
        rows = source.vectors(some) * np.sqrt(weights)[:, np.newaxis]
        squares = np.einsum("nf,nf->f", rows, rows) + self._strength
        layers, query, head = self._ends[:3]
        if n_features > _MAX_FEATURES:
            root = np.sqrt(squares)[:, np.newaxis]
        else:
            curvature = rows.T @ rows
            ridge = max(self._strength, 1e-8 * squares.max())  # where it is singular
            curvature[np.diag_indices(n_features)] += ridge
            root = cholesky(curvature, lower=True, overwrite_a=True)
        stretch = _STRETCH_BESIDE_QUERY if query > layers else _STRETCH
        return _Axes(root, self._shape, slice(0, layers), slice(query, head), stretch)

    def _finish(self, parts: Parts, loss: float, slopes: Theta) -> tuple[float, Theta]:
        """Return the objective and its gradient, given that of the layers' weights."""
        weights, penalty = parts.weights, self._penalty * parts.theta
        of_logits: Theta = np.empty(0)
        if len(weights):
            of_logits = weights * (slopes - weights @ slopes)
        gradient = np.concatenate(
            [
                of_logits,
                parts.gradient_of_query,
                parts.gradient_of_head.ravel(),
                parts.gradient_of_intercepts,
            ]
        )
        squares = penalty * parts.theta
        total = squares.sum()
        if self._has_gamma:
            n_layers = len(weights)
            gamma = self.gamma(parts.theta)
            penalty[n_layers:] /= gamma**2
            total = squares[:n_layers].sum() + np.log(gamma) + np.log(gamma) ** 2
        loss += 0.5 * self._strength * float(total)
        return loss, gradient + self._strength * penalty

    def _descend(
        self,
        function: Callable[[Theta], tuple[float, Theta]],
        axes: _Axes,
        start: Theta,
        max_iter: int,
        on_step: OnStep | None,
    ) -> Theta:
        """Return what L-BFGS finds, or had reached when the caller ended it."""
        from scipy.optimize import minimize
        from sklearn.exceptions import ConvergenceWarning

        # Slopes are spread over the outputs.
        options = {
            "maxiter": max_iter, "gtol": _TOLERANCE / np.sqrt(self.n_outputs),
            "ftol": 64 * np.finfo(float).eps, "maxcor": _MEMORY,
        }  # fmt: skip

        def along_axes(u: Theta) -> tuple[float, Theta]:
            loss, gradient = function(axes.theta(u))
            return loss, axes.gradient(gradient)

        reached = begin = axes.coordinates(start)
        is_ended = False

        def after_step(u: Theta) -> None:
            nonlocal reached, is_ended
            reached = u.copy()
            if on_step is not None and on_step(partial(axes.theta, reached)):
                is_ended = True
                raise StopIteration

        try:
            found = minimize(
                along_axes, begin, jac=True, method="L-BFGS-B", options=options,
                callback=after_step,
            )  # fmt: skip
        except StopIteration:  # SciPy 1.11 and later end by themselves
            return axes.theta(reached)
        if not is_ended and found.nit >= max_iter:
            warnings.warn(
                f"{self.labels.who} did not converge in {max_iter} steps of L-BFGS; "
                "standardize features, or allow more with max_iter.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return axes.theta(reached if is_ended else found.x)

    def _descend_by_parts(
        self,
        source: Source,
        axes: _Axes,
        start: Theta,
        max_iter: int,
        on_step: OnStep | None,
    ) -> Theta:
        """Return what Adam finds in a few epochs of mini-batches; bitwise repeatable.

        The steps shrink linearly to 0, so that the noise of mini-batches averages out.
        """
        u = axes.coordinates(start)
        mean, square = np.zeros_like(u), np.zeros_like(u)
        n_texts = len(self.labels.targets)
        n_steps = -(-n_texts // _TEXTS_PER_STEP)
        random = np.random.default_rng(0)
        i, n_epochs = 0, min(_EPOCHS, max_iter)
        for _ in range(n_epochs):
            order = random.permutation(n_texts)
            for texts in np.array_split(order, n_steps):
                parts = self.parts(axes.theta(u))
                loss, slopes = source.add(parts, np.sort(texts))
                scale = n_texts / len(texts)
                parts.gradient_of_query *= scale
                parts.gradient_of_head *= scale
                parts.gradient_of_intercepts *= scale
                _, gradient = self._finish(parts, loss * scale, slopes * scale)
                gradient = axes.gradient(gradient)
                i += 1
                mean += 0.1 * (gradient - mean)
                square += 0.01 * (gradient**2 - square)
                rate = _STEP * (1 - i / (n_epochs * n_steps + 1))
                way = mean / (1 - 0.9**i)
                u -= rate * way / (np.sqrt(square / (1 - 0.99**i)) + 1e-8)
            if on_step is not None and on_step(partial(axes.theta, u.copy())):
                break
        return axes.theta(u)


class _Axes(NamedTuple):
    """Coordinates for a minimiser: those of a head whose curvature is root @ root.T."""

    root: Theta  # (n_features, n_features), lower triangular; or (n_features, 1)
    shape: tuple[int, int]  # of the head
    logits: slice
    head: slice
    stretch: float  # of the logits

    def theta(self, u: Theta) -> Theta:
        """Return parameters from coordinates."""
        return self._changed(u, 1, lambda head: self._solved(head, "T"))

    def coordinates(self, theta: Theta) -> Theta:
        """Return coordinates from parameters."""
        return self._changed(theta, -1, self._multiplied)

    def gradient(self, gradient: Theta) -> Theta:
        """Return the gradient for coordinates from that for parameters."""
        return self._changed(gradient, 1, lambda head: self._solved(head, "N"))

    def _changed(
        self, given: Theta, power: int, of_head: Callable[[Theta], Theta]
    ) -> Theta:
        changed = given.copy()
        changed[self.logits] *= self.stretch**power
        changed[self.head] = of_head(given[self.head].reshape(self.shape)).ravel()
        return changed

    def _multiplied(self, head: Theta) -> Theta:
        product: Theta = (
            self.root * head if self.root.shape[1] == 1 else self.root.T @ head
        )
        return product

    def _solved(self, head: Theta, trans: str) -> Theta:
        from scipy.linalg import solve_triangular

        if self.root.shape[1] == 1:
            return head / self.root
        solved: Theta = solve_triangular(self.root, head, trans=trans, lower=True)
        return solved


class Labels:
    """Targets of texts, and what a linear model of them costs.

    Parameters
    ----------
    y : array-like of shape (n_texts,) or (n_texts, n_outputs)
    n_texts : int
    sample_weight : ndarray of shape (n_texts,) or (n_texts, n_outputs), or None
    who : str
        The parameter that learns, for messages.

    Attributes
    ----------
    targets : ndarray of shape (n_texts, n_outputs)
    mass : float
        The sum of weights, the mean over outputs; n_texts without weights.
    share : ndarray of shape (n_texts, 1) or (n_texts, n_outputs)
        What a text counts; the mean over outputs sums to 1.
    share_of_rows : ndarray of shape (n_texts,)
        The mean of it over outputs.
    curvature : float
        Second derivative of a text's loss by a score of 0, of one output.
    """

    def __init__(
        self,
        y: Any,
        n_texts: int,
        sample_weight: NDArray[np.float64] | None,
        who: str,
    ) -> None:
        self.targets, self._is_classes, self._is_squared = _encode_target(
            y, n_texts, who
        )
        self.who = who
        weights = np.ones(n_texts) if sample_weight is None else sample_weight
        weights = weights.reshape(n_texts, -1)
        self.mass = float(weights.mean(axis=1).sum())
        self.share = weights / self.mass
        self.share_of_rows = self.share.mean(axis=1)
        self.curvature = 1.0 if self._is_squared else 0.25
        if self._is_classes:
            self.curvature = 1.0 / self.targets.shape[1]

    def loss(
        self, scores: NDArray[np.float64], which: NDArray[np.intp]
    ) -> tuple[float, NDArray[np.float64]]:
        """Return the loss of texts and its gradient for their scores."""
        from scipy.special import expit

        targets, share = self.targets[which], self.share[which]
        if self._is_squared:
            residual = scores - targets
            losses = 0.5 * residual**2
        elif self._is_classes:
            scores = scores - scores.max(axis=1, keepdims=True)
            log_total = np.log(np.exp(scores).sum(axis=1, keepdims=True))
            losses = log_total - (scores * targets).sum(axis=1, keepdims=True)
            residual = np.exp(scores - log_total) - targets
        else:
            losses = np.logaddexp(0.0, scores) - targets * scores
            residual = expit(scores) - targets
        return float((losses * share).sum()), residual * share


def check_learnable(y: Any, n_texts: int, who: str) -> tuple[str, NDArray[Any]]:
    """Return the kind of a target, and it: classes, or numbers in columns.

    Raises ValueError where it is none to learn from.
    """
    from sklearn.utils.multiclass import type_of_target

    if y is None:
        raise ValueError(
            f"{who} learns from y, got y=None; pass labels to fit, or choose 'mean'."
        )
    y = check_labels(y)
    n_rows = len(y) if y.ndim else 0
    if n_rows != n_texts or not n_texts:
        raise ValueError(f"y has {n_rows} rows for {n_texts} texts in X.")
    kind = type_of_target(y, input_name="y", raise_unknown=True)
    if kind == "multiclass" and _are_numbers(y):
        kind = "continuous"
    if kind in ("binary", "multiclass"):
        check_several_classes(y, who)
        return kind, y.ravel()
    try:
        targets = y.reshape(len(y), -1).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{who} learns from one column of classes, a multilabel indicator or "
            "numbers, got several columns that are no numbers."
        ) from error
    if kind == "multilabel-indicator":
        check_indicator(targets)
    elif kind not in ("continuous", "continuous-multioutput", "multiclass-multioutput"):
        raise ValueError(
            f"{who} learns from classes, a multilabel indicator or numbers, got y of "
            f"type {kind!r}."
        )
    return kind, targets


def _encode_target(
    y: Any, n_texts: int, who: str
) -> tuple[NDArray[np.float64], bool, bool]:
    """Return targets of shape (n_texts, n_outputs), is_classes, is_squared."""
    kind, y = check_learnable(y, n_texts, who)
    if kind in ("binary", "multiclass"):
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) == 2:  # one column, as in LogisticRegression
            return codes[:, np.newaxis].astype(np.float64), False, False
        return np.eye(len(classes))[codes], True, False
    if kind == "multilabel-indicator":
        return y, False, False
    spread = y.std(axis=0)
    spread[spread == 0] = 1.0
    return (y - y.mean(axis=0)) / spread, False, True


def _are_numbers(y: NDArray[Any]) -> bool:
    """Whether whole numbers are too many, for too few texts, to be classes."""
    n_distinct = len(np.unique(y))
    return y.dtype.kind in "iuf" and n_distinct > 20 and len(y) < 5 * n_distinct
