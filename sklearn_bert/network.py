"""A checkpoint's network: loaded once, sped up, checked, and read layer by layer.

The transformers modules run as they are. Layers are read by hooks before each block,
linear layers are swapped for faster ones on a CPU (`kernels`), and where transformers
lets the attention function be replaced, texts run packed end to end (`attention`);
elsewhere they run padded. All of this is tried on a few short texts when the network is
loaded and compared with plain transformers, text by text and layer by layer: what
changes a number is taken back, and a network that cannot be served right is refused.

Level 3 of the module map: imports `attention`, `checkpoint`, `kernels`, `process` and
`tokenizer`.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn

from .attention import PACKED, Packing, has_variable_length_kernel
from .checkpoint import Checkpoint
from .kernels import pack_linears, unpack
from .process import ProcessWide
from .tokenizer import QUIET, Ids

__all__ = ["Batch", "Execution", "Network", "exact", "is_out_of_memory", "send"]

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Largest difference to plain transformers, relative to the largest value of a layer.
_TOLERANCE = {"float32": 1e-4, "float16": 3e-2, "bfloat16": 2e-1}
# And of all of them together, relative to how far a layer's states lie apart: one
# dimension of large values must not hide what all the others do.
_SPREAD = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 1.5e-1}
logger = logging.getLogger(__name__)

_LARGE = 1024  # tokens from which on a batch may cost little more than it needs

States = Tensor  # of one layer: (n_rows, width), one row per token or padding
Use = Callable[[int, States, Tensor | None], None]


class Execution(NamedTuple):
    """How an encoder runs on this machine.

    Attributes
    ----------
    layout : {"packed", "padded"}
        Whether texts run end to end, or padded to the longest of their batch.
    linear : {"prepacked", "plain"}
        Whether linear layers run with weights laid out for oneDNN.
    device : str
    dtype : str
    """

    layout: str
    linear: str
    device: str
    dtype: str


@dataclass(frozen=True)
class Batch:
    """Texts laid out for one forward pass.

    Attributes
    ----------
    inputs : dict of str to Tensor
        What the network is called with.
    starts, lengths : ndarray of shape (n_texts,)
        Where each text's tokens lie among the rows of a layer's states.
    n_rows : int
    packing : Packing or None
        None in a padded batch.
    """

    inputs: dict[str, Any]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    n_rows: int
    packing: Packing | None


class _Enough(Exception):
    """Raised by a hook to stop the forward pass at the highest layer needed."""


class _Tap:
    """Reads each layer's states as they pass.

    Before the k-th run of a block its input is layer k - 1, whatever the architecture
    does between blocks; the last layer is the network's output.
    """

    def __init__(self, batch: Batch, last: int, use: Use) -> None:
        self.batch = batch
        self.last = last
        self.use = use
        self.layer = 0
        self.received: Tensor | None = None

    def read(self, states: Tensor) -> None:
        packing = self.batch.packing
        if packing is not None:
            self.received, packing.received = packing.received, None
        self.use(self.layer, states.reshape(-1, states.shape[-1]), self.received)
        self.received = None

    def before_block(self, states: Tensor) -> None:
        self.read(states)
        if self.layer == self.last:
            raise _Enough
        self.layer += 1


class _Runner:
    """The network's modules as one thread runs them, with the hooks that read layers.

    Modules may keep what they work with from one line to the next, so that no two
    threads run the same ones: each has a copy, of which only the weights are shared.
    """

    def __init__(self, model: Any, blocks: list[nn.Module]) -> None:
        self.model = model
        self.attention = str(model.config._attn_implementation)
        self._tap: _Tap | None = None
        for block in set(blocks):  # ALBERT runs one block many times
            block.register_forward_pre_hook(self._before_block, with_kwargs=True)
            for module in block.modules():
                if "attention" in type(module).__name__.lower():
                    module.register_forward_hook(self._after_attention)

    def copy(self) -> _Runner:
        """Return one with copies of all modules and none of the weights."""
        other = object.__new__(_Runner)
        memo: dict[int, Any] = {id(self): other}  # hooks become those of the copy
        for module in self.model.modules():
            own = [*module.parameters(False), *module.buffers(False)]
            own += [v for v in vars(module).values() if isinstance(v, Tensor)]
            memo.update({id(tensor): tensor for tensor in own})
        other.model = copy.deepcopy(self.model, memo)
        other.attention, other._tap = self.attention, None
        return other

    def run(self, batch: Batch, tap: _Tap, attention: str) -> Any:
        """Run a batch with an attention function of transformers; see `Network.run`."""
        self.use_attention(attention)
        self._tap = tap
        try:
            return self.model(**batch.inputs)
        except _Enough:
            return None
        finally:
            self._tap = None

    def use_attention(self, name: str) -> None:
        """Switch to an attention function of transformers, where there is a choice."""
        if name != self.attention:
            with QUIET:
                self.model.set_attn_implementation(name)
            self.attention = name

    def _before_block(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._tap is not None:
            self._tap.before_block(args[0] if args else kwargs["hidden_states"])

    def _after_attention(self, module: nn.Module, args: Any, output: Any) -> None:
        """Keep the attention that each token receives, the first time in a block."""
        tap = self._tap
        if tap is None or tap.received is not None or not isinstance(output, tuple):
            return
        if tap.batch.packing is not None:
            return  # a packing keeps it itself
        mask = tap.batch.inputs["attention_mask"]
        for item in output:
            if isinstance(item, Tensor) and (
                item.ndim == 4
                and len(item) == len(mask)
                and item.shape[2:] == (mask.shape[1], mask.shape[1])
            ):
                # (n_texts, n_heads, n_queries, n_keys) -> (n_texts, n_keys)
                queries = mask.float()
                by_query = item.float().mean(dim=1) * queries.unsqueeze(-1)
                received = by_query.sum(dim=1) / queries.sum(dim=1, keepdim=True)
                tap.received = received.flatten()
                return


class Network:
    """A frozen network on one device and in one precision.

    Parameters
    ----------
    checkpoint : Checkpoint
    device : str
        A torch device.
    dtype : {"float32", "bfloat16", "float16"}
    probes : list of ndarray
        Tokens of a few short texts, special ones included; the first and the third
        begin with the same token.
    pad_id : int

    Attributes
    ----------
    execution : Execution
    has_pooler : bool
        Whether the checkpoint brings a trained pooler.

    Raises
    ------
    ValueError
        The checkpoint lacks weights, or its architecture is not served.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        dtype: str,
        probes: list[Ids],
        pad_id: int,
    ) -> None:
        self.checkpoint = checkpoint
        self.device = torch.device(device)
        self.dtype = dtype
        self._pad_id = pad_id
        self._model, self.has_pooler = load_model(checkpoint, dtype)
        self._takes = set(inspect.signature(self._model.forward).parameters)
        self._padded_attention = str(self._model.config._attn_implementation)
        self._first_position = 0
        self._blocks = find_blocks(self._model, checkpoint)
        self._runner = _Runner(self._model, self._blocks)
        self._idle = [self._runner]  # who pops one has it for a pass
        self._is_copyable = True
        self._trial = max(probes, key=len)
        self._model.to(self.device)
        with torch.inference_mode(), exact(self.device):
            self.execution = self._prepare(probes)

    # Running

    def lay_out(
        self, texts: list[Ids], *, layout: str = "", wants_attention: bool = False
    ) -> Batch:
        """Lay texts out for one forward pass.

        Parameters
        ----------
        texts : list of ndarray
            Tokens, special ones included; texts of equal length next to each other.
        layout : {"", "packed", "padded"}
            Empty for the one that this network runs best.
        wants_attention : bool
            Whether the attention that each token receives is needed.

        Returns
        -------
        Batch
        """
        if (layout or self.execution.layout) == "packed":
            return self._packed(texts, wants_attention)
        return self._padded(texts, wants_attention)

    def _padded(self, texts: list[Ids], wants_attention: bool) -> Batch:
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        shape = (len(texts), int(lengths.max()))
        is_token = np.arange(shape[1]) < lengths[:, None]
        ids = np.full(shape, self._pad_id, dtype=np.int64)
        ids[is_token] = np.concatenate(texts)
        inputs: dict[str, Any] = {
            "input_ids": self._send(ids),
            "attention_mask": self._send(is_token.astype(np.int64)),
        }
        if wants_attention:
            inputs["output_attentions"] = True
        starts = shape[1] * np.arange(len(texts))
        return Batch(inputs, starts, lengths, ids.size, packing=None)

    def _packed(self, texts: list[Ids], wants_attention: bool) -> Batch:
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        n_tokens = int(lengths.sum())
        n_rows = _rounded(n_tokens)
        ids = np.full(n_rows, self._pad_id, dtype=np.int64)
        ids[:n_tokens] = np.concatenate(texts)
        places = np.zeros(n_rows, dtype=np.int64)
        places[:n_tokens] = np.arange(n_tokens) - np.repeat(starts, lengths)
        ends = np.append(starts, n_tokens).astype(np.int32)
        packing = Packing(
            lengths.tolist(), n_rows - n_tokens, wants_attention, self._send(ends)
        )
        inputs = {
            "input_ids": self._send(ids[None]),
            "position_ids": self._send(places[None] + self._first_position),
            "token_type_ids": torch.zeros(
                (1, n_rows), dtype=torch.int64, device=self.device
            ),
        }
        inputs = {name: value for name, value in inputs.items() if name in self._takes}
        return Batch({**inputs, "packing": packing}, starts, lengths, n_rows, packing)

    def _send(self, numbers: NDArray[Any]) -> Tensor:
        return send(numbers, self.device)

    def run(self, batch: Batch, last: int, use: Use) -> Any:
        """Run a batch up to layer `last`, handing each layer to `use` as it passes.

        Parameters
        ----------
        batch : Batch
        last : int
            Layers above it are not run.
        use : callable
            Called with the layer, its states of shape (n_rows, width), and the
            attention that each row received, if it was asked for and can be read.

        Returns
        -------
        The network's output, or None if it was stopped early.

        Notes
        -----
        As many threads may be here as `prepare_for` said last.
        """
        runner = self._idle.pop()
        try:
            return self._run_in(runner, batch, last, use)
        finally:
            self._idle.append(runner)

    def _run_in(self, runner: _Runner, batch: Batch, last: int, use: Use) -> Any:
        tap = _Tap(batch, last, use)
        attention = self._padded_attention if batch.packing is None else PACKED
        if batch.inputs.get("output_attentions"):
            attention = "eager"  # the one that returns its weights
        with torch.inference_mode(), exact(self.device):
            output = runner.run(batch, tap, attention)
            if output is not None:
                tap.read(output.last_hidden_state)
        return output

    def prepare_for(self, n_threads: int) -> int:
        """Make copies for several threads; return how many may run it at once.

        A copy that gives other numbers is not used: code may reach modules in ways that
        no copy sees. Not while a thread runs it.
        """
        if len(self._idle) < n_threads and self._is_copyable:
            try:
                expected = self._trial_states(self._runner)
                while len(self._idle) < n_threads:
                    copied = self._runner.copy()
                    found = self._trial_states(copied)
                    is_same = len(expected) == len(found) and all(
                        map(torch.allclose, found, expected)
                    )
                    if not is_same:
                        raise ValueError("a copy gives other numbers")
                    self._idle.insert(0, copied)
            except Exception as error:  # a checkpoint's own code may hold anything
                if not is_out_of_memory(error):
                    logger.info(
                        "one batch at a time, as modules have no copy: %r", error
                    )
                    self._is_copyable = False
        return min(n_threads, len(self._idle))

    def _trial_states(self, runner: _Runner) -> list[Tensor]:
        """Return every layer's states of a short text, as one copy gives them."""
        states: list[Tensor] = []
        batch = self.lay_out([self._trial])
        self._run_in(
            runner, batch, self.checkpoint.n_layers, lambda _, s, __: states.append(s)
        )
        return states

    # The comparison that allows all this

    def _prepare(self, probes: list[Ids]) -> Execution:
        """Speed the network up as far as no number changes; refuse it if none is right.

        A few short texts, together in one batch, must give the states that each gives
        alone in the untouched network, layer by layer.
        """
        probes = self._with_a_long_one([ids for ids in probes if len(ids)])
        expected = [self._plain_states(ids) for ids in probes]
        self._refuse_decoders(expected)
        swaps = []
        if self.device.type == "cpu" and self.dtype != "float16":
            swaps = pack_linears(self._blocks)
        problem = self._compare(probes, expected, "padded")
        if problem and swaps:
            unpack(swaps)
            swaps = []
            problem = self._compare(probes, expected, "padded")
        if problem:
            raise ValueError(self.checkpoint.refusal(problem))
        return Execution(
            layout="packed" if self._can_pack(probes, expected) else "padded",
            linear="prepacked" if swaps else "plain",
            device=str(self.device),
            dtype=self.dtype,
        )

    def _with_a_long_one(self, probes: list[Ids]) -> list[Ids]:
        """Add a text that a sliding window of attention does not cover."""
        window = getattr(self._model.config, "sliding_window", None)
        if not isinstance(window, int) or not probes:
            return probes
        n_tokens = min(2 * window + 9, self.checkpoint.limit or 512)
        return [*probes, np.resize(probes[-1], n_tokens)]

    def _plain_states(self, ids: Ids) -> list[NDArray[Any]]:
        """Return every layer's token states of one text, as transformers gives them."""
        inputs = self._padded([ids], wants_attention=False).inputs
        states = self._model(**inputs, output_hidden_states=True).hidden_states
        n_states = 0 if states is None else len(states)
        if n_states != self.checkpoint.n_layers + 1:
            raise ValueError(
                self.checkpoint.refusal(
                    f"it gives {n_states} hidden states for "
                    f"{self.checkpoint.n_layers} layers"
                )
            )
        return [state[0].float().cpu().numpy() for state in states]

    def _refuse_decoders(self, expected: list[list[NDArray[Any]]]) -> None:
        first, longer = expected[0][-1][0], expected[2][-1][0]  # "a" in two contexts
        if self.checkpoint.n_layers and np.allclose(
            first, longer, rtol=1e-4, atol=1e-5
        ):
            raise ValueError(
                self.checkpoint.refusal(
                    "its first token does not see later ones: it is a decoder"
                )
            )

    def _can_pack(self, probes: list[Ids], expected: list[list[NDArray[Any]]]) -> bool:
        """Find out whether texts can run packed, and where positions begin."""
        if self.device.type != "cpu" and not has_variable_length_kernel(
            self.device, _DTYPES[self.dtype]
        ):
            return False
        self._runner.use_attention(PACKED)
        if self._model.config._attn_implementation != PACKED:
            self._runner.attention = self._padded_attention
            return False
        # Sorted by length, as batches are, with two equal ones.
        order = sorted([*range(len(probes)), 0], key=lambda i: -len(probes[i]))
        probes, expected = [probes[i] for i in order], [expected[i] for i in order]
        pad = getattr(self._model.config, "pad_token_id", None)
        for first in {0, (self._pad_id if pad is None else pad) + 1}:  # RoBERTa's
            self._first_position = first
            problem = self._compare(probes, expected, "packed")
            if not problem:
                return True
            logger.info("texts are padded, as packed %s", problem)
        return False

    def _compare(
        self, probes: list[Ids], expected: list[list[NDArray[Any]]], layout: str
    ) -> str:
        """Return what is wrong with the states read from one batch, or ""."""
        batch = self.lay_out(probes, layout=layout)
        found: list[list[NDArray[Any]]] = [[] for _ in probes]

        def use(layer: int, states: States, received: Tensor | None) -> None:
            rows = states.float().cpu().numpy()
            for kept, start, length in zip(
                found, batch.starts, batch.lengths, strict=True
            ):
                kept.append(rows[start : start + length])

        try:
            self.run(batch, self.checkpoint.n_layers, use)
        except Exception as failure:  # a checkpoint's own code may raise anything
            if is_out_of_memory(failure):
                raise  # says nothing about the network
            return f"it does not run: {type(failure).__name__}: {failure}"
        for states, plain in zip(found, expected, strict=True):
            if len(states) != len(plain):
                return f"{len(states)} layers pass its blocks instead of {len(plain)}"
            for k, (state, reference) in enumerate(zip(states, plain, strict=True)):
                scale = np.abs(reference).max() + 1e-6
                error = np.abs(state - reference).max() / scale
                if not error <= _TOLERANCE[self.dtype]:
                    return (
                        f"layer {k} of a {layout} batch differs from the same text "
                        f"alone by {error:.1e} of its largest value"
                    )
        for k in range(len(expected[0])):
            reference = np.concatenate([states[k] for states in expected])
            difference = np.concatenate([states[k] for states in found]) - reference
            spread = np.linalg.norm(reference - reference.mean(axis=0)) + 1e-6
            error = np.linalg.norm(difference) / spread
            if not error <= _SPREAD[self.dtype]:
                return (
                    f"layer {k} of a {layout} batch differs from the same texts alone "
                    f"by {error:.1e} of what its states differ among themselves"
                )
        return ""


