"""What labels teach about a representation: weights of layers, a query over tokens.

Both are learned on frozen features together with a linear model of the labels, which is
then discarded: what remains says how to make one vector of a text, and any classifier
may follow. The objective and its gradient are written out in NumPy, so nothing here
needs a forward pass or torch.

Level 2 of the module map: imports `layers` and `ragged`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .layers import ScalarMix
from .ragged import Ragged, starts_of

__all__ = ["attend", "fit_scalar_mix", "fit_token_attention"]

FloatArray = NDArray[np.float32]
Theta = NDArray[np.float64]
OnStep = Callable[[], bool]

# Of layer logits, query, head and intercepts. Measured on six tasks of 1,000 texts:
# with less on the query it learns single words by heart, with more it finds no token
# that counts.
_PENALTIES = (0.1, 10.0, 1.0, 0.0)
# By how much the logits' axis is stretched for the minimiser, which then needs half of
# the steps; less and more were worse on four tasks.
_STRETCH = 3.0
_FEW_OUTPUTS = 16  # of the linear model; measured on 7 layers of 384
_MAX_CONVERTED = 2**28  # numbers, a gigabyte: more are converted batch by batch
_BATCH_BYTES = 2**22  # of token states worked on at once: they stay in the cache


def fit_scalar_mix(
    block: FloatArray,
    y: Any,
    *,
    C: float = 0.01,
    sample_weight: NDArray[np.float64] | None = None,
    scale_layers: bool = True,
    max_iter: int = 1000,
    on_step: OnStep | None = None,
) -> ScalarMix:
    """Learn layer weights and gamma jointly with a linear head on stored features.

    Layers are first divided by their standard deviation, since raw weights mislead
    where layer norms differ (Fayyaz et al. 2021). Then softmax weights, gamma and a
    linear model are fitted together by L-BFGS: multinomial logistic loss for classes,
    logistic loss per label for a multilabel indicator, squared loss on the
    standardised target for numbers. The linear model is discarded.

    Parameters
    ----------
    block : ndarray of shape (n_texts, n_poolings, n_layers, width)
        Stored features; all poolings share the layer weights.
    y : array-like of shape (n_texts,) or (n_texts, n_outputs)
        Target. Whole numbers are classes, unless there are more than 20 distinct ones
        and fewer than 5 texts for each: then they are numbers.
    C : float, default=0.01
        Inverse strength of the L2 penalty on the linear model and log(gamma), which
        makes their scales unique; the layer logits get a tenth of it, which keeps
        weights near equal until the data speak (measured on four tasks of 1,000 texts:
        less overfits, more learns nothing).
    sample_weight : ndarray of shape (n_texts,), default=None
        Weight of each text in the loss.
    scale_layers : bool, default=True
        Whether layers are divided by their standard deviation first.
    max_iter : int, default=1000
        Largest number of L-BFGS iterations.
    on_step : callable, default=None
        Called after each of them; learning ends where it returns True.

    Returns
    -------
    ScalarMix

    References
    ----------
    Peters et al. 2018, "Deep contextualized word representations", equation 1;
    Fayyaz et al. 2021, "Not All Models Localize Linguistic Knowledge in the Same
    Place".
    """
    labels = _Labels(y, len(block), sample_weight, "layer_combination='scalar_mix'")
    n_texts, n_poolings, n_layers, width = block.shape
    means, scales = _moments_of_texts(block, labels.share)
    if not scale_layers:
        scales = np.ones_like(scales)
    n_features = n_poolings * width
    model = _Model(labels, n_features, C, n_layers=n_layers)
    # Parts that fit in the cache, each (n_texts_in_it, n_layers, n_features).
    size = max(1, _BATCH_BYTES // (4 * n_layers * n_features))
    spans = [np.arange(a, min(a + size, n_texts)) for a in range(0, n_texts, size)]
    layers = [
        np.moveaxis((block[span] - means) / scales[:, :, np.newaxis], 2, 1).reshape(
            len(span), n_layers, n_features
        )
        for span in spans
    ]
    # With few outputs each layer is projected; with many, layers are mixed first.
    add = model.add_projected if model.n_outputs <= _FEW_OUTPUTS else model.add_mixed

    def objective(theta: Theta) -> tuple[float, Theta]:
        parts = model.parts(theta)
        loss, slopes = 0.0, np.zeros(n_layers)
        for which, part in zip(spans, layers, strict=True):
            of_part, of_layers = add(parts, part, which)
            loss += of_part
            slopes += of_layers
        return model.finish(parts, loss, slopes)

    return model.mix(model.minimise(objective, max_iter, on_step), scales)


def fit_token_attention(
    rows: Ragged,
    y: Any,
    *,
    learns_layers: bool = False,
    C: float = 0.01,
    sample_weight: NDArray[np.float64] | None = None,
    scale_layers: bool = True,
    max_iter: int = 1000,
    on_step: OnStep | None = None,
) -> tuple[FloatArray, ScalarMix | None]:
    """Learn which tokens count: a query, jointly with a linear head.

    A text's vector is the mean of its token states weighted by a softmax over
    ``states @ query``. The query begins at zero, where that is the plain mean, and is
    fitted with the linear model, and if asked with the layer weights, by L-BFGS. States
    are standardised for the fit: each feature of one layer, each layer of several.

    Parameters
    ----------
    rows : Ragged
        Token states of the texts, values of shape (n_rows, n_layers, width); one layer
        unless `learns_layers`.
    y : array-like of shape (n_texts,) or (n_texts, n_outputs)
        As in `fit_scalar_mix`.
    learns_layers : bool, default=False
        Whether layers are weighted as in `fit_scalar_mix`, before tokens are.
    C : float, default=0.01
        Inverse strength of the L2 penalty on the linear model and log(gamma); the
        query gets ten times as much of it.
    sample_weight : ndarray of shape (n_texts,), default=None
    scale_layers : bool, default=True
        Whether states are standardised.
    max_iter : int, default=1000
    on_step : callable, default=None
        As in `fit_scalar_mix`.

    Returns
    -------
    query : ndarray of shape (width,), float32
        For states as they are, or as the mix makes them.
    mix : ScalarMix or None
        Only with `learns_layers`.

    References
    ----------
    Yang et al. 2016, "Hierarchical Attention Networks for Document Classification",
    section 2.2, without its hidden layer; Lin et al. 2017, "A Structured Self-Attentive
    Sentence Embedding".
    """
    labels = _Labels(y, len(rows), sample_weight, "pooling='learned_attention'")
    rows = _in_float32(rows)
    _, n_layers, width = rows.values.shape
    means, scales = _moments(rows)  # (n_layers, width) each
    if learns_layers:
        scales = np.sqrt((scales**2).mean(axis=1, keepdims=True))
    scales = _spread(scales) if scale_layers else np.ones_like(scales)
    per_layer = scales[:, 0] if learns_layers else np.ones(1, dtype=np.float32)
    per_feature = np.ones(width, dtype=np.float32) if learns_layers else scales[0]
    n_mixed = n_layers if learns_layers else 0
    model = _Model(labels, width, C, n_layers=n_mixed, n_query=width)
    # With few outputs tokens are projected; with many, texts are pooled first.
    add = _add_projected if model.n_outputs <= _FEW_OUTPUTS else _add_pooled

    def objective(theta: Theta) -> tuple[float, Theta]:
        parts = model.parts(theta)
        factors = (parts.weights if learns_layers else np.ones(1)) / per_layer
        frame = _Frame(factors.astype(np.float32), means, per_feature)
        loss, slopes = 0.0, np.zeros(n_layers)
        for which, states in rows.batches(_rows_per_batch(rows)):
            states = states.astype(np.float32, copy=False)
            counts = rows.counts[which]
            of_batch, of_layers = add(model, parts, states, counts, which, frame)
            loss += of_batch
            slopes += of_layers
        return model.finish(parts, loss, slopes / per_layer)

    theta = model.minimise(objective, max_iter, on_step)
    query = model.parts(theta).query / per_feature
    mix = None
    if learns_layers:
        mix = model.mix(theta, per_layer[np.newaxis])
        query /= mix.gamma
    return query.astype(np.float32), mix


class _Frame(NamedTuple):
    """What stands between token states and the vectors that the linear model sees."""

    factors: FloatArray  # (n_layers,)
    means: FloatArray  # (n_layers, width)
    per_feature: FloatArray  # (width,)


# Of a batch of token states, (n_rows, n_layers, width), two ways of the same: add the
# gradients of query and head, return the loss and its gradient for the layers' factors.


def _add_pooled(
    model: _Model,
    parts: _Parts,
    states: FloatArray,
    counts: NDArray[np.intp],
    which: NDArray[np.intp],
    frame: _Frame,
) -> tuple[float, Theta]:
    factors, means, per_feature = frame
    query = (parts.query / per_feature).astype(np.float32)
    mixed = _mixed(states, factors)  # (n_rows, width)
    weights = _softmax(mixed @ query, counts)
    vectors = _pooled(mixed, weights, counts) - factors @ means
    vectors /= per_feature
    loss, towards = model.add_head(parts, vectors, which)
    towards /= per_feature
    # From the texts' vectors back to their tokens' weights and states.
    of_token = np.repeat(towards, counts, axis=0)
    pull = _pull(np.einsum("nw,nw->n", mixed, of_token), weights, counts)
    parts.gradient_of_query += (pull @ mixed) / per_feature
    of_token *= weights[:, np.newaxis]
    of_token += pull[:, np.newaxis] * query
    slopes = np.matmul(states, of_token[:, :, np.newaxis]).sum(axis=(0, 2))
    return loss, slopes - means @ towards.sum(axis=0)


def _add_projected(
    model: _Model,
    parts: _Parts,
    states: FloatArray,
    counts: NDArray[np.intp],
    which: NDArray[np.intp],
    frame: _Frame,
) -> tuple[float, Theta]:
    factors, means, per_feature = frame
    n_rows, n_layers, width = states.shape
    head = parts.head / per_feature[:, np.newaxis]
    query = (parts.query / per_feature).astype(np.float32)
    columns = np.column_stack([query, head])  # (width, 1 + n_outputs)
    projected = (states.reshape(-1, width) @ columns).reshape(n_rows, n_layers, -1)
    projected = np.einsum("nlk,l->nk", projected, factors)
    weights = _softmax(projected[:, 0], counts)
    of_tokens = projected[:, 1:]
    centre = factors @ means
    scores = _pooled(of_tokens, weights, counts) - centre @ head + parts.intercepts
    loss, residual = model.labels.loss(scores, which)
    parts.gradient_of_intercepts += residual.sum(axis=0)
    of_rows = np.repeat(residual.astype(np.float32), counts, axis=0)
    pull = _pull((of_tokens * of_rows).sum(axis=1), weights, counts)
    slope = np.column_stack([pull, weights[:, np.newaxis] * of_rows])
    # (1 + n_outputs, n_layers, width)
    by_layer = (slope.T @ states.reshape(n_rows, -1)).reshape(-1, n_layers, width)
    of_columns = np.einsum("klw,l->wk", by_layer, factors) / per_feature[:, np.newaxis]
    total = residual.sum(axis=0)
    parts.gradient_of_query += of_columns[:, 0]
    parts.gradient_of_head += of_columns[:, 1:] - np.outer(centre / per_feature, total)
    slopes = np.einsum("klw,wk->l", by_layer, columns).astype(np.float64)
    return loss, slopes - means @ (head @ total)


def _pull(
    slopes: FloatArray, weights: FloatArray, counts: NDArray[np.intp]
) -> FloatArray:
    """Return the gradient for the scores of a softmax from that for its weights."""
    pull = slopes - np.repeat(_sums(weights * slopes, counts), counts)
    return pull * weights


def attend(
    rows: Ragged, query: FloatArray, factors: FloatArray | None = None
) -> tuple[FloatArray, Ragged]:
    """Pool token states by a query.

    Parameters
    ----------
    rows : Ragged
        Values of shape (n_rows, n_layers, width).
    query : ndarray of shape (width,)
    factors : ndarray of shape (n_layers,), default=None
        Of the layers; None is 1 for the one that there is.

    Returns
    -------
    vectors : ndarray of shape (n_texts, width), float32
        Zeros for a text without a token.
    weights : Ragged
        Of the tokens, values of shape (n_rows,); they sum to 1 in each text.
    """
    if factors is None:
        factors = np.ones(1, dtype=np.float32)
    vectors = np.empty((len(rows), len(query)), dtype=np.float32)
    of_rows = np.empty(int(rows.counts.sum()), dtype=np.float32)
    starts = starts_of(rows.counts)
    for which, states in rows.batches(_rows_per_batch(rows)):
        counts = rows.counts[which]
        mixed = _mixed(states, factors)
        weights = _softmax(mixed @ query, counts)
        vectors[which] = _pooled(mixed, weights, counts)
        for i, part in zip(which, Ragged.end_to_end(weights, counts), strict=True):
            of_rows[starts[i] : starts[i] + len(part)] = part
    return vectors, Ragged.end_to_end(of_rows, rows.counts)


# Sums over the tokens of each text


def _rows_per_batch(rows: Ragged) -> int:
    _, n_layers, width = rows.values.shape
    return max(1, _BATCH_BYTES // (4 * n_layers * width))


def _in_float32(rows: Ragged) -> Ragged:
    """Return states in the precision of the work, where that is not too large."""
    if rows.values.size > _MAX_CONVERTED or rows.values.dtype == np.float32:
        return rows
    return Ragged(rows.values.astype(np.float32), rows.starts, rows.counts)


def _mixed(states: NDArray[Any], factors: FloatArray) -> FloatArray:
    """Return a weighted sum of layers, (n_rows, width)."""
    states = states.astype(np.float32, copy=False)
    if states.shape[1] == 1:
        return states[:, 0] * factors[0] if factors[0] != 1 else states[:, 0]
    mixed: FloatArray = np.matmul(factors[np.newaxis, np.newaxis], states)[:, 0]
    return mixed


def _softmax(scores: FloatArray, counts: NDArray[np.intp]) -> FloatArray:
    """Return weights that sum to 1 over the tokens of each text."""
    counts = counts[counts > 0]
    if not len(counts):
        return scores
    largest = np.maximum.reduceat(scores, starts_of(counts))
    weights = np.exp(scores - np.repeat(largest, counts))
    weights /= np.repeat(np.add.reduceat(weights, starts_of(counts)), counts)
    return weights


def _sums(values: FloatArray, counts: NDArray[np.intp]) -> FloatArray:
    """Return the sum over the tokens of each text."""
    sums = np.zeros(len(counts), dtype=np.float32)
    if len(values):
        filled = counts > 0
        sums[filled] = np.add.reduceat(values, starts_of(counts[filled]))
    return sums


def _pooled(
    states: FloatArray, weights: FloatArray, counts: NDArray[np.intp]
) -> FloatArray:
    """Return the weighted sum of the tokens of each text, (n_texts, width)."""
    from scipy.sparse import csr_array

    ends = np.append(starts_of(counts), counts.sum())
    of_texts = csr_array(
        (weights, np.arange(len(weights)), ends), shape=(len(counts), len(weights))
    )
    pooled: FloatArray = of_texts @ states
    return pooled


def _moments(rows: Ragged) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation over all tokens, (n_layers, width) each."""
    sums = np.zeros((2, *rows.values.shape[1:]))
    for _, states in rows.batches(_rows_per_batch(rows)):
        states = states.astype(np.float32, copy=False)
        sums += states.sum(axis=0), np.einsum("nlw,nlw->lw", states, states)
    mean, square = sums / max(1, rows.counts.sum())
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    return mean.astype(np.float32), deviation.astype(np.float32)


