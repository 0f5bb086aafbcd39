"""Which layer, which pooling: cross-validated sweeps and their pictures.

`layer_sweep` scores a classifier on every layer under every pooling from one pass of
the encoder, compares the best cell with the default one, and can score an untrained
encoder beside it; `LayerSweepDisplay` draws what it returns, or what a grid search
found. Computing and drawing are two things: nothing here needs matplotlib until `plot`
is called.

Imports `checkpoint`, `features` and `vectorizer`; for an untrained encoder also torch
and `tokenizer`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import check_cv, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import type_of_target
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ..checkpoint import DEFAULT_MODEL, Checkpoint, find_checkpoint
from ..features import WORK, features
from ..vectorizer import BertVectorizer
from ._drawing import axes_for

__all__ = ["LayerSweep", "LayerSweepDisplay", "SweepComparison", "layer_sweep"]

# Okabe & Ito 2008: told apart by colour-blind readers too.
_COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_WEIGHTS = (".safetensors", ".bin", ".index.json", ".h5", ".msgpack", ".onnx", ".ot")

# A cell is (layer, pooling).
Cell = tuple[Any, str]


@dataclass(frozen=True)
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

    def __str__(self) -> str:
        """Return a line: the cells, and the numbers."""
        return f"{_say(self.cell)}, minus {_say(self.reference)}: {self.numbers}"

    @property
    def numbers(self) -> str:
        """Difference, interval and p in words."""
        low, high = self.interval
        p = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
        return (
            f"{self.difference:+.3f}, {self.confidence:.0%} interval {low:+.3f} to "
            f"{high:+.3f}, {p}"
        )


@dataclass(frozen=True)
class LayerSweep:
    """Scores of a classifier on every layer under every pooling.

    Attributes
    ----------
    model : str
        The encoder's name.
    layers : tuple of int
        Layers, counted from 0. Of a grid search, also tuples of layers, concatenated.
    poolings : tuple of str
    scores : ndarray of shape (n_poolings, n_layers, n_splits)
        Test scores; higher is better. NaN where a grid search has no such cell.
    scoring : str
        What the scores are.
    n_texts : int
        Rows scored.
    n_texts_encoded : int
        Distinct texts that went through an encoder; the others were in the store. With
        an untrained baseline a text counts once for each of the two encoders.
    seconds_features, seconds_scoring : float
        Time to encode or read, and time of the classifiers.
    params : dict
        Other parameters of the `BertVectorizer` that was swept.
    untrained_scores : ndarray of shape (n_poolings, n_layers, n_splits) or None
        Scores of the same cells under random weights.
    default : (layer, pooling) or None
        The cell that ``BertVectorizer(model)`` uses; None where it was not swept.
    test_over_train : float or None
        Mean size of a test part over that of its training part, for `compare`; None is
        that of k-fold cross-validation, ``1 / (n_splits - 1)``.
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

        Its score is optimistic: it is the largest of many.
        """
        layer, pooling = self._best_cell
        return {**self.params, "model": self.model, "layer": layer, "pooling": pooling}

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
                lines.append(f"* minus {what} ({_say(cell)}): {numbers}")
        if self.untrained_scores is not None:
            numbers = self.compare(reference="untrained").numbers
            lines.append(f"* minus the same cell, untrained: {numbers}")
        return [
            *lines,
            f"The best of {n_cells} cells was chosen on the splits that score it: its "
            "score and\nthe differences are optimistic.",
        ]

    def __str__(self) -> str:
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
        names = [_name_of_layer(layer) for layer in self.layers]
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
    poolings: str | Sequence[str] = ("cls", "mean", "max"),
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
    X : iterable of str of shape (n_texts,)
        Texts.
    y : array-like of shape (n_texts,)
        Labels, or numbers if `estimator` is a regressor.
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `BertVectorizer`.
    layers : int, sequence of int, or "all", default="all"
        As ``layer`` in `BertVectorizer`.
    poolings : str or sequence of str, default=("cls", "mean", "max")
        As ``pooling`` in `BertVectorizer`. "attention" needs `layers` without 0, which
        no attention precedes, and "pooler" the last layer alone.
    estimator : estimator, default=None
        Scored on the features of each cell. None standardises them and fits
        ``LogisticRegression(C=0.01, tol=1e-3)``: strong regularisation suits a few
        hundred standardised features and a few thousand texts. See the notes for its
        speed.
    cv : int, cross-validation generator or iterable, default=5
        Every cell is scored on the same splits.
    scoring : str or callable, default=None
        None is the estimator's own score.
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
        Other parameters of `BertVectorizer`, such as ``memory`` or ``max_length``.

    Returns
    -------
    LayerSweep
        ``print`` shows the tables and tests, `LayerSweepDisplay` the picture.

    Raises
    ------
    TypeError
        `vectorizer_params` names a parameter that the sweep decides.
    ValueError
        `y` does not fit `X` or `estimator`, or a parameter is not valid.

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
    """
    for name in ("layer", "pooling", "layer_combination"):
        if name in vectorizer_params:
            raise TypeError(
                f"layer_sweep does not take {name!r}: it scores every layer of "
                "`layers` by itself, under every pooling of `poolings`."
            )
    if not isinstance(poolings, str):
        poolings = list(poolings)
    vectorizer = BertVectorizer(
        model, layer=layers, pooling=poolings, **vectorizer_params
    )
    texts = vectorizer._read_texts(X, is_fit=True)
    vectorizer.fit(texts)
    y = np.asarray(y)
    n_rows = len(y) if y.ndim else 0
    if n_rows != len(texts):
        raise ValueError(f"y has {n_rows} rows for {len(texts)} texts in X.")
    if estimator is None and type_of_target(y).startswith("continuous"):
        raise ValueError(
            "y holds numbers, and the default estimator is a classifier; pass a "
            "regressor, such as estimator=Ridge()."
        )
    if estimator is None:
        estimator = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, tol=1e-3, max_iter=1000)
        )
    splits = list(check_cv(cv, y, classifier=is_classifier(estimator)).split(texts, y))

    before, started = WORK.copy(), time.perf_counter()
    blocks = [vectorizer._by_layer(texts)]
    if untrained:
        blocks.append(_untrained_block(vectorizer, texts, random_state))
    if vectorizer.normalize_:
        for block in blocks:
            block /= np.maximum(np.linalg.norm(block, axis=3, keepdims=True), 1e-12)
    encoded_at = time.perf_counter()
    scores = [_score_cells(block, y, estimator, splits, scoring, n_jobs)
              for block in blocks]  # fmt: skip
    return LayerSweep(
        model=str(model),
        layers=vectorizer.layers_,
        poolings=vectorizer.pooling_,
        scores=scores[0],
        scoring=_name_of_score(scoring, estimator),
        n_texts=len(texts),
        n_texts_encoded=WORK.since(before).n_texts,
        seconds_features=encoded_at - started,
        seconds_scoring=time.perf_counter() - encoded_at,
        params=vectorizer_params,
        untrained_scores=scores[1] if untrained else None,
        default=_default_cell(vectorizer),
        test_over_train=float(np.mean([len(b) / len(a) for a, b in splits])),
    )


