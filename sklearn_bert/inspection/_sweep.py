"""Which layer, which pooling: cross-validated sweeps of an encoder's cells.

`layer_sweep` scores a classifier on every layer under every pooling from one pass of
the encoder, compares the best cell with the default one, and can score an untrained
encoder beside it. A cell is a layer under a pooling; of words, the pooling is of a
word's tokens. Computes only: `_sweep_display` draws.

Imports `_validation`, `checkpoint`, `tokens` and `vectorizer`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.metrics import get_scorer_names
from sklearn.model_selection import cross_val_score
from sklearn.utils.multiclass import type_of_target

from .._validation import check_several_classes, what_was_meant
from ..checkpoint import DEFAULT_MODEL
from ..tokens import BertTokenVectorizer
from ..vectorizer import BertVectorizer
from ._classifiers import default_classifier, map_on_one_thread
from ._texts import (
    Meter,
    features_by_layer,
    make_vectorizer,
    make_word_vectorizer,
    request_of,
    to_unit,
    word_features_by_layer,
)
from ._untrained import untrained_features
from ._words import Sample

__all__ = ["LayerSweep", "SweepComparison", "layer_sweep"]

# Parameters of a vectorizer that a sweep decides.
DECIDED = ("layer", "layer_combination", "pooling")

# A cell is (layer, pooling).
Cell = tuple[Any, str]


@dataclass(frozen=True, repr=False)
class SweepComparison:
    """Paired comparison of two cells of a sweep, by the corrected resampled t-test.

    Attributes
    ----------
    cell, reference : (layer, pooling)
        The two cells. For the untrained encoder, the pooling of `reference` ends in
        ", untrained".
    difference : float
        Mean over splits of the score of `cell` minus that of `reference`.
    interval : (float, float)
        Confidence interval of the difference.
    p_value : float
        Two-sided. Too small where `cell` was chosen for its score.
    confidence : float
        Of the interval.
    """

    cell: Cell
    reference: Cell
    difference: float
    interval: tuple[float, float]
    p_value: float
    confidence: float = 0.95

    def __repr__(self) -> str:
        """Return a line: the cells, and the numbers."""
        cell, reference = name_of_cell(self.cell), name_of_cell(self.reference)
        return f"{cell}, minus {reference}: {self.numbers}"

    @property
    def numbers(self) -> str:
        """Difference, interval and p in words."""
        low, high = self.interval
        p = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
        return (
            f"{self.difference:+.3f}, {self.confidence:.0%} interval {low:+.3f} to "
            f"{high:+.3f}, {p}"
        )


@dataclass(frozen=True, repr=False)
class LayerSweep:
    """Scores of a classifier on every layer under every pooling.

    Attributes
    ----------
    model : str
        The encoder's name.
    layers : tuple of int
        Layers, counted from 0. Of a grid search, also tuples of layers, concatenated.
    poolings : tuple of str
        Of words, the values of ``subwords``.
    scores : ndarray of shape (n_poolings, n_layers, n_splits)
        Test scores; higher is better. NaN where a grid search has no such cell.
    scoring : str
        What the scores are.
    n_texts : int
        Texts; the rows scored, unless `n_words` is given.
    n_texts_encoded : int
        Distinct texts that went through an encoder; the others were in the store. With
        an untrained baseline a text counts once for each of the two encoders.
    seconds_features, seconds_scoring : float
        Time to encode or read, and time of the classifiers.
    params : dict
        Other parameters of the `BertVectorizer` that was swept, or of the
        `BertTokenVectorizer`.
    untrained_scores : ndarray of shape (n_poolings, n_layers, n_splits) or None
        Scores of the same cells under random weights.
    default : (layer, pooling) or None
        The cell that ``BertVectorizer(model)`` uses, or ``BertTokenVectorizer(model)``
        of words; None where it was not swept.
    test_over_train : float or None
        Mean size of a test part over that of its training part, for `compare`; None is
        that of k-fold cross-validation, ``1 / (n_splits - 1)``.
    n_words : int or None
        Words scored; None where rows are texts.
    """

    model: str
    layers: tuple[Any, ...]
    poolings: tuple[str, ...]
    scores: NDArray[np.float64]
    scoring: str
    n_texts: int
    n_texts_encoded: int
    seconds_features: float
    seconds_scoring: float
    params: dict[str, Any] = field(default_factory=dict)
    untrained_scores: NDArray[np.float64] | None = None
    default: Cell | None = None
    test_over_train: float | None = None
    n_words: int | None = None

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean score per cell, shape (n_poolings, n_layers)."""
        return np.asarray(self.scores.mean(axis=2))

    @property
    def spreads(self) -> NDArray[np.float64]:
        """Standard deviation over splits per cell, shape (n_poolings, n_layers)."""
        return np.asarray(self.scores.std(axis=2))

    @property
    def untrained_means(self) -> NDArray[np.float64] | None:
        """Mean score per cell under random weights, None if not swept."""
        if self.untrained_scores is None:
            return None
        return np.asarray(self.untrained_scores.mean(axis=2))

    @property
    def best(self) -> dict[str, Any]:
        """Parameters of `BertVectorizer` for the best cell, the model among them.

        Of words, those of `BertTokenVectorizer`. Its score is optimistic: it is the
        largest of many.
        """
        layer, pooling = self._best_cell
        name = "pooling" if self.n_words is None else "subwords"
        return {**self.params, "model": self.model, "layer": layer, name: pooling}

    @property
    def _best_cell(self) -> Cell:
        p, i = np.unravel_index(int(np.nanargmax(self.means)), self.means.shape)
        return self.layers[i], self.poolings[p]

    def compare(
        self,
        cell: Cell | None = None,
        reference: Cell | str | None = None,
        *,
        confidence: float = 0.95,
    ) -> SweepComparison:
        """Compare two cells on the same splits by the corrected resampled t-test.

        Parameters
        ----------
        cell : (layer, pooling), default=None
            None is the best cell. It was chosen for its score on these very splits, so
            difference and p are optimistic then.
        reference : (layer, pooling) or "untrained", default=None
            None is the cell that ``BertVectorizer(model)`` uses; "untrained" the same
            cell under random weights.
        confidence : float, default=0.95
            Of the interval.

        Returns
        -------
        SweepComparison

        Raises
        ------
        ValueError
            A cell was not swept, or there are fewer than two splits.

        Notes
        -----
        Scores of splits that share training texts are not independent, and a plain
        paired t-test finds differences that are not there. The variance of the mean
        difference is estimated as ``(1 / k + n_test / n_train)`` times the variance
        over the ``k`` splits, with ``k - 1`` degrees of freedom (Nadeau & Bengio 2003,
        "Inference for the generalization error", Machine Learning 52).
        """
        cell = self._best_cell if cell is None else (cell[0], cell[1])
        if not 0 < confidence < 1:
            raise ValueError(f"confidence={confidence} must lie between 0 and 1.")
        scores = self._scores_of("cell", cell)
        if isinstance(reference, str):
            if reference != "untrained" or self.untrained_scores is None:
                raise ValueError(
                    f"reference={reference!r} must be (layer, pooling), or 'untrained' "
                    "after layer_sweep(untrained=True)."
                )
            p, i = self._position("cell", cell)
            others = self.untrained_scores[p, i]
            reference = (cell[0], f"{cell[1]}, untrained")
        else:
            if reference is None and self.default is None:
                raise ValueError(
                    "The cell that BertVectorizer(model) uses was not swept; pass "
                    "reference=(layer, pooling)."
                )
            reference = reference or self.default
            assert reference is not None
            others = self._scores_of("reference", reference)
        return _corrected_t_test(
            cell, reference, scores - others, self.test_over_train, confidence
        )

    def _position(self, name: str, cell: Cell) -> tuple[int, int]:
        layer, pooling = cell
        if layer not in self.layers or pooling not in self.poolings:
            raise ValueError(
                f"{name}={cell!r} was not swept: layers are {self.layers}, poolings "
                f"{self.poolings}. Name it as (layer, pooling)."
            )
        return self.poolings.index(pooling), self.layers.index(layer)

    def _scores_of(self, name: str, cell: Cell) -> NDArray[np.float64]:
        return np.asarray(self.scores[self._position(name, cell)])

    def _comparisons(self) -> list[str]:
        """Return lines that compare the best cell with what one would have taken."""
        n_cells, n_splits = self.means.size, self.scores.shape[2]
        if n_cells < 2 or n_splits < 2:
            return []
        best = self._best_cell
        others: dict[Any, str] = {}
        if self.default is not None:
            others[self.default] = "the default"
        whole = [layer for layer in self.layers if isinstance(layer, int)]
        if whole:
            last = (max(whole, key=lambda layer: (layer < 0, layer)), best[1])
            others.setdefault(last, "the last layer swept")
        lines = []
        for cell, what in others.items():
            if cell == best:
                lines.append(f"* is {what}")
            elif np.isfinite(self._scores_of("reference", cell)).all():
                numbers = self.compare(reference=cell).numbers
                lines.append(f"* minus {what} ({name_of_cell(cell)}): {numbers}")
        if self.untrained_scores is not None:
            numbers = self.compare(reference="untrained").numbers
            lines.append(f"* minus the same cell, untrained: {numbers}")
        return [
            *lines,
            f"The best of {n_cells} cells was chosen on the splits that score it: its "
            "score and\nthe differences are optimistic.",
        ]

    def __repr__(self) -> str:
        """Return the tables, a row per layer and a column per pooling, and the tests.

        With an untrained encoder a second table follows. The lines below compare the
        best cell with the default one and with the last layer (see `compare`).
        """
        best = self._position("best", self._best_cell)
        lines = self._table("layer", self.scores, best)
        lines.append(f"{self.scoring}, mean ± standard deviation over splits; * best")
        if self.untrained_scores is not None:
            lines += ["", "the same, with random weights (untrained)"]
            lines += self._table("layer", self.untrained_scores, None)
            lines.append("")
        return "\n".join(lines + self._comparisons())

    def _table(
        self, corner: str, scores: NDArray[np.float64], best: tuple[int, int] | None
    ) -> list[str]:
        widths = [max(16, len(pooling) + 2) for pooling in self.poolings]
        names = [name_of_layer(layer) for layer in self.layers]
        first = max(5, *map(len, names))
        head = "".join(
            f"{pooling:>{width}}"
            for pooling, width in zip(self.poolings, widths, strict=True)
        )
        lines = [f"{corner:<{first}} {head}"]
        means, spreads = scores.mean(axis=2), scores.std(axis=2)
        for i, name in enumerate(names):
            row = ""
            for p, width in enumerate(widths):
                mark = "*" if (p, i) == best else " "
                cell = f"{means[p, i]:.3f} ±{spreads[p, i]:.3f}{mark}"
                row += f"{'-  ' if np.isnan(means[p, i]) else cell:>{width}}"
            lines.append(f"{name:>{first}} {row}")
        return lines


