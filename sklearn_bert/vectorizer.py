"""`BertVectorizer`: texts in, frozen BERT features out.

The estimator holds parameters and, once fitted, what they resolved to; never weights.
It reads texts through `_validation`, asks `features` for frozen features, and combines
layers as `layers` says. It does not know how texts are encoded or stored.

Level 7 of the module map: imports `_validation`, `checkpoint`, `estimators`,
`features`, `layers`, `learning`, `objective`, `pooling`, `ragged` and `request`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ._validation import (
    check_bool,
    check_choice,
)
from .checkpoint import DEFAULT_MODEL, Checkpoint
from .estimators import EncoderEstimator
from .features import chunks_of, iter_features, n_chunks_of, tokens_of
from .layers import (
    ScalarMix,
    coefficients,
    combine,
    feature_names,
)
from .learning import attend, fit_scalar_mix, fit_token_attention
from .objective import check_learnable
from .pooling import POOLINGS, check_pooling, of_chunks
from .ragged import Ragged, gather, join, room
from .request import Request

__all__ = ["BertVectorizer", "ChunkWeights", "FlatChunks", "TokenWeights"]

_CHUNK_POOLINGS = ("auto", "mean", "max", "first", "learned_attention")


class TokenWeights(NamedTuple):
    """How much each token of a text counts, as `token_weights` returns it.

    Attributes
    ----------
    tokens : tuple of str
        As the tokenizer writes them.
    weights : ndarray of shape (n_tokens,)
        They sum to 1.
    """

    tokens: tuple[str, ...]
    weights: np.ndarray


class ChunkWeights(NamedTuple):
    """How much each window of a text counts, as `chunk_weights` returns it.

    Attributes
    ----------
    chunks : tuple of str
        What each window shows of the text; neighbours share `stride` tokens.
    weights : ndarray of shape (n_chunks,)
        They sum to 1.
    """

    chunks: tuple[str, ...]
    weights: np.ndarray


class FlatChunks(NamedTuple):
    """Features of the windows of all texts, end to end.

    Attributes
    ----------
    values : ndarray of shape (n_chunks, n_features), float32
    offsets : ndarray of shape (n_texts + 1,)
        Text i has the rows ``values[offsets[i] : offsets[i + 1]]``, at least one.
    """

    values: np.ndarray
    offsets: np.ndarray


class BertVectorizer(TransformerMixin, EncoderEstimator):
    """Turn texts into features with a frozen BERT-family encoder.

    Each text becomes one vector: the encoder's token states at the layers asked for,
    pooled over tokens. The encoder is never trained, so a text's vector is computed
    once and can be kept on disk (`memory`): a grid search over layers, poolings,
    combinations, folds and classifiers then costs one forward pass per distinct text.
    With the default parameters the result equals ``SentenceTransformer(model).encode``.

    Parameters
    ----------
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        Name on the Hugging Face Hub, for example ``"google-bert/bert-base-uncased"``,
        or a directory written by ``save_pretrained``. Looked for as a directory, in the
        hub cache, in the ``offline`` extra (the default model only), then on the hub.
    layer : int, sequence of int, or "all", default=-1
        0 is the embedding output, k the output of block k; negative numbers count from
        the end. Text is read as numbers: "9,10". Layers above the highest one named
        are not run unless `memory` keeps them for later.
    layer_combination : {"concat", "mean", "sum", "scalar_mix"} or sequence of float, \
default="concat"
        How several layers become one vector. "scalar_mix" learns softmax weights per
        layer and a scale from ``y`` in `fit`, on frozen features. A sequence gives one
        fixed weight per layer.
    pooling : {"auto", "cls", "mean", "max", "mean_sqrt_len", "attention", "pooler", \
"learned_attention"} or sequence of them, default="auto"
        How the token states of a text become one vector; a sequence, or text such as
        "mean,max", concatenates. "auto" is what the checkpoint declares for
        sentence-transformers, else "mean". "attention" weights each token by the
        attention that it receives in that layer, averaged over heads and queries.
        "pooler" is the checkpoint's own trained head on [CLS], for the last layer only.
        "learned_attention" stands alone and learns from ``y`` in `fit` which tokens
        count; it works on token states, which take 1.5 kB per token and layer of the
        default model.
    special_tokens : bool, default=True
        Whether [CLS], [SEP] and the like count in "mean", "max", "mean_sqrt_len" and
        "attention". Padding never counts. If False, those give zeros for a text
        without tokens.
    normalize : bool or "auto", default="auto"
        Whether each vector is scaled to unit Euclidean length; "auto" is what the
        checkpoint declares, else False.
    max_length : int or None, default=None
        Longest input in tokens, special ones included. None is what the checkpoint
        declares, else the encoder's own limit.
    overflow : {"truncate", "chunk", "raise"}, default="truncate"
        What happens to longer texts. "truncate" cuts them, with one warning that counts
        the loss. "chunk" encodes overlapping windows and joins their vectors as
        `chunk_pooling` says. "raise" refuses.
    stride : int or None, default=None
        Tokens that consecutive windows share, for ``overflow="chunk"``, as in
        transformers' tokenizers. None is an eighth of the maximum length.
    chunk_pooling : {"auto", "mean", "max", "first", "learned_attention"}, \
