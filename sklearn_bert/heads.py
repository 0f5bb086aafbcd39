"""The classifier that stands on frozen features: which one, how weighted, how fitted.

`HasHead` is what probes share, of texts and of words: the parameters of the head, its
scaler and its weights. It sees a matrix of features and labels and knows nothing of
texts, layers or encoders.

Level 1 of the module map: imports `_validation` and `callbacks`.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import check_cv
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import (
    check_random_state,
    gen_batches,
    get_tags,
)
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array, column_or_1d, has_fit_parameter

from ._validation import (
    check_bool,
    check_choice,
    check_indicator,
    check_integer,
    check_labels,
    check_positive,
    check_several_classes,
    check_within,
)
from .callbacks import Task

__all__ = [
    "DropoutMLPClassifier", "HasHead", "PerLabelClassifier", "check_folds",
    "check_one_score", "check_sample_weight", "check_score", "check_target",
    "classes_of", "columns_of", "folds_of", "head_has", "n_rounds_of", "of_rows",
    "weigh",
]  # fmt: skip

_SCALER_ROWS = 2**16  # at once, as the scaler makes copies of what it is given


def head_has(method: str) -> Any:
    """Return a decorator: the estimator has a method if its head has this one."""

    def check(probe: HasHead) -> bool:
        head = probe.head_ if hasattr(probe, "head_") else probe._make_head(1)
        return hasattr(head, method)

    return available_if(check)


class HasHead:
    """What estimators share that end in a classifier on frozen features."""

    # Set by the subclass's __init__.
    head: Any
    standardize: Any
    C: Any
    class_weight: Any
    hidden_size: Any
    dropout: Any
    max_iter: Any
    random_state: Any

    head_: Pipeline

    def _make_head(self, n_rows: int, weights: Any = None) -> Any:
        """Check the parameters of the head and return it, unfitted.

        `weights` are refused where it can be given none.
        """
        check_bool("standardize", self.standardize)
        C = check_positive("C", self.C)
        hidden_size = check_integer("hidden_size", self.hidden_size, minimum=1)
        dropout = check_within("dropout", self.dropout, 1.0, is_open=True)
        max_iter = check_integer("max_iter", self.max_iter, minimum=1)
        check_random_state(self.random_state)
        if not isinstance(self.head, str):
            if not (hasattr(self.head, "fit") and is_classifier(self.head)):
                raise TypeError(
                    "head must be 'linear', 'mlp' or a scikit-learn classifier, got "
                    f"{self.head!r}."
                )
            self._refuse_weights(self.head, weights)
            return clone(self.head)
        if check_choice("head", self.head, ("linear", "mlp")) == "linear":
            return LogisticRegression(
                C=C, max_iter=max_iter, random_state=self.random_state
            )
        self._refuse_weights(MLPClassifier(), weights)  # scikit-learn 1.6
        batch_size = min(200, n_rows)
        options = {
            "hidden_layer_sizes": (hidden_size,),
            "batch_size": batch_size,
            "alpha": batch_size / (C * n_rows),  # it divides by the batch
            "max_iter": max_iter,
            "random_state": self.random_state,
        }
        if dropout:
            return DropoutMLPClassifier(dropout=dropout, **options)
        return MLPClassifier(**options)

    def _refuse_weights(self, head: Any, weights: Any) -> None:
        if weights is not None and not has_fit_parameter(head, "sample_weight"):
            raise ValueError(
                f"head={self.head!r} takes no sample_weight in fit; leave "
                "sample_weight and class_weight out, or choose head='linear'."
            )

    def _fit_head(
        self,
        Z: np.ndarray,
        y: np.ndarray,
        weights: Any,
        *,
        in_place: bool = False,
        task: Task | None = None,
    ) -> Pipeline:
        """Fit scaler and head; with `in_place`, Z is overwritten instead of copied.

        Callbacks of `task` follow the head, if it takes them.
        """
        if weights is not None and not of_rows(weights).all():  # 0 is left out
            kept = np.flatnonzero(of_rows(weights))
            Z, y, weights = Z[kept], y[kept], weights[kept]
        head = self._make_head(len(Z), weights)
        steps: list[tuple[str, Any]] = []
        if self.standardize:
            scaler = StandardScaler()
            for rows in gen_batches(len(Z), _SCALER_ROWS):
                part = None if weights is None else of_rows(weights[rows])
                scaler.partial_fit(Z[rows], sample_weight=part)
            Z = scaler.transform(Z, copy=not in_place)
            steps.append(("scale", scaler))
        options = {} if weights is None else {"sample_weight": weights}
        tags = get_tags(head)
        takes_labels = tags.classifier_tags.multi_label or tags.target_tags.multi_output
        if y.ndim == 2 and (not takes_labels or np.ndim(weights) == 2):
            head = PerLabelClassifier(head).fit(Z, y, **options)
        else:
            with (task or Task()).lend(head):
                head.fit(Z, y, **options)
        if isinstance(self.head, str):  # "mlp" holds its weights four times
            for part in getattr(head, "estimators_", [head]):
                for name in ("_optimizer", "_best_coefs", "_best_intercepts"):
                    vars(part).pop(name, None)
        return Pipeline([*steps, ("head", head)])

    def _weights(
        self, y: np.ndarray, sample_weight: Any, rows: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Return the weight of each row, or None if all count alike.

        Parameters
        ----------
        y : ndarray of shape (n_rows,) or (n_rows, n_labels)
        sample_weight : ndarray of shape (n_rows,) or None
            From `check_sample_weight`.
        rows : ndarray of shape (n_given,), default=None
            Of a fold: its classes are balanced by themselves.
        """
        return weigh(y, self.class_weight, sample_weight, rows)