def _moments_of_texts(
    block: FloatArray, share: NDArray[np.float64]
) -> tuple[FloatArray, FloatArray]:
    """Return weighted means, (n_poolings, n_layers, width), and spreads of layers."""
    shares = (share / share.sum()).astype(np.float32)[:, 0]
    means: FloatArray = np.tensordot(shares, block, axes=1)
    variances = np.zeros(block.shape[1:3])
    for start in range(0, len(block), 256):  # no second copy of the block
        part = block[start : start + 256] - means
        squares = np.einsum("nplw,nplw->npl", part, part) / block.shape[3]
        variances += np.tensordot(shares[start : start + 256], squares, axes=1)
    return means, _spread(np.sqrt(variances))


def _spread(deviations: FloatArray) -> FloatArray:
    """Return what to divide by; 1 where nothing varies."""
    return np.where(deviations > 0, deviations, np.float32(1.0)).astype(np.float32)


# The linear model of the labels, and what is learned with it


@dataclass
class _Parts:
    """A vector of parameters, taken apart; and the gradient of what is not shared."""

    weights: FloatArray  # (n_layers,), a softmax
    query: Theta
    head: FloatArray  # (n_features, n_outputs)
    intercepts: Theta
    theta: Theta
    gradient_of_query: Theta
    gradient_of_head: Theta
    gradient_of_intercepts: Theta


