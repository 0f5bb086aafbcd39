"""Do similar texts come out similar? Cosines of pairs per layer and pooling.

`compare_pairs` needs pairs of texts that are known to be similar, and pairs that are
not. Computes only: `_pairs_display` draws.

Imports `checkpoint` and `vectorizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ..checkpoint import DEFAULT_MODEL
from ..vectorizer import BertVectorizer
from ._texts import Meter, features_by_layer, make_vectorizer

__all__ = ["PairComparison", "compare_pairs"]

# Parameters of a vectorizer that are decided here; cosines have no use for lengths.
DECIDED = ("layer", "layer_combination", "pooling", "normalize")

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class PairComparison:
    """Cosines of similar and dissimilar pairs under every layer and pooling.

    Attributes
    ----------
    model : str
        The encoder's name.
    layers : tuple of int
        Layers, counted from 0.
    poolings : tuple of str
    similar : ndarray of shape (n_poolings, n_layers, n_similar)
        Cosine of each similar pair.
    dissimilar : ndarray of shape (n_poolings, n_layers, n_dissimilar)
        Cosine of each dissimilar pair.
    n_texts_encoded : int
        Distinct texts that went through the encoder; the others were in the store.
    """

    model: str
    layers: tuple[int, ...]
    poolings: tuple[str, ...]
    similar: FloatArray
    dissimilar: FloatArray
    n_texts_encoded: int

    @property
    def margin(self) -> FloatArray:
        """Mean cosine of similar minus that of dissimilar pairs, per cell.

        Shape (n_poolings, n_layers). A narrow cone makes it small, however well the
        order of the pairs is kept: compare cells by `auc`.
        """
        return np.asarray(self.similar.mean(axis=2) - self.dissimilar.mean(axis=2))

    @property
    def auc(self) -> FloatArray:
        """Chance that a similar pair has a higher cosine than a dissimilar one.

        Shape (n_poolings, n_layers). 0.5 is chance, 1 is all; ties count half. Shifting
        or stretching all cosines does not change it.
        """
        cosines = np.concatenate([self.similar, self.dissimilar], axis=2)
        is_similar = np.arange(cosines.shape[2]) < self.similar.shape[2]
        return np.array(
            [[roc_auc_score(is_similar, cell) for cell in row] for row in cosines]
        )

    def __repr__(self) -> str:
        """Return the table: a row per pooling and layer."""
        lines = ["pooling       layer  similar  dissimilar   margin    AUC"]
        auc, margin = self.auc, self.margin
        for p, pooling in enumerate(self.poolings):
            lines += [
                f"{pooling:13} {layer:5d}  {self.similar[p, i].mean():7.3f}  "
                f"{self.dissimilar[p, i].mean():10.3f}  {margin[p, i]:7.3f}  "
                f"{auc[p, i]:5.3f}"
                for i, layer in enumerate(self.layers)
            ]
        lines.append(
            f"mean cosines of {self.similar.shape[2]:,} similar and "
            f"{self.dissimilar.shape[2]:,} dissimilar pairs"
        )
        return "\n".join(lines)


def compare_pairs(
    similar: Any,
    dissimilar: Any,
    *,
    model: str = DEFAULT_MODEL,
    layers: Any = -1,
    poolings: str | Sequence[str] = ("cls", "mean", "max"),
    **vectorizer_params: Any,
) -> PairComparison:
    """Tell how well cosines separate similar from dissimilar texts, from one pass.

    Parameters
    ----------
    similar : sequence of pairs of str, of shape (n_similar, 2)
        Texts that should be close: a list of pairs, an array or a frame of two columns.
    dissimilar : sequence of pairs of str, of shape (n_dissimilar, 2)
        Texts that should be apart. Unrelated texts are easy; texts that share words and
        not meaning tell more.
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `BertVectorizer`.
    layers : int, sequence of int, or "all", default=-1
        As ``layer`` in `BertVectorizer`.
    poolings : str or sequence of str, default=("cls", "mean", "max")
        As ``pooling`` in `BertVectorizer`. "attention" needs `layers` without 0, and
        "pooler" the last layer alone.
    **vectorizer_params
        Other parameters of `BertVectorizer`, such as ``memory`` or ``max_length``.

    Returns
    -------
    PairComparison
        ``print`` shows the table, `PairsDisplay` the picture.

    Raises
    ------
    TypeError
        A parameter is given that this decides: ``layer``, ``pooling``,
        ``layer_combination`` or ``normalize``, which cosines do not depend on; or a row
        does not hold texts.
    ValueError
        There are no pairs, a row does not hold two, a text has a zero vector, or a
        pooling is "learned_attention", which has no frozen features.

    See Also
    --------
    alignment : The distance of similar pairs alone, on any features.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> from sklearn_bert.inspection import compare_pairs
    >>> pairs = compare_pairs(
    ...     [("a red car", "a red bus")], [("a red car", "seven times six")],
    ...     model=make_tiny_encoder(tempfile.mkdtemp()),
    ... )
    >>> pairs.margin.shape, pairs.n_texts_encoded
    ((3, 1), 3)
    """
    vectorizer = make_vectorizer(
        "compare_pairs",
        "it compares the cosines of every layer of `layers` under every pooling of "
        "`poolings`.",
        DECIDED,
        model=model,
        layers=layers,
        poolings=poolings,
        params=vectorizer_params,
    )
    rows = {"similar": _pairs("similar", similar)}
    rows["dissimilar"] = _pairs("dissimilar", dissimilar)
    texts: list[str] = []
    for side in (0, 1):
        for name, pairs in rows.items():
            try:
                column = [pair[side] for pair in pairs]
                texts += vectorizer._read_texts(column, is_fit=True)
            except (TypeError, ValueError) as error:
                place = ("first", "second")[side]
                raise type(error)(f"{place} texts of {name}: {error}") from error
    vectorizer.fit(texts)

    meter = Meter()
    block = features_by_layer(vectorizer, texts)
    firsts, seconds = np.split(block, 2)
    n = len(rows["similar"])
    return PairComparison(
        model=str(model),
        layers=vectorizer.layers_,
        poolings=vectorizer.pooling_,
        similar=_cosines("similar", firsts[:n], seconds[:n], vectorizer),
        dissimilar=_cosines("dissimilar", firsts[n:], seconds[n:], vectorizer),
        n_texts_encoded=meter.n_texts_encoded,
    )


def _pairs(name: str, pairs: Any) -> list[tuple[Any, Any]]:
    """Return pairs as a list of tuples, else raise."""
    if hasattr(pairs, "to_numpy"):  # a frame iterates over its columns
        pairs = pairs.to_numpy()
    rows = [pairs] if isinstance(pairs, str) else list(pairs)
    if not rows:
        raise ValueError(f"{name} holds no pairs; pass at least one pair of texts.")
    for i, row in enumerate(rows):
        if not isinstance(row, (list, tuple, np.ndarray)):
            raise TypeError(
                f"{name} must hold pairs of texts, got {type(row).__name__} in row "
                f"{i}; pass a list such as [('a text', 'another')]."
            )
        if len(row) != 2:
            raise ValueError(
                f"{name} must hold pairs of texts, got {len(row)} in row {i}."
            )
    return [(row[0], row[1]) for row in rows]


def _cosines(
    name: str,
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    vectorizer: BertVectorizer,
) -> FloatArray:
    """Return the cosine of each pair, shape (n_poolings, n_layers, n_pairs)."""
    norms = [np.linalg.norm(side.astype(np.float64), axis=3) for side in (a, b)]
    product = norms[0] * norms[1]  # (n_pairs, n_poolings, n_layers)
    if not product.all():
        row, p, i = np.argwhere(product == 0)[0]
        raise ValueError(
            f"{name} has a text in row {row} whose vector is zero at layer "
            f"{vectorizer.layers_[i]} under {vectorizer.pooling_[p]!r}, and so has no "
            "direction. Drop texts without tokens, or pass special_tokens=True."
        )
    dots = np.einsum("npld,npld->npl", a, b, dtype=np.float64)
    return np.moveaxis(np.clip(dots / product, -1.0, 1.0), 0, 2)