def _estimator_has(method: str) -> Any:
    return available_if(lambda each: hasattr(each.estimator, method))


class PerLabelClassifier(ClassifierMixin, BaseEstimator):
    """A classifier for each of several labels, which may weigh rows each in its way.

    `OneVsRestClassifier` has one weight per row. A label that all rows have, or none,
    is predicted as it is.

    Parameters
    ----------
    estimator : classifier

    Attributes
    ----------
    estimators_ : list of classifier
    classes_ : ndarray of shape (n_labels, 2)
        0 and 1 for each label.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> PerLabelClassifier:
        """Train on features and an indicator.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
        y : ndarray of shape (n_rows, n_labels)
        sample_weight : ndarray of shape (n_rows,) or (n_rows, n_labels), default=None
        """
        self.classes_ = classes_of(y)
        self.estimators_ = []
        for j, column in enumerate(y.T):
            rows: Any = slice(None)
            options: dict[str, Any] = {}
            if sample_weight is not None:
                weights = sample_weight.reshape(len(y), -1)
                weights = weights[:, j % weights.shape[1]]
                rows = np.flatnonzero(weights) if not weights.all() else rows
                options["sample_weight"] = np.ascontiguousarray(weights[rows])
            is_same = len(np.unique(column[rows])) < 2
            estimator = DummyClassifier() if is_same else clone(self.estimator)
            self.estimators_.append(estimator.fit(X[rows], column[rows], **options))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return 0 or 1 of each label, (n_rows, n_labels)."""
        return np.column_stack([part.predict(X) for part in self.estimators_])

    @_estimator_has("predict_proba")
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each label, (n_rows, n_labels)."""
        return np.column_stack(
            [_of_1(part.predict_proba(X), part.classes_) for part in self.estimators_]
        )

    @_estimator_has("decision_function")
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the score of each label, (n_rows, n_labels); above 0 it is there."""
        return np.column_stack(
            [
                2.0 * part.predict(X) - 1.0
                if isinstance(part, DummyClassifier)
                else part.decision_function(X)
                for part in self.estimators_
            ]
        )