class _Model:
    """Softmax of layer logits, query, linear head and intercepts, in one vector.

    They share one L2 penalty of strength 1 / (C n_texts), times `_PENALTIES`.

    The mix's gamma is no parameter here: it scales what query and head multiply, so
    that only its product with them shows, and the best gamma for a product is known,
    see `_gamma`. With both free, the minimiser creeps along a valley between them.
    """

    def __init__(
        self,
        labels: _Labels,
        n_features: int,
        C: float,
        *,
        n_layers: int = 0,
        n_query: int = 0,
    ) -> None:
        self.labels = labels
        self.n_outputs = labels.targets.shape[1]
        self._shape = n_features, self.n_outputs
        sizes = [n_layers, n_query, n_features * self.n_outputs, self.n_outputs]
        self._ends = np.cumsum(sizes)
        self._strength = 1.0 / (C * len(labels.targets))
        self._penalty = np.repeat(np.array(_PENALTIES), sizes)
        self._stretch = np.repeat([_STRETCH, 1.0, 1.0, 1.0], sizes)

    def parts(self, theta: Theta) -> _Parts:
        logits, query, head, intercepts = np.split(theta, self._ends[:-1])
        weights = np.exp(logits - logits.max(initial=-np.inf))
        return _Parts(
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
        self, parts: _Parts, vectors: FloatArray, which: NDArray[np.intp]
    ) -> tuple[float, FloatArray]:
        """Add the head's gradient; return the loss of texts and its gradient for them.

        Parameters
        ----------
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

    # Of texts by layer, (n_which, n_layers, n_features), two ways of the same: both
    # return the loss and its gradient for the layers' factors.

    def add_mixed(
        self, parts: _Parts, layers: FloatArray, which: NDArray[np.intp]
    ) -> tuple[float, Theta]:
        loss, towards = self.add_head(parts, _mixed(layers, parts.weights), which)
        return loss, np.einsum("nlf,nf->l", layers, towards).astype(np.float64)

    def add_projected(
        self, parts: _Parts, layers: FloatArray, which: NDArray[np.intp]
    ) -> tuple[float, Theta]:
        n_texts, n_layers, n_features = layers.shape
        projected = (layers.reshape(-1, n_features) @ parts.head).reshape(
            n_texts, n_layers, self.n_outputs
        )
        scores = np.einsum("nlk,l->nk", projected, parts.weights)
        loss, residual = self.labels.loss(scores + parts.intercepts, which)
        parts.gradient_of_intercepts += residual.sum(axis=0)
        # (n_outputs, n_layers, n_features)
        by_layer = (
            residual.astype(np.float32).T @ layers.reshape(n_texts, -1)
        ).reshape(-1, n_layers, n_features)
        parts.gradient_of_head += np.einsum("klf,l->fk", by_layer, parts.weights)
        return loss, np.einsum("klf,fk->l", by_layer, parts.head).astype(np.float64)

    def finish(self, parts: _Parts, loss: float, slopes: Theta) -> tuple[float, Theta]:
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
        if len(weights):
            n_layers = len(weights)
            gamma = self._gamma(parts.theta)
            penalty[n_layers:] /= gamma**2
            total = squares[:n_layers].sum() + np.log(gamma) + np.log(gamma) ** 2
        loss += 0.5 * self._strength * float(total)
        return loss, gradient + self._strength * penalty

    def _gamma(self, theta: Theta) -> float:
        """Return the gamma that is best for these products of it with query and head.

        It minimises squares / gamma**2 + log(gamma)**2.
        """
        from scipy.special import lambertw

        shared = slice(self._ends[0], None)
        squares = float((self._penalty[shared] * theta[shared] ** 2).sum())
        return float(np.exp(lambertw(2.0 * squares).real / 2.0))

    def minimise(
        self,
        objective: Callable[[Theta], tuple[float, Theta]],
        max_iter: int,
        on_step: OnStep | None,
    ) -> Theta:
        from scipy.optimize import minimize
        from sklearn.exceptions import ConvergenceWarning

        start = np.zeros_like(self._penalty)
        # Weights are right to a hundredth then; what follows converges by itself.
        options = {
            "maxiter": max_iter, "gtol": 3e-4, "ftol": 64 * np.finfo(float).eps,
        }  # fmt: skip

        def stretched(theta: Theta) -> tuple[float, Theta]:
            loss, gradient = objective(theta * self._stretch)
            return loss, gradient * self._stretch

        reached = start

        def after_step(theta: Theta) -> None:
            nonlocal reached
            reached = theta.copy()
            if on_step is not None and on_step():
                raise StopIteration

        try:
            found = minimize(
                stretched, start, jac=True, method="L-BFGS-B", options=options,
                callback=after_step,
            )  # fmt: skip
        except StopIteration:  # SciPy 1.11 and later end by themselves
            return reached * self._stretch
        if found.nit >= max_iter:
            warnings.warn(
                f"{self.labels.who} did not converge in {max_iter} steps of L-BFGS; "
                "standardize features, or allow more with max_iter.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return np.asarray(found.x * self._stretch)

    def mix(self, theta: Theta, scales: FloatArray) -> ScalarMix:
        weights, gamma = self.parts(theta).weights, self._gamma(theta)
        return ScalarMix(weights, gamma, scales.astype(np.float32))


class _Labels:
    """Targets of texts, and what a linear model of them costs."""

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
        self.share = weights[:, np.newaxis] / n_texts

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


def _encode_target(
    y: Any, n_texts: int, who: str
) -> tuple[NDArray[np.float64], bool, bool]:
    """Return targets of shape (n_texts, n_outputs), is_classes, is_squared."""
    from sklearn.utils.multiclass import type_of_target

    if y is None:
        raise ValueError(
            f"{who} learns from y, got y=None; pass labels to fit, or choose 'mean'."
        )
    y = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
    n_rows = len(y) if y.ndim else 0
    if n_rows != n_texts or not n_texts:
        raise ValueError(f"y has {n_rows} rows for {n_texts} texts in X.")
    kind = type_of_target(y, input_name="y", raise_unknown=True)
    if kind == "multiclass" and _are_numbers(y):
        kind = "continuous"
    if kind in ("binary", "multiclass"):
        classes, codes = np.unique(y.ravel(), return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"{who} needs at least two classes in y, "
                f"got one class: {classes[:1].tolist()[0]!r}."
            )
        if len(classes) == 2:  # one column, as in LogisticRegression
            return codes[:, np.newaxis].astype(np.float64), False, False
        return np.eye(len(classes))[codes], True, False
    try:
        targets = y.reshape(len(y), -1).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{who} learns from one column of classes, a multilabel indicator or "
            "numbers, got several columns that are no numbers."
        ) from error
    if kind == "multilabel-indicator":
        return targets, False, False
    if kind in ("continuous", "continuous-multioutput", "multiclass-multioutput"):
        spread = targets.std(axis=0)
        spread[spread == 0] = 1.0
        return (targets - targets.mean(axis=0)) / spread, False, True
    raise ValueError(
        f"{who} learns from classes, a multilabel indicator or numbers, got y of type "
        f"{kind!r}."
    )


def _are_numbers(y: NDArray[Any]) -> bool:
    """Whether whole numbers are too many, for too few texts, to be classes."""
    n_distinct = len(np.unique(y))
    return y.dtype.kind in "iuf" and n_distinct > 20 and len(y) < 5 * n_distinct
