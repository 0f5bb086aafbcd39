"""BertProbeClassifier: a classifier that also chooses the representation.

A probe reads stored features through a `BertVectorizer` that it sets up itself, and
learns from labels what a pipeline of fixed steps cannot: which layer to use, how to
weight all of them, which tokens count. Its head is scikit-learn's own classifier on
what results.

Level 8 of the module map: imports `_validation`, `callbacks`, `checkpoint`,
`estimators`, `heads`, `layers`, `learning`, `pooling`, `ragged`, `store` and
`vectorizer`.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import check_scoring
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ._validation import check_choice
from .callbacks import CallbackSupportMixin, Task, with_callbacks
from .checkpoint import DEFAULT_MODEL
from .estimators import TextEstimator, plain_repr, refuse_change
from .heads import (
    HasHead,
    check_folds,
    check_one_score,
    check_sample_weight,
    check_score,
    check_target,
    classes_of,
    columns_of,
    folds_of,
    head_has,
    n_rounds_of,
)
from .layers import read_layer
from .learning import as_classes
from .pooling import read_pooling
from .ragged import Ragged
from .store import store_location
from .vectorizer import BertVectorizer, ChunkWeights, TokenWeights

__all__ = ["BertProbeClassifier"]

_SHARED = tuple(
    name
    for name in inspect.signature(BertVectorizer).parameters
    if name not in ("layer", "layer_combination")
)


# What fit learns.
_LEARNED = (
    "_fitted_layer", "classes_", "cv_scores_", "fingerprint_", "gamma_", "head_",
    "layer_weights_", "layers_", "n_iter_", "vectorizer_",
)  # fmt: skip


class BertProbeClassifier(
    CallbackSupportMixin, ClassifierMixin, HasHead, TextEstimator
):
    """Classify texts by a frozen encoder's features, learning which of them to use.

    The encoder stays as it is; a classifier is trained on its features. ``layer="cv"``
    finds the best layer by cross-validation, ``layer="mix"`` learns a weight for each,
    and ``pooling="learned_attention"`` a weight for each token, all on stored features:
    with `memory`, none costs a forward pass that one layer would not.

    Parameters
    ----------
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        Name on the Hugging Face Hub or a directory. This and the parameters up to
        `verbose` are those of `BertVectorizer`, which says more.
    layer : int, sequence of int, "all", "mix" or "cv", default=-1
        Numbers are layers as in `BertVectorizer`; several are concatenated. "mix"
        weights all layers by a softmax that is learned jointly with a linear model of
        strength `C`. "cv" scores each layer by cross-validation and keeps the best.
    pooling : {"auto", "cls", "mean", "max", "mean_sqrt_len", "attention", "pooler", \
"learned_attention"} or sequence of them, default="auto"
        How the token states of a text become one vector. "learned_attention" trains a
        query that says which tokens count, jointly with the layer weights of "mix".
    special_tokens : bool, default=True
        Whether [CLS], [SEP] and the like count in a pooling.
    normalize : bool or "auto", default="auto"
        Whether each vector is scaled to unit length before the head.
    max_length : int or None, default=None
        Longest input in tokens, special ones included.
    overflow : {"truncate", "chunk", "raise"}, default="truncate"
        What happens to longer texts.
    stride : int or None, default=None
        Tokens that consecutive windows share, for ``overflow="chunk"``.
    chunk_pooling : {"auto", "mean", "max", "first", "learned_attention"}, \