def _score_cells(
    block: NDArray[np.float32],
    y: NDArray[Any],
    estimator: BaseEstimator,
    splits: list[Any],
    scoring: Any,
    n_jobs: int | None,
) -> NDArray[np.float64]:
    """Return scores, (n_poolings, n_layers, n_splits)."""
    n_poolings, n_layers = block.shape[1:3]
    with threadpool_limits(1):
        cells = joblib.Parallel(n_jobs=n_jobs)(
            joblib.delayed(_score_cell)(
                clone(estimator), block[:, p, i], y, splits, scoring, os.getpid()
            )
            for p in range(n_poolings)
            for i in range(n_layers)
        )
    return np.array(cells).reshape(n_poolings, n_layers, len(splits))


def _score_cell(
    estimator: BaseEstimator,
    X: NDArray[np.float32],
    y: NDArray[Any],
    splits: list[Any],
    scoring: Any,
    parent: int,
) -> NDArray[np.float64]:
    # A limit holds for a whole process: threads of one must not set and reset it.
    is_here = os.getpid() == parent
    with contextlib.nullcontext() if is_here else threadpool_limits(1):
        return np.asarray(
            cross_val_score(
                estimator, X, y, cv=splits, scoring=scoring, error_score="raise"
            )
        )


def _name_of_score(scoring: Any, estimator: BaseEstimator) -> str:
    if scoring is None:
        return "accuracy" if is_classifier(estimator) else "R²"
    return (
        scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
    )


