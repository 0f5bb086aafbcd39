"""Everything torch: load an encoder once, run it, and pool each layer as it passes.

An `Encoder` holds a checkpoint's network and tokenizer. It adds special tokens, cuts
and windows texts itself, batches by length under a token budget, stops at the highest
layer needed, and pools every layer while the next block waits, so that no more than one
layer of token states is alive. The transformers modules run as they are, layers are
read by hooks before each block, and linear layers are swapped for faster ones on a CPU.
When an encoder is loaded it is compared with plain transformers on three short texts; a
swap that changes a number is taken back, and an encoder that cannot be served right is
refused.

Encoders live in a small process-wide registry, never on an estimator.

Level 2 of the module map: imports `checkpoint`, `kernels` and `pooling`. Only
`features` imports this module, and only when a text has to be encoded.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn

from .checkpoint import Checkpoint, find_checkpoint
from .kernels import pack_linears, unpack
from .pooling import aggregate, pool, split_column

__all__ = ["Encoded", "Encoder", "Plan", "get_encoder", "resolve_device"]

_CPU_TOKENS = 2048  # padded tokens per batch; 1,024 to 4,096 measured alike on CPU
_GPU_TOKENS = 65536
_MAX_LOADED = 3  # encoders kept per process
_PROBES = ("a b", "The quick brown fox jumps over 13 lazy dogs; why?", "a b c d e f g")
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Largest relative difference between hooks on a padded batch and plain transformers.
_TOLERANCE = {"float32": 1e-4, "float16": 3e-2, "bfloat16": 2e-1}

Ids = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """What one pass computes.

    Attributes
    ----------
    columns : mapping of str to tuple of int
        Layers wanted per column (see `pooling.column_name`).
    max_length : int or None
        Longest input in tokens, special ones included.
    stride : int or None
        None cuts longer texts; a number splits them into windows that share this many
        tokens.
    excluded_prompt : str
        A prompt that texts begin with and whose tokens never count in a pooling.
    batch_size : int or None
        Texts per batch; None for a token budget.
    optional : frozenset of str
        Columns to leave out where the encoder cannot serve them ([CLS] without one).
    """

    columns: Mapping[str, tuple[int, ...]]
    max_length: int | None
    stride: int | None = None
    excluded_prompt: str = ""
    batch_size: int | None = None
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Encoded:
    """The features of some texts.

    Attributes
    ----------
    layers : mapping of str to tuple of int
        Layers per column.
    columns : mapping of str to ndarray of shape (n_layers, n_texts, width)
    n_tokens : ndarray of shape (n_texts,)
        Tokens per text, special ones included, before any cut.
    n_tokens_run : int
        Tokens that went through the encoder, padding left out.
    n_passes : int
        Forward passes.
    """

    layers: Mapping[str, tuple[int, ...]]
    columns: Mapping[str, FloatArray]
    n_tokens: NDArray[np.int32]
    n_tokens_run: int
    n_passes: int


class _Enough(Exception):
    """Raised by a hook to stop the forward pass at the highest layer needed."""


class _Tap:
    """Reads each layer's states as they pass.

    Before the k-th run of a block its input is layer k - 1, whatever the architecture
    does between blocks; the last layer is the model's output.
    """

    def __init__(self, last: int, use: Callable[[int, Tensor, Tensor | None], None]):
        self.last = last
        self.use = use
        self.layer = 0
        self.received: Tensor | None = None

    def before_block(self, states: Tensor) -> None:
        self.use(self.layer, states, self.received)
        if self.layer == self.last:
            raise _Enough
        self.layer += 1
        self.received = None


class Encoder:
    """A frozen network with its tokenizer, on one device and in one precision.

    Parameters
    ----------
    checkpoint : Checkpoint
    device : str
        A torch device.
    dtype : {"float32", "bfloat16", "float16"}

    Raises
    ------
    ValueError
        The checkpoint lacks weights, or its architecture is not served.
    """

    def __init__(self, checkpoint: Checkpoint, device: str, dtype: str) -> None:
        self.checkpoint = checkpoint
        self.device = torch.device(device)
        self.dtype = dtype
        self._lock = threading.Lock()
        self._tap: _Tap | None = None
        self.model, self.has_pooler = _load_model(checkpoint, dtype)
        self.tokenizer = _load_tokenizer(checkpoint)
        self._find_special_tokens()
        self._install_hooks()
        self.model.to(self.device)
        with torch.inference_mode(), self._exact():
            self._prepare()

    # Tokens

    def _find_special_tokens(self) -> None:
        """Learn what the tokenizer puts around a text."""
        plain = self._content_ids(list(_PROBES))
        full = self.tokenizer(list(_PROBES))["input_ids"]
        self.prefix = self.suffix = np.empty(0, dtype=np.int64)
        for i, (content, ids) in enumerate(zip(plain, full, strict=True)):
            n_prefix = next(
                (
                    start
                    for start in range(len(ids) - len(content) + 1)
                    if list(ids[start : start + len(content)]) == list(content)
                ),
                None,
            )
            if n_prefix is None:
                raise ValueError(self._refusal("its tokenizer rewrites texts"))
            prefix = np.array(ids[:n_prefix], dtype=np.int64)
            suffix = np.array(ids[n_prefix + len(content) :], dtype=np.int64)
            if i and not (
                np.array_equal(prefix, self.prefix)
                and np.array_equal(suffix, self.suffix)
            ):
                raise ValueError(self._refusal("its special tokens depend on the text"))
            self.prefix, self.suffix = prefix, suffix
        self.n_special = len(self.prefix) + len(self.suffix)
        pad = self.tokenizer.pad_token_id
        self.pad_id = 0 if pad is None else int(pad)

    def _content_ids(self, texts: list[str]) -> list[Ids]:
        """Tokenize without special tokens and without any limit."""
        texts = [_without_surrogates(text) for text in texts]
        if self.tokenizer.is_fast:
            encodings = self.tokenizer.backend_tokenizer.encode_batch(
                texts, add_special_tokens=False
            )
            return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        ids = self.tokenizer(
            texts,
            add_special_tokens=False,
            truncation=False,
            padding=False,
            verbose=False,
        )["input_ids"]
        return [np.array(row, dtype=np.int64) for row in ids]

    def count_tokens(self, texts: list[str]) -> NDArray[np.int32]:
        """Return tokens per text, special ones included, before any cut."""
        lengths = [len(ids) + self.n_special for ids in self._content_ids(texts)]
        return np.array(lengths, dtype=np.int32)

    def _cut(
        self, content: Ids, max_length: int | None, stride: int | None
    ) -> list[Ids]:
        """Return the pieces of a text's tokens that are run, without special tokens."""
        if max_length is None or len(content) + self.n_special <= max_length:
            return [content]
        room = max_length - self.n_special
        if stride is None:
            if getattr(self.tokenizer, "truncation_side", "right") == "left":
                return [content[len(content) - room :]]
            return [content[:room]]
        step = room - stride
        starts = range(0, len(content) - stride, step)
        return [content[start : start + room] for start in starts]

    # Running

    def encode(self, texts: list[str], plan: Plan) -> Encoded:
        """Run texts through the encoder and pool them.

        Parameters
        ----------
        texts : list of str
        plan : Plan

        Returns
        -------
        Encoded
            In the order of `texts`.
        """
        if plan.max_length is not None and plan.max_length < self.n_special + 1:
            raise ValueError(
                f"max_length={plan.max_length} leaves no room for text: this encoder "
                f"adds {self.n_special} special tokens; pass at least "
                f"{self.n_special + 1}."
            )
        room = None if plan.max_length is None else plan.max_length - self.n_special
        if plan.stride is not None and room is not None and plan.stride >= room:
            raise ValueError(
                f"stride={plan.stride} must be smaller than max_length less the "
                f"special tokens ({room}), else windows do not advance."
            )
        columns = self._servable(plan)
        contents = self._content_ids(texts)
        pieces: list[Ids] = []
        owners: list[int] = []
        for i, content in enumerate(contents):
            cut = self._cut(content, plan.max_length, plan.stride)
            pieces += cut
            owners += [i] * len(cut)
        # Only the first window of a text begins with the prompt.
        is_first = np.diff(owners, prepend=-1) > 0
        n_skipped = np.where(is_first, self._n_excluded(plan.excluded_prompt), 0)

        width = self.checkpoint.width
        pooled = {
            column: np.zeros((len(layers), len(pieces), width), dtype=np.float32)
            for column, layers in columns.items()
        }
        lengths = np.array([len(p) for p in pieces], dtype=np.int64) + self.n_special
        n_passes = 0
        for rows in self._batches(lengths, plan.batch_size):
            some = [pieces[row] for row in rows]
            self._run(some, rows, columns, n_skipped[rows], pooled)
            n_passes += 1
        n_tokens = np.array([len(c) + self.n_special for c in contents], dtype=np.int32)
        return Encoded(
            layers=columns,
            columns=self._join_windows(pooled, pieces, is_first, n_skipped),
            n_tokens=n_tokens,
            n_tokens_run=int(lengths.sum()),
            n_passes=n_passes,
        )

    def _servable(self, plan: Plan) -> dict[str, tuple[int, ...]]:
        """Return the columns to compute, refusing those that must but cannot be."""
        columns = {}
        for column, layers in plan.columns.items():
            name, _ = split_column(column)
            reason = ""
            if name == "cls" and not len(self.prefix):
                reason = "its tokenizer begins texts with no special token"
            if name == "pooler" and not self.has_pooler:
                reason = "it has no trained pooler"
            if reason and column not in plan.optional:
                raise ValueError(self._refusal(reason, f"pooling={name!r}"))
            if not reason:
                columns[column] = layers
        return columns

    def _n_excluded(self, prompt: str) -> int:
        """Return how many first tokens a prompt that never counts takes up."""
        if not prompt:
            return 0
        return len(self.prefix) + len(self._content_ids([prompt])[0])

    def _batches(
        self, lengths: NDArray[np.int64], batch_size: int | None
    ) -> Iterator[NDArray[np.intp]]:
        """Yield rows of like length, the longest first."""
        order = np.argsort(-lengths, kind="stable")
        order = order[lengths[order] > 0]  # no token at all: features are zeros
        budget = _CPU_TOKENS if self.device.type == "cpu" else _GPU_TOKENS
        start = 0
        while start < len(order):
            size = batch_size or max(1, budget // int(lengths[order[start]]))
            yield order[start : start + size]
            start += size

    def _run(
        self,
        pieces: list[Ids],
        rows: NDArray[np.intp],
        columns: Mapping[str, tuple[int, ...]],
        n_skipped: NDArray[np.int64],
        out: Mapping[str, FloatArray],
    ) -> None:
        ids, mask = self._pad(pieces)
        counted = {
            special: self._counted(pieces, mask, special, n_skipped)
            for special in {split_column(column)[1] for column in columns}
        }
        # With a prompt left out, the first token that counts stands for [CLS].
        lengths = np.array([len(piece) for piece in pieces]) + self.n_special
        first = np.minimum(n_skipped, lengths - 1).tolist()

        def use(layer: int, states: Tensor, received: Tensor | None) -> None:
            states = states.float()
            for column, layers in columns.items():
                name, special = split_column(column)
                if layer not in layers or name == "pooler":
                    continue
                if name == "cls":
                    vectors = states[torch.arange(len(pieces)), first]
                elif name == "attention" and received is None:
                    reason = "its attention weights cannot be read"
                    raise ValueError(self._refusal(reason, f"pooling={name!r}"))
                else:
                    vectors = pool(name, states, counted[special], received)
                out[column][layers.index(layer), rows] = vectors.cpu().numpy()

        last = max(max(layers) for layers in columns.values())
        output = self._forward(ids, mask, last, use, _wants_attention(columns))
        for column in columns:
            if split_column(column)[0] == "pooler":
                out[column][0, rows] = output.pooler_output.float().cpu().numpy()

    def _pad(self, pieces: list[Ids]) -> tuple[Tensor, Tensor]:
        """Return ids and mask of shape (n_texts, n_tokens), padded on the right."""
        lengths = [len(piece) + self.n_special for piece in pieces]
        ids = np.full((len(pieces), max(lengths)), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, piece in enumerate(pieces):
            row = np.concatenate([self.prefix, piece, self.suffix])
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(
            self.device
        )

    def _counted(
        self,
        pieces: list[Ids],
        mask: Tensor,
        special: bool,
        n_skipped: NDArray[np.int64],
    ) -> Tensor:
        """Return which tokens count, shape (n_texts, n_tokens), 1.0 or 0.0."""
        starts, ends = self._span(pieces, special, n_skipped)
        positions = np.arange(mask.shape[1])
        counted = (positions >= starts[:, None]) & (positions < ends[:, None])
        return torch.from_numpy(counted).float().to(self.device)

    def _span(
        self, pieces: list[Ids], special: bool, n_skipped: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first token that counts and the one after the last, per piece."""
        ends = np.array([len(piece) for piece in pieces]) + self.n_special
        if special:
            return n_skipped, ends
        return np.maximum(n_skipped, len(self.prefix)), ends - len(self.suffix)

    def _forward(
        self,
        ids: Tensor,
        mask: Tensor,
        last: int,
        use: Callable[[int, Tensor, Tensor | None], None],
        wants_attention: bool,
    ) -> Any:
        """Run a batch up to layer `last`, handing each layer to `use` as it passes."""
        tap = _Tap(last, use)
        with (
            self._lock,
            torch.inference_mode(),
            self._exact(),
            self._attention(wants_attention),
        ):
            self._tap = tap
            self._mask = mask
            try:
                output = self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    **({"output_attentions": True} if wants_attention else {}),
                )
            except _Enough:
                return None
            finally:
                self._tap = None
            use(tap.layer, output.last_hidden_state, tap.received)
            return output

    def _exact(self) -> Any:
        """Keep a caller's autocast from changing the precision that the key names."""
        return torch.autocast(self.device.type, enabled=False)

    @contextlib.contextmanager
    def _attention(self, wanted: bool) -> Iterator[None]:
        """Switch to the attention that returns its weights, and back."""
        before = self.model.config._attn_implementation
        if not wanted or before == "eager":
            yield
            return
        self.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)

    def _join_windows(
        self,
        pooled: Mapping[str, FloatArray],
        pieces: list[Ids],
        is_first: NDArray[np.bool_],
        n_skipped: NDArray[np.int64],
    ) -> Mapping[str, FloatArray]:
        """Return one vector per text where some texts have several windows."""
        if is_first.all():
            return pooled
        starts = np.flatnonzero(is_first)
        ends = np.append(starts[1:], len(is_first))
        joined = {}
        for column, values in pooled.items():
            name, special = split_column(column)
            first, after = self._span(pieces, special, n_skipped)
            counts = np.maximum(after - first, 0)
            result = values[:, starts].copy()
            for i in np.flatnonzero(ends - starts > 1):
                span = slice(starts[i], ends[i])
                result[:, i] = aggregate(name, values[:, span], counts[span])
            joined[column] = result
        return joined

    # Hooks, and the comparison that allows them

    def _install_hooks(self) -> None:
        self._blocks = _find_blocks(self.model, self.checkpoint)
        for block in set(self._blocks):  # ALBERT runs one block many times
            block.register_forward_pre_hook(self._before_block, with_kwargs=True)
            for module in block.modules():
                if "attention" in type(module).__name__.lower():
                    module.register_forward_hook(self._after_attention)

    def _before_block(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._tap is not None:
            self._tap.before_block(args[0] if args else kwargs["hidden_states"])

    def _after_attention(self, module: nn.Module, args: Any, output: Any) -> None:
        """Keep the attention that each token receives, the first time in a block."""
        tap = self._tap
        if tap is None or tap.received is not None or not isinstance(output, tuple):
            return
        for item in output:
            n_texts, n_tokens = self._mask.shape
            if isinstance(item, Tensor) and (
                item.ndim == 4
                and len(item) == n_texts
                and item.shape[2:] == (n_tokens, n_tokens)
            ):
                # (n_texts, n_heads, n_queries, n_keys) -> (n_texts, n_keys)
                queries = self._mask.float()
                by_query = item.float().mean(dim=1) * queries.unsqueeze(-1)
                tap.received = by_query.sum(dim=1) / queries.sum(dim=1, keepdim=True)
                return

    def _prepare(self) -> None:
        """Speed the network up, and compare it with plain transformers.

        Three short texts in one padded batch must give the states that each gives alone
        in the untouched network, layer by layer.
        """
        pieces = [ids[:40] for ids in self._content_ids(list(_PROBES))]
        pieces = [ids for ids in pieces if len(ids) + self.n_special]
        expected = [self._plain_states(ids) for ids in pieces]
        first, longer = expected[0][-1][0], expected[2][-1][0]  # "a" in two contexts
        if self.checkpoint.n_layers and np.allclose(
            first, longer, rtol=1e-4, atol=1e-5
        ):
            raise ValueError(
                self._refusal(
                    "its first token does not see later ones: it is a decoder"
                )
            )
        swaps = []
        if self.device.type == "cpu" and self.dtype != "float16":
            swaps = pack_linears(self._blocks)
        problem = self._compare(pieces, expected)
        if problem and swaps:
            unpack(swaps)
            swaps = []
            problem = self._compare(pieces, expected)
        if problem:
            raise ValueError(self._refusal(problem))
        self.is_packed = bool(swaps)

    def _plain_states(self, ids: Ids) -> list[NDArray[Any]]:
        """Return every layer's token states of one text, as transformers gives them."""
        batch, mask = self._pad([ids])
        states = self.model(
            input_ids=batch, attention_mask=mask, output_hidden_states=True
        ).hidden_states
        n_states = 0 if states is None else len(states)
        if n_states != self.checkpoint.n_layers + 1:
            raise ValueError(
                self._refusal(
                    f"it gives {n_states} hidden states for "
                    f"{self.checkpoint.n_layers} layers"
                )
            )
        return [state[0].float().cpu().numpy() for state in states]

    def _compare(self, pieces: list[Ids], expected: list[list[NDArray[Any]]]) -> str:
        """Return what is wrong with the states read from a padded batch, or ""."""
        found: list[list[NDArray[Any]]] = [[] for _ in pieces]

        def use(layer: int, states: Tensor, received: Tensor | None) -> None:
            for i, ids in enumerate(pieces):
                kept = states[i, : len(ids) + self.n_special]
                found[i].append(kept.float().cpu().numpy())

        last = self.checkpoint.n_layers
        try:
            self._forward(*self._pad(pieces), last, use, wants_attention=False)
        except (AttributeError, RuntimeError, TypeError) as failure:
            return f"it does not run: {failure}"
        for states, plain in zip(found, expected, strict=True):
            if len(states) != len(plain):
                return f"{len(states)} layers pass its blocks instead of {len(plain)}"
            for k, (state, reference) in enumerate(zip(states, plain, strict=True)):
                scale = np.abs(reference).max() + 1e-6
                error = np.abs(state - reference).max() / scale
                if not error <= _TOLERANCE[self.dtype]:
                    return (
                        f"layer {k} of a padded batch differs from the same text alone "
                        f"by {error:.1e} of its largest value"
                    )
        return ""

    def _refusal(self, reason: str, what: str = "") -> str:
        return (
            f"model={self.checkpoint.name!r} (type {self.checkpoint.model_type!r}) "
            f"cannot be served{' with ' + what if what else ''}: {reason}."
        )


def _wants_attention(columns: Mapping[str, tuple[int, ...]]) -> bool:
    return any(split_column(column)[0] == "attention" for column in columns)


def _without_surrogates(text: str) -> str:
    """Replace lone surrogates, which no tokenizer takes, by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the load report and progress bars of transformers, then restore them."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _load_model(checkpoint: Checkpoint, dtype: str) -> tuple[Any, bool]:
    """Return the network, and whether its pooler was trained."""
    options: dict[str, Any] = {
        "dtype": _DTYPES[dtype],
        "trust_remote_code": checkpoint.trust_remote_code,
        "local_files_only": True,
        "output_loading_info": True,
    }
    try:
        with _quiet():
            model, report = transformers.AutoModel.from_pretrained(
                checkpoint.directory, **options
            )
    except (OSError, KeyError, ValueError, RuntimeError, ImportError) as error:
        raise ValueError(
            f"model={checkpoint.name!r} (type {checkpoint.model_type!r}) cannot be "
            f"loaded from {checkpoint.directory}: {error}"
        ) from error
    absent = [
        key for key in sorted(report["missing_keys"]) if "position_ids" not in key
    ]
    absent += [str(key) for key in report.get("mismatched_keys", ())]
    lost = [key for key in absent if "pooler" not in key]
    if lost:
        raise ValueError(
            f"model={checkpoint.name!r} lacks {len(lost)} weights that its "
            f"configuration asks for (first: {lost[0]}); its features would be random."
        )
    has_pooler = getattr(model, "pooler", None) is not None and not absent
    model.eval().requires_grad_(False)
    # The loader maps the file: someone who overwrites it would change these weights.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model, has_pooler


def _load_tokenizer(checkpoint: Checkpoint) -> Any:
    try:
        with _quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                checkpoint.directory,
                trust_remote_code=checkpoint.trust_remote_code,
                local_files_only=True,
            )
    except (OSError, KeyError, ValueError, RuntimeError, ImportError) as error:
        raise ValueError(
            f"The tokenizer of model={checkpoint.name!r} cannot be loaded from "
            f"{checkpoint.directory}: {error}"
        ) from error
    if tokenizer.is_fast:
        # Some checkpoints carry a fixed length and padding of their own.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        if checkpoint.declared.lower_case:
            from tokenizers.normalizers import Lowercase, Sequence

            normalizer = tokenizer.backend_tokenizer.normalizer
            steps = [Lowercase()] if normalizer is None else [Lowercase(), normalizer]
            tokenizer.backend_tokenizer.normalizer = Sequence(steps)
    elif checkpoint.declared.lower_case:
        tokenizer.do_lower_case = True
    return tokenizer


def _find_blocks(model: nn.Module, checkpoint: Checkpoint) -> list[nn.Module]:
    """Return the list of blocks, the first one of the right length."""
    n_groups = getattr(model.config, "num_hidden_groups", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and (
            len(module) == checkpoint.n_layers
            or (name.endswith("layer_groups") and len(module) == n_groups)
        ):
            return list(module)
    raise ValueError(
        f"model={checkpoint.name!r} (type {checkpoint.model_type!r}) cannot be served: "
        f"it has no list of {checkpoint.n_layers} blocks."
    )


_registry: OrderedDict[tuple[str, str, str, str], Encoder] = OrderedDict()
_registry_lock = threading.Lock()


def get_encoder(checkpoint: Checkpoint, device: str, dtype: str) -> Encoder:
    """Return the encoder of a checkpoint, loading it once per process.

    Parameters
    ----------
    checkpoint : Checkpoint
    device : str
        As `resolve_device` returns it.
    dtype : str

    Returns
    -------
    Encoder
    """
    key = (checkpoint.fingerprint, repr(checkpoint.declared), device, dtype)
    with _registry_lock:
        if key in _registry:
            _registry.move_to_end(key)
            return _registry[key]
        encoder = Encoder(checkpoint, device, dtype)
        now = find_checkpoint(
            checkpoint.directory, trust_remote_code=checkpoint.trust_remote_code
        )
        if now.fingerprint != checkpoint.fingerprint:
            raise ValueError(
                f"The files of model={checkpoint.name!r} in {checkpoint.directory} "
                "changed while they were loaded; fit again."
            )
        _registry[key] = encoder
        while len(_registry) > _MAX_LOADED:
            _registry.popitem(last=False)
        return encoder


def _after_fork() -> None:
    """Forget encoders of the parent: their locks and threads did not come along."""
    global _registry_lock
    _registry_lock = threading.Lock()
    _registry.clear()
    torch.set_num_threads(1)  # OpenMP hangs in a fork of a process that has used it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def resolve_device(device: str) -> str:
    """Return the torch device for a `device` parameter.

    Raises
    ------
    ValueError
        There is no such device here.
    RuntimeError
        CUDA was initialised before this process was forked.
    """
    if device == "auto":
        if torch.cuda.is_available():
            device = "cuda"
        elif torch.backends.mps.is_available():
            device = "mps"
        else:
            device = "cpu"
    kind = device.partition(":")[0]
    if kind == "cuda":
        if torch.cuda._is_in_bad_fork():
            raise RuntimeError(
                "CUDA cannot be used in a process forked after CUDA was initialised. "
                'Use joblib\'s default backend ("loky"), start processes with "spawn", '
                'or pass device="cpu" in the workers.'
            )
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(device.partition(":")[2] or 0)
        if index >= n_devices:
            raise ValueError(
                f"device={device!r} is not here: torch sees {n_devices} CUDA devices. "
                'Pass device="auto" or "cpu".'
            )
    elif kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError(
            f"device={device!r} is not here: torch sees no MPS device. "
            'Pass device="auto" or "cpu".'
        )
    return device


def encode(
    checkpoint: Checkpoint, device: str, dtype: str, texts: Sequence[str], plan: Plan
) -> Encoded:
    """Encode texts in this process: what a joblib worker is sent."""
    return get_encoder(checkpoint, resolve_device(device), dtype).encode(
        list(texts), plan
    )