default="auto"
        How the vectors of a text's windows become one. "learned_attention" trains a
        query that says which windows count, jointly with the layer weights of "mix".
    prompt : str or None, default=None
        Put before every text; None is what the checkpoint declares.
    missing : {"raise", "empty"}, default="raise"
        Whether None, NaN and ``pd.NA`` are refused or read as "".
    memory : None, str, path-like or joblib.Memory, default=None
        Where frozen features are kept. With it, fitting again, on other folds or with
        another head, runs no encoder.
    store_layers : {"all", "requested"}, default="all"
        What `memory` keeps of a pass.
    batch_size : int or "auto", default="auto"
        Texts per forward pass.
    device : str, default="auto"
        Where the encoder runs.
    dtype : {"float32", "bfloat16", "float16", "auto"}, default="float32"
        Precision of the encoder.
    token_dtype : {"float32", "float16"}, default="float32"
        Precision of token states for "learned_attention", in `memory` too.
    n_jobs : int or None, default=None
        Worker processes that encode.
    revision : str or None, default=None
        Branch, tag or commit on the hub.
    local_files_only : bool, default=False
        Whether the hub is never asked.
    trust_remote_code : bool, default=False
        Whether Python code in the checkpoint may be run.
    verbose : bool, default=False
        Whether a progress bar is shown while texts are encoded.
    head : {"linear", "mlp"} or classifier, default="linear"
        "linear" is `LogisticRegression`, "mlp" `MLPClassifier` with one hidden layer.
        Any scikit-learn classifier may be given; it is cloned, and `C`, `hidden_size`,
        `dropout`, `max_iter` and `random_state` are then its own business.
    standardize : bool, default=True
        Whether every feature is scaled to zero mean and unit variance before the head,
        by `StandardScaler`, and layers and token states before they are weighted.
        Without it, layers of large norm need another `C` and converge several times
        more slowly.
    C : float, default=0.01
        Inverse strength of the L2 penalty of the linear head, of "mix" and of
        "learned_attention". Smaller
        than `LogisticRegression`'s 1.0, which overfits hundreds of standardized
        features on the few thousand texts that probes are for. For "mlp" the penalty
        ``alpha`` is ``1 / C / n_texts``.
    class_weight : dict, "balanced", list of dict or None, default=None
        Weights per class, multiplied with ``sample_weight``. For several labels each
        weighs texts in its own way, "balanced" by how many texts have it, and gets a
        head of its own; a list gives a dict for each.
    hidden_size : int, default=128
        Units of the hidden layer of "mlp".
    dropout : float, default=0.0
        Share of those units left out at random in each step of training, against
        overfitting; 0.5 is common where the layer is wide.
    cv : int, splitter or iterable, default=5
        Folds by which ``layer="cv"`` chooses. Those of a splitter by groups are given
        as they are: ``cv=list(GroupKFold(5).split(X, y, groups))``.
    scoring : str, callable or None, default=None
        What ``layer="cv"`` maximises; None is the head's own score (accuracy). Texts
        of weight 0 are left out, all others count alike.
    max_iter : int, default=1000
        Largest number of iterations (linear) or epochs (mlp), and of those in which
        "mix" and "learned_attention" learn.
    random_state : int, RandomState or None, default=None
        Shuffling and initialisation of "mlp"; the linear head needs none. An int makes
        results repeat bitwise on a CPU.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,) or (n_labels, 2)
        Labels; 0 and 1 for each label if `y` was a multilabel indicator.
    layers_ : tuple of int
        Layers used, counted from 0.
    layer_weights_ : ndarray of shape (n_layers,)
        Softmax weights of `layers_`; only with ``layer="mix"``.
    gamma_ : float
        Scale of the mix, which gives features of the training texts a spread of 1; with
        ``standardize=False`` it is learned. It shows nowhere if vectors are normalized
        afterwards (`normalize`). Only with ``layer="mix"``.
    cv_scores_ : ndarray of shape (n_layers, n_folds)
        Score of every layer in every fold; only with ``layer="cv"``. The best mean is
        the choice, and so a little optimistic about new texts. NaN for layers that a
        callback left out.
    head_ : estimator
        The fitted head, with its scaler.
    vectorizer_ : BertVectorizer
        What turns texts into the head's features.
    n_iter_ : int
        Iterations or epochs of the head, the largest if it has several. What "mix" or
        "learned_attention" took is ``vectorizer_.n_iter_``.
    fingerprint_ : str
        Digest of the encoder's files. `predict` refuses to run on others.

    See Also
    --------
    BertVectorizer : The features alone, for any pipeline.

    Notes
    -----
    With a fixed `layer` the linear head is `LogisticRegression` on the features of
    `BertVectorizer`, after `StandardScaler` unless ``standardize=False``: the same
    coefficients, the same predictions. With weights of texts or classes the scaler is
    given them too.

    References
    ----------
    Peters et al. 2018, "Deep contextualized word representations", equation 1, for
    "mix".

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_bert import BertProbeClassifier
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> encoder = make_tiny_encoder(tempfile.mkdtemp())
    >>> texts = ["good film", "bad film", "good plot", "bad plot"] * 5
    >>> probe = BertProbeClassifier(encoder, layer="cv", C=1.0)
    >>> probe.fit(texts, [1, 0, 1, 0] * 5).predict(["good end", "bad end"])
    array([1, 0])
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        layer: Any = -1,
        pooling: Any = "auto",
        special_tokens: bool = True,
        normalize: Any = "auto",
        max_length: int | None = None,
        overflow: str = "truncate",
        stride: int | None = None,
        chunk_pooling: str = "auto",
        prompt: str | None = None,
        missing: str = "raise",
        memory: Any = None,
        store_layers: str = "all",
        batch_size: Any = "auto",
        device: str = "auto",
        dtype: str = "float32",
        token_dtype: str = "float32",
        n_jobs: int | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        verbose: bool = False,
        head: Any = "linear",
        standardize: bool = True,
        C: float = 0.01,
        class_weight: Any = None,
        hidden_size: int = 128,
        dropout: float = 0.0,
        cv: Any = 5,
        scoring: Any = None,
        max_iter: int = 1000,
        random_state: Any = None,
    ) -> None:
        self.model = model
        self.layer = layer
        self.pooling = pooling
        self.special_tokens = special_tokens
        self.normalize = normalize
        self.max_length = max_length
        self.overflow = overflow
        self.stride = stride
        self.chunk_pooling = chunk_pooling
        self.prompt = prompt
        self.missing = missing
        self.memory = memory
        self.store_layers = store_layers
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.token_dtype = token_dtype
        self.n_jobs = n_jobs
        self.revision = revision
        self.local_files_only = local_files_only
        self.trust_remote_code = trust_remote_code
        self.verbose = verbose
        self.head = head
        self.standardize = standardize
        self.C = C
        self.class_weight = class_weight
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.cv = cv
        self.scoring = scoring
        self.max_iter = max_iter
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> BertProbeClassifier:
        """Choose or weight layers, and train the head.

        Callbacks of scikit-learn (1.9) are told of two steps, "representation" and
        "head". Steps of the first are the layers that "cv" scores, or the iterations
        by which weights are learned; a callback may end either. One that asks for it
        gets the probe as if learning had ended with that iteration, for a head of its
        own; of a layer that "cv" scores there is none. A linear head reports its
        iterations too.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)
            Texts, or a 2-D container with one column of them.
        y : array-like of shape (n_texts,) or (n_texts, n_labels)
            Classes, or a multilabel indicator of 0 and 1.
        sample_weight : array-like of shape (n_texts,), default=None
            Weight of each text in the loss of what is learned and of the head.

        Returns
        -------
        BertProbeClassifier
            This estimator.

        Raises
        ------
        ValueError, TypeError
            A parameter, a row of `X` or `y` is not valid; the message names it.
        """
        for name in _LEARNED:  # a fit that fails leaves nothing behind
            self.__dict__.pop(name, None)
        head = self._make_head(1)  # checks its parameters before any forward pass
        check_one_score(self.scoring)
        check_scoring(head, self.scoring)
        texts = self._read_texts(X, is_fit=True)
        y = check_target(y, len(texts), self)
        given = check_sample_weight(sample_weight, len(texts))
        weights = self._weights(y, given)
        self._make_head(1, weights)
        with Task.root(self, 2, texts, y, sample_weight) as task:
            with task.step("representation", None) as step:
                vectorizer, Z, chosen_by = self._choose(texts, y, given, step)
            with task.step("head") as step:
                head = self._fit_head(Z, y, weights, in_place=True, task=step)
                fitted = self._fitted(vectorizer, head, y) | chosen_by
                step.attributes = lambda: fitted
        self.__dict__.update(fitted)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the most likely class of each text.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)

        Returns
        -------
        ndarray of shape (n_texts,) or (n_texts, n_labels)
        """
        return np.asarray(self._ask("predict", X))

    @head_has("predict_proba")
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)

        Returns
        -------
        ndarray of shape (n_texts, n_classes)
            In the order of `classes_`; for a multilabel target the probability of each
            label.
        """
        return columns_of(self._ask("predict_proba", X), self.head_)

    @head_has("decision_function")
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the head's scores.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)

        Returns
        -------
        ndarray of shape (n_texts,) or (n_texts, n_classes)
        """
        return np.asarray(self._ask("decision_function", X))

    def token_weights(self, X: Any) -> list[TokenWeights]:
        """Return how much each token of each text counts.

        Only for ``pooling="learned_attention"``.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)

        Returns
        -------
        list of TokenWeights
            ``tokens`` and ``weights`` of each text, for reading and drawing.
        """
        check_is_fitted(self)
        return self._current_vectorizer().token_weights(X)

    def chunk_weights(self, X: Any) -> list[ChunkWeights]:
        """Return how much each window of each long text counts.

        Only for ``chunk_pooling="learned_attention"``.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)

        Returns
        -------
        list of ChunkWeights
            ``chunks``, what each window shows of the text, and ``weights``.
        """
        check_is_fitted(self)
        return self._current_vectorizer().chunk_weights(X)

    def n_chunks(self, X: Any) -> np.ndarray:
        """Return in how many windows each text is encoded.

        Counted by the tokenizer: nothing is encoded.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)

        Returns
        -------
        ndarray of shape (n_texts,)
            At least 1, and more only with ``overflow="chunk"``.
        """
        check_is_fitted(self)
        return self._current_vectorizer().n_chunks(X)

    # The steps of fit and predict

    def _vectorizer(self, layer: Any, **params: Any) -> BertVectorizer:
        """Return a vectorizer that has learned nothing yet."""
        shared = {name: getattr(self, name) for name in _SHARED}
        vectorizer = BertVectorizer(**shared, layer=layer, **params)
        vectorizer._settle()
        return vectorizer

    def _choose(
        self, texts: list[str], y: np.ndarray, given: np.ndarray | None, task: Task
    ) -> tuple[BertVectorizer, np.ndarray, dict[str, np.ndarray]]:
        """Return the vectorizer of the layers chosen, and its features of the texts.

        `given` are the weights of texts, without those of classes. The third is the
        fitted attribute that says how layers were chosen, if they were.
        """
        layer = read_layer(self.layer)
        if isinstance(layer, str):
            check_choice("layer", layer, ("all", "mix", "cv"))
        if not isinstance(layer, str) or layer == "all":
            vectorizer = self._vectorizer(layer)
            if not vectorizer._learns_from_y():
                return vectorizer, vectorizer._encode(texts), {}
            Z = self._learn_from_all(vectorizer, texts, y, given, task)
            return vectorizer, Z, {}
        n_layers = self._vectorizer(-1).n_layers_  # and checks the parameters
        pooling = read_pooling(self.pooling)
        pooling = [pooling] if isinstance(pooling, str) else pooling
        if "pooler" in pooling:
            raise ValueError(
                "pooling='pooler' is a head on the last layer only; pass layer=-1, got "
                f"layer={self.layer!r}."
            )
        first = 1 if "attention" in pooling else 0  # layer 0 follows no attention
        layers = list(range(first, n_layers + 1))
        if layer == "cv":
            return self._best(texts, y, given, layers, task)
        vectorizer = self._vectorizer(layers, layer_combination="scalar_mix")
        Z = self._learn_from_all(vectorizer, texts, y, given, task)
        return vectorizer, Z, {}

    def _learn_from_all(
        self,
        vectorizer: BertVectorizer,
        texts: list[str],
        y: np.ndarray,
        given: np.ndarray | None,
        task: Task,
    ) -> np.ndarray:
        frozen = vectorizer._frozen(texts)
        return self._learn(vectorizer, frozen, y, self._weights(y, given), task)

    def _learn(
        self,
        vectorizer: BertVectorizer,
        frozen: Any,
        y: np.ndarray,
        weights: np.ndarray | None,
        task: Task,
        rows: np.ndarray | None = None,
    ) -> np.ndarray:
        """Have a vectorizer learn from some rows; return the features of all.

        `weights` are those of these rows.
        """

        def on_step(reached: Callable[[], BertVectorizer]) -> bool:
            with task.step("iteration") as step:
                step.attributes = functools.partial(
                    self._as_if_ended, reached, frozen, y, weights
                )
            return task.is_stopped

        # The parameter that learns, by its name in this class.
        who = {"who": "layer='mix'"} if vectorizer._mixes() else {}
        labels = as_classes(y)
        vectorizer._learn(
            frozen if rows is None else frozen[rows],
            labels if rows is None else labels[rows],
            **who,
            C=self.C,
            sample_weight=weights,
            standardize=self.standardize,
            max_iter=self.max_iter,
            on_step=on_step,
        )
        return vectorizer._combine_all(frozen)

    def _as_if_ended(
        self,
        reached: Callable[[], BertVectorizer],
        frozen: Any,
        y: np.ndarray,
        weights: np.ndarray | None,
    ) -> dict[str, Any]:
        """Return the fitted attributes as if learning had ended with this step."""
        vectorizer = reached()
        Z = vectorizer._combine_all(frozen)
        view = copy.copy(self)  # draws nothing from what the head will draw from
        view.random_state = copy.deepcopy(check_random_state(self.random_state))
        head = view._fit_head(Z, y, weights, in_place=True)
        return self._fitted(vectorizer, head, y)

    def _fitted(
        self, vectorizer: BertVectorizer, head: Any, y: np.ndarray
    ) -> dict[str, Any]:
        """Return the fitted attributes, but how layers were chosen."""
        fitted = {
            "_fitted_layer": plain_repr(read_layer(self.layer)),
            "vectorizer_": vectorizer,
            "head_": head,
            "layers_": vectorizer.layers_,
            "fingerprint_": vectorizer.fingerprint_,
            "classes_": classes_of(y, head),
            **n_rounds_of(head),
        }
        if vectorizer._mixes():
            fitted["layer_weights_"] = vectorizer.layer_weights_
            fitted["gamma_"] = vectorizer.gamma_
        return fitted

    def _best(
        self,
        texts: list[str],
        y: np.ndarray,
        given: np.ndarray | None,
        layers: list[int],
        task: Task,
    ) -> tuple[BertVectorizer, np.ndarray, dict[str, np.ndarray]]:
        """Score every layer on the same folds and return the best one's features."""
        folds = folds_of(self.cv, texts, y)
        if given is not None:  # texts of weight 0 are left out
            folds = [(train, test[given[test] > 0]) for train, test in folds]
        check_folds(folds, y)
        of_folds = [self._weights(y, given, train) for train, _ in folds]
        every = self._by_layer(texts, layers)
        scores = np.full((len(layers), len(folds)), np.nan)
        best: tuple[BertVectorizer, Any, np.ndarray] | None = None
        for i, layer in enumerate(layers):
            vectorizer = self._vectorizer(layer)
            frozen = _one_layer(every, i)
            if frozen is None:
                Z = vectorizer._encode(texts)
            elif not vectorizer._learns_from_y():
                Z = vectorizer._combine_all(frozen)
            with task.step("layer"):
                for j, (train, test) in enumerate(folds):
                    weights = of_folds[j]
                    if vectorizer._learns_from_y():  # anew, or it sees test labels
                        Z = self._learn(vectorizer, frozen, y, weights, Task(), train)
                    head = self._fit_head(Z[train], y[train], weights, in_place=True)
                    scorer = check_scoring(head, self.scoring)
                    scores[i, j] = scorer(head, Z[test], y[test])
                    check_score(scores[i, j], self.scoring, layer, j, len(test))
            if best is None or scores[i].mean() > scores[:i].mean(axis=1).max():
                best = vectorizer, frozen, Z
            if task.is_stopped:
                break
        assert best is not None
        vectorizer, frozen, Z = best
        if vectorizer._learns_from_y():
            weights = self._weights(y, given)
            with task.step("best layer", None) as step:
                Z = self._learn(vectorizer, frozen, y, weights, step)
        return vectorizer, Z, {"cv_scores_": scores}

    def _by_layer(self, texts: list[str], layers: list[int]) -> Any:
        """Return what every layer's features are made of, or None to read each."""
        # A mix keeps layers apart; none is learned here.
        vectorizer = self._vectorizer(layers, layer_combination="scalar_mix")
        learns = vectorizer._learns_query()
        is_stored = store_location(self.memory) is not None
        if learns or not is_stored or self.store_layers != "all":
            return vectorizer._frozen(texts)
        return None

    def _ask(self, method: str, X: Any) -> Any:
        """Have the head answer for texts, with the encoder that it was fitted on."""
        check_is_fitted(self)
        texts = self._read_texts(X, is_fit=False)
        return getattr(self.head_, method)(self._current_vectorizer()._encode(texts))

    def _current_vectorizer(self) -> BertVectorizer:
        refuse_change("layer", self._fitted_layer, read_layer(self.layer))
        vectorizer = copy.copy(self.vectorizer_)
        for name in _SHARED:  # memory or device may have been set since
            setattr(vectorizer, name, getattr(self, name))
        return vectorizer


def _one_layer(every: Any, i: int) -> Any:
    """Return the part of one layer, of features by layer or of token states."""
    if isinstance(every, Ragged):
        return Ragged(every.values[:, i : i + 1], every.starts, every.counts)
    return None if every is None else every[:, :, i : i + 1]
