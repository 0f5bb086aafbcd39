"""The results of a grid search over layers and poolings, arranged as a sweep."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layers import read_layer
from ..pooling import read_pooling
from ._sweep import Cell, LayerSweep, name_of_score

__all__ = ["sweep_of_search"]


def sweep_of_search(search: Any, scoring: str | None) -> LayerSweep:
    """Arrange the results of a grid search by layer and pooling."""
    results = getattr(search, "cv_results_", search)
    if not isinstance(results, dict) or "params" not in results:
        raise ValueError(
            "search must be a fitted GridSearchCV or its cv_results_, got "
            f"{type(search).__name__}; call fit first."
        )
    layer_name = _searched(results, "layer")
    pooling_name = _searched(results, "pooling")
    scoring, keys = _score_keys(search, results, scoring)
    encoder = _best_encoder(search, layer_name)
    n_layers = getattr(encoder, "n_layers_", None)
    all_scores = np.array([results[key] for key in keys]).T
    best: dict[Cell, NDArray[np.float64]] = {}
    for params, scores in zip(results["params"], all_scores, strict=True):
        if layer_name not in params or pooling_name not in params:
            continue  # a list of grids may leave either out
        layer = _plain_layer(params[layer_name], n_layers)
        pooling = read_pooling(params[pooling_name])
        if not isinstance(pooling, str):
            pooling = "+".join(pooling)
        old = best.get((layer, pooling))
        if old is None or np.nan_to_num(old.mean(), nan=-np.inf) < scores.mean():
            best[layer, pooling] = scores
    layers = tuple(sorted({layer for layer, _ in best}, key=_order))
    poolings = tuple(dict.fromkeys(pooling for _, pooling in best))
    table = np.full((len(poolings), len(layers), len(keys)), np.nan)
    for (layer, pooling), scores in best.items():
        table[poolings.index(pooling), layers.index(layer)] = scores
    if np.isnan(table).all():
        raise ValueError("search has no finite score; pass error_score='raise' to it.")
    return LayerSweep(
        model=str(getattr(encoder, "model", "")), layers=layers, poolings=poolings,
        scores=table, scoring=scoring, n_texts=0, n_texts_encoded=0,
        seconds_features=0.0, seconds_scoring=float(np.sum(results["mean_fit_time"])),
    )  # fmt: skip


def _searched(results: dict[str, Any], name: str) -> str:
    """Return the searched parameter of this name, with its steps."""
    searched = sorted({key for params in results["params"] for key in params})
    found = [key for key in searched if key.rpartition("__")[2] == name]
    if len(found) != 1:
        what = f"several: {found}" if found else f"none: it searched {searched}"
        raise ValueError(
            f"search must have searched one parameter named {name!r}, such as "
            f"'bert__{name}', and has {what}. A list of one value counts."
        )
    return found[0]


def _score_keys(
    search: Any, results: dict[str, Any], scoring: str | None
) -> tuple[str, list[str]]:
    """Return the name of the score, and the columns that hold it split by split."""
    names = [
        key.removeprefix("split0_test_")
        for key in results
        if key.startswith("split0_test_")
    ]
    if scoring is None and isinstance(getattr(search, "refit", None), str):
        scoring = search.refit
    chosen = scoring or (names[0] if len(names) == 1 else None)
    if chosen not in names:
        raise ValueError(f"scoring={scoring!r} must be one of the scores {names}.")
    n_splits = sum(key.endswith(f"_test_{chosen}") for key in results) - 3
    keys = [f"split{k}_test_{chosen}" for k in range(n_splits)]
    if chosen == "score":  # the only one: the search may know its name
        given = getattr(search, "scoring", None)
        is_own = given is None and hasattr(search, "estimator")
        chosen = given if isinstance(given, str) else "score"
        chosen = name_of_score(None, search) if is_own else chosen
    return str(chosen), keys


def _best_encoder(search: Any, layer_name: str) -> Any:
    """Return the refitted estimator that has the parameter, None if there is none."""
    best = getattr(search, "best_estimator_", None)
    step = layer_name.rpartition("__")[0]
    if best is None or not step:
        return best
    return best.get_params().get(step)


def _plain_layer(layer: Any, n_layers: int | None) -> Any:
    layer = read_layer(layer)
    if isinstance(layer, str):
        return layer
    if np.ndim(layer):
        return tuple(_plain_layer(one, n_layers) for one in layer)
    layer = int(layer)
    return layer + n_layers + 1 if layer < 0 and n_layers is not None else layer


def _order(layer: Any) -> tuple[int, Any]:
    """Sort single layers first, then tuples, then words."""
    kinds = (int, tuple, str)
    kind = next(i for i, one in enumerate(kinds) if isinstance(layer, one))
    return kind, (layer if kind else (layer < 0, layer))
