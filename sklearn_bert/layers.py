"""Which layer is which, and how stored layers combine into features.

Layer 0 is the embedding output, layer k the output of block k, and negative numbers
count from the end. Everything here works on stored features with NumPy: combining
layers never needs a forward pass, and neither does learning how to combine them
(`fit_scalar_mix`).

Level 1 of the module map: imports only `_validation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._validation import check_choice, check_integer, is_integer

__all__ = [
    "COMBINATIONS",
    "ScalarMix",
    "check_combination",
    "check_layer",
    "coefficients",
    "combine",
    "feature_names",
    "fit_scalar_mix",
    "resolve_layers",
]

COMBINATIONS = ("concat", "mean", "sum", "scalar_mix")

Combination = str | tuple[float, ...]
FloatArray = NDArray[np.float32]


def check_layer(layer: Any) -> int | tuple[int, ...] | str:
    """Return a layer specification in plain Python types, else raise."""
    if isinstance(layer, str):
        if layer != "all":
            raise ValueError(
                "layer must be an integer, a sequence of integers or 'all', "
                f"got {layer!r}."
            )
        return "all"
    if is_integer(layer):
        return int(layer)
    if not isinstance(layer, (Sequence, np.ndarray, range)):
        raise TypeError(
            f"layer must be an integer, a sequence of integers or 'all', got {layer!r}."
        )
    if len(layer) == 0:
        raise ValueError("layer must name at least one layer, got an empty sequence.")
    return tuple(check_integer(f"layer[{i}]", k) for i, k in enumerate(layer))


def resolve_layers(layer: Any, n_layers: int) -> tuple[int, ...]:
    """Translate a layer specification for an encoder.

    Parameters
    ----------
    layer : int, sequence of int, or "all"
        Negative numbers count from the end.
    n_layers : int
        Number of blocks; valid layers are 0 (embedding output) to n_layers.

    Returns
    -------
    tuple of int
        Layers in the order given, between 0 and `n_layers`.

    Raises
    ------
    ValueError
        A layer is out of range or named twice.

    Examples
    --------
    >>> resolve_layers(-1, n_layers=12)
    (12,)
    >>> resolve_layers([-4, -3, -2, -1], n_layers=12)
    (9, 10, 11, 12)
    """
    layer = check_layer(layer)
    if isinstance(layer, str):
        return tuple(range(n_layers + 1))
    named = (layer,) if isinstance(layer, int) else layer
    resolved = tuple(k + n_layers + 1 if k < 0 else k for k in named)
    for given, k in zip(named, resolved, strict=True):
        if not 0 <= k <= n_layers:
            raise ValueError(
                f"layer={given} is out of range: this encoder has layers 0 to "
                f"{n_layers} (0 is the embedding output)."
            )
    if len(set(resolved)) < len(resolved):
        raise ValueError(
            f"layer={list(named)} names a layer twice: these are layers "
            f"{list(resolved)} of this encoder."
        )
    return resolved


def check_combination(
    layer_combination: Any, n_layers: int | None = None
) -> Combination:
    """Return a layer combination in plain Python types, else raise.

    With `n_layers`, the number of layers to combine, the number of weights is checked.
    """
    if isinstance(layer_combination, str):
        return str(check_choice("layer_combination", layer_combination, COMBINATIONS))
    if not isinstance(layer_combination, (Sequence, np.ndarray)):
        raise TypeError(
            "layer_combination must be one of "
            + ", ".join(map(repr, COMBINATIONS))
            + f", or a sequence of weights, one per layer, got {layer_combination!r}."
        )
    try:
        weights = tuple(float(weight) for weight in layer_combination)
    except (TypeError, ValueError):
        weights = (float("nan"),)
    if not weights or not np.all(np.isfinite(weights)):
        raise ValueError(
            "layer_combination must hold finite numbers, one weight per layer, "
            f"got {layer_combination!r}."
        )
    if n_layers is not None and len(weights) != n_layers:
        raise ValueError(
            f"layer_combination has {len(weights)} weights for {n_layers} layers; "
            "pass one weight per layer named in layer."
        )
    return weights


@dataclass(frozen=True)
class ScalarMix:
    """A learned combination of layers: gamma * sum_l weights[l] * layer_l / scales[l].

    Attributes
    ----------
    weights : ndarray of shape (n_layers,)
        Softmax weights; they sum to 1 and compare, as layers are scaled first.
    gamma : float
        Overall scale.
    scales : ndarray of shape (n_poolings, n_layers)
        Standard deviation of each layer's features on the training texts.
    """

    weights: FloatArray
    gamma: float
    scales: FloatArray


def coefficients(
    combination: Combination,
    n_poolings: int,
    n_layers: int,
    mix: ScalarMix | None = None,
) -> FloatArray | None:
    """Return the factors of a weighted sum, shape (n_poolings, n_layers).

    None means that layers are concatenated.
    """
    if combination == "concat":
        return None
    if combination == "scalar_mix":
        assert mix is not None
        return (mix.gamma * mix.weights / mix.scales).astype(np.float32)
    if combination == "mean":
        row = np.full(n_layers, 1.0 / n_layers)
    elif combination == "sum":
        row = np.ones(n_layers)
    else:
        row = np.asarray(combination)
    return np.tile(row.astype(np.float32), (n_poolings, 1))


def combine(block: FloatArray, factors: FloatArray | None, out: FloatArray) -> None:
    """Write combined features of a block into out.

    Parameters
    ----------
    block : ndarray of shape (n_texts, n_poolings, n_layers, width)
    factors : ndarray of shape (n_poolings, n_layers) or None
        From `coefficients`; None concatenates poolings, and within them layers.
    out : ndarray of shape (n_texts, n_features)
    """
    if factors is None:
        out[...] = block.reshape(len(block), -1)
        return
    n_texts, n_poolings, _, width = block.shape
    mixed = np.einsum("nplw,pl->npw", block, factors, optimize=True)
    out[...] = mixed.reshape(n_texts, n_poolings * width)


def _label(layers: tuple[int, ...]) -> str:
    """Name a set of layers: "layer6", "layers9to12" or "layers0-2-5"."""
    if len(layers) == 1:
        return f"layer{layers[0]}"
    if layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"layers{layers[0]}to{layers[-1]}"
    return "layers" + "-".join(map(str, layers))


def feature_names(
    layers: tuple[int, ...],
    poolings: tuple[str, ...],
    combination: Combination,
    width: int,
) -> list[str]:
    """Name every feature by layer, pooling and dimension, in the order of `combine`.

    Examples
    --------
    >>> feature_names((2,), ("mean",), "concat", 2)
    ['layer2_mean_0', 'layer2_mean_1']
    >>> feature_names((1, 2), ("cls",), "mean", 2)
    ['layers1to2_mean_cls_0', 'layers1to2_mean_cls_1']
    """
    if combination == "concat" or (len(layers) == 1 and combination != "scalar_mix"):
        prefixes = [f"layer{k}_{pooling}" for pooling in poolings for k in layers]
    else:
        kind = combination if isinstance(combination, str) else "weighted_sum"
        prefixes = [f"{_label(layers)}_{kind}_{pooling}" for pooling in poolings]
    return [f"{prefix}_{i}" for prefix in prefixes for i in range(width)]


def fit_scalar_mix(
    block: FloatArray,
    y: Any,
    *,
    C: float = 0.01,
    sample_weight: NDArray[np.float64] | None = None,
    max_iter: int = 200,
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
    max_iter : int, default=200
        Largest number of L-BFGS iterations.

    Returns
    -------
    ScalarMix

    References
    ----------
    Peters et al. 2018, "Deep contextualized word representations", equation 1;
    Fayyaz et al. 2021, "Not All Models Localize Linguistic Knowledge in the Same
    Place".
    """
    from scipy.optimize import minimize

    targets, is_classes, is_squared = _encode_target(y, len(block))
    n_texts, _, n_layers, _ = block.shape
    share = np.ones((n_texts, 1)) if sample_weight is None else sample_weight[:, None]
    share = share / n_texts
    centred = block - _average(block, share)
    # (n_poolings, n_layers)
    scales = np.sqrt(_average(centred**2, share).mean(axis=2))
    scales[scales == 0] = 1.0
    centred /= scales[np.newaxis, :, :, np.newaxis]
    # (n_layers, n_texts, n_poolings * width)
    layers = np.ascontiguousarray(np.moveaxis(centred, 2, 0)).reshape(
        n_layers, n_texts, -1
    )
    n_features, n_outputs = layers.shape[2], targets.shape[1]
    penalty = np.full(n_layers + 1 + (n_features + 1) * n_outputs, 1.0 / (C * n_texts))
    penalty[:n_layers] *= 0.1
    penalty[-n_outputs:] = 0.0  # intercepts

    def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits, log_gamma = theta[:n_layers], np.clip(theta[n_layers], -10, 10)
        head = theta[n_layers + 1 : -n_outputs].reshape(n_features, n_outputs)
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        gamma = np.exp(log_gamma)
        head32 = head.astype(np.float32)

        mixed = np.tensordot((gamma * weights).astype(np.float32), layers, axes=1)
        scores = (mixed @ head32).astype(np.float64) + theta[-n_outputs:]
        losses, residual = _loss(scores, targets, is_classes, is_squared)
        residual *= share
        residual32 = residual.astype(np.float32)

        towards = residual32 @ head32.T  # (n_texts, n_features)
        slope = np.array(
            [np.vdot(layer, towards) for layer in layers], dtype=np.float64
        )
        mean_slope = weights @ slope
        loss = float((losses * share).sum()) + 0.5 * float(penalty @ theta**2)
        gradient = np.concatenate(
            [
                gamma * weights * (slope - mean_slope),
                [gamma * mean_slope],
                (mixed.T @ residual32).astype(np.float64).ravel(),
                residual.sum(axis=0),
            ]
        )
        return loss, gradient + penalty * theta

    theta = minimize(
        objective,
        np.zeros_like(penalty),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter},
    ).x
    weights = np.exp(theta[:n_layers] - theta[:n_layers].max())
    return ScalarMix(
        weights=(weights / weights.sum()).astype(np.float32),
        gamma=float(np.exp(np.clip(theta[n_layers], -10, 10))),
        scales=scales.astype(np.float32),
    )


