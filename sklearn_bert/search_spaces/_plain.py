"""The space as plain data: lists and dictionaries for scikit-learn's searches.

The number of layers is read from the encoder's configuration; no text is encoded and no
network is loaded.

Imports `_validation`, `checkpoint`, `probe` and `vectorizer`.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from sklearn.base import BaseEstimator

from .._validation import check_choice
from ..checkpoint import DEFAULT_MODEL
from ..probe import BertProbeClassifier
from ..vectorizer import BertVectorizer

__all__ = ["FIRST_STRENGTH", "grid_space", "plain_space", "random_space"]

_STRENGTHS = {"small": (0.001, 0.01, 0.1), "full": (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)}
_WEAKEST, _STRONGEST = 1e-4, 10.0
# Where a search begins: what `recommend` says of standardised features.
FIRST_STRENGTH = 0.01


class _Space(NamedTuple):
    """What is searched, before it has the names and the form of any tool."""

    layers: list[int]  # one at a time
    together: list[list[int]]  # several layers of one candidate
    combinations: list[str]  # of such a set; none for a probe
    mixing: dict[str, str]  # parameters that weight all layers by what the labels say
    poolings: list[Any]
    strengths: list[float]
    prefix: str
    strength: str | None

    def with_head(self, params: dict[str, Any], strengths: Any) -> dict[str, Any]:
        named = {self.prefix + name: values for name, values in params.items()}
        return named if self.strength is None else {**named, self.strength: strengths}


def grid_space(
    encoder: Any = DEFAULT_MODEL,
    *,
    size: str = "small",
    prefix: str = "bert__",
    C: str | None = "clf__C",
) -> list[dict[str, list[Any]]]:
    """Return parameter grids for scikit-learn's `GridSearchCV`.

    Single layers, sets of the last layers, and weights learned over all layers are
    grids of their own, so that no candidate is there twice. Only poolings that one pass
    stores together are in it: with `memory`, the whole grid costs one forward pass per
    distinct text.

    Parameters
    ----------
    encoder : str or estimator, default="sentence-transformers/all-MiniLM-L6-v2"
        Name or directory of a model, an unfitted `BertVectorizer` or
        `BertProbeClassifier`, or a pipeline with one of them under `prefix`.
    size : {"small", "full"}, default="small"
        "small" is four layers spread over the depth and the last four concatenated,
        under [CLS] and mean pooling: 30 candidates for 6 layers or more. "full" is
        every layer, the last two and four under "concat" and "mean", a learned mix of
        all, four poolings and six strengths: 288 candidates for 6 layers.
    prefix : str, optional
        Step of the encoder in the pipeline that is searched, with two underscores:
        ``"bert__"`` by default, "" if the estimator is searched by itself, as a
        `BertProbeClassifier` given here is.
    C : str or None, default="clf__C"
        Name of the parameter that is the inverse penalty of the classifier, for
        standardised features; "C" of a `BertProbeClassifier`. None leaves it out.

    Returns
    -------
    list of dict
        Names of parameters and lists of values.

    Raises
    ------
    TypeError
        `encoder` is nothing of the above.
    ValueError
        There is no such model, or the pipeline has no such step or parameter.

    See Also
    --------
    random_space : For `RandomizedSearchCV`.
    plain_space : One flat space of text and numbers, for most other tools.
    sklearn_bert.inspection.layer_sweep : Every layer and pooling, without a search.

    Examples
    --------
    >>> from sklearn_bert.search_spaces import grid_space
    >>> single, together = grid_space()
    >>> single["bert__layer"], single["bert__pooling"]
    ([2, 3, 5, 6], ['cls', 'mean'])
    >>> together["bert__layer"], together["bert__layer_combination"]
    ([[3, 4, 5, 6]], ['concat'])
    """
    space = _space(encoder, size, prefix, C)
    return [space.with_head(part, space.strengths) for part in _parts(space)]


def random_space(
    encoder: Any = DEFAULT_MODEL,
    *,
    size: str = "small",
    prefix: str = "bert__",
    C: str | None = "clf__C",
) -> list[dict[str, Any]]:
    """Return parameter distributions for scikit-learn's `RandomizedSearchCV`.

    As `grid_space`, but the strength of the head is drawn between 1e-4 and 10, uniform
    in its logarithm. Each draw takes one of the dictionaries first, all alike.

    Parameters
    ----------
    encoder : str or estimator, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `grid_space`.
    size : {"small", "full"}, default="small"
        As in `grid_space`.
    prefix : str, optional
        As in `grid_space`.
    C : str or None, default="clf__C"
        As in `grid_space`.

    Returns
    -------
    list of dict
        Names of parameters, and lists of values or a distribution.

    Examples
    --------
    >>> from sklearn_bert.search_spaces import random_space
    >>> single, together = random_space()
    >>> single["bert__layer"], single["clf__C"].args
    ([2, 3, 5, 6], (0.0001, 10.0))
    """
    from scipy.stats import loguniform

    space = _space(encoder, size, prefix, C)
    strengths = loguniform(_WEAKEST, _STRONGEST)
    return [space.with_head(part, strengths) for part in _parts(space)]


def plain_space(
    encoder: Any = DEFAULT_MODEL,
    *,
    size: str = "small",
    prefix: str = "bert__",
    C: str | None = "clf__C",
) -> dict[str, Any]:
    """Return one flat space of text and numbers, for tools that take no lists.

    Sets of layers and of poolings are text, such as "3,4,5,6" and "mean,max", which the
    estimators read; so any value can be hashed, stored in a data base and handed to
    ``set_params``. It is the form of scikit-optimize's `BayesSearchCV`.

    Parameters are drawn one by one: where a single layer meets a combination, the
    combination does nothing, but that a learned one scales. A learned mix of all layers
    is in it for a probe only, and else in `grid_space`.

    Parameters
    ----------
    encoder : str or estimator, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `grid_space`.
    size : {"small", "full"}, default="small"
        As in `grid_space`; only "full" has combinations other than "concat".
    prefix : str, optional
        As in `grid_space`.
    C : str or None, default="clf__C"
        As in `grid_space`.

    Returns
    -------
    dict
        Names of parameters, and a list of str or, for `C`, the tuple
        ``(low, high, "log-uniform")``.

    Examples
    --------
    >>> from sklearn_bert.search_spaces import plain_space
    >>> for name, values in plain_space().items():
    ...     print(name, values)
    bert__layer ['2', '3', '5', '6', '3,4,5,6']
    bert__pooling ['cls', 'mean']
    clf__C (0.0001, 10.0, 'log-uniform')
    """
    space = _space(encoder, size, prefix, C)
    layers = [_as_text(layer) for layer in space.layers + space.together]
    if not space.combinations:
        layers += space.mixing.values()
    choices = {"layer": layers, "pooling": [_as_text(p) for p in space.poolings]}
    if space.together and len(space.combinations) > 1:
        choices["layer_combination"] = space.combinations
    return space.with_head(choices, (_WEAKEST, _STRONGEST, "log-uniform"))


# What the forms share


def _space(encoder: Any, size: str, prefix: str, C: str | None) -> _Space:
    """Say what is searched of an encoder."""
    check_choice("size", size, ("small", "full"))
    if isinstance(encoder, BertProbeClassifier) and (prefix, C) == ("bert__", "clf__C"):
        prefix, C = "", "C"  # it is searched by itself
    estimator = _estimator_of(encoder, prefix, C)
    n_layers = _n_layers(estimator)
    is_full = size == "full"
    # Rounded up, as upper layers are the better guess for most tasks.
    spread = {-(-n_layers * quarter // 4) for quarter in (1, 2, 3, 4)}
    sizes = [k for k in ((2, 4) if is_full else (4,)) if k <= n_layers]
    if not sizes and n_layers > 1:
        sizes = [n_layers]
    together = [list(range(n_layers - k + 1, n_layers + 1)) for k in sizes]
    is_probe = isinstance(estimator, BertProbeClassifier)
    combinations = ["concat", "mean", "scalar_mix"] if is_full else ["concat"]
    mixing = {"layer": "all", "layer_combination": "scalar_mix"}
    if is_probe:
        mixing = {"layer": "mix"}
    return _Space(
        layers=list(range(n_layers + 1)) if is_full else sorted(spread),
        together=together,
        combinations=[] if is_probe else combinations,
        mixing=mixing if is_full else {},
        poolings=["cls", "mean"] + (["max", ["mean", "max"]] if is_full else []),
        strengths=list(_STRENGTHS[size]),
        prefix=prefix,
        strength=C,
    )


def _parts(space: _Space) -> list[dict[str, list[Any]]]:
    """Return grids without the head's strength; no candidate is in two of them."""
    parts: list[dict[str, list[Any]]] = [{"layer": list(space.layers)}]
    if space.together and space.combinations:
        # Learned weights have a grid of their own, over all layers.
        fixed = [name for name in space.combinations if name != "scalar_mix"]
        parts.append({"layer": space.together, "layer_combination": fixed})
    else:
        parts[0]["layer"] += space.together
    if space.mixing:
        parts.append({name: [value] for name, value in space.mixing.items()})
    return [{**part, "pooling": list(space.poolings)} for part in parts]