def _rounded(n_tokens: int) -> int:
    """Round up so that batches come in few sizes: by 3 % at most from 1,024 tokens on.

    oneDNN keeps code and buffers for each size that it has met, about a megabyte, and
    takes some milliseconds to make them. Smaller batches, which are left over at the
    end of a call or hold its one text, come in eight sizes to an octave.
    """
    n_bits = n_tokens.bit_length()
    step = 1 << (n_bits - 6 if n_tokens >= _LARGE else max(3, n_bits - 4))
    return -(-n_tokens // step) * step


def _set_full_float32() -> Callable[[], None]:
    """Keep TF32 and bfloat16 out of products of float32, whatever torch was told."""
    backends: list[Any] = [
        backend.matmul
        for backend in (torch.backends.cuda, torch.backends.mkldnn)
        if hasattr(getattr(backend, "matmul", None), "fp32_precision")
    ]
    if not backends:  # before torch 2.9
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        return lambda: torch.set_float32_matmul_precision(precision)
    asked = [backend.fp32_precision for backend in backends]

    def put_back() -> None:
        for backend, precision in zip(backends, asked, strict=True):
            backend.fp32_precision = precision

    for backend in backends:
        backend.fp32_precision = "ieee"
    return put_back


_FULL_FLOAT32 = ProcessWide(_set_full_float32)


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Keep a caller's settings from changing the precision that was asked of us."""
    with torch.autocast(device.type, enabled=False), _FULL_FLOAT32:
        yield


def send(numbers: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array on a device; to a GPU it is copied while the CPU goes on."""
    tensor = torch.from_numpy(numbers)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether a pass did not fit in the memory of its device."""
    # CUDA's allocator has a class of its own; others say it in a plain RuntimeError.
    said = (
        "DefaultCPUAllocator", "MPS backend out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory",
    )  # fmt: skip
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in said)
    )


def load_model(checkpoint: Checkpoint, dtype: str) -> tuple[Any, bool]:
    """Return the network, and whether its pooler was trained."""
    options: dict[str, Any] = {
        "dtype": _DTYPES[dtype],
        "trust_remote_code": checkpoint.trust_remote_code,
        "local_files_only": True,
        "output_loading_info": True,
    }
    try:
        with QUIET:
            model, report = transformers.AutoModel.from_pretrained(
                checkpoint.directory, **options
            )
    except (
        OSError, KeyError, ValueError, RuntimeError, ImportError, pickle.PickleError
    ) as error:  # fmt: skip
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
    model.config.return_dict = True  # some checkpoints say otherwise
    # The loader maps the file: someone who overwrites it would change these weights.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model, has_pooler


def find_blocks(model: nn.Module, checkpoint: Checkpoint) -> list[nn.Module]:
    """Return the list of blocks, the first one of the right length."""
    n_groups = getattr(model.config, "num_hidden_groups", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and (
            len(module) == checkpoint.n_layers
            or (name.endswith("layer_groups") and len(module) == n_groups)
        ):
            return list(module)
    raise ValueError(
        checkpoint.refusal(f"it has no list of {checkpoint.n_layers} blocks")
    )