def _default_cell(vectorizer: BertVectorizer) -> Cell | None:
    """Return the cell that the default parameters choose, if it was swept."""
    poolings = vectorizer._checkpoint().declared.pooling or ("mean",)
    is_swept = (
        len(poolings) == 1
        and poolings[0] in vectorizer.pooling_
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


# An untrained encoder


def _untrained_block(
    vectorizer: BertVectorizer, texts: list[str], seed: int
) -> NDArray[np.float32]:
    """Return features of the same shape under random weights."""
    checkpoint = vectorizer._checkpoint()
    # A loaded encoder may keep the files mapped, which Windows does not delete.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        _write_untrained(checkpoint, Path(place), seed)
        written = find_checkpoint(place, trust_remote_code=checkpoint.trust_remote_code)
        untrained = replace(
            checkpoint,
            name=f"{checkpoint.name}, untrained",
            directory=place,
            fingerprint=written.fingerprint,
        )
        request = replace(vectorizer._request(checkpoint), checkpoint=untrained)
        return features(texts, request, vectorizer._engine())


def _write_untrained(checkpoint: Checkpoint, directory: Path, seed: int) -> None:
    """Write an encoder's files with random weights, the same for the same seed."""
    import torch
    from transformers import AutoConfig, AutoModel

    from ..tokenizer import quiet

    for file in Path(checkpoint.directory).iterdir():
        # modules.json names directories; what it declares is known by now.
        if file.is_file() and not file.name.endswith((*_WEIGHTS, "modules.json")):
            shutil.copyfile(file, directory / file.name)
    remote = {"trust_remote_code": checkpoint.trust_remote_code}
    config = AutoConfig.from_pretrained(str(directory), **remote)
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(int(seed))
        network = AutoModel.from_config(config, dtype=torch.float32, **remote)
    finally:
        torch.set_rng_state(state)
    with tempfile.TemporaryDirectory() as place, quiet():
        network.save_pretrained(place)  # also writes a configuration of its own
        for file in Path(place).iterdir():
            if file.name.endswith(_WEIGHTS):
                shutil.move(file, directory / file.name)


# Pictures


class LayerSweepDisplay:
    """Picture of a layer sweep: one curve with a band per pooling, or a heat map.

    Parameters
    ----------
    sweep : LayerSweep

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One per pooling; empty for a heat map.
    """

    def __init__(self, sweep: LayerSweep) -> None:
        self.sweep = sweep

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        ax: Any = None,
        kind: str = "curves",
        **params: Any,
    ) -> LayerSweepDisplay:
        """Sweep all layers of a vectorizer's encoder and draw the result.

        Parameters
        ----------
        estimator : BertVectorizer or Pipeline that begins with one
            Its parameters are used, other than ``layer``, ``layer_combination`` and
            ``pooling``. The other steps of a pipeline score the features.
        X, y : see `layer_sweep`
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        kind : {"curves", "heatmap"}, default="curves"
            As in `plot`.
        **params
            Of `layer_sweep`: ``layers``, ``poolings``, ``estimator``, ``cv``,
            ``scoring``, ``untrained``, ``random_state``, ``n_jobs``.

        Returns
        -------
        LayerSweepDisplay
        """
        vectorizer = estimator
        if isinstance(estimator, Pipeline):
            vectorizer = estimator[0]
            if len(estimator) > 1:
                params = {"estimator": estimator[1:], **params}
        if not isinstance(vectorizer, BertVectorizer):
            raise TypeError(
                "estimator must be a BertVectorizer or a Pipeline that begins with "
                f"one, got {type(vectorizer).__name__}."
            )
        own = vectorizer.get_params(deep=False)
        for name in ("layer", "layer_combination", "pooling"):
            own.pop(name)
        if "n_jobs" in params:
            own.pop("n_jobs")
        return cls(layer_sweep(X, y, **{**own, **params})).plot(ax=ax, kind=kind)

    @classmethod
    def from_cv_results(
        cls,
        search: Any,
        *,
        scoring: str | None = None,
        ax: Any = None,
        kind: str = "curves",
    ) -> LayerSweepDisplay:
        """Draw what a grid search over ``layer`` and ``pooling`` found.

        Parameters
        ----------
        search : fitted GridSearchCV or RandomizedSearchCV, or its ``cv_results_``
            Must have searched parameters that end in ``layer`` and ``pooling``,
            whatever the steps before them are called. Of its other parameters, the
            best setting counts for each cell, so cells are optimistic. Layers that were
            concatenated stand beside the single ones, poolings joined by "+".
        scoring : str, default=None
            Which score of a search with several; None is its only one, or the one that
            it refits by.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        kind : {"curves", "heatmap"}, default="curves"
            As in `plot`.

        Returns
        -------
        LayerSweepDisplay
            Its `sweep` holds the scores as a `LayerSweep`; negative layers are counted
            from 0 where the search was refitted.

        Raises
        ------
        ValueError
            The search is not fitted, has not searched both parameters, or several
            scores could be meant.
        """
        return cls(_sweep_of_search(search, scoring)).plot(ax=ax, kind=kind)

    def plot(self, ax: Any = None, *, kind: str = "curves") -> LayerSweepDisplay:
        """Draw mean scores by layer.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        kind : {"curves", "heatmap"}, default="curves"
            "curves" draws a line per pooling with a band of one standard deviation over
            splits, dashed ones for an untrained encoder, and a ring around the best
            cell. "heatmap" writes the score into each cell and frames the best, for
            more poolings than curves could show.

        Returns
        -------
        LayerSweepDisplay

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            `kind` is neither.
        """
        if kind not in ("curves", "heatmap"):
            raise ValueError(f"kind={kind!r} must be 'curves' or 'heatmap'.")
        sweep = self.sweep
        n_poolings, n_layers = sweep.means.shape
        size = (6.4, 4.4)
        if kind == "heatmap":
            size = (max(4.0, 1.8 + 0.62 * n_layers), 1.3 + 0.45 * n_poolings)
        ax = axes_for(self, ax, size)
        self.lines_ = [] if kind == "heatmap" else self._draw_curves(ax)
        if kind == "heatmap":
            self._draw_cells(ax)
        ax.set_xlabel("layer (0 = embedding output)" if 0 in sweep.layers else "layer")
        name = sweep.model.rpartition("/")[2]
        n_texts = f"{sweep.n_texts:,} texts" if sweep.n_texts else ""
        ax.set_title(", ".join(filter(None, (name, n_texts))))
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_curves(self, ax: Any) -> list[Any]:
        from matplotlib.lines import Line2D

        sweep, untrained = self.sweep, self.sweep.untrained_means
        x, is_one = _positions(sweep.layers)
        best_p, best_i = sweep._position("best", sweep._best_cell)
        ring: dict[str, Any] = {
            "ls": "",
            "marker": "o",
            "mfc": "none",
            "color": "black",
        }
        dashed: dict[str, Any] = {"ls": "--", "lw": 1.1}
        lines = []
        for p, pooling in enumerate(sweep.poolings):
            means, spreads = sweep.means[p], sweep.spreads[p]
            color, marker = _COLORS[p % len(_COLORS)], _MARKERS[p % len(_MARKERS)]
            # Concatenations stand side by side, so that their spreads can be read.
            at = x + np.where(is_one, 0, 0.12 * (p - (len(sweep.poolings) - 1) / 2))
            (line,) = ax.plot(
                at[is_one], means[is_one], color=color, marker=marker, markersize=5,
                label=pooling,
            )  # fmt: skip
            ax.fill_between(
                at[is_one], (means - spreads)[is_one], (means + spreads)[is_one],
                alpha=0.15, color=color, linewidth=0,
            )  # fmt: skip
            if not is_one.all():
                ax.errorbar(
                    at[~is_one], means[~is_one], spreads[~is_one], ls="", marker=marker,
                    markersize=5, color=color, capsize=2, elinewidth=1,
                )  # fmt: skip
            if untrained is not None:
                ax.plot(
                    at, untrained[p], color=color, marker=marker, markersize=3, **dashed
                )
            if p == best_p:
                ax.plot(at[best_i], means[best_i], markersize=12, **ring)
            lines.append(line)
        best = f"best: layer {_say(sweep._best_cell, '')}"
        best += f", {sweep.means[best_p, best_i]:.3f}"
        legend = [*lines, Line2D([], [], markersize=8, label=best, **ring)]
        if untrained is not None:
            legend.append(Line2D([], [], color="0.4", label="untrained", **dashed))
        ax.set_xticks(x, [_name_of_layer(layer) for layer in sweep.layers])
        ax.set_ylabel(f"{sweep.scoring.replace('_', ' ')} (mean ± std over splits)")
        _add_legend(ax, legend)
        return lines

    def _draw_cells(self, ax: Any) -> None:
        from matplotlib.patches import Rectangle

        sweep = self.sweep
        n_poolings, n_layers = sweep.means.shape
        image = ax.imshow(sweep.means, cmap="cividis", aspect="auto")
        middle = (np.nanmin(sweep.means) + np.nanmax(sweep.means)) / 2
        cell = ax.get_window_extent().width / ax.figure.dpi * 72 / n_layers  # points
        size = min(9.0, cell / 2.6)  # ".752" is about 2.2 times as wide as high
        for p in range(n_poolings if size > 4 else 0):
            for i in range(n_layers):
                if np.isfinite(sweep.means[p, i]):
                    ax.text(
                        i, p, f"{sweep.means[p, i]:.3f}".replace("0.", ".", 1),
                        ha="center", va="center", fontsize=size,
                        color="black" if sweep.means[p, i] > middle else "white",
                    )  # fmt: skip
        p, i = sweep._position("best", sweep._best_cell)
        ax.add_patch(
            Rectangle(
                (i - 0.48, p - 0.46),
                0.96,
                0.92,
                fill=False,
                ec="#D55E00",
                lw=2,
                clip_on=False,
            )
        )
        ax.set_xticks(range(n_layers), [_name_of_layer(k) for k in sweep.layers])
        ax.set_yticks(range(n_poolings), sweep.poolings)
        ax.set_ylabel("pooling")
        ax.figure.colorbar(image, ax=ax, label=sweep.scoring.replace("_", " "))


