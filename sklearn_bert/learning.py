"""What labels teach about a representation: weights of layers, a query over tokens.

Both are learned on frozen features together with a linear model of the labels, which is
then discarded: what remains says how to make one vector of a text, and any classifier
may follow. Here lies how features become what that model sees, and back; the model and
its minimisers are in `objective`. All of it is NumPy: nothing needs a forward pass.

Level 2 of the module map: imports `layers`, `objective` and `ragged`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .layers import ScalarMix
from .objective import Labels, Objective, Parts, Theta
from .ragged import Ragged, starts_of

__all__ = ["as_classes", "attend", "fit_scalar_mix", "fit_token_attention"]

FloatArray = NDArray[np.float32]
Indices = NDArray[np.intp]
Attention = tuple[FloatArray, ScalarMix | None]  # a query, and weights of layers
Learned = TypeVar("Learned")

_FEW_OUTPUTS = 16  # of the linear model; measured on 7 layers of 384
_MAX_CONVERTED = 2**28  # numbers, a gigabyte: more are converted batch by batch
_BATCH_BYTES = 2**22  # of token states worked on at once: they stay in the cache


def as_classes(y: NDArray[Any]) -> NDArray[Any]:
    """Return labels as text, as which numbers are classes however many there are."""
    return y if y.ndim == 2 else np.unique(y, return_inverse=True)[1].astype(str)


def fit_scalar_mix(
    block: FloatArray,
    y: Any,
    *,
    C: float = 0.01,
    sample_weight: NDArray[np.float64] | None = None,
    scale_layers: bool = True,
    max_iter: int = 1000,
    on_step: Callable[[Callable[[], ScalarMix]], bool] | None = None,
    who: str = "layer_combination='scalar_mix'",
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
        Largest number of L-BFGS iterations, and of epochs of mini-batches, of which
        there are five.
    on_step : callable, default=None
        Called after each of them with a function that returns what was learned so far;
        learning ends where it returns True.
    who : str, default="layer_combination='scalar_mix'"
        The parameter that learns, for messages.

    Returns
    -------
    ScalarMix

    References
    ----------
    Peters et al. 2018, "Deep contextualized word representations", equation 1;
    Fayyaz et al. 2021, "Not All Models Localize Linguistic Knowledge in the Same
    Place".
    """
    labels = Labels(y, len(block), sample_weight, who)
    _, n_poolings, n_layers, width = block.shape
    objective = Objective(labels, n_poolings * width, C, n_layers=n_layers)
    layers = _Layers(block, objective, scale_layers=scale_layers)

    def learned(theta: Theta) -> ScalarMix:
        return _mix(objective, theta, layers.scales)

    return _minimise(objective, layers, max_iter, learned, on_step)


def _minimise(
    objective: Objective,
    source: _Layers | _Tokens,
    max_iter: int,
    learned: Callable[[Theta], Learned],
    on_step: Callable[[Callable[[], Learned]], bool] | None,
) -> Learned:
    """Return what the best parameters, or those where `on_step` ends, make."""

    def told(reached: Callable[[], Theta]) -> bool:
        return on_step is not None and bool(on_step(lambda: learned(reached())))

    return learned(objective.minimise(source, max_iter, told))


def _mix(objective: Objective, theta: Theta, scales: FloatArray) -> ScalarMix:
    weights = objective.parts(theta).weights
    return ScalarMix(weights, objective.gamma(theta), scales.astype(np.float32))


def fit_token_attention(
    rows: Ragged,
    y: Any,
    *,
    learns_layers: bool = False,
    C: float = 0.01,
    sample_weight: NDArray[np.float64] | None = None,
    scale_layers: bool = True,
    max_iter: int = 1000,
    on_step: Callable[[Callable[[], Attention]], bool] | None = None,
    who: str = "pooling='learned_attention'",
) -> Attention:
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
    who : str, default="pooling='learned_attention'"
        The parameter that learns, for messages.

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
    labels = Labels(y, len(rows), sample_weight, who)
    _, n_layers, width = rows.values.shape
    n_mixed = n_layers if learns_layers else 0
    objective = Objective(labels, width, C, n_layers=n_mixed, n_query=width)
    tokens = _Tokens(_in_float32(rows), objective, scale_layers=scale_layers)

    def learned(theta: Theta) -> Attention:
        query = objective.parts(theta).query / tokens.per_feature
        mix = None
        if learns_layers:
            mix = _mix(objective, theta, tokens.per_layer[np.newaxis])
            query /= mix.gamma
        return query.astype(np.float32), mix

    return _minimise(objective, tokens, max_iter, learned, on_step)


