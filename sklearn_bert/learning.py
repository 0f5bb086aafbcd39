"""What labels teach about a representation: weights of layers, a query over tokens.

Both are learned on frozen features together with a linear model of the labels, which is
then discarded: what remains says how to make one vector of a text, and any classifier
may follow. Here lies how features become what that model sees, and back; the model and
its minimisers are in `objective`. All of it is NumPy: nothing needs a forward pass.

Level 2 of the module map: imports `layers`, `objective` and `ragged`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

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
Rows = TypeVar("Rows", FloatArray, Ragged)

_FEW_OUTPUTS = 16  # of the linear model; measured on 7 layers of 384
_MAX_CONVERTED = 2**28  # numbers, a gigabyte: more are converted batch by batch
_BATCH_BYTES = 2**22  # of token states worked on at once: they stay in the cache
_ROUNDING = 1e-5  # of a mean: what varies less does not


def as_classes(y: NDArray[Any]) -> NDArray[Any]:
    """Return labels as text, as which numbers are classes however many there are."""
    return y if y.ndim == 2 else np.unique(y, return_inverse=True)[1].astype(str)


def fit_scalar_mix(
    block: FloatArray,
    y: Any,
    *,
    C: float = 0.01,
    sample_weight: NDArray[np.float64] | None = None,
    standardize: bool = True,
    max_iter: int = 1000,
    on_step: Callable[[Callable[[], ScalarMix]], bool] | None = None,
    who: str = "layer_combination='scalar_mix'",
) -> ScalarMix:
    """Learn layer weights jointly with a linear head on stored features.

    Layers are first divided by their standard deviation, since raw weights mislead
    where layer norms differ (Fayyaz et al. 2021). Then softmax weights and a linear
    model of the standardized mix are fitted together by L-BFGS: multinomial logistic
    loss for classes, logistic loss per label for a multilabel indicator, squared loss
    on the standardised target for numbers. The linear model is discarded; gamma is what
    gives features of the training texts a spread of 1.

    The linear model has to see what the one that follows will see. Of features that are
    not standardized a penalty wants those of large spread, whatever they say, and a
    weighting that makes them.

    Parameters
    ----------
    block : ndarray of shape (n_texts, n_poolings, n_layers, width)
        Stored features; all poolings share the layer weights.
    y : array-like of shape (n_texts,) or (n_texts, n_outputs)
        Target. Whole numbers are classes, unless there are more than 20 distinct ones
        and fewer than 5 texts for each: then they are numbers.
    C : float, default=0.01
        Inverse strength of the L2 penalty on the linear model; the layer logits get a
        tenth of it, which keeps weights near equal until the data speak (on nine tasks
        of 800 texts a hundredth differed by two points at most, either way; as much as
        the linear model gets lost up to four).
    sample_weight : ndarray of shape (n_texts,) or (n_texts, n_outputs), default=None
        Weight of each text in the loss; one of weight 0 is left out.
    standardize : bool, default=True
        Whether layers are divided by their standard deviation first, and what the
        linear model sees by that of each feature, as a `StandardScaler` before it does.
        Without it gamma is learned too, and log(gamma) shares the penalty.
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
    block, y, sample_weight = _counted(block, y, sample_weight)
    labels = Labels(y, len(block), sample_weight, who)
    _, n_poolings, n_layers, width = block.shape
    # Of standardized features a scale shows nowhere.
    objective = Objective(
        labels, n_poolings * width, C, n_layers=n_layers, has_gamma=not standardize
    )
    layers = _Layers(block, objective, standardizes=standardize)
    return _minimise(objective, layers, max_iter, layers.mix, on_step)


def _counted(
    features: Rows, y: Any, sample_weight: NDArray[np.float64] | None
) -> tuple[Rows, Any, NDArray[np.float64] | None]:
    """Return what belongs to texts that have a weight."""
    if sample_weight is None:
        return features, y, None
    counts = sample_weight.reshape(len(sample_weight), -1).any(axis=1)
    if counts.all():
        return features, y, sample_weight
    kept = np.flatnonzero(counts)
    return features[kept], np.asarray(y)[kept], sample_weight[kept]


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