class DropoutMLPClassifier(MLPClassifier):
    """`MLPClassifier` whose hidden units are left out at random while it trains.

    Parameters
    ----------
    hidden_layer_sizes : tuple of one int, default=(128,)
        This and the others, but `dropout`, are those of `MLPClassifier`.
    dropout : float, default=0.5
        Share of hidden units, at least 0 and below 1, that a text does without, anew
        in each step. Afterwards all are there and count that much less.
    batch_size : int, default=200
    alpha : float, default=1e-4
    max_iter : int, default=200
    random_state : int, RandomState or None, default=None

    References
    ----------
    Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting", sections 4 and 5.
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (128,),
        *,
        dropout: float = 0.5,
        batch_size: Any = 200,
        alpha: float = 1e-4,
        max_iter: int = 200,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes, batch_size=batch_size, alpha=alpha, max_iter=max_iter,
            random_state=random_state,
        )  # fmt: skip
        self.dropout = dropout

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> DropoutMLPClassifier:
        """Train on features and labels, as `MLPClassifier.fit`."""
        options = {} if sample_weight is None else {"sample_weight": sample_weight}
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        self._random = np.random.default_rng(seed + 1)  # other than first weights'
        self._n_thinned = 0
        super().fit(X, y, **options)
        if not self._n_thinned:
            raise RuntimeError(
                "dropout has no effect with this version of scikit-learn; pass "
                "dropout=0.0."
            )
        self.coefs_[-1] *= 1.0 - self.dropout
        del self._random, self._n_thinned
        return self

    def _forward_pass(self, activations: list[np.ndarray]) -> list[np.ndarray]:
        """Leave units out; only training calls this. A 0 passes no gradient back."""
        activations = super()._forward_pass(activations)
        *_, hidden, outputs = activations
        hidden *= self._random.random(hidden.shape, hidden.dtype) >= self.dropout
        scores = hidden @ self.coefs_[-1] + self.intercepts_[-1]
        is_softmax = self.out_activation_ == "softmax"
        outputs[...] = softmax(scores, axis=1) if is_softmax else expit(scores)
        self._n_thinned += 1
        return activations


def columns_of(answers: Any, head: Pipeline) -> np.ndarray:
    """Return probabilities of labels, (n_texts, n_labels), also of a head with a list.

    Some classifiers answer with one array of all classes for each label.
    """
    if not isinstance(answers, list):
        return np.asarray(answers)
    return np.column_stack(
        [
            _of_1(part, classes)
            for part, classes in zip(answers, head[-1].classes_, strict=True)
        ]
    )


def _of_1(probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the probability of class 1, (n_rows,), of classes that may lack it."""
    places = np.flatnonzero(classes == 1)
    if not len(places):
        return np.zeros(len(probabilities))
    return np.asarray(probabilities[:, places[0]])


def n_rounds_of(head: Pipeline) -> dict[str, int]:
    """Return ``n_iter_`` of a fitted head, the most if it has several, or nothing."""
    last = head[-1]
    rounds = [
        int(np.max(part.n_iter_))
        for part in getattr(last, "estimators_", [last])
        if getattr(part, "n_iter_", None) is not None
    ]
    return {"n_iter_": max(rounds)} if rounds else {}