def _estimator_of(encoder: Any, prefix: str, C: str | None) -> BaseEstimator:
    """Return the vectorizer or the probe of which the space is asked."""
    if not isinstance(prefix, str) or not (prefix == "" or prefix.endswith("__")):
        raise ValueError(
            "prefix must be '' or the name of a step and two underscores, such as "
            f"'bert__', got {prefix!r}."
        )
    if C is not None and not isinstance(C, str):
        raise TypeError(
            f"C must be the name of a parameter, such as 'clf__C', or None, got {C!r}. "
            "Its values are those of the space."
        )
    if isinstance(encoder, (str, os.PathLike)):
        return BertVectorizer(str(encoder))
    if isinstance(encoder, (BertVectorizer, BertProbeClassifier)):
        return encoder
    if not isinstance(encoder, BaseEstimator):
        raise TypeError(
            "encoder must be the name or directory of a model, a BertVectorizer, a "
            "BertProbeClassifier, or a pipeline with one of them, got "
            f"{encoder!r}."
        )
    params = encoder.get_params()
    kinds = (BertVectorizer, BertProbeClassifier)
    if isinstance(found := params.get(prefix.removesuffix("__")), kinds):
        if C is None or C in params:
            return found
        names = [name for name in params if name.rpartition("__")[2] == "C"]
        raise ValueError(
            f"C={C!r} is no parameter of this {type(encoder).__name__}; it has "
            f"{names or 'none of that name'}. None leaves the head out."
        )
    names = [f"{name}__" for name, value in params.items() if isinstance(value, kinds)]
    raise ValueError(
        f"prefix={prefix!r} leads to no BertVectorizer or BertProbeClassifier of this "
        f"{type(encoder).__name__}; it has {names or 'none'}."
    )


def _n_layers(estimator: Any) -> int:
    names = ("model", "revision", "local_files_only", "trust_remote_code")
    params = {name: getattr(estimator, name) for name in names}
    return BertVectorizer(**params)._checkpoint().n_layers


def _as_text(value: Any) -> str:
    """Return "3,4" for [3, 4], which the estimators read as the list."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