def _gamma_of(spreads: FloatArray) -> float:
    """Return the gamma by which features of these spreads have one of 1."""
    return float(1 / np.sqrt(np.mean(spreads.astype(np.float64) ** 2)))


def fit_token_attention(
    rows: Ragged,
    y: Any,
    *,
    learns_layers: bool = False,
    C: float = 0.01,
    sample_weight: NDArray[np.float64] | None = None,
    standardize: bool = True,
    max_iter: int = 1000,
    on_step: Callable[[Callable[[], Attention]], bool] | None = None,
    who: str = "pooling='learned_attention'",
) -> Attention:
    """Learn which tokens count: a query, jointly with a linear head.

    A text's vector is the mean of its token states weighted by a softmax over
    ``states @ query``. The query begins at zero, where that is the plain mean, and is
    fitted with the linear model, and if asked with the layer weights, by L-BFGS. States
    are standardised for the fit: each feature of one layer, each layer of several; and
    so are the vectors of texts that the linear model sees. Without that, a penalty on
    the linear model is cheaper where few tokens count, as their states vary more than
    their means: the query then picks single words for no other reason.

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
        Inverse strength of the L2 penalty on the linear model; the query gets three
        times as much of it.
    sample_weight : ndarray of shape (n_texts,) or (n_texts, n_outputs), default=None
        As in `fit_scalar_mix`.
    standardize : bool, default=True
        Whether states are standardised, and the vectors of texts. Without it a gamma is
        learned as in `fit_scalar_mix`.
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
    rows, y, sample_weight = _counted(rows, y, sample_weight)
    labels = Labels(y, len(rows), sample_weight, who)
    _, n_layers, width = rows.values.shape
    objective = Objective(
        labels, width, C, n_layers=n_layers if learns_layers else 0, n_query=width,
        has_gamma=not standardize,
    )  # fmt: skip
    tokens = _Tokens(_in_float32(rows), objective, standardizes=standardize)

    def learned(theta: Theta) -> Attention:
        query = objective.parts(theta).query / tokens.per_feature
        mix = None
        if learns_layers:
            mix = tokens.mix(theta)
            query /= mix.gamma
        return query.astype(np.float32), mix

    return _minimise(objective, tokens, max_iter, learned, on_step)


class _Layers:
    """Features by layer as the objective reads them: mixed, and standardized.

    Parameters
    ----------
    block : ndarray of shape (n_texts, n_poolings, n_layers, width)
        Read in parts that fit in the cache; never copied as a whole.
    objective : Objective
    standardizes : bool
        Whether layers, and then what is made of them, have unit spread.

    Attributes
    ----------
    scales : ndarray of shape (n_poolings, n_layers)
        What layers are divided by.
    """

    def __init__(
        self, block: FloatArray, objective: Objective, *, standardizes: bool
    ) -> None:
        self._block, self._objective = block, objective
        share = objective.labels.share_of_rows
        self._means, self.scales, self._covariances = _moments_of_texts(block, share)
        self._standardizes = standardizes
        if not standardizes:
            self.scales = np.ones_like(self.scales)
        self.n_bytes = block.nbytes
        self._size = max(1, _BATCH_BYTES // max(1, block[:1].nbytes))
        self._is_backward = False  # the next pass

    def vectors(self, texts: Indices | None) -> FloatArray:
        factors = 1 / (self.scales.shape[1] * self.scales)  # all layers alike
        parts = [self._mixed(part, factors) for _, part in self._batches(texts)]
        vectors = np.concatenate(parts)
        if self._standardizes:
            vectors /= self._spreads(factors)[0].ravel()
        return vectors

    def add(self, parts: Parts, texts: Indices | None) -> tuple[float, Theta]:
        # With few outputs all layers are projected at once; with many, they are mixed
        # first.
        is_few = self._objective.n_outputs <= _FEW_OUTPUTS
        add = self._add_projected if is_few else self._add_mixed
        factors = parts.weights / self.scales
        if not self._standardizes:
            loss, slopes = add(parts, factors, texts)
            return loss, (slopes / self.scales).sum(axis=0)
        # A head on features that are divided by their spread is one of other weights
        # on features that are not; the spread follows the factors.
        spreads, towards = self._spreads(factors)
        columns = spreads.reshape(-1, 1)
        plain = replace(
            parts,
            head=parts.head / columns,
            gradient_of_head=np.zeros_like(parts.gradient_of_head),
        )
        loss, slopes = add(plain, factors, texts)
        parts.gradient_of_head += plain.gradient_of_head / columns
        of_spreads = -(plain.gradient_of_head * plain.head).sum(axis=1)
        of_spreads = of_spreads.reshape(spreads.shape) / spreads
        slopes += np.einsum("pw,pwl->pl", of_spreads, towards)
        return loss, (slopes / self.scales).sum(axis=0)

    def mix(self, theta: Theta) -> ScalarMix:
        """Return what parameters make of layers."""
        weights = self._objective.parts(theta).weights
        if not self._standardizes:
            return ScalarMix(weights, self._objective.gamma(theta), self.scales)
        spreads, _ = self._spreads(weights / self.scales)
        return ScalarMix(weights, _gamma_of(spreads), self.scales)

    def _spreads(self, factors: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the spread of each mixed feature, and its gradient for the factors.

        Of shape (n_poolings, width) and (n_poolings, width, n_layers).
        """
        towards = np.einsum("pwlm,pm->pwl", self._covariances, factors)
        variances = np.einsum("pwl,pl->pw", towards, factors)
        means = np.einsum("pl,plw->pw", factors, self._means)
        spreads = _spread_of(variances, means)
        return spreads, towards / spreads[..., np.newaxis]

    def _batches(
        self, texts: Indices | None, *, is_pass: bool = False
    ) -> Iterator[tuple[Indices, FloatArray]]:
        """Yield texts and their features; every other pass begins at the end.

        There it finds in the processor's cache what the pass before it read last.
        """
        n_texts = len(self._block if texts is None else texts)
        starts = range(0, n_texts, self._size)
        if is_pass:
            starts = starts[::-1] if self._is_backward else starts
            self._is_backward = not self._is_backward
        for start in starts:
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

    # Two ways of the same: add the gradients of the head, return the loss and its
    # gradient for the factors, (n_poolings, n_layers).

    def _add_mixed(
        self, parts: Parts, factors: FloatArray, texts: Indices | None
    ) -> tuple[float, Theta]:
        n_poolings, n_layers, width = self._means.shape
        loss, slopes = 0.0, np.zeros((n_poolings, n_layers))
        for which, part in self._batches(texts, is_pass=True):
            mixed = self._mixed(part, factors)
            of_batch, towards = self._objective.add_head(parts, mixed, which)
            loss += of_batch
            towards = towards.reshape(len(which), n_poolings, width)
            slopes += np.matmul(part, towards[..., np.newaxis])[..., 0].sum(axis=0)
            slopes -= np.einsum("plw,pw->pl", self._means, towards.sum(axis=0))
        return loss, slopes

    def _add_projected(
        self, parts: Parts, factors: FloatArray, texts: Indices | None
    ) -> tuple[float, Theta]:
        n_poolings, _, width = self._means.shape
        head = parts.head.reshape(n_poolings, width, -1)
        columns = np.einsum("pl,pwk->plwk", factors, head)
        columns = columns.reshape(-1, len(parts.intercepts))
        intercepts = parts.intercepts - self._means.ravel() @ columns
        loss, total = 0.0, np.zeros(len(intercepts))
        by_layer = np.zeros((len(intercepts), len(columns)))
        for which, part in self._batches(texts, is_pass=True):
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
        return loss, np.einsum("kplw,pwk->pl", slopes, head)