def weigh(
    y: np.ndarray,
    class_weight: Any,
    sample_weight: np.ndarray | None,
    rows: np.ndarray | None = None,
) -> np.ndarray | None:
    """Return the weight of each row, or None if all count alike.

    Weights of classes that are "balanced" are so by the weights of the texts, as those
    of scikit-learn's classifiers are; one of weight 0 counts as left out. Where there
    are several labels and weights of classes, each label weighs rows in its own way:
    the shape is (n_rows, n_labels). `compute_sample_weight` would multiply over labels,
    and a few rows with rare ones would outweigh all others. `rows` are those of a fold.
    """
    _check_class_weight(class_weight, y)
    who = "A fit without the texts of weight 0"
    if rows is not None:
        who = "A fold of cv without the texts of weight 0"
        y = y[rows]
        sample_weight = None if sample_weight is None else sample_weight[rows]
    if sample_weight is None and class_weight is None:
        return None
    given = np.ones(len(y)) if sample_weight is None else sample_weight
    weights = given
    if class_weight is not None:
        columns = [y] if y.ndim == 1 else list(y.T)
        each = [class_weight]
        if y.ndim == 2:
            each = _per_label(class_weight, y.shape[1])
        weighed = [
            given * _weights_of_classes(column, own, given)
            for column, own in zip(columns, each, strict=True)
        ]
        weights = weighed[0] if y.ndim == 1 else np.column_stack(weighed)
    if not weights.sum() > 0:
        raise ValueError(
            "sample_weight must not be zero for every text"
            + (", also in each fold of cv." if rows is not None else ".")
        )
    if y.ndim == 1:
        check_several_classes(y[weights != 0], who)
    elif weights.ndim == 2 and not weights.any(axis=0).all():
        label = int(np.flatnonzero(~weights.any(axis=0))[0])
        raise ValueError(
            f"class_weight and sample_weight leave no text of label {label} any weight."
        )
    return np.asarray(weights, dtype=np.float64)


def of_rows(weights: np.ndarray) -> np.ndarray:
    """Return one weight per row, the mean over labels where they have their own."""
    return weights if weights.ndim == 1 else np.asarray(weights.mean(axis=1))


def _per_label(class_weight: Any, n_labels: int) -> list[Any]:
    """Return the weights of classes of each label: the same, or one of a list."""
    if not isinstance(class_weight, (list, tuple)):
        return [class_weight] * n_labels
    if len(class_weight) != n_labels:
        raise ValueError(
            f"class_weight must hold one dict for each of {n_labels} labels, got "
            f"{len(class_weight)}."
        )
    return list(class_weight)


def _weights_of_classes(y: np.ndarray, class_weight: Any, given: np.ndarray) -> Any:
    if class_weight is None:
        return np.ones(len(y))
    if isinstance(class_weight, str):
        _, codes = np.unique(y, return_inverse=True)
        mass = np.bincount(codes, weights=given)
        n_classes = np.count_nonzero(mass)
        shares = np.divide(mass.sum(), n_classes * mass, where=mass > 0, out=mass)
        return shares[codes]
    classes, codes = np.unique(y, return_inverse=True)
    own = [float(class_weight.get(label, 1.0)) for label in classes.tolist()]
    return np.array(own)[codes]


def _check_class_weight(class_weight: Any, y: np.ndarray) -> None:
    """Refuse what is no weight of classes, and classes that `y` lacks."""
    given = class_weight if isinstance(class_weight, (list, tuple)) else [class_weight]
    known = {0, 1} if y.ndim == 2 else set(np.unique(y).tolist())
    for own in given:
        if own is None or (isinstance(own, str) and own == "balanced"):
            continue
        if not isinstance(own, Mapping) or (given is class_weight and y.ndim == 1):
            raise ValueError(
                "class_weight must be a dict, 'balanced' or None, or for several "
                f"labels a list of dicts, got {class_weight!r}."
            )
        unknown = [label for label in own if label not in known]
        if unknown and not known <= own.keys():  # else a fold lacks a rare class
            raise ValueError(
                f"class_weight has a weight for {unknown[0]!r}, which is no class of y."
            )
        for weight in own.values():
            is_number = isinstance(weight, numbers.Real)
            if not is_number or not 0 <= float(weight) < float("inf"):
                raise ValueError(
                    "class_weight must hold finite numbers of at least 0, got "
                    f"{class_weight!r}."
                )