def _average(block: FloatArray, share: NDArray[np.float64]) -> FloatArray:
    """Return the weighted mean over texts."""
    shares = (share / share.sum()).astype(np.float32)
    averages: FloatArray = np.tensordot(shares[:, 0], block, axes=1)
    return averages


def _encode_target(y: Any, n_texts: int) -> tuple[NDArray[np.float64], bool, bool]:
    """Return targets of shape (n_texts, n_outputs), is_classes, is_squared."""
    from sklearn.utils.multiclass import type_of_target

    if y is None:
        raise ValueError(
            "layer_combination='scalar_mix' learns layer weights from y, got y=None; "
            "pass labels to fit, or choose 'mean' or fixed weights."
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
                "layer_combination='scalar_mix' needs at least two classes in y, "
                f"got one class: {classes[:1].tolist()[0]!r}."
            )
        return np.eye(len(classes))[codes], True, False
    try:
        targets = y.reshape(len(y), -1).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "layer_combination='scalar_mix' learns from one column of classes, a "
            "multilabel indicator or numbers, got several columns that are no numbers."
        ) from error
    if kind == "multilabel-indicator":
        return targets, False, False
    if kind in ("continuous", "continuous-multioutput", "multiclass-multioutput"):
        spread = targets.std(axis=0)
        spread[spread == 0] = 1.0
        return (targets - targets.mean(axis=0)) / spread, False, True
    raise ValueError(
        "layer_combination='scalar_mix' learns from classes, a multilabel indicator or "
        f"numbers, got y of type {kind!r}."
    )


def _are_numbers(y: NDArray[Any]) -> bool:
    """Whether whole numbers are too many, for too few texts, to be classes."""
    n_distinct = len(np.unique(y))
    return y.dtype.kind in "iuf" and n_distinct > 20 and len(y) < 5 * n_distinct


def _loss(
    scores: NDArray[np.float64],
    targets: NDArray[np.float64],
    is_classes: bool,
    is_squared: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the losses, one row per text, and the gradient for the scores."""
    from scipy.special import expit

    if is_squared:
        residual = scores - targets
        return 0.5 * residual**2, residual
    if is_classes:
        scores = scores - scores.max(axis=1, keepdims=True)
        log_total = np.log(np.exp(scores).sum(axis=1, keepdims=True))
        losses = log_total - (scores * targets).sum(axis=1, keepdims=True)
        return losses, np.exp(scores - log_total) - targets
    return np.logaddexp(0.0, scores) - targets * scores, expit(scores) - targets