def _positions(layers: Sequence[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return where layers stand on the axis, and which are single layers."""
    is_one = np.array([isinstance(layer, int) for layer in layers])
    singles = [layer for layer in layers if isinstance(layer, int)]
    end = max(singles, default=-1)
    others = iter(range(end + 1, end + 1 + len(layers)))
    x = [
        layer if one else next(others)
        for layer, one in zip(layers, is_one, strict=True)
    ]
    return np.array(x), is_one


def _add_legend(ax: Any, handles: list[Any]) -> None:
    """Add a legend above the data, and make room for it there."""
    ax.margins(y=0.06)
    ax.autoscale_view()
    for n_columns in range(len(handles), 0, -1):
        legend = ax.legend(
            handles=handles, ncols=n_columns, loc="upper left", fontsize=9,
            frameon=False, borderaxespad=0.3, columnspacing=1.4, handletextpad=0.5,
        )  # fmt: skip
        box = legend.get_window_extent().transformed(ax.transAxes.inverted())
        if box.width < 0.96:
            break
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, bottom + (top - bottom) / max(0.3, 1 - box.height - 0.02))


def _name_of_layer(layer: Any) -> str:
    if not isinstance(layer, tuple):
        return str(layer)
    is_range = layer == tuple(range(layer[0], layer[0] + len(layer)))
    if is_range and layer[0] >= 0 and len(layer) > 1:
        return f"{layer[0]}-{layer[-1]}"
    return ",".join(map(str, layer))


def _say(cell: Cell, what: str = "layer ") -> str:
    return f"{what}{_name_of_layer(cell[0])}, {cell[1]}"


# Grid searches


def _sweep_of_search(search: Any, scoring: str | None) -> LayerSweep:
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
        pooling = params[pooling_name]
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
        chosen = _name_of_score(None, search) if is_own else chosen
    return str(chosen), keys


def _best_encoder(search: Any, layer_name: str) -> Any:
    """Return the refitted estimator that has the parameter, None if there is none."""
    best = getattr(search, "best_estimator_", None)
    step = layer_name.rpartition("__")[0]
    if best is None or not step:
        return best
    return best.get_params().get(step)


def _plain_layer(layer: Any, n_layers: int | None) -> Any:
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