def check_sample_weight(sample_weight: Any, n_texts: int) -> np.ndarray | None:
    """Return one weight per text, or None if none are given."""
    if sample_weight is None:
        return None
    given = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
    )
    if given.shape != (n_texts,):
        raise ValueError(f"sample_weight has shape {given.shape} for {n_texts} texts.")
    if n_texts and given.min() < 0:
        raise ValueError(
            "sample_weight must not be negative, first in row "
            f"{int(np.flatnonzero(given < 0)[0])}."
        )
    with np.errstate(over="ignore"):
        total = given.sum()
    if not np.isfinite(total):
        raise ValueError("sample_weight is too large: its sum is not finite.")
    return np.asarray(given)


def folds_of(
    cv: Any, X: Any, y: np.ndarray | None = None, *, classifier: bool = True
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows to train on and to score on of each fold of `cv`.

    A number of folds keeps the shares of classes, if there are any.
    """
    every = np.arange(len(X))  # folds may be slices, of which a part is a view
    try:
        splits = check_cv(cv, y, classifier=classifier and y is not None).split(X, y)
        folds = [(every[train], every[test]) for train, test in splits]
    except (TypeError, ValueError) as error:
        cure = "Pass fewer or other folds."
        if "groups" in str(error):
            cure = "Pass the folds themselves: cv=list(cv.split(X, y, groups))."
        elif y is None:
            cure = "Texts have no class to split by: pass a number or KFold."
        raise type(error)(
            f"cv={cv!r} makes no folds of {len(X)} texts: {error} {cure}"
        ) from error
    if not folds:
        raise ValueError(f"cv={cv!r} has no folds to score by.")
    return folds


def check_folds(folds: Iterable[tuple[np.ndarray, np.ndarray]], y: np.ndarray) -> None:
    """Refuse folds of which one can not be trained on, or not be scored on."""
    for i, (train, test) in enumerate(folds):
        for rows, use in ((train, "train"), (test, "score")):
            if not len(rows):
                raise ValueError(
                    f"Fold {i} of cv has nothing to {use} on (what has weight 0 is "
                    "left out). Pass fewer or other folds."
                )
        classes = np.unique(y[train]).tolist() if y.ndim == 1 else []
        if len(classes) == 1:
            raise ValueError(
                f"Fold {i} of cv needs at least two classes in y to train on, got one "
                f"class: {classes[0]!r}. Pass folds that are shuffled or stratified."
            )


def check_score(
    score: float, scoring: Any, layer: int, fold: int, n_texts: int
) -> None:
    """Refuse a score by which no layer can be chosen."""
    if not np.isfinite(score):
        raise ValueError(
            f"scoring={scoring!r} of layer {layer} is {score} in fold {fold} of cv, "
            f"which holds {n_texts} texts: no layer can be chosen by it. Pass fewer or "
            "other folds, or another scoring."
        )


def classes_of(y: np.ndarray, head: Any = None) -> np.ndarray:
    """Return the classes of a target, those of each label where there are several.

    By their shape scikit-learn's scorers know that there are. A fitted head knows which
    classes have texts of weight above 0.
    """
    if y.ndim > 1:
        return np.tile([0, 1], (y.shape[1], 1))
    return np.asarray(getattr(head, "classes_", np.unique(y)))


def check_one_score(scoring: Any) -> None:
    """Refuse several scorers where one decides."""
    if isinstance(scoring, (list, tuple, set, dict)):
        raise TypeError(
            f"scoring must be one scorer, its name or None, got {scoring!r}."
        )


def check_target(y: Any, n_texts: int, estimator: object) -> np.ndarray:
    """Return classes, shape (n_texts,), or a multilabel indicator, else raise."""
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but "
            "the target y is None."
        )
    y = check_labels(y)
    check_classification_targets(y)
    if type_of_target(y, input_name="y") != "multilabel-indicator":
        y = column_or_1d(y, warn=True)
    if len(y) != n_texts:
        raise ValueError(f"y has {len(y)} rows for {n_texts} texts in X.")
    if not n_texts:
        raise ValueError("Found array with 0 sample(s): X has no text to learn from.")
    if y.ndim == 1:
        check_several_classes(y)
    else:
        check_indicator(y)
    return y