def layer_sweep(
    X: Any,
    y: Any,
    *,
    model: str = DEFAULT_MODEL,
    layers: Any = "all",
    poolings: str | Sequence[str] | None = None,
    estimator: BaseEstimator | None = None,
    cv: Any = 5,
    scoring: Any = None,
    untrained: bool = False,
    random_state: int = 0,
    n_jobs: int | None = None,
    **vectorizer_params: Any,
) -> LayerSweep:
    """Score a classifier on every layer under every pooling, from one pass.

    Parameters
    ----------
    X : iterable of str, or of sequences of str, of length n_texts
        Texts; or texts that are split into words, which are then what is scored.
    y : array-like of shape (n_texts,), or iterable of sequences of length n_texts
        Labels, or numbers if `estimator` is a regressor. For words, one tag per word.
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `BertVectorizer`.
    layers : int, sequence of int, or "all", default="all"
        As ``layer`` in `BertVectorizer`.
    poolings : str or sequence of str, default=None
        As ``pooling`` in `BertVectorizer`; None is "cls", "mean" and "max". "attention"
        needs `layers` without 0, which no attention precedes, and "pooler" the last
        layer alone. For words, "first", "mean" and "last" as ``subwords`` in
        `BertTokenVectorizer`; None is "mean".
    estimator : estimator, default=None
        Scored on the features of each cell. None standardises them and fits
        ``LogisticRegression(C=0.01, tol=1e-3)``: strong regularisation suits a few
        hundred standardised features and a few thousand texts. See the notes for its
        speed.
    cv : int, cross-validation generator or iterable, default=5
        Every cell is scored on the same splits. Words of one text know each other, so
        folds are over texts for words too; a number takes consecutive texts together.
    scoring : str or callable, default=None
        None is the estimator's own score. For words, all words count alike.
    untrained : bool, default=False
        Whether the same cells are scored on an encoder of the same architecture and
        tokenizer with random weights too: what is left of a score without anything
        learned. Costs a second pass, kept in ``memory`` like the first.
    random_state : int, default=0
        Seed of these weights.
    n_jobs : int, default=None
        Processes for the classifiers, as in joblib. Each classifier gets one thread:
        at these sizes more make it several times slower. Starting processes takes a
        second or two, so they pay from some ten seconds of classifiers on.
    **vectorizer_params
        Other parameters of `BertVectorizer`, or for words of `BertTokenVectorizer`,
        such as ``memory`` or ``max_length``; with
        ``verbose=True`` the classifiers have a progress bar too.

    Returns
    -------
    LayerSweep
        ``print`` shows the tables and tests, `LayerSweepDisplay` the picture.

    Raises
    ------
    TypeError
        `vectorizer_params` names a parameter that the sweep decides.
    ValueError
        `y` does not fit `X` or `estimator`, a parameter is not valid, or `poolings` has
        "learned_attention", which has no frozen features; nothing was encoded.

    See Also
    --------
    recommend : Where to begin, before anything is run.
    pipeline_code : The best cell as code to paste.

    Notes
    -----
    The best of many cells is an optimistic estimate of its own score. To report a
    number, choose inside cross-validation (``GridSearchCV`` over the pipeline) and
    score on texts that took no part in the choice.

    An untrained encoder is not zero knowledge: random features of the words of a text
    carry much of it (Conneau et al. 2018, "What you can cram into a single vector").

    The default estimator is what was fastest at equal accuracy on 1,000 texts of 384
    standardised features, two to ten classes: lbfgs in float32, which is what features
    are. In float64 it took up to 1.9 times as long, "newton-cg" 1.3 times, "liblinear"
    twice and "newton-cholesky" three times with two classes (18 times with five).
    ``tol=1e-3`` rather than 1e-4 saves up to a third; it moved the mean accuracy over
    cells by less than 0.001, and one cell by at most 0.004.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> from sklearn_bert.inspection import layer_sweep
    >>> encoder = make_tiny_encoder(tempfile.mkdtemp())
    >>> X = ["red", "green", "blue", "one", "two", "three"] * 3
    >>> y = [0, 0, 0, 1, 1, 1] * 3
    >>> sweep = layer_sweep(X, y, model=encoder, cv=3)
    >>> sweep.scores.shape, sweep.n_texts_encoded
    ((3, 3, 3), 6)
    >>> sweep.default
    (2, 'mean')

    Texts that are split are scored word by word:

    >>> words = [["red", "one"], ["two", "blue", "green"], ["three", "red"]] * 3
    >>> tags = [["A", "N"], ["N", "A", "A"], ["N", "A"]] * 3
    >>> sweep = layer_sweep(words, tags, model=encoder, cv=3)
    >>> sweep.poolings, sweep.n_words
    (('mean',), 21)
    """
    sample = Sample.read(X, vectorizer_params.get("missing", "raise"))
    cells = "layer_sweep", (
        "it scores every layer of `layers` by itself, under every pooling of "
        "`poolings`."
    ), DECIDED  # fmt: skip
    vectorizer: BertVectorizer | BertTokenVectorizer
    given: dict[str, Any] = {
        "model": model, "layers": layers, "params": vectorizer_params
    }  # fmt: skip
    if sample.is_split:
        poolings = ("mean",) if poolings is None else poolings
        names = (poolings,) if isinstance(poolings, str) else tuple(poolings)
        vectorizer = make_word_vectorizer(*cells, subwords=names, **given)
        vectorizer.fit([])
    else:
        poolings = ("cls", "mean", "max") if poolings is None else poolings
        vectorizer = make_vectorizer(*cells, poolings=poolings, **given)
        vectorizer.fit(sample.texts)
        names = vectorizer.pooling_
    y = sample.labels(y)
    if estimator is None and type_of_target(y).startswith("continuous"):
        raise ValueError(
            "y holds numbers, and the default estimator is a classifier; pass a "
            "regressor of standardized features, such as "
            "estimator=make_pipeline(StandardScaler(), Ridge(100))."
        )
    if estimator is None and y.ndim > 1 and y.shape[1] > 1:
        raise ValueError(
            f"y holds {y.shape[1]} labels per row, and the default estimator learns "
            "one; pass an estimator for several, such as "
            "estimator=make_pipeline(StandardScaler(), "
            "OneVsRestClassifier(LogisticRegression(C=0.01)))."
        )
    if estimator is None:
        estimator = default_classifier()
    if isinstance(scoring, str) and scoring not in get_scorer_names():
        raise ValueError(
            f"scoring={scoring!r} is no score of scikit-learn; "
            "sklearn.metrics.get_scorer_names() lists them."
            + what_was_meant(scoring, get_scorer_names())
        )
    if is_classifier(estimator) and y.ndim == 1:
        check_several_classes(y)
    splits = sample.splits(cv, y, classifier=is_classifier(estimator))
    if scoring is not None:
        _check_scoring(estimator, y, splits, scoring, vectorizer.width_)

    meter = Meter()
    blocks = [_features(vectorizer, sample, names)]
    if untrained:
        request = request_of(vectorizer, names)
        block = untrained_features(vectorizer, request, sample.texts, random_state)
        is_scaled = isinstance(vectorizer, BertVectorizer) and vectorizer.normalize_
        blocks.append(to_unit(block) if is_scaled else block)
    seconds_features = meter.seconds
    is_shown = vectorizer._is_verbose()
    scores = [
        _score_cells(block, y, estimator, splits, scoring, n_jobs, is_shown)
        for block in blocks
    ]
    return LayerSweep(
        model=str(model),
        layers=vectorizer.layers_,
        poolings=names,
        scores=scores[0],
        scoring=name_of_score(scoring, estimator),
        n_texts=len(sample.texts),
        n_texts_encoded=meter.n_texts_encoded,
        seconds_features=seconds_features,
        seconds_scoring=meter.seconds - seconds_features,
        params=vectorizer_params,
        untrained_scores=scores[1] if untrained else None,
        default=_default_cell(vectorizer, names),
        test_over_train=float(np.mean([len(b) / len(a) for a, b in splits])),
        n_words=sample.n_rows if sample.is_split else None,
    )


