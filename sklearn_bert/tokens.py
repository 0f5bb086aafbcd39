"""`BertTokenVectorizer`: one row of frozen BERT features per word.

Words are given, or cut out of texts by a regular expression; the encoder's tokens never
show. Features of all words lie end to end in one array, text after text, and every
result is a view of such an array. How words are encoded and stored is the business of
`features`.

Level 7 of the module map: imports `_validation`, `checkpoint`, `estimators`,
`features`, `layers`, `learning`, `ragged` and `request`.
"""

from __future__ import annotations

import functools
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted

from ._validation import (
    check_choice,
    check_several_classes,
    check_tags,
    check_words,
    level_outside,
)
from .checkpoint import DEFAULT_MODEL, Checkpoint
from .estimators import EncoderEstimator, TextEstimator
from .features import Engine, iter_features
from .layers import coefficients, combine, feature_names
from .learning import as_classes, fit_scalar_mix
from .ragged import expand, room, starts_of
from .request import Request

__all__ = [
    "BertTokenVectorizer", "FlatWords", "Word", "WordEstimator", "Words", "bounds",
    "count_words", "import_extra", "per_text",
]  # fmt: skip

_MIX_BYTES = 2**28  # of features that layer weights are learned from
_BATCH_ROWS = 2**14  # words combined at once

Words = Sequence[tuple[str, ...]]


class Word(NamedTuple):
    """A word and where it stands.

    Attributes
    ----------
    text : str
    start, end : int or None
        Characters of its text, the first and the one after the last: the word is
        ``text[start:end]``. None where texts were given as words.
    """

    text: str
    start: int | None
    end: int | None


class FlatWords(NamedTuple):
    """Features of the words of all texts, end to end.

    Attributes
    ----------
    values : ndarray of shape (n_words, n_features), float32
    offsets : ndarray of shape (n_texts + 1,)
        Text i has the rows ``values[offsets[i] : offsets[i + 1]]``.
    """

    values: np.ndarray
    offsets: np.ndarray


class WordEstimator(TextEstimator):
    """What the estimators here share: their X is texts, or texts split into words."""

    word_pattern: Any

    def words(self, X: Any) -> list[list[Word]]:
        """Return the words of texts, in the order of the features or tags.

        Parameters
        ----------
        X : iterable of str, or of sequences of str, of length n_texts

        Returns
        -------
        list of list of Word
            ``text``, ``start`` and ``end`` of every word. Needs no fit.
        """
        check_choice("missing", self.missing, ("raise", "empty"))
        pattern = self._pattern()
        return [
            [Word(word, None, None) for word in text]
            if isinstance(text, tuple)
            else [Word(m[0], *m.span()) for m in pattern.finditer(text) if m[0]]
            for text in check_words(X, missing=self.missing)
        ]

    def _read_words(self, X: Any) -> list[tuple[str, ...]]:
        """Return the words of each text of X; with `words`, all that reads it."""
        check_choice("missing", self.missing, ("raise", "empty"))
        pattern = self._pattern()
        return [
            text
            if isinstance(text, tuple)
            else tuple(m[0] for m in pattern.finditer(text) if m[0])
            for text in check_words(X, missing=self.missing)
        ]

    def _pattern(self) -> re.Pattern[str]:
        pattern = self.word_pattern
        if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
            return pattern
        if not isinstance(pattern, str):
            raise TypeError(
                "word_pattern must be a regular expression that matches one word, got "
                f"{pattern!r}."
            )
        try:
            return re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"word_pattern={pattern!r} is not a regular expression: {error}."
            ) from error


