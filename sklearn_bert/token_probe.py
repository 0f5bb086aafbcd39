"""`BertTokenProbeClassifier`: one tag per word, and `span_f1` to judge tags of spans.

As `probe` does for texts: the tagger reads stored features through a
`BertTokenVectorizer` of its own, chooses or weights layers by the tags, and ends in
scikit-learn's own classifier. That sees single words; it learns no transitions between
tags.

Level 8 of the module map: imports `_validation`, `checkpoint`, `estimators`, `heads`,
`layers`, `ragged` and `tokens`.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted

from ._validation import check_choice, check_tags
from .checkpoint import DEFAULT_MODEL
from .estimators import plain_repr, refuse_change
from .heads import (
    HasHead,
    check_folds,
    check_sample_weight,
    check_score,
    classes_of,
    folds_of,
    head_has,
    n_rounds_of,
)
from .layers import read_layer
from .ragged import expand, starts_of
from .tokens import (
    BertTokenVectorizer,
    WordEstimator,
    Words,
    bounds,
    count_words,
    import_extra,
    per_text,
)

__all__ = ["BertTokenProbeClassifier", "span_f1"]

_BATCH_ROWS = 2**14  # words that the head is handed at once
_SPAN_TAG = re.compile(r"O|[BIES](-.*)?")

_SHARED = tuple(
    name
    for name in inspect.signature(BertTokenVectorizer).parameters
    if name not in ("layer", "layer_combination")
)


class BertTokenProbeClassifier(HasHead, WordEstimator):
    r"""Tag words by a frozen encoder's features, learning which layers to use.

    Lists of words in, lists of tags out, as in sklearn-crfsuite: parts of speech, named
    entities. The encoder stays as it is; a classifier is trained on the features of
    single words, in the context that the encoder saw. ``layer="cv"`` and
    ``layer="mix"`` choose or weight layers from one pass.

    Parameters
    ----------
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        Name on the Hugging Face Hub or a directory. This and the parameters up to
        `verbose` are those of `BertTokenVectorizer`, which says more.
    layer : int, sequence of int, "all", "mix" or "cv", default=-1
        Numbers are layers; several are concatenated. "mix" weights all layers by a
        softmax and a scale that are learned jointly with a linear model of strength
        `C`. "cv" scores each layer by cross-validation over texts and keeps the best.
        The last layer is seldom the best for words: layer 2 of the default model told
        parts of speech apart 9 points better (Benchmarks, Sweeps).
    subwords : {"first", "mean", "last"}, default="mean"
        Which of a word's tokens stand for it.
    word_pattern : str or re.Pattern, default=r"\S+"
        Regular expression that matches one word, for texts that are not split already.
        Tag texts that are split as the training texts were.
    max_length : int or None, default=None
        Tokens of one window, special ones included.
    stride : int or None, default=None
        Tokens that consecutive windows share.
    missing : {"raise", "empty"}, default="raise"
        Whether None, NaN and ``pd.NA`` are refused or read as empty.
    memory : None, str, path-like or joblib.Memory, default=None
        Where frozen features are kept. With it, fitting again, on other folds or with
        another head, runs no encoder.
    store_layers : {"all", "requested"}, default="requested"
        Whether `memory` keeps every layer: a grid over `layer` then costs one pass.
        "mix" and "cv" ask for every layer in any case.
    batch_size : int or "auto", default="auto"
        Texts per forward pass.
    device : str, default="auto"
        Where the encoder runs.
    dtype : {"float32", "bfloat16", "float16", "auto"}, default="float32"
        Precision of the encoder.
    token_dtype : {"float32", "float16"}, default="float32"
        Precision in which words are kept.
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
        and layers before they are weighted.
    C : float, default=0.01
        Inverse strength of the L2 penalty of the linear head and of "mix". With 50,000
        words or more, 0.1 was as good. For "mlp" the penalty ``alpha`` is
        ``1 / C / n_words``.
    class_weight : dict, "balanced" or None, default=None
        Weights per tag, multiplied with ``sample_weight``.
    hidden_size : int, default=128
        Units of the hidden layer of "mlp".
    dropout : float, default=0.0
        Share of those units left out at random in each step of training, against
        overfitting; 0.5 is common where the layer is wide.
    cv : int, splitter or iterable, default=5
        Folds over texts, never over words, by which ``layer="cv"`` chooses; a number
        takes consecutive texts together, as `KFold` does.
    scoring : callable or None, default=None
        What ``layer="cv"`` maximises: ``scoring(tagger, X, y)``, as `make_scorer` makes
        it of `span_f1`. None is the share of words that are tagged right.
    max_iter : int, default=1000
        Largest number of iterations (linear) or epochs (mlp), and of those in which
        "mix" learns.
    random_state : int, RandomState or None, default=None
        Shuffling and initialisation of "mlp"; the linear head needs none.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Tags.
    layers_ : tuple of int
        Layers used, counted from 0.
    layer_weights_ : ndarray of shape (n_layers,)
        Softmax weights of `layers_`; only with ``layer="mix"``.
    gamma_ : float
        Scale of the mix, which gives features of the training words a spread of 1; with
        ``standardize=False`` it is learned. Only with ``layer="mix"``.
    cv_scores_ : ndarray of shape (n_layers, n_folds)
        Score of every layer in every fold; only with ``layer="cv"``. The best mean is
        the choice, and so a little optimistic about new texts.
    head_ : estimator
        The fitted head, with its scaler.
    vectorizer_ : BertTokenVectorizer
        What turns words into the head's features.
    n_iter_ : int
        Iterations or epochs of the head, the largest if it has several.
    fingerprint_ : str
        Digest of the encoder's files. `predict` refuses to run on others.

    See Also
    --------
    BertTokenVectorizer : The features alone.
    span_f1 : F1 of named entities, for tags that mark spans.

    Notes
    -----
    With a fixed `layer` the linear head is `LogisticRegression` on the features of
    `BertTokenVectorizer`. Its solver stays L-BFGS for many words, where it took a tenth
    of the time of SAGA and two thirds of Newton-CG on 50,000 words of 384 features.

    scikit-learn refuses lists of lists as a classifier's target. So it is not told that
    this is one (`is_classifier` is false): `cross_val_score` and `GridSearchCV` then
    take lists of lists, and split texts by `KFold`, unshuffled and not stratified; pass
    ``cv=KFold(5, shuffle=True, random_state=0)`` where texts are sorted. Their default
    score is `score`; scorers named by a string are for flat targets and fail.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_bert import BertTokenProbeClassifier
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> encoder = make_tiny_encoder(tempfile.mkdtemp())
    >>> X = [["a", "dog", "runs"], ["the", "dog", "sleeps"], ["a", "cat", "runs"]] * 3
    >>> y = [["DET", "NOUN", "VERB"]] * 9
    >>> tagger = BertTokenProbeClassifier(encoder, layer="mix", C=1.0).fit(X, y)
    >>> tagger.predict([["the", "cat"], ["dog"]])
    [['DET', 'NOUN'], ['NOUN']]
    """

    _learned = (
        "_fitted_layer", "classes_", "cv_scores_", "fingerprint_", "gamma_", "head_",
        "layer_weights_", "layers_", "n_iter_", "vectorizer_",
    )  # fmt: skip

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        layer: Any = -1,
        subwords: str = "mean",
        word_pattern: Any = r"\S+",
        max_length: int | None = None,
        stride: int | None = None,
        missing: str = "raise",
        memory: Any = None,
        store_layers: str = "requested",
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
        self.subwords = subwords
        self.word_pattern = word_pattern
        self.max_length = max_length
        self.stride = stride
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
        tags.target_tags.required = True
        return tags

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> BertTokenProbeClassifier:
        """Choose or weight layers, and train the head on all words.

        Parameters
        ----------
        X : iterable of sequences of str, or of str, of length n_texts
            The words of each text, or texts that `word_pattern` splits.
        y : iterable of sequences of str or int, of length n_texts
            One tag per word.
        sample_weight : array-like of shape (n_texts,), default=None
            Weight of each text, and so of each of its words, in the loss of what is
            learned and of the head.

        Returns
        -------
        BertTokenProbeClassifier
            This estimator.

        Raises
        ------
        ValueError, TypeError
            A parameter or a row is not valid; the message names it, and the row in
            which words and tags differ in number.
        """
        for name in self._learned:  # a fit that fails leaves nothing behind
            self.__dict__.pop(name, None)
        self._make_head(1)  # checks its parameters before any forward pass
        self._check_scoring()
        words = self._read_words(X)
        tags = self._check_target(y, words)
        sample_weight = check_sample_weight(sample_weight, len(words))
        if sample_weight is not None:
            sample_weight = np.repeat(sample_weight, count_words(words))
        weights = self._weights(tags, sample_weight)
        self._make_head(1, weights)
        vectorizer, Z, chosen_by = self._choose(words, tags, sample_weight)
        self.head_ = self._fit_head(Z, tags, weights, in_place=True)
        self.vectorizer_ = vectorizer
        self._fitted_layer = plain_repr(read_layer(self.layer))
        self.__dict__.update(chosen_by)
        self.layers_ = vectorizer.layers_
        self.fingerprint_ = vectorizer.fingerprint_
        self.classes_ = classes_of(tags, self.head_)
        self.__dict__.update(n_rounds_of(self.head_))
        return self

    def predict(self, X: Any) -> list[list[Any]]:
        """Return the most likely tag of each word.

        Parameters
        ----------
        X : iterable of sequences of str, or of str, of length n_texts

        Returns
        -------
        list of list of str or int
            One list per text, one tag per word. `numpy.asarray` makes a 1-D array of
            lists of it, so that `cross_val_predict` can join folds.
        """
        flat, counts = self._ask("predict", X)
        return _TagLists(_split(flat.tolist(), counts))

    @head_has("predict_proba")
    def predict_proba(self, X: Any) -> list[np.ndarray]:
        """Return the probability of each tag for each word.

        Parameters
        ----------
        X : iterable of sequences of str, or of str, of length n_texts

        Returns
        -------
        list of ndarray of shape (n_words, n_classes)
            In the order of `classes_`.
        """
        return per_text(*self._ask("predict_proba", X))

    @head_has("decision_function")
    def decision_function(self, X: Any) -> list[np.ndarray]:
        """Return the head's scores of each word.

        Parameters
        ----------
        X : iterable of sequences of str, or of str, of length n_texts

        Returns
        -------
        list of ndarray of shape (n_words,) or (n_words, n_classes)
        """
        return per_text(*self._ask("decision_function", X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of words that are tagged right.

        Parameters
        ----------
        X : iterable of sequences of str, or of str, of length n_texts
        y : iterable of sequences of str or int, of length n_texts
        sample_weight : array-like of shape (n_texts,), default=None
            Weight of each text's words.

        Returns
        -------
        float
            Between 0 and 1. For tags of which most are "O", see `span_f1`.
        """
        flat, counts = self._ask("predict", X)
        tags = check_tags(y, counts.tolist())
        if not len(tags):
            raise ValueError("X has no words to score.")
        weights = check_sample_weight(sample_weight, len(counts))
        if weights is not None:
            weights = np.repeat(weights, counts)
        return float(np.average(flat == tags, weights=weights))

    # The steps of fit and predict

    def _check_target(self, y: Any, words: Words) -> np.ndarray:
        if y is None:
            raise ValueError(
                "This BertTokenProbeClassifier estimator requires y to be passed, but "
                "the target y is None."
            )
        tags = check_tags(y, count_words(words).tolist())
        if not len(tags):
            raise ValueError(
                "Found array with 0 sample(s): X has no word to learn from."
            )
        if len(np.unique(tags)) < 2:
            raise ValueError(f"y needs at least two tags, got one: {tags[0]!r}.")
        return tags

    def _check_scoring(self) -> None:
        if self.scoring is not None and not callable(self.scoring):
            raise TypeError(
                "scoring must be None (the share of words tagged right) or a scorer of "
                f"lists of tags, such as make_scorer(span_f1), got {self.scoring!r}."
            )

    def _vectorizer(self, layer: Any, **params: Any) -> BertTokenVectorizer:
        """Return a vectorizer that has learned nothing yet."""
        shared = {name: getattr(self, name) for name in _SHARED}
        vectorizer = BertTokenVectorizer(**shared, layer=layer, **params)
        vectorizer._settle()
        return vectorizer

    def _choose(
        self, words: Words, tags: np.ndarray, given: np.ndarray | None
    ) -> tuple[BertTokenVectorizer, np.ndarray, dict[str, Any]]:
        """Return the vectorizer of the layers chosen, and its features of the words.

        `given` are the weights of words, without those of classes. The third are the
        fitted attributes that say how layers were chosen or weighted, if they were.
        """
        layer = read_layer(self.layer)
        if isinstance(layer, str):
            check_choice("layer", layer, ("all", "mix", "cv"))
        if not isinstance(layer, str) or layer == "all":
            vectorizer = self._vectorizer(layer)
            return vectorizer, vectorizer._encode(words), {}
        every = self._vectorizer("all", layer_combination="scalar_mix")
        if layer == "cv":  # nothing is mixed: layers are kept apart
            return self._best(words, every, tags, given)
        frozen = every._frozen(words)
        every._learn(
            frozen,
            tags,
            who="layer='mix'",
            C=self.C,
            sample_weight=self._weights(tags, given),
            standardize=self.standardize,
            max_iter=self.max_iter,
        )
        learned = {"layer_weights_": every.layer_weights_, "gamma_": every.gamma_}
        return every, every._combine_all(frozen), learned

    def _best(
        self, words: Words, every: BertTokenVectorizer, tags: np.ndarray, given: Any
    ) -> tuple[BertTokenVectorizer, np.ndarray, dict[str, Any]]:
        """Score every layer on the same folds of texts; return the best one."""
        counts = count_words(words)
        starts = starts_of(counts)
        is_scored = counts > 0
        if given is not None:
            is_scored[is_scored] = given[starts[is_scored]] > 0
        folds = []
        for train, test in folds_of(self.cv, words):
            test = test[is_scored[test]]
            rows, of_test = (expand(starts[k], counts[k]) for k in (train, test))
            folds.append((rows, of_test, counts[test]))
        check_folds(((rows, of_test) for rows, of_test, _ in folds), tags)
        of_folds = [self._weights(tags, given, rows) for rows, _, _ in folds]
        frozen = every._frozen(words)
        scores = np.empty((frozen.shape[1], len(folds)))
        for layer, of_layer in enumerate(scores):
            for j, (train, test, n_words) in enumerate(folds):
                head = self._fit_head(
                    frozen[train, layer].astype(np.float32),
                    tags[train],
                    of_folds[j],
                    in_place=True,
                )
                Z = frozen[test, layer].astype(np.float32)
                score = self._score_head(head, Z, tags[test], n_words)
                check_score(score, self.scoring, layer, j, len(n_words))
                of_layer[j] = score
        best = int(scores.mean(axis=1).argmax())
        Z = frozen[:, best].astype(np.float32)
        return self._vectorizer(best), Z, {"cv_scores_": scores}

    def _score_head(
        self, head: Any, Z: np.ndarray, tags: np.ndarray, counts: np.ndarray
    ) -> float:
        if self.scoring is None:
            return float((_in_batches(head.predict, Z) == tags).mean())
        tagger, rows = _HeadOnRows(head), per_text(Z, counts)
        return float(self.scoring(tagger, rows, _split(tags.tolist(), counts)))

    def _ask(self, method: str, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return what the head answers for all words, and the words of each text."""
        check_is_fitted(self)
        refuse_change("layer", self._fitted_layer, read_layer(self.layer))
        words = self._read_words(X)
        vectorizer = copy.copy(self.vectorizer_)
        for name in _SHARED:  # memory or device may have been set since
            setattr(vectorizer, name, getattr(self, name))
        Z = vectorizer._encode(words)
        if len(Z):
            return _in_batches(getattr(self.head_, method), Z), count_words(words)
        n_classes = len(self.classes_)
        is_flat = method == "predict" or (
            method == "decision_function" and n_classes == 2
        )
        return np.empty(0 if is_flat else (0, n_classes)), count_words(words)


class _HeadOnRows(BaseEstimator):
    """A fitted head as a tagger of texts whose words' features are known."""

    def __init__(self, head: Any) -> None:
        self.head = head

    def predict(self, X: list[np.ndarray]) -> list[list[Any]]:
        flat = _in_batches(self.head.predict, np.concatenate(X))
        return _split(flat.tolist(), np.array([len(rows) for rows in X]))


class _TagLists(list[list[Any]]):
    """Lists of tags, which NumPy takes for a 1-D array of lists."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        out = np.empty(len(self), dtype=object)
        out[:] = list(self)
        return out


def span_f1(y_true: Any, y_pred: Any, *, average: str = "micro") -> float:
    """Return the F1 of spans that tags mark, as the CoNLL shared tasks count them.

    A span is right if its first word, its last word and its type are. Tags are "O",
    "B-type" and "I-type" (and "E-", "S-"); a span without a "B-" counts from its first
    "I-", so IO tags work, where spans of one type that touch are one.

    Parameters
    ----------
    y_true : iterable of sequences of str, of length n_texts
        Tags as they should be.
    y_pred : iterable of sequences of str, of length n_texts
        Tags as predicted.
    average : {"micro", "macro", "weighted"}, default="micro"
        "micro" counts all spans alike; "macro" is the mean over types, "weighted" by
        how many spans each has.

    Returns
    -------
    float
        Between 0 and 1; 0 if there is no span.

    Raises
    ------
    ImportError
        seqeval is not installed; the extra ``tokens`` brings it.
    ValueError
        A row differs in length, or a tag marks no span ("NOUN"); the message names it.

    See Also
    --------
    sklearn.metrics.make_scorer : Makes a scorer of it, for `GridSearchCV`.

    References
    ----------
    Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task".

    Examples
    --------
    >>> from sklearn_bert import span_f1
    >>> true = [["B-PER", "I-PER", "O", "B-LOC"]]
    >>> span_f1(true, [["B-PER", "O", "O", "B-LOC"]])
    0.5
    """
    metrics = import_extra("seqeval.metrics", "span_f1")
    check_choice("average", average, ("micro", "macro", "weighted"))
    lists = {"y_true": list(map(list, y_true)), "y_pred": list(map(list, y_pred))}
    true, predicted = lists.values()
    if len(true) != len(predicted):
        raise ValueError(
            f"y_true has {len(true)} rows and y_pred {len(predicted)}; both need one "
            "per text."
        )
    for row, (a, b) in enumerate(zip(true, predicted, strict=True)):
        if len(a) != len(b):
            raise ValueError(
                f"y_true has {len(a)} tags in row {row} and y_pred {len(b)}."
            )
    for name, rows in lists.items():
        for tag in set(itertools.chain.from_iterable(rows)):
            if not (isinstance(tag, str) and _SPAN_TAG.fullmatch(tag)):
                row = next(i for i, tags in enumerate(rows) if tag in tags)
                raise ValueError(
                    f"span_f1 reads tags such as 'O', 'B-PER' and 'I-PER', got {tag!r} "
                    f"in row {row} of {name}. For tags of single words use score."
                )
    return float(metrics.f1_score(true, predicted, average=average, zero_division=0))


def _split(flat: list[Any], counts: np.ndarray) -> list[list[Any]]:
    return [flat[a:b] for a, b in bounds(counts)]


def _in_batches(answer: Callable[[np.ndarray], Any], Z: np.ndarray) -> np.ndarray:
    """Return the answers for all rows; a scaler copies those that it is given."""
    return np.concatenate(
        [answer(Z[rows]) for rows in gen_batches(len(Z), _BATCH_ROWS)]
    )