class _Tokens:
    """Token states as the objective reads them: mixed, pooled by a query, standardized.

    Parameters
    ----------
    rows : Ragged
        Values of shape (n_rows, n_layers, width).
    objective : Objective
    standardizes : bool
        Whether states, and then the vectors of texts, have unit spread.

    Attributes
    ----------
    per_layer : ndarray of shape (n_layers,)
        What layers are divided by before they are weighted.
    per_feature : ndarray of shape (width,)
        What features are divided by where the query reads them.
    """

    def __init__(
        self, rows: Ragged, objective: Objective, *, standardizes: bool
    ) -> None:
        self._rows, self._objective = rows, objective
        spreads = _spreads_of_tokens(rows, objective.labels.share_of_rows)
        n_layers, width = spreads.shape
        self._learns_layers = objective.n_layers > 0
        self.per_layer = np.ones(n_layers, dtype=np.float32)
        self.per_feature = np.ones(width, dtype=np.float32)
        if standardizes:
            if self._learns_layers:
                self.per_layer = _spread(np.sqrt((spreads**2).mean(axis=1)))
            # Layers vary together, so that a mix of them has the mean of their spreads.
            self.per_feature = _spread((spreads.T / self.per_layer).mean(axis=1))
        self.n_bytes = 2 * int(rows.counts.sum()) * n_layers * width * 4
        self._standardizes = standardizes
        self._at_start = self._moments(self._means(None), None)

    def _means(self, texts: Indices | None) -> FloatArray:
        """Return vectors of texts where all layers and all tokens count alike."""
        n_layers = len(self.per_layer)
        even = np.full(n_layers, 1 / n_layers, dtype=np.float32)
        no_query = np.zeros_like(self.per_feature)
        return attend(self._rows_of(texts), no_query, self._factors(even))[0]

    def _factors(self, weights: FloatArray) -> FloatArray:
        """Return what layers are multiplied by."""
        if self._learns_layers:
            return weights / self.per_layer
        return np.float32(1) / self.per_layer

    def _query(self, parts: Parts) -> FloatArray:
        """Return the query for states as they are mixed."""
        return (parts.query / self.per_feature).astype(np.float32)

    def _rows_of(self, texts: Indices | None) -> Ragged:
        return self._rows if texts is None else self._rows[texts]

    def _moments(
        self, vectors: FloatArray, texts: Indices | None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return each text's share, and mean and spread of each feature."""
        share = self._objective.labels.share_of_rows
        share = share if texts is None else share[texts]
        share = (share / max(share.sum(), np.finfo(float).tiny)).astype(np.float32)
        means = share @ vectors
        if not self._standardizes:
            return share, means, np.ones_like(means)
        return share, means, _spread_of(share @ (vectors - means) ** 2, means)

    def vectors(self, texts: Indices | None) -> FloatArray:
        _, means, spreads = self._at_start
        return (self._means(texts) - means) / spreads

    def add(self, parts: Parts, texts: Indices | None) -> tuple[float, Theta]:
        rows, query = self._rows_of(texts), self._query(parts)
        factors = self._factors(parts.weights)
        vectors, weights = attend(rows, query, factors)
        share, means, spreads = self._moments(vectors, texts)
        vectors -= means
        vectors /= spreads
        every = np.arange(len(vectors)) if texts is None else texts
        loss, towards = self._objective.add_head(parts, vectors, every)
        # Mean and spread follow the vectors.
        pull = towards.sum(axis=0)
        if self._standardizes:
            pull = pull + vectors * np.einsum("nw,nw->w", towards, vectors)
        towards -= share[:, np.newaxis] * pull
        towards /= spreads
        slopes = np.zeros(len(self.per_layer))
        for which, states in rows.batches(_rows_per_batch(rows)):
            slopes += self._add_tokens(
                parts, query, factors, states, weights[which].rows, towards[which],
                rows.counts[which],
            )  # fmt: skip
        return loss, slopes / self.per_layer

    def _add_tokens(
        self,
        parts: Parts,
        query: FloatArray,
        factors: FloatArray,
        states: NDArray[Any],
        weights: FloatArray,
        towards: FloatArray,
        counts: NDArray[np.intp],
    ) -> Theta:
        """Add the gradient of the query; return that of the factors.

        Parameters
        ----------
        parts : Parts
        query : ndarray of shape (width,)
        factors : ndarray of shape (n_layers,)
        states : ndarray of shape (n_rows, n_layers, width)
        weights : ndarray of shape (n_rows,)
        towards : ndarray of shape (n_which, width)
            The gradient of the loss for the vectors of these texts.
        counts : ndarray of shape (n_which,)
        """
        states = states.astype(np.float32, copy=False)
        mixed = _mixed(states, factors)
        of_tokens = np.repeat(towards, counts, axis=0)
        pull = _pull(np.einsum("nw,nw->n", mixed, of_tokens), weights, counts)
        parts.gradient_of_query += (pull @ mixed) / self.per_feature
        if not self._learns_layers:
            return np.zeros(1)
        of_tokens *= weights[:, np.newaxis]
        of_tokens += pull[:, np.newaxis] * query
        slopes: Theta = np.matmul(states, of_tokens[:, :, np.newaxis]).sum(axis=(0, 2))
        return slopes

    def mix(self, theta: Theta) -> ScalarMix:
        """Return what parameters make of layers."""
        parts = self._objective.parts(theta)
        scales = self.per_layer[np.newaxis]
        if not self._standardizes:
            return ScalarMix(parts.weights, self._objective.gamma(theta), scales)
        factors = self._factors(parts.weights)
        vectors, _ = attend(self._rows, self._query(parts), factors)
        _, _, spreads = self._moments(vectors, None)
        return ScalarMix(parts.weights, _gamma_of(spreads), scales)


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


def _spreads_of_tokens(rows: Ragged, share: NDArray[np.float64]) -> FloatArray:
    """Return the standard deviation over tokens, (n_layers, width).

    A token weighs what its text does.
    """
    sums, shares = np.zeros((2, *rows.values.shape[1:])), share / share.max()
    shift: FloatArray | None = None  # near the mean, so that one pass is exact
    for which, states in rows.batches(_rows_per_batch(rows)):
        if not len(states):
            continue
        if shift is None:
            shift = states.mean(axis=0, dtype=np.float32)
        part = states - shift
        weights = np.repeat(shares[which], rows.counts[which]).astype(np.float32)
        sums[0] += np.tensordot(weights, part, axes=1)
        sums[1] += np.einsum("n,nlw,nlw->lw", weights, part, part)
    mean, square = sums / max(float(shares @ rows.counts), np.finfo(np.float64).tiny)
    return _deviations(square - mean**2, mean + (0.0 if shift is None else shift))


def _moments_of_texts(
    block: FloatArray, share: NDArray[np.float64]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return weighted means, spreads of layers, and how layers vary together.

    Of shape (n_poolings, n_layers, width), (n_poolings, n_layers) and (n_poolings,
    width, n_layers, n_layers).
    """
    shares = share.astype(np.float32)
    shift = block[:256].mean(axis=0)  # near the mean, so that one pass is exact
    n_poolings, n_layers, width = shift.shape
    sums = np.zeros(shift.shape)
    squares = np.zeros((n_poolings, n_layers, n_layers, width))
    for start in range(0, len(block), 128):  # no second copy of the block
        part = block[start : start + 128] - shift
        of_part = shares[start : start + 128]
        sums += np.tensordot(of_part, part, axes=1)
        part *= np.sqrt(of_part)[:, np.newaxis, np.newaxis, np.newaxis]
        for i in range(n_layers):  # and those before it
            both = np.einsum("npw,npmw->pmw", part[:, :, i], part[:, :, : i + 1])
            squares[:, i, : i + 1] += both
    above, below = np.triu_indices(n_layers, 1)
    squares[:, above, below] = squares[:, below, above]
    squares -= sums[:, :, np.newaxis] * sums[:, np.newaxis]
    means = shift + sums
    deviations = _deviations(np.einsum("pllw->plw", squares), means)
    spreads = _spread(np.sqrt((deviations**2).mean(axis=2)))
    covariances = squares.transpose(0, 3, 1, 2).astype(np.float32)
    return means.astype(np.float32), spreads, covariances


def _spread(deviations: FloatArray) -> FloatArray:
    """Return what to divide by; 1 where nothing varies."""
    return np.where(deviations > 0, deviations, np.float32(1.0)).astype(np.float32)


def _spread_of(variances: FloatArray, means: FloatArray) -> FloatArray:
    """Return what to divide features by; 1 where no more than rounding varies."""
    return _spread(_deviations(variances, means))


def _deviations(variances: NDArray[Any], means: NDArray[Any]) -> FloatArray:
    """Return standard deviations; 0 where no more than rounding varies."""
    deviations = np.sqrt(np.maximum(variances, 0.0))
    varies = deviations > _ROUNDING * np.abs(means)
    return np.where(varies, deviations, 0.0).astype(np.float32)