class BertTokenVectorizer(  # type: ignore[call-arg] # scikit-learn ships no types
    TransformerMixin, WordEstimator, EncoderEstimator, auto_wrap_output_keys=None
):
    r"""Turn each word of a text into features with a frozen BERT-family encoder.

    A word's vector is made of the states of its tokens at the layers asked for, in the
    context of its text. There is one row per word, whatever the tokenizer makes of it.
    Long texts are encoded in overlapping windows, and each word is taken from the
    window that shows most of its surroundings: nothing is cut.

    Parameters
    ----------
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        Name on the Hugging Face Hub or a directory. What is not explained here is as in
        `BertVectorizer`.
    layer : int, sequence of int, or "all", default=-1
        0 is the embedding output, k the output of block k; negative numbers count from
        the end. Questions of form, such as parts of speech, are answered best by the
        lower and middle layers.
    layer_combination : str or sequence of float, default="concat"
        How several layers become one vector: "concat", "mean", "sum", "scalar_mix", or
        one fixed weight per layer. "scalar_mix" learns softmax weights per layer and a
        scale from tags in `fit`; where their features take more than a quarter of a
        gigabyte, from words that are evenly spaced.
    subwords : {"first", "mean", "last"}, default="mean"
        Which of a word's tokens stand for it. On parts of speech (UD English EWT,
        50,000 words, layers 2 and 4 of the default model) their mean was 0.2 points
        better than the last and 0.6 to 0.7 better than the first, which BERT's own
        paper takes. On named entities (WNUT-17, layer 4) mean and first were level.
    word_pattern : str or re.Pattern, default=r"\S+"
        Regular expression that matches one word, for texts that are not split already.
        The default splits at white space and leaves punctuation with its word;
        ``r"\w+|[^\w\s]"`` takes it off.
    max_length : int or None, default=None
        Tokens of one window, special ones included. None is what the checkpoint
        declares, else the encoder's own limit.
    stride : int or None, default=None
        Tokens that consecutive windows share. None is an eighth of the window. More of
        them gives words near an edge more context, for more work.
    missing : {"raise", "empty"}, default="raise"
        Whether None, NaN and ``pd.NA`` are refused, or read as a text without words
        or, in place of a word, as ``""``.
    memory : None, str, path-like or joblib.Memory, default=None
        Where frozen features are kept: 1.5 kB per word and layer of the default model,
        3 kB of BERT-base, half of it with ``token_dtype="float16"``.
    store_layers : {"all", "requested"}, default="requested"
        Whether `memory` keeps every layer of each word, so that one pass serves a grid
        over `layer`, or those asked for. Unlike in `BertVectorizer` the default is the
        smaller, as there are some twenty words to a text; what is stored with "all" is
        also read as a whole.
    batch_size : int or "auto", default="auto"
        Texts per forward pass.
    device : str, default="auto"
        Where the encoder runs.
    dtype : {"float32", "bfloat16", "float16", "auto"}, default="float32"
        Precision of the encoder.
    token_dtype : {"float32", "float16"}, default="float32"
        Precision in which words are kept in `memory`. "float16" halves them and rounds
        to three digits; features are float32 in any case.
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

    Attributes
    ----------
    layers_ : tuple of int
        Layers used, counted from 0.
    max_length_ : int or None
        Tokens of one window; None if the encoder has no limit.
    stride_ : int
        Tokens that windows share.
    dtype_ : str
        Precision used.
    n_layers_ : int
        Number of blocks; layers are 0 to ``n_layers_``.
    width_ : int
        Size of one layer's vector.
    fingerprint_ : str
        Digest of the encoder's files. `transform` refuses to run on others.
    layer_weights_ : ndarray of shape (n_layers,)
        Softmax weights; only with ``layer_combination="scalar_mix"``.
    gamma_ : float
        What gives features of the training words a spread of 1; only with
        ``layer_combination="scalar_mix"``.
    layer_scales_ : ndarray of shape (1, n_layers)
        Spread of each layer on the training words; only with "scalar_mix".
    n_iter_ : int
        Steps in which layer weights were learned; only with "scalar_mix".

    Warns
    -----
    UserWarning
        Once per call, with their number, if the tokenizer leaves nothing of some words
        (a zero-width space, say). Their features are zeros.

    See Also
    --------
    BertTokenProbeClassifier : A tagger on these features.
    BertVectorizer : One vector per text.

    Notes
    -----
    Each word is tokenized for itself, with a space before it where the tokenizer tells
    the two apart, as transformers does with ``is_split_into_words=True``. So a text and
    its words may give other tokens than the text as a whole: contractions and
    punctuation, mostly. A prompt that the checkpoint declares is not used.

    Results beyond half a gigabyte lie in a temporary file, which goes with the last
    array that reads it.

    References
    ----------
    Ács et al. 2021, "Subword Pooling Makes a Difference", for `subwords`.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_bert import BertTokenVectorizer
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> encoder = make_tiny_encoder(tempfile.mkdtemp())
    >>> vectorizer = BertTokenVectorizer(encoder)
    >>> [rows.shape for rows in vectorizer.fit_transform(["a short text", "two words"])]
    [(3, 32), (2, 32)]
    >>> [rows.shape for rows in vectorizer.transform([["pre-split", ",", "text"]])]
    [(3, 32)]
    """

    _decisive = (
        "layer", "layer_combination", "subwords", "max_length", "stride", "dtype",
        "token_dtype",
    )  # fmt: skip

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        layer: Any = -1,
        layer_combination: Any = "concat",
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
    ) -> None:
        self.model = model
        self.layer = layer
        self.layer_combination = layer_combination
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        tags.target_tags.required = self._mixes()
        return tags

    def fit(self, X: Any, y: Any = None) -> BertTokenVectorizer:
        """Resolve the parameters for this encoder; learn layer weights if asked to.

        Parameters
        ----------
        X : iterable of str, or of sequences of str, of length n_texts
            Texts, or the words of each.
        y : iterable of sequences of str or int, of length n_texts, default=None
            One tag per word, used by ``layer_combination="scalar_mix"`` only.

        Returns
        -------
        BertTokenVectorizer
            This estimator.

        Raises
        ------
        ValueError, TypeError
            A parameter or a row is not valid; the message names it.
        """
        self._fit(self._read_words(X), y)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> list[np.ndarray]:
        """Fit, and return the features of the same texts, which are read once.

        Parameters
        ----------
        X : iterable of str, or of sequences of str, of length n_texts
        y : iterable of sequences of str or int, of length n_texts, default=None

        Returns
        -------
        list of ndarray of shape (n_words, n_features), float32
        """
        words = self._read_words(X)
        frozen = self._fit(words, y)
        flat = self._encode(words) if frozen is None else self._combine_all(frozen)
        return per_text(flat, count_words(words))

    def transform(self, X: Any) -> list[np.ndarray]:
        """Return the features of every word, text by text.

        Parameters
        ----------
        X : iterable of str, or of sequences of str, of length n_texts
            Texts, or the words of each.

        Returns
        -------
        list of ndarray of shape (n_words, n_features), float32
            A list, as texts differ in length: a step of a `Pipeline` may pool each
            entry into one vector. The arrays are parts of one, see `transform_flat`.
        """
        return per_text(*self._transform(X))

    def transform_flat(self, X: Any) -> FlatWords:
        """Return the features of all words in one array.

        Parameters
        ----------
        X : iterable of str, or of sequences of str, of length n_texts

        Returns
        -------
        FlatWords
            ``values`` of shape (n_words, n_features), for any classifier of rows, and
            ``offsets`` of shape (n_texts + 1,), at which they split into texts.
        """
        flat, counts = self._transform(X)
        return FlatWords(flat, np.concatenate([[0], np.cumsum(counts)]))

    def to_frame(self, X: Any) -> Any:
        """Return a pandas frame with one row per word.

        Parameters
        ----------
        X : iterable of str, or of sequences of str, of length n_texts

        Returns
        -------
        DataFrame of shape (n_words, 4 + n_features)
            The columns ``row`` (of `X`, from 0), ``word``, ``start`` and ``end`` (see
            `words`; missing where `X` holds words), and one per feature.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        check_is_fitted(self)
        pandas = import_extra("pandas", "to_frame")
        words = self.words(X)
        flat = self._encode([tuple(word.text for word in text) for text in words])
        frame = pandas.DataFrame(flat, columns=self.get_feature_names_out(), copy=False)
        facts = [(row, *word) for row, text in enumerate(words) for word in text]
        kinds = ("int64", object, "Int64", "Int64")
        columns = zip(("row", "word", "start", "end"), kinds, strict=True)
        for i, (name, kind) in enumerate(columns):
            values = pandas.array([fact[i] for fact in facts], dtype=kind)
            frame.insert(i, name, values)
        return frame

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Name every feature by layer, subwords and dimension.

        Parameters
        ----------
        input_features : ignored
            Present for compatibility with scikit-learn.

        Returns
        -------
        ndarray of str objects of shape (n_features,)
            For example "layer6_word_mean_0" or "layers3to6_mean_word_first_17".
        """
        check_is_fitted(self)
        names = feature_names(
            self.layers_,
            (f"word_{self.subwords}",),
            self.layer_combination_,
            self.width_,
        )
        return np.array(names, dtype=object)

    # The steps, on lists of tuples of words

    def _fit(self, words: Words, y: Any) -> np.ndarray | None:
        """Fit; return the frozen features if they had to be made for it."""
        self._settle()
        if not self._mixes():
            return None
        try:
            if y is None:
                raise ValueError(
                    "This BertTokenVectorizer estimator requires y to be passed, but "
                    "the target y is None: layer_combination='scalar_mix' learns layer "
                    "weights from tags."
                )
            tags = check_tags(y, count_words(words).tolist())
            check_several_classes(tags, "layer_combination='scalar_mix'")
        except BaseException:
            del self._fitted_params
            raise
        frozen = self._frozen(words)
        self._learn(frozen, tags)
        return frozen

    def _transform(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of all words, and the words of each text."""
        check_is_fitted(self)
        words = self._read_words(X)
        return self._encode(words), count_words(words)

    def _encode(self, words: Words) -> np.ndarray:
        """Return the features of all words, (n_words, n_features)."""
        n_features = self._n_features()
        return self._gather(
            self._unchanged_request(), words, (n_features,), np.float32, self._combine
        )

    def _frozen(self, words: Words) -> np.ndarray:
        """Return uncombined features, (n_words, n_layers, width)."""
        return self._by_layer(words, self._request(self._checkpoint()))[:, 0]

    def _by_layer(self, words: Words, request: Request) -> np.ndarray:
        """Return uncombined features, (n_words, n_poolings, n_layers, width)."""
        dtype = np.dtype(self.token_dtype).type
        shape = (len(request.poolings), len(self.layers_), self.width_)

        def keep(values: np.ndarray, out: np.ndarray) -> None:
            out[...] = values

        return self._gather(request, words, shape, dtype, keep)

    def _gather(
        self,
        request: Request,
        words: Words,
        shape: tuple[int, ...],
        dtype: type[np.floating[Any]],
        write: Callable[[np.ndarray, np.ndarray], None],
    ) -> np.ndarray:
        """Return what `write` makes of the states of all words, in their order."""
        counts = count_words(words)
        starts = starts_of(counts)
        out = room((int(counts.sum()), *shape), dtype)
        picked = [request.layers.index(layer) for layer in self.layers_]
        n_empty, where = 0, (len(words), 0)
        blocks: Any = iter_features(words, request, self._engine())
        for which, block in blocks:
            rows = expand(starts[which], counts[which])
            if not len(rows):
                continue
            values = block.rows  # (n_rows, n_poolings, n_layers, width)
            empty = rows[~values[:, 0, 0].any(axis=1)]
            if len(empty):
                n_empty += len(empty)
                row = int(np.searchsorted(starts, empty.min(), side="right")) - 1
                where = min(where, (row, int(empty.min() - starts[row])))
            if len(picked) < values.shape[2]:
                values = values[:, :, picked]
            part = np.empty((len(rows), *shape), dtype=dtype)
            write(values, part)
            out[rows] = part
        if n_empty:
            row, word = where
            warnings.warn(
                f"{n_empty} of {len(out)} words have no token and are zeros: this "
                f"encoder's tokenizer leaves nothing of them (the first is "
                f"{words[row][word]!r}, word {word} of row {row}).",
                UserWarning,
                stacklevel=level_outside(),
            )
        return out

    def _learn(self, frozen: np.ndarray, tags: np.ndarray, **options: Any) -> None:
        """Learn layer weights from some words, drawn at random."""
        _, n_layers, width = frozen.shape
        weights = options.pop("sample_weight", None)
        rows = np.arange(len(frozen)) if weights is None else np.flatnonzero(weights)
        limit = max(1, _MIX_BYTES // (4 * n_layers * width))
        if len(rows) > limit:
            # Not every k-th: one tag may be that of every k-th word.
            rows = np.random.default_rng(0).permutation(rows)
            firsts = np.unique(tags[rows], return_index=True)[1]  # of each tag one
            rows = rows[np.union1d(firsts, np.arange(limit))]
            rows.sort()
        self._learn_by(
            functools.partial(
                fit_scalar_mix,
                frozen[rows, np.newaxis].astype(np.float32),
                as_classes(tags)[rows],
                sample_weight=None if weights is None else weights[rows],
                **options,
            )
        )

    def _combine_all(self, frozen: np.ndarray) -> np.ndarray:
        """Return the features of words from what `_frozen` returned."""
        out = room((len(frozen), self._n_features()), np.float32)
        for rows in gen_batches(len(frozen), _BATCH_ROWS):
            self._combine(frozen[rows, np.newaxis], out[rows])
        return out

    def _combine(self, values: np.ndarray, out: np.ndarray) -> None:
        combine(values, self._factors(), out)

    def _factors(self) -> np.ndarray | None:
        """Return the factors of the layers' weighted sum, (1, n_layers)."""
        return coefficients(self.layer_combination_, 1, len(self.layers_), self._mix)

    def _n_features(self) -> int:
        n_vectors = len(self.layers_) if self._factors() is None else 1
        return n_vectors * self.width_

    # Parameters

    def _resolve(self, checkpoint: Checkpoint) -> None:
        super()._resolve(checkpoint)
        check_choice("subwords", self.subwords, ("first", "mean", "last"))
        self._pattern()

    def _engine(self) -> Engine:
        # "all" would keep pooled vectors too, which no other estimator can find: the
        # key of a text's words is not the key of the text.
        return replace(super()._engine(), store_layers="requested")

    def _request(
        self, checkpoint: Checkpoint, *, subwords: Sequence[str] = ()
    ) -> Request:
        """Return what is asked of the encoder; `subwords` are this estimator's own."""
        layers = self.layers_
        if self.store_layers == "all" and self.memory is not None:
            layers = tuple(range(self.n_layers_ + 1))
        kind = "_float16" if self.token_dtype == "float16" else ""
        return Request(
            checkpoint=checkpoint,
            poolings=tuple(
                f"words_{name}{kind}" for name in subwords or [self.subwords]
            ),
            layers=layers,
            special_tokens=True,
            max_length=self.max_length_,
            overflow="chunk",
            stride=self.stride_,
            prompt="",
            include_prompt=True,
            dtype=self.dtype_,
        )


# Words end to end, and text by text


def count_words(words: Words) -> np.ndarray:
    """Return the words of each text, (n_texts,)."""
    return np.fromiter(map(len, words), dtype=np.intp, count=len(words))


def bounds(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield where each text begins and ends, if texts lie end to end."""
    return itertools.pairwise([0, *np.cumsum(counts).tolist()])


def per_text(flat: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Return the part of each text: views, not copies."""
    return [flat[a:b] for a, b in bounds(counts)]


def import_extra(module: str, who: str) -> Any:
    """Import what the extra "tokens" brings."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{who} needs {module.partition('.')[0]}, which is not installed: pip "
            'install "sklearn-bert[tokens]".'
        ) from error