def _features(
    vectorizer: BertVectorizer | BertTokenVectorizer,
    sample: Sample,
    poolings: tuple[str, ...],
) -> NDArray[np.float32]:
    """Return features of all rows, (n_rows, n_poolings, n_layers, width)."""
    if isinstance(vectorizer, BertTokenVectorizer):
        return word_features_by_layer(vectorizer, sample.texts, poolings)
    return features_by_layer(vectorizer, sample.texts)


def _score_cells(
    block: NDArray[np.float32],
    y: NDArray[Any],
    estimator: BaseEstimator,
    splits: list[Any],
    scoring: Any,
    n_jobs: int | None,
    is_shown: bool,
) -> NDArray[np.float64]:
    """Return scores, (n_poolings, n_layers, n_splits)."""
    n_poolings, n_layers = block.shape[1:3]
    cells = map_on_one_thread(
        _score_cell,
        (
            (clone(estimator), block[:, p, i], y, splits, scoring)
            for p in range(n_poolings)
            for i in range(n_layers)
        ),
        n_jobs=n_jobs,
        is_shown=is_shown,
    )
    return np.array(cells).reshape(n_poolings, n_layers, len(splits))


def _score_cell(
    estimator: BaseEstimator,
    X: NDArray[np.float32],
    y: NDArray[Any],
    splits: list[Any],
    scoring: Any,
) -> NDArray[np.float64]:
    scores = cross_val_score(
        estimator, X.astype(np.float32, copy=False), y, cv=splits, scoring=scoring,
        error_score="raise",
    )  # fmt: skip
    return np.asarray(scores)