class _Layers:
    """Features by layer as the objective reads them: centred, scaled, and mixed.

    Parameters
    ----------
    block : ndarray of shape (n_texts, n_poolings, n_layers, width)
        Read in parts that fit in the cache; never copied as a whole.
    objective : Objective
    scale_layers : bool

    Attributes
    ----------
    scales : ndarray of shape (n_poolings, n_layers)
        What layers are divided by.
    """

    def __init__(
        self, block: FloatArray, objective: Objective, *, scale_layers: bool
    ) -> None:
        self._block, self._objective = block, objective
        self._means, self.scales = _moments_of_texts(
            block, objective.labels.share_of_rows
        )
        if not scale_layers:
            self.scales = np.ones_like(self.scales)
        self.n_bytes = block.nbytes
        self._size = max(1, _BATCH_BYTES // max(1, block[:1].nbytes))

    def vectors(self, texts: Indices | None) -> FloatArray:
        factors = 1 / (self.scales.shape[1] * self.scales)  # all layers alike
        parts = [self._mixed(part, factors) for _, part in self._batches(texts)]
        return np.concatenate(parts)

    def add(self, parts: Parts, texts: Indices | None) -> tuple[float, Theta]:
        # With few outputs all layers are projected at once; with many, they are mixed
        # first.
        if self._objective.n_outputs <= _FEW_OUTPUTS:
            return self._add_projected(parts, texts)
        return self._add_mixed(parts, texts)

    def _batches(self, texts: Indices | None) -> Iterator[tuple[Indices, FloatArray]]:
        n_texts = len(self._block if texts is None else texts)
        for start in range(0, n_texts, self._size):
            stop = min(start + self._size, n_texts)
            if texts is None:
                yield np.arange(start, stop), self._block[start:stop]
            else:
                yield texts[start:stop], self._block[texts[start:stop]]

    def _mixed(self, part: FloatArray, factors: FloatArray) -> FloatArray:
        """Return weighted sums of layers, centred, (n_which, n_features)."""
        mixed = np.matmul(factors[:, np.newaxis], part)[:, :, 0]
        mixed -= np.einsum("pl,plw->pw", factors, self._means)
        return mixed.reshape(len(part), -1)

    def _add_mixed(self, parts: Parts, texts: Indices | None) -> tuple[float, Theta]:
        n_poolings, n_layers, width = self._means.shape
        factors = parts.weights / self.scales
        loss, slopes = 0.0, np.zeros(n_layers)
        for which, part in self._batches(texts):
            mixed = self._mixed(part, factors)
            of_batch, towards = self._objective.add_head(parts, mixed, which)
            loss += of_batch
            towards = towards.reshape(len(which), n_poolings, width)
            of_layers = np.matmul(part, towards[..., np.newaxis])[..., 0].sum(axis=0)
            of_layers -= np.einsum("plw,pw->pl", self._means, towards.sum(axis=0))
            slopes += (of_layers / self.scales).sum(axis=0)
        return loss, slopes

    def _add_projected(
        self, parts: Parts, texts: Indices | None
    ) -> tuple[float, Theta]:
        n_poolings, _, width = self._means.shape
        factors = parts.weights / self.scales
        head = parts.head.reshape(n_poolings, width, -1)
        columns = np.einsum("pl,pwk->plwk", factors, head)
        columns = columns.reshape(-1, len(parts.intercepts))
        intercepts = parts.intercepts - self._means.ravel() @ columns
        loss, total = 0.0, np.zeros(len(intercepts))
        by_layer = np.zeros((len(intercepts), len(columns)))
        for which, part in self._batches(texts):
            part = part.reshape(len(which), len(columns))
            scores = part @ columns + intercepts
            of_batch, residual = self._objective.labels.loss(scores, which)
            loss += of_batch
            total += residual.sum(axis=0)
            by_layer += residual.T.astype(np.float32) @ part
        slopes = by_layer.reshape(-1, *self._means.shape)
        slopes -= np.multiply.outer(total, self._means)
        of_head = np.einsum("kplw,pl->pwk", slopes, factors)
        parts.gradient_of_head += of_head.reshape(parts.head.shape)
        parts.gradient_of_intercepts += total
        return loss, np.einsum("kplw,pwk,pl->l", slopes, head, 1 / self.scales)


class _Frame(NamedTuple):
    """What stands between token states and the vectors that the linear model sees."""

    factors: FloatArray  # (n_layers,)
    means: FloatArray  # (n_layers, width)
    per_feature: FloatArray  # (width,)


class _Tokens:
    """Token states as the objective reads them: scaled, mixed, and pooled by a query.

    Parameters
    ----------
    rows : Ragged
        Values of shape (n_rows, n_layers, width).
    objective : Objective
    scale_layers : bool

    Attributes
    ----------
    per_layer : ndarray of shape (n_layers,)
    per_feature : ndarray of shape (width,)
        What states are divided by: the one where layers are weighted, else the other.
    """

    def __init__(
        self, rows: Ragged, objective: Objective, *, scale_layers: bool
    ) -> None:
        self._rows, self._objective = rows, objective
        # (n_layers, width) each
        self._means, scales = _moments(rows, objective.labels.share_of_rows)
        n_layers, width = scales.shape
        self._learns_layers = objective.n_layers > 0
        if self._learns_layers:
            scales = np.sqrt((scales**2).mean(axis=1, keepdims=True))
        scales = _spread(scales) if scale_layers else np.ones_like(scales)
        alone = np.ones(1, dtype=np.float32)
        self.per_layer = scales[:, 0] if self._learns_layers else alone
        self.per_feature = np.repeat(alone, width) if self._learns_layers else scales[0]
        self.n_bytes = int(rows.counts.sum()) * n_layers * width * 4

    def _frame(self, weights: FloatArray) -> _Frame:
        factors = (weights if self._learns_layers else np.ones(1)) / self.per_layer
        return _Frame(factors.astype(np.float32), self._means, self.per_feature)

    def vectors(self, texts: Indices | None) -> FloatArray:
        rows = self._rows if texts is None else self._rows[texts]
        n_layers = len(self._means)
        factors, means, per_feature = self._frame(np.full(n_layers, 1 / n_layers, "f4"))
        query = np.zeros(len(per_feature), dtype=np.float32)
        vectors, _ = attend(rows, query, factors)
        vectors -= factors @ means
        vectors /= per_feature
        return vectors

    def add(self, parts: Parts, texts: Indices | None) -> tuple[float, Theta]:
        # With few outputs tokens are projected; with many, texts are pooled first.
        is_few = self._objective.n_outputs <= _FEW_OUTPUTS
        add = _add_projected if is_few else _add_pooled
        rows = self._rows if texts is None else self._rows[texts]
        frame = self._frame(parts.weights)
        loss, slopes = 0.0, np.zeros(len(frame.factors))
        for which, states in rows.batches(_rows_per_batch(rows)):
            states = states.astype(np.float32, copy=False)
            counts = rows.counts[which]
            if texts is not None:
                which = texts[which]
            of_batch, of_layers = add(
                self._objective, parts, states, counts, which, frame
            )
            loss += of_batch
            slopes += of_layers
        return loss, slopes / self.per_layer


# Of a batch of token states, (n_rows, n_layers, width), two ways of the same: add the
# gradients of query and head, return the loss and its gradient for the layers' factors.


def _add_pooled(
    objective: Objective,
    parts: Parts,
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
    loss, towards = objective.add_head(parts, vectors, which)
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
    objective: Objective,
    parts: Parts,
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
    of_layers = np.multiply.outer(factors, columns).reshape(n_layers * width, -1)
    states = states.reshape(n_rows, n_layers * width)
    projected = states @ of_layers
    weights = _softmax(projected[:, 0], counts)
    of_tokens = projected[:, 1:]
    centre = factors @ means
    scores = _pooled(of_tokens, weights, counts) - centre @ head + parts.intercepts
    loss, residual = objective.labels.loss(scores, which)
    parts.gradient_of_intercepts += residual.sum(axis=0)
    of_rows = np.repeat(residual.astype(np.float32), counts, axis=0)
    pull = _pull((of_tokens * of_rows).sum(axis=1), weights, counts)
    slope = np.column_stack([pull, weights[:, np.newaxis] * of_rows])
    # (1 + n_outputs, n_layers, width)
    by_layer = (slope.T @ states).reshape(-1, n_layers, width)
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
        first = starts[which[0]]  # texts come in order
        of_rows[first : first + len(weights)] = weights
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


def _moments(rows: Ragged, share: NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation over tokens, (n_layers, width) each.

    A token weighs what its text does.
    """
    sums, shares = np.zeros((2, *rows.values.shape[1:])), share / share.max()
    for which, states in rows.batches(_rows_per_batch(rows)):
        states = states.astype(np.float32, copy=False)
        weights = np.repeat(shares[which], rows.counts[which]).astype(np.float32)
        sums[0] += np.tensordot(weights, states, axes=1)
        sums[1] += np.einsum("n,nlw,nlw->lw", weights, states, states)
    mean, square = sums / max(float(shares @ rows.counts), np.finfo(np.float64).tiny)
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    return mean.astype(np.float32), deviation.astype(np.float32)


def _moments_of_texts(
    block: FloatArray, share: NDArray[np.float64]
) -> tuple[FloatArray, FloatArray]:
    """Return weighted means, (n_poolings, n_layers, width), and spreads of layers."""
    shares = (share / share.sum()).astype(np.float32)
    shift = block[:256].mean(axis=0)  # near the mean, so that one pass is exact
    sums, squares = np.zeros(shift.shape), np.zeros(shift.shape[:2])
    for start in range(0, len(block), 256):  # no second copy of the block
        part = block[start : start + 256] - shift
        of_part = shares[start : start + 256]
        sums += np.tensordot(of_part, part, axes=1)
        lengths = np.einsum("nplw,nplw->npl", part, part)
        squares += np.tensordot(of_part, lengths, axes=1)
    variances = (squares - (sums**2).sum(axis=2)) / block.shape[3]
    spreads = _spread(np.sqrt(np.maximum(variances, 0.0)))
    return (shift + sums).astype(np.float32), spreads


def _spread(deviations: FloatArray) -> FloatArray:
    """Return what to divide by; 1 where nothing varies."""
    return np.where(deviations > 0, deviations, np.float32(1.0)).astype(np.float32)