default="auto"
        How the vectors of a text's windows become one, for ``overflow="chunk"``. "auto"
        suits `pooling`: means weighted by tokens, maximum of maxima, mean of [CLS]; for
        ``pooling="learned_attention"``, the tokens of all windows side by side. All
        others take window vectors of any pooling: their mean, their maximum, the first
        window alone, or a mean whose weights are learned from ``y`` in `fit`. They work
        on windows, of which `memory` keeps each as it keeps a text.
    prompt : str or None, default=None
        Put before every text, for encoders trained so (``"query: "``). None is the
        default prompt that the checkpoint declares, if any; "" is none.
    missing : {"raise", "empty"}, default="raise"
        Whether None, NaN and ``pd.NA`` are refused or read as "".
    memory : None, str, path-like or joblib.Memory, default=None
        Where frozen features are kept. Shared by all estimators, processes and runs
        that name the same place; bounded by ``joblib.Memory.reduce_size``. None keeps
        nothing.
    store_layers : {"all", "requested"}, default="all"
        What `memory` keeps of a pass: every layer under [CLS], mean and max pooling, so
        that one pass serves a whole grid (32 kB per text for the default model, 120 kB
        for BERT-base), or only what was asked for (1.5 and 3 kB for one layer).
    batch_size : int or "auto", default="auto"
        Texts per forward pass; "auto" fills batches of like length to a number of
        tokens. Does not change results beyond float noise (1e-6).
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", "mps"; "auto" takes a GPU if there is one. Stored
        features are shared between devices.
    dtype : {"float32", "bfloat16", "float16", "auto"}, default="float32"
        Precision of the encoder; "auto" is the checkpoint's. Features are float32 in
        any case.
    token_dtype : {"float32", "float16"}, default="float32"
        Precision in which token states are handed on and kept in `memory`, for
        "learned_attention". "float16" halves them and rounds to three digits.
    n_jobs : int or None, default=None
        Worker processes that encode, as in joblib. On one CPU the default is usually
        fastest, as torch uses all cores already; meant for ``joblib.parallel_config``
        backends that reach other machines.
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
    pooling_ : tuple of str
        Poolings used.
    normalize_ : bool
        Whether vectors are normalized.
    max_length_ : int or None
        Longest input in tokens; None if the encoder has no limit.
    prompt_ : str
        What is put before each text.
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
        What gives features of the training texts a spread of 1, before they are
        normalized (`normalize`); only with ``layer_combination="scalar_mix"``.
    layer_scales_ : ndarray of shape (n_poolings, n_layers)
        Or (1, n_layers) with "learned_attention". Spread of each layer on the training
        texts, by which it is divided before it is weighted; only with
        ``layer_combination="scalar_mix"``.
    query_ : ndarray of shape (n_features,)
        Learned query: a token, or a window, counts by the softmax over its text of its
        state or vector times this; only with "learned_attention".
    n_iter_ : int
        Steps in which weights or a query were learned; only where one is.

    See Also
    --------
    sklearn.feature_extraction.text.TfidfVectorizer : Counts instead of meaning.

    Notes
    -----
    A stored feature is identified by the contents of the encoder's files, the tokens'
    treatment (prompt, cut, special tokens, pooling, layer), the precision and the text;
    not by the model's name, the device or the batch. Between two cold runs batches may
    differ, which moves floats by about 2e-7; what is read back from a store is bitwise
    the same.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_bert import BertVectorizer
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> encoder = make_tiny_encoder(tempfile.mkdtemp())
    >>> vectorizer = BertVectorizer(encoder, layer=[1, 2], pooling="mean")
    >>> vectorizer.fit_transform(["a short text", "another one"]).shape
    (2, 64)
    >>> vectorizer.get_feature_names_out()[[0, 63]]
    array(['layer1_mean_0', 'layer2_mean_31'], dtype=object)
    """

    # Lets skrub's ApplyToCols and skb.apply hand over one column at a time.
    __single_column_transformer__ = True

    _decisive = (
        "layer", "layer_combination", "pooling", "special_tokens", "normalize",
        "max_length", "overflow", "stride", "chunk_pooling", "prompt", "dtype",
        "token_dtype",
    )  # fmt: skip
    _learned = (*EncoderEstimator._learned, "query_")

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        layer: Any = -1,
        layer_combination: Any = "concat",
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
    ) -> None:
        self.model = model
        self.layer = layer
        self.layer_combination = layer_combination
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        tags.target_tags.required = self._learns_from_y()
        return tags

    def _learns_from_y(self) -> bool:
        return self._mixes() or self._learns_query()

    def _learns_query(self) -> bool:
        return self._attends() or self._weighs_chunks()

    def _weighs_chunks(self) -> bool:
        given = self.chunk_pooling
        return isinstance(given, str) and given == "learned_attention"

    def _attends(self) -> bool:
        pooling = self.pooling
        if isinstance(pooling, (list, tuple, np.ndarray)):
            return "learned_attention" in pooling
        return isinstance(pooling, str) and pooling == "learned_attention"

    def fit(self, X: Any, y: Any = None) -> BertVectorizer:
        """Resolve the parameters for this encoder; learn from `y` if asked to.

        Only ``layer_combination="scalar_mix"`` and what is called "learned_attention"
        encode texts here.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)
            Texts, or a 2-D container with one column of them.
        y : array-like of shape (n_texts,) or (n_texts, n_outputs), default=None
            Target, used by "scalar_mix" and "learned_attention" only.

        Returns
        -------
        BertVectorizer
            This estimator.

        Raises
        ------
        ValueError, TypeError
            A parameter or a row of `X` is not valid; the message names it.
        """
        self._fit(self._read_texts(X, is_fit=True), y)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Fit, and return the features of the same texts, which are read once.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)
            Texts, or a 2-D container with one column of them.
        y : array-like of shape (n_texts,) or (n_texts, n_outputs), default=None
            Target, used by "scalar_mix" and "learned_attention" only.

        Returns
        -------
        ndarray of shape (n_texts, n_features), float32
            Or a frame, if `set_output` asks for one.
        """
        texts = self._read_texts(X, is_fit=True)
        frozen = self._fit(texts, y)
        return self._encode(texts) if frozen is None else self._combine_all(frozen)

    def transform(self, X: Any) -> Any:
        """Return the features of texts.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)
            Texts, or a 2-D container with one column of them.

        Returns
        -------
        ndarray of shape (n_texts, n_features), float32
            Or a frame, if `set_output` asks for one.

        Raises
        ------
        ValueError
            The encoder's files, or a parameter that decides the features, changed since
            `fit`.
        """
        check_is_fitted(self)
        return self._encode(self._read_texts(X, is_fit=False))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Name every feature by layer, pooling and dimension.

        Parameters
        ----------
        input_features : ignored
            Present for compatibility with scikit-learn.

        Returns
        -------
        ndarray of str objects of shape (n_features,)
            For example "layer6_mean_0", "layers3to6_mean_cls_17" or
            "layer6_mean_chunk_max_0".
        """
        check_is_fitted(self)
        poolings, joined = self.pooling_, self.chunk_pooling_
        if joined != "auto":
            poolings = tuple(f"{name}_chunk_{joined}" for name in poolings)
        names = feature_names(
            self.layers_, poolings, self.layer_combination_, self.width_
        )
        return np.array(names, dtype=object)

    def token_weights(self, X: Any) -> list[TokenWeights]:
        """Return how much each token of each text counts in its features.

        Only for ``pooling="learned_attention"``.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)
            Texts, or a 2-D container with one column of them.

        Returns
        -------
        list of TokenWeights
            ``tokens`` and ``weights`` of each text.
        """
        check_is_fitted(self)
        if not self._attends():
            raise ValueError(
                "token_weights needs pooling='learned_attention', which learns them; "
                f"this estimator was fitted with pooling={self.pooling!r}."
            )
        texts = self._read_texts(X, is_fit=False)
        request = self._unchanged_request()
        weights = self._weights_of_rows(texts, request)
        return [
            TokenWeights(tokens, part)
            for tokens, part in zip(tokens_of(texts, request), weights, strict=True)
        ]

    # Windows of long texts

    def n_chunks(self, X: Any) -> np.ndarray:
        """Return in how many windows each text is encoded.

        More than one only with ``overflow="chunk"``. Counted by the tokenizer: nothing
        is encoded.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)
            Texts, or a 2-D container with one column of them.

        Returns
        -------
        ndarray of shape (n_texts,)
            At least 1, the empty text included.
        """
        check_is_fitted(self)
        texts = self._read_texts(X, is_fit=False)
        return n_chunks_of(texts, self._unchanged_request())

    def transform_chunks(self, X: Any) -> FlatChunks:
        """Return the features of every window, for a model of your own.

        A window has the features of a text of its own, whatever `chunk_pooling` says;
        those of a text with one window are what `transform` gives.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)
            Texts, or a 2-D container with one column of them.

        Returns
        -------
        FlatChunks
            ``values`` of shape (n_chunks, n_features), and ``offsets`` of shape
            (n_texts + 1,), at which they split into texts.

        Raises
        ------
        ValueError
            Texts have no windows (`overflow`), or windows no vectors (`pooling`).
        """
        check_is_fitted(self)
        if self.overflow != "chunk":
            raise ValueError(
                "transform_chunks needs overflow='chunk', which encodes windows; with "
                f"overflow={self.overflow!r} a text has one vector, see transform."
            )
        self._refuse_token_attention("transform_chunks gives a vector of each window")
        texts = self._read_texts(X, is_fit=False)
        request = self._unchanged_request(chunks=True)

        def combined(block: Any) -> Ragged:
            values = self._normalized(self._combined_rows(block.values))
            return Ragged(values, block.starts, block.counts)

        blocks = iter_features(texts, request, self._engine())
        chunks = gather(((which, combined(b)) for which, b in blocks), len(texts))
        values = chunks.rows.reshape(-1, self._n_features())
        return FlatChunks(values, np.concatenate([[0], np.cumsum(chunks.counts)]))

    def chunk_weights(self, X: Any) -> list[ChunkWeights]:
        """Return how much each window of each text counts in its features.

        Only for ``chunk_pooling="learned_attention"``.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)
            Texts, or a 2-D container with one column of them.

        Returns
        -------
        list of ChunkWeights
            ``chunks``, what each window shows of the text, and ``weights``.
        """
        check_is_fitted(self)
        if not self._weighs_chunks():
            raise ValueError(
                "chunk_weights needs chunk_pooling='learned_attention', which learns "
                "them; this estimator was fitted with "
                f"chunk_pooling={self.chunk_pooling!r}."
            )
        texts = self._read_texts(X, is_fit=False)
        request = self._unchanged_request()
        weights = self._weights_of_rows(texts, request)
        return [
            ChunkWeights(chunks, part)
            for chunks, part in zip(chunks_of(texts, request), weights, strict=True)
        ]

    # The steps, on plain lists of texts

    def _fit(self, texts: list[str], y: Any, **options: Any) -> np.ndarray | Any:
        """Fit; return the frozen features if they had to be made for it."""
        if not self._learns_from_y():
            self._settle()
            return None
        who, learns = self._who_learns()
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but "
                f"the target y is None: {who} learns {learns} from y."
            )
        self._settle()
        try:
            check_learnable(y, len(texts), who)  # before they are encoded
        except BaseException:
            del self._fitted_params
            raise
        frozen = self._frozen(texts)
        self._learn(frozen, y, **options)
        return frozen

    def _who_learns(self) -> tuple[str, str]:
        """Return the parameter that learns, and what."""
        if self._attends():
            return "pooling='learned_attention'", "which tokens count"
        if self._weighs_chunks():
            return "chunk_pooling='learned_attention'", "which windows count"
        return "layer_combination='scalar_mix'", "layer weights"

    def _frozen(self, texts: list[str]) -> np.ndarray | Ragged:
        """Return what is learned from: features by layer, or rows to be weighted."""
        if not self._learns_query():
            return self._by_layer(texts)
        request = self._request(self._checkpoint())
        return gather(self._blocks(texts, request), len(texts))

    def _learn(
        self,
        frozen: np.ndarray | Ragged,
        y: Any,
        *,
        on_step: Callable[[Callable[[], BertVectorizer]], bool] | None = None,
        **options: Any,
    ) -> None:
        """Learn layer weights, a query over tokens or windows, or both.

        `on_step` is called after each step with a function that returns this estimator
        as it is by then, and ends learning by returning True.
        """
        fit: Callable[..., Any] = fit_scalar_mix
        if isinstance(frozen, Ragged):
            fit = fit_token_attention
            options["learns_layers"] = self._mixes()
            options["who"] = self._who_learns()[0]
        self._learn_by(functools.partial(fit, frozen, y, **options), on_step)

    def _keep(self, learned: Any) -> None:
        """Keep a mix of layers, or a query and perhaps one."""
        mix = learned
        if not isinstance(learned, ScalarMix):
            self.query_, mix = learned
        if mix is not None:
            super()._keep(mix)

    def _encode(self, texts: list[str]) -> np.ndarray:
        blocks = self._blocks(texts, self._unchanged_request())
        return self._combine(blocks, len(texts))

    def _blocks(
        self, texts: list[str], request: Request, out: np.ndarray | None = None
    ) -> Iterator[Any]:
        """Yield which texts, and their features by layer or rows to be weighted.

        What is already in `out` is not yielded, see `iter_features`.
        """
        for which, block in iter_features(texts, request, self._engine(), out):
            if isinstance(block, Ragged) and self._learns_query():
                yield which, self._rows_to_weigh(block)
            elif isinstance(block, Ragged):
                yield which, join(block, self.chunk_pooling)
            else:
                yield which, block

    def _by_layer(self, texts: list[str], request: Request | None = None) -> np.ndarray:
        """Return uncombined features, (n_texts, n_poolings, n_layers, width)."""
        if self._learns_query():
            name = "pooling" if self._attends() else "chunk_pooling"
            raise ValueError(
                f"{name}='learned_attention' is learned from y together with what "
                "follows, so there are no features of each layer to compare by "
                f"themselves; name another {name}, or use BertProbeClassifier."
            )
        request = request or self._request(self._checkpoint())
        out = room(request.shape_of_block(len(texts)), np.float32)
        for which, block in self._blocks(texts, request, out):
            out[which] = block
        return out

    def _factors(self) -> np.ndarray | None:
        """Return the factors of the layers' weighted sum, (n_poolings, n_layers)."""
        n_poolings, n_layers = len(self.pooling_), len(self.layers_)
        return coefficients(self.layer_combination_, n_poolings, n_layers, self._mix)

    def _n_features(self) -> int:
        n_vectors = 1 if self._factors() is not None else len(self.layers_)
        return n_vectors * len(self.pooling_) * self.width_

    def _combine(self, blocks: Any, n_texts: int) -> np.ndarray:
        factors = self._factors()
        out = np.empty((n_texts, self._n_features()), dtype=np.float32)
        for rows, block in blocks:
            part = np.empty((len(rows), out.shape[1]), dtype=np.float32)
            if isinstance(block, Ragged):
                part[:], _ = attend(block, self.query_, self._factors_of_rows())
            else:
                combine(block, factors, part)
            out[rows] = self._normalized(part)
        return out

    def _normalized(self, part: np.ndarray) -> np.ndarray:
        """Scale vectors to unit length, in place, if they are to be."""
        if self.normalize_:
            norms = np.linalg.norm(part, axis=1, keepdims=True)
            part /= np.maximum(norms, 1e-12)
        return part

    def _combine_all(self, frozen: np.ndarray | Ragged) -> np.ndarray:
        """Return the features of texts from what `_frozen` returned."""
        return self._combine([(np.arange(len(frozen)), frozen)], len(frozen))

    # Token states or windows, for a learned query

    def _rows_to_weigh(self, block: Ragged) -> Ragged:
        """Return rows with their layers combined, unless weights are learned.

        Values have the shape (n_rows, n_layers or 1, n_features).
        """
        values = block.values  # (n_rows, n_poolings, n_layers, width)
        n_rows, n_poolings, n_layers, width = values.shape
        if self._mixes():
            if n_poolings > 1:  # layers share their weight under all poolings
                values = np.swapaxes(values, 1, 2)
            values = values.reshape(n_rows, n_layers, n_poolings * width)
        else:
            values = self._combined_rows(values)[:, np.newaxis]
        return Ragged(values, block.starts, block.counts)

    def _combined_rows(self, values: np.ndarray) -> np.ndarray:
        """Return rows with their layers combined, (n_rows, n_features)."""
        factors, shape = self._factors(), (len(values), self._n_features())
        if factors is None:
            return values.reshape(shape)
        out = np.empty(shape, dtype=values.dtype)
        combine(values, factors, out)
        return out

    def _weights_of_rows(self, texts: list[str], request: Request) -> list[np.ndarray]:
        """Return the weights of the rows of each text, under the query learned."""
        if not texts:
            return []
        rows = gather(self._blocks(texts, request), len(texts))
        _, weights = attend(rows, self.query_, self._factors_of_rows())
        return [np.array(part) for part in weights]

    def _factors_of_rows(self) -> np.ndarray | None:
        """Return the factors of layers that `_rows_to_weigh` left apart."""
        factors = self._factors()
        return factors[0] if factors is not None and self._mixes() else None

    # Parameters

    def _resolve(self, checkpoint: Checkpoint) -> None:
        super()._resolve(checkpoint)
        declared = checkpoint.declared
        self.pooling_ = self._resolve_pooling(checkpoint)
        check_bool("special_tokens", self.special_tokens)
        if isinstance(self.normalize, str):
            check_choice("normalize", self.normalize, ("auto", True, False))
            self.normalize_ = declared.normalize
        else:
            self.normalize_ = check_bool("normalize", self.normalize)
        check_choice("overflow", self.overflow, ("truncate", "chunk", "raise"))
        self.chunk_pooling_ = self._check_chunk_pooling()
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise TypeError(f"prompt must be a str or None, got {self.prompt!r}.")
        self.prompt_ = declared.prompt if self.prompt is None else str(self.prompt)

    def _check_chunk_pooling(self) -> str:
        given = check_choice("chunk_pooling", self.chunk_pooling, _CHUNK_POOLINGS)
        if given == "auto":
            return given
        if self.overflow != "chunk":
            raise ValueError(
                f"chunk_pooling={given!r} joins the windows of long texts, and "
                f"overflow={self.overflow!r} makes none; pass overflow='chunk', or "
                "chunk_pooling='auto'."
            )
        self._refuse_token_attention(f"chunk_pooling={given!r} joins their vectors")
        return given

    def _refuse_token_attention(self, what: str) -> None:
        if self._attends():
            raise ValueError(
                "pooling='learned_attention' weights the tokens of all windows of a "
                f"text together, so that windows have no vectors, and {what}; name "
                "another pooling, such as pooling='mean'."
            )

    def _resolve_pooling(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        poolings = check_pooling(self.pooling)
        if isinstance(poolings, str):
            poolings = self._declared_pooling(checkpoint, POOLINGS)
        if "attention" in poolings and 0 in self.layers_:
            raise ValueError(
                "pooling='attention' needs layer >= 1: layer 0 is the embedding "
                "output, which no attention precedes. All other layers are "
                f"layer=list(range(1, {checkpoint.n_layers + 1}))."
            )
        if "pooler" in poolings and self.layers_ != (checkpoint.n_layers,):
            raise ValueError(
                "pooling='pooler' is a head on the last layer only; pass layer=-1, got "
                f"layer={self.layer!r}."
            )
        return poolings

    def _request(self, checkpoint: Checkpoint, *, chunks: bool = False) -> Request:
        """Return what is asked of the encoder; with `chunks`, of windows."""
        poolings = self.pooling_
        if self._attends():
            half = self.token_dtype != "float32"
            poolings = ("tokens_float16" if half else "tokens",)
        elif chunks or self.chunk_pooling != "auto":
            poolings = tuple(map(of_chunks, poolings))
        return Request(
            checkpoint=checkpoint,
            poolings=poolings,
            layers=self.layers_,
            special_tokens=bool(self.special_tokens),
            max_length=self.max_length_,
            overflow=self.overflow,
            stride=self.stride_,
            prompt=self.prompt_,
            include_prompt=checkpoint.declared.include_prompt,
            dtype=self.dtype_,
        )