def _check_scoring(
    estimator: BaseEstimator,
    y: NDArray[Any],
    splits: list[Any],
    scoring: Any,
    width: int,
) -> None:
    """Try a score on numbers drawn at random, before anything is encoded."""
    X = np.random.default_rng(0).normal(size=(len(y), width)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _score_cell(clone(estimator), X, y, splits[:1], scoring)
        except Exception as error:
            raise ValueError(
                f"scoring={scoring!r} cannot judge a {type(estimator).__name__} by "
                f"this y ({type(error).__name__}: {error}). Pass another scoring or "
                "estimator."
            ) from error


def name_of_score(scoring: Any, estimator: BaseEstimator) -> str:
    if scoring is None:
        return "accuracy" if is_classifier(estimator) else "R²"
    return (
        scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
    )


def _default_cell(
    vectorizer: BertVectorizer | BertTokenVectorizer, swept: tuple[str, ...]
) -> Cell | None:
    """Return the cell that the default parameters choose, if it was swept."""
    poolings: tuple[str, ...] = ("mean",)
    if isinstance(vectorizer, BertVectorizer):
        poolings = vectorizer._checkpoint().declared.pooling or poolings
    is_swept = (
        len(poolings) == 1
        and poolings[0] in swept
        and vectorizer.n_layers_ in vectorizer.layers_
    )
    return (vectorizer.n_layers_, poolings[0]) if is_swept else None


def _corrected_t_test(
    cell: Cell,
    reference: Cell,
    differences: NDArray[np.float64],
    test_over_train: float | None,
    confidence: float,
) -> SweepComparison:
    from scipy import stats

    k = len(differences)
    if k < 2:
        raise ValueError(f"A comparison needs at least two splits, got {k}.")
    ratio = 1 / (k - 1) if test_over_train is None else test_over_train
    mean = float(differences.mean())
    error = float(np.sqrt((1 / k + ratio) * differences.var(ddof=1)))
    p_value = 1.0 if mean == 0 else 0.0
    if error > 0:
        p_value = float(2 * stats.t.sf(abs(mean) / error, k - 1))
    half = error * float(stats.t.ppf((1 + confidence) / 2, k - 1))
    return SweepComparison(
        cell, reference, mean, (mean - half, mean + half), p_value, confidence
    )


def name_of_layer(layer: Any) -> str:
    if not isinstance(layer, tuple):
        return str(layer)
    is_range = layer == tuple(range(layer[0], layer[0] + len(layer)))
    if is_range and layer[0] >= 0 and len(layer) > 1:
        return f"{layer[0]}-{layer[-1]}"
    return ",".join(map(str, layer))


def name_of_cell(cell: Cell, what: str = "layer ") -> str:
    return f"{what}{name_of_layer(cell[0])}, {cell[1]}"
