"""From texts or words to features by layer: how every question here asks the encoder.

A question names the parameters that it decides, such as the layer; all others are a
`BertVectorizer`'s or `BertTokenVectorizer`'s own and pass through. Parts of
`inspection` import this; it imports `_validation`, `features`, `request`, `tokens` and
`vectorizer`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from .._validation import check_choice
from ..features import WORK
from ..request import Request
from ..tokens import BertTokenVectorizer
from ..vectorizer import BertVectorizer

__all__ = [
    "Meter", "features_by_layer", "make_vectorizer", "make_word_vectorizer",
    "parameters_of", "request_of", "to_unit", "word_features_by_layer", "words_for",
]  # fmt: skip

# Arrays of features by layer have the shape (n_rows, n_poolings, n_layers, width).
Block = NDArray[np.float32]


class Meter:
    """Counts texts encoded in this process, and seconds, from its making on."""

    def __init__(self) -> None:
        self._work, self._started = WORK.copy(), time.perf_counter()

    @property
    def n_texts_encoded(self) -> int:
        return WORK.since(self._work).n_texts

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started


def make_vectorizer(
    caller: str,
    reason: str,
    decided: Sequence[str],
    *,
    model: str,
    layers: Any,
    poolings: str | Sequence[str],
    params: dict[str, Any],
) -> BertVectorizer:
    """Return the vectorizer of all cells, not fitted.

    Raises
    ------
    TypeError
        `params` names a parameter that the caller has decided; `reason` says how.
    ValueError
        A pooling is learned from labels, so that it has no frozen features.
    """
    _refuse_decided(caller, reason, decided, params)
    _refuse_combinations(caller, layers)
    if not isinstance(poolings, str):
        poolings = list(poolings)
    if "learned_attention" in ([poolings] if isinstance(poolings, str) else poolings):
        raise ValueError(
            f"{caller} compares frozen features, and pooling='learned_attention' has "
            "none, as it is learned from labels; name other poolings, and compare it "
            "by GridSearchCV over BertProbeClassifier."
        )
    if params.get("chunk_pooling") == "learned_attention":
        raise ValueError(
            f"{caller} compares frozen features, and chunk_pooling='learned_attention' "
            "has none, as it is learned from labels; pass another, and compare it by "
            "GridSearchCV over BertProbeClassifier."
        )
    if "normalize" in decided:
        params = {"normalize": False, **params}
    return BertVectorizer(model, layer=layers, pooling=poolings, **params)


def features_by_layer(vectorizer: BertVectorizer, texts: list[str]) -> Block:
    """Return the features of every cell, of unit length if the vectorizer says so."""
    block: Block = vectorizer._by_layer(texts)
    return to_unit(block) if vectorizer.normalize_ else block


def make_word_vectorizer(
    caller: str,
    reason: str,
    decided: Sequence[str],
    *,
    model: str,
    layers: Any,
    subwords: Sequence[str],
    params: dict[str, Any],
) -> BertTokenVectorizer:
    """Return the vectorizer of all cells of words, not fitted.

    Raises
    ------
    TypeError
        `params` names a parameter that the caller has decided; `reason` says how.
    ValueError
        `subwords` names no way to make one row of a word's tokens.
    """
    _refuse_decided(caller, reason, (*decided, "subwords"), params)
    _refuse_combinations(caller, layers)
    if not subwords:
        raise ValueError("poolings must name at least one of 'first', 'mean', 'last'.")
    for name in subwords:
        check_choice("poolings, for words,", name, ("first", "mean", "last"))
    if len(set(subwords)) < len(subwords):
        raise ValueError(f"poolings names one twice: {list(subwords)}.")
    return BertTokenVectorizer(model, layer=layers, subwords=subwords[0], **params)


def _refuse_decided(
    caller: str, reason: str, decided: Sequence[str], params: dict[str, Any]
) -> None:
    for name in decided:
        if name in params:
            raise TypeError(f"{caller} does not take {name!r}: {reason}")


def _refuse_combinations(caller: str, layers: Any) -> None:
    """Refuse layers that are to be combined: each is looked at by itself."""
    if isinstance(layers, (Sequence, np.ndarray)) and not isinstance(layers, str):
        for i, layer in enumerate(layers):
            if isinstance(layer, (Sequence, np.ndarray)) and not isinstance(layer, str):
                raise TypeError(
                    f"{caller} looks at each layer by itself: layers[{i}] must be an "
                    f"integer, got {layer!r}. Compare combinations by GridSearchCV "
                    "over the `layer` of a BertVectorizer in a pipeline."
                )


def request_of(
    vectorizer: BertVectorizer | BertTokenVectorizer, subwords: Sequence[str] = ()
) -> Request:
    """Return what a fitted vectorizer asks of the encoder, for words by `subwords`."""
    checkpoint = vectorizer._checkpoint()
    if isinstance(vectorizer, BertTokenVectorizer):
        return vectorizer._request(checkpoint, subwords=subwords)
    return vectorizer._request(checkpoint)


def word_features_by_layer(
    vectorizer: BertTokenVectorizer, words: list[Any], subwords: Sequence[str]
) -> Block:
    """Return the features of every cell, for all words end to end, from one pass."""
    return vectorizer._by_layer(words, request_of(vectorizer, subwords))


def to_unit(block: Block) -> Block:
    """Scale the vectors of a block to unit length, in place."""
    block /= np.maximum(np.linalg.norm(block, axis=3, keepdims=True), 1e-12)
    return block


def parameters_of(
    estimator: Any, decided: Sequence[str], *, hint: str = ""
) -> dict[str, Any]:
    """Return a vectorizer's parameters, other than those that a function decides.

    Raises
    ------
    TypeError
        `estimator` is neither a BertVectorizer nor a BertTokenVectorizer, nor a
        Pipeline that begins with one; `hint` says what to do.
    """
    vectorizer = estimator[0] if isinstance(estimator, Pipeline) else estimator
    if not isinstance(vectorizer, (BertVectorizer, BertTokenVectorizer)):
        raise TypeError(
            "estimator must be a BertVectorizer or a Pipeline that begins with one, or "
            f"a BertTokenVectorizer for words, got {type(vectorizer).__name__}{hint}."
        )
    params: dict[str, Any] = vectorizer.get_params(deep=False)
    return {
        name: value
        for name, value in params.items()
        if name not in (*decided, "subwords")
    }


def words_for(estimator: Any, X: Any) -> Any:
    """Return X, split into words if the estimator's features are those of words."""
    vectorizer = estimator[0] if isinstance(estimator, Pipeline) else estimator
    if isinstance(vectorizer, BertTokenVectorizer):
        return vectorizer._read_words(X)
    return X
