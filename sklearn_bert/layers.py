"""Which layer is which, and how stored layers combine into features.

Layer 0 is the embedding output, layer k the output of block k, and negative numbers
count from the end. Everything here works on stored features with NumPy: combining
layers never needs a forward pass.

Level 1 of the module map: imports only `_validation`.
"""

from __future__ import annotations

import re
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
    "read_layer",
    "resolve_layers",
]

COMBINATIONS = ("concat", "mean", "sum", "scalar_mix")

_NUMBERS = re.compile(r"-?[0-9]+(,-?[0-9]+)*")

Combination = str | tuple[float, ...]
FloatArray = NDArray[np.float32]


def read_layer(layer: Any) -> Any:
    """Return numbers for text such as "3" or "9,10,11,12", anything else as it is.

    Search tools that keep their trials in tables and data bases take text, not lists.
    """
    if isinstance(layer, str) and _NUMBERS.fullmatch(layer):
        numbers = [int(k) for k in layer.split(",")]
        return numbers if "," in layer else numbers[0]
    return layer


def check_layer(layer: Any) -> int | tuple[int, ...] | str:
    """Return a layer specification in plain Python types, else raise."""
    layer = read_layer(layer)
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
    mixed = np.matmul(factors[:, np.newaxis], block)  # (n_texts, n_poolings, 1, width)
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
