"""Training through an encoder: a network of its own, its head, the loop, checkpoints.

A `TunedNetwork` is a private copy of a checkpoint's network with a classification head;
the process's frozen encoders are neither used nor changed. A `Trainer` trains what lies
above a boundary. The states of the layer at the boundary are computed once and read
back each epoch, so that an epoch costs what the trained blocks cost. Everything random
in an epoch follows from the seed and the epoch's number: a checkpoint needs no state of
a generator, and a run that was killed goes on to the same weights.

What a text, a label or a parameter may be is decided elsewhere, in `finetune`.

Level 5 of the module map: imports `checkpoint`, `encoder`, `network`, `pooling` and
`tokenizer`. Only `finetune` imports it, when there is something to train or to predict.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoint import TOKENIZER_FILES, Checkpoint
from .encoder import resolve_device
from .network import find_blocks, load_model
from .pooling import Members, pool
from .tokenizer import PROBES, Ids, Tokenizer, quiet

__all__ = [
    "Data", "Design", "FrozenStates", "Recipe", "Trainer", "TunedNetwork", "seed_of",
]  # fmt: skip

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
Weights = dict[str, NDArray[Any]]

_CHECKPOINT = "checkpoint.safetensors"
_FORMAT = 1  # of that file
_CPU_TOKENS = 2048  # per forward pass
_GPU_TOKENS = 65_536  # at most, and less where memory is short
_STEPS_PER_BUCKET = 50  # texts are sorted by length among those of so many steps
# Inverse strength of the penalty when the head is fitted alone, by how many matrices it
# has: for one, the default of BertProbeClassifier; under it, two would shrink to zero.
_PROBE_C = {1: 0.01, 2: 1.0}
_PROBE_ITERATIONS = 200
# What a user calls a field of Design or Recipe, in a refusal.
_PARAMETERS = {
    "poolings": "pooling", "hidden_size": "head", "n_outputs": "y",
    "is_multilabel": "y", "n_frozen": "num_layers_to_freeze", "seed": "random_state",
}  # fmt: skip
_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# Largest difference that starting from stored states may make, of the largest value.
_TOLERANCE = {"float32": 1e-4, "float16": 3e-2, "bfloat16": 2e-1}


@dataclass(frozen=True)
class Design:
    """What a tuned network computes.

    Attributes
    ----------
    poolings : tuple of str
        "cls", "mean", "max", "mean_sqrt_len" or "learned_attention", concatenated.
    max_length : int or None
        Longest input in tokens, special ones included; longer texts are cut.
    prompt : str
        Put before every text.
    hidden_size : int
        Units of the head's hidden layer; 0 for a linear head.
    n_outputs : int
        Classes, or labels of a multilabel target.
    is_multilabel : bool
    dtype : {"float32", "bfloat16", "float16"}
        Precision of the encoder. Weights are float32 in any case.
    """

    poolings: tuple[str, ...]
    max_length: int | None
    prompt: str
    hidden_size: int
    n_outputs: int
    is_multilabel: bool
    dtype: str


@dataclass(frozen=True)
class Recipe:
    """How a tuned network is trained; see `BertFineTuneClassifier` for the meanings.

    Attributes
    ----------
    n_frozen : int
        Blocks that never train, from the lowest; 0 trains the embeddings too.
    seed : int
        Decides the head's first weights, the order of texts, and dropout.
    n_iter_no_change : int or None
        Epochs without a better score after which training ends; None for no limit.
    """

    n_frozen: int
    unfreezing: str
    head_warmup: int | str
    texts_per_step: int
    max_iter: int
    learning_rate: float
    head_learning_rate: float
    layer_decay: float
    warmup: float
    weight_decay: float
    max_grad_norm: float | None
    label_smoothing: float
    n_iter_no_change: int | None
    seed: int

    def schedule(self, n_layers: int) -> list[int]:
        """Return how many blocks are frozen in each epoch."""
        is_gradual = self.unfreezing == "gradual"
        n_alone = self.head_warmup if isinstance(self.head_warmup, int) else 0
        if is_gradual and self.head_warmup == 0:
            n_alone = 1
        n_alone = min(n_alone, self.max_iter)
        rest, n_blocks = self.max_iter - n_alone, n_layers - self.n_frozen
        trained = [n_blocks] * rest
        if is_gradual:  # one more block each epoch, or several where epochs are few
            pace = max(1.0, n_blocks / max(1, rest))
            trained = [min(n_blocks, math.ceil(pace * (i + 1))) for i in range(rest)]
        return [n_layers] * n_alone + [n_layers - n for n in trained]


@dataclass(frozen=True)
class Data:
    """Texts to learn from.

    Attributes
    ----------
    texts : list of str
    targets : ndarray of shape (n_texts,), int64, or (n_texts, n_labels), float32
        Indices of classes, or a multilabel indicator.
    weights : ndarray of shape (n_texts,), float32
        Above 0, with a mean of 1.
    """

    texts: list[str]
    targets: NDArray[Any]
    weights: FloatArray


class Head(nn.Module):
    """From token states to scores: pooling, with a trained query, and a classifier.

    Parameters
    ----------
    design : Design
    width : int
        Size of a token state.
    """

    def __init__(self, design: Design, width: int) -> None:
        super().__init__()
        self.poolings = design.poolings
        if "learned_attention" in self.poolings:
            self.query = nn.Parameter(torch.zeros(width))  # begins as the mean
        n_in, n_out = width * len(self.poolings), design.n_outputs
        if design.hidden_size:
            middle = nn.Linear(n_in, design.hidden_size)
            last = nn.Linear(design.hidden_size, n_out)
            self.classifier = nn.Sequential(middle, nn.GELU(), last)
        else:
            self.classifier = nn.Sequential(nn.Linear(n_in, n_out))

    def reset(self) -> None:
        """Draw new weights."""
        for module in self.classifier:
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        if "learned_attention" in self.poolings:
            nn.init.zeros_(self.query)

    def pool(self, states: Tensor, counted: Tensor) -> Tensor:
        """Return one vector per text, (n_texts, n_poolings * width).

        Parameters
        ----------
        states : Tensor of shape (n_texts, n_tokens, width)
        counted : Tensor of shape (n_texts, n_tokens), bool
            Whether a token counts.
        """
        n_texts = len(states)
        texts = torch.arange(n_texts, device=states.device).unsqueeze(1)
        members = Members(
            torch.where(counted, texts, n_texts).flatten(),
            counted.sum(dim=1, keepdim=True).to(states.dtype),
        )
        vectors = []
        for name in self.poolings:
            if name == "cls":  # the first that counts, as a prompt may be left out
                vectors.append(states[texts[:, 0], counted.int().argmax(dim=1)])
            elif name == "learned_attention":
                scores = states @ self.query / states.shape[-1] ** 0.5
                scores = scores.masked_fill(~counted, torch.finfo(scores.dtype).min)
                vectors.append((scores.softmax(dim=1).unsqueeze(1) @ states).squeeze(1))
            else:
                vectors.append(pool(name, states.flatten(0, 1), members, None))
        return torch.cat(vectors, dim=1)

    def forward(self, states: Tensor, counted: Tensor) -> Tensor:
        """Return scores, (n_texts, n_outputs)."""
        scores: Tensor = self.classifier(self.pool(states, counted))
        return scores


class FrozenStates:
    """States of one frozen layer for each text, end to end in a temporary file.

    Parameters
    ----------
    lengths : ndarray of shape (n_texts,)
        Tokens per text.
    width : int

    Notes
    -----
    A token takes ``4 * width`` bytes of disk: 1.5 kB with the default model.
    """

    def __init__(self, lengths: NDArray[np.int64], width: int) -> None:
        self._width = width
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        self._map: FloatArray | None = None

    @staticmethod
    def fits(lengths: NDArray[np.int64], width: int) -> bool:
        """Tell whether there is room for them, and warn if there is not."""
        needed = 4 * width * int(lengths.sum())
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if needed < 0.9 * free:
            return True
        warnings.warn(
            f"The states of the frozen layers take {needed / 1e9:.1f} GB and the "
            f"directory for temporary files has {free / 1e9:.1f} GB left, so those "
            "layers run again in every epoch. Point TMPDIR at a larger disk to avoid "
            "that.",
            UserWarning,
            stacklevel=2,
        )
        return False

    def write(self, i: int, states: FloatArray) -> None:
        """Keep the states of text i, (n_tokens, width)."""
        self._file.seek(int(self._starts[i]) * 4 * self._width)
        self._file.write(np.asarray(states, dtype=np.float32).tobytes())

    def rows(self, i: int) -> FloatArray:
        """Return the states of text i, (n_tokens, width)."""
        if self._map is None:
            self._file.flush()
            shape = (int(self._starts[-1]), self._width)
            self._map = np.memmap(self._file, np.float32, mode="r", shape=shape)
        return self._map[self._starts[i] : self._starts[i + 1]]

    def close(self) -> None:
        """Delete the file."""
        self._map = None
        self._file.close()


class _Enough(Exception):
    """Raised in a block to stop a pass at the layer that is read."""


class TunedNetwork:
    """A copy of a checkpoint's network with a head on its last layer.

    Parameters
    ----------
    checkpoint : Checkpoint
    design : Design
    device : str
        As the estimators take it: "auto", "cpu", "cuda", ...

    Attributes
    ----------
    model : transformers.PreTrainedModel
    head : Head
    device : torch.device
    n_layers : int

    Raises
    ------
    ValueError
        The checkpoint lacks weights, or its architecture or pooling is not served.
    """

    def __init__(self, checkpoint: Checkpoint, design: Design, device: str) -> None:
        self.checkpoint = checkpoint
        self.design = design
        self.n_layers = checkpoint.n_layers
        self.device = torch.device(resolve_device(device))
        self.tokenizer = Tokenizer(checkpoint)
        self._check_tokenizer()
        with torch.random.fork_rng([]):  # weights that a checkpoint lacks are drawn
            self.model, has_pooler = load_model(checkpoint, "float32")
            self.head = Head(design, checkpoint.width)
        if not has_pooler and getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # random, and would be saved as if trained
        self._blocks = find_blocks(self.model, checkpoint)
        self._given: tuple[int, Tensor] | None = None  # states that enter a block
        self._wanted: int | None = None  # layer to read
        self._read: Tensor | None = None
        self._stops_there = self._cuts_last = False
        self._output_length = 0  # of the tuple that blocks return, 0 if a tensor
        for i, block in enumerate(self._blocks):
            block.forward = self._steered(i, block.forward)
        self.model.to(self.device)
        self.head.to(self.device)
        self.budget = _token_budget(self.device, checkpoint)
        self._refuse_leaks()

    # Texts

    def _check_tokenizer(self) -> None:
        n_special = self.tokenizer.n_special
        limit = self.design.max_length
        if limit is not None and limit <= n_special:
            raise ValueError(
                f"max_length={limit} leaves no room for text: this encoder adds "
                f"{n_special} special tokens; pass at least {n_special + 1}."
            )
        if "cls" in self.design.poolings and not len(self.tokenizer.prefix):
            reason = "its tokenizer begins texts with no special token"
            raise ValueError(self.checkpoint.refusal(reason, "pooling='cls'"))
        self._n_skipped = 0
        if self.design.prompt and not self.checkpoint.declared.include_prompt:
            prompt = self.tokenizer.content_ids([self.design.prompt])[0]
            self._n_skipped = len(self.tokenizer.prefix) + len(prompt)

    def pieces(self, texts: Iterable[str]) -> list[Ids]:
        """Return the tokens of each text, cut to the limit, with a warning if any is.

        Parameters
        ----------
        texts : iterable of str

        Returns
        -------
        list of ndarray of int64
            Special tokens included.
        """
        prompt, limit = self.design.prompt, self.design.max_length
        contents = self.tokenizer.content_ids([prompt + text for text in texts])
        lengths = np.array([len(c) for c in contents]) + self.tokenizer.n_special
        n_cut = int((lengths > limit).sum()) if limit is not None else 0
        if n_cut:
            lost = 100.0 * np.maximum(lengths - limit, 0).sum() / lengths.sum()
            warnings.warn(
                f"{n_cut} of {len(lengths)} texts are longer than max_length={limit} "
                f"tokens and were cut; {lost:.1f} % of all tokens are lost (the "
                f"longest text has {lengths.max()}).",
                UserWarning,
                stacklevel=2,
            )
        pieces = [
            self.tokenizer.surround(self.tokenizer.cut(content, limit, None)[0])
            for content in contents
        ]
        pad = np.array([self.tokenizer.pad_id], dtype=np.int64)
        return [piece if len(piece) else pad for piece in pieces]

    # One pass

    def scores(self, pieces: Sequence[Ids], given: Any = None) -> Tensor:
        """Run one batch.

        Parameters
        ----------
        pieces : sequence of ndarray
            Tokens of the texts.
        given : (int, list of ndarray) or None
            A layer and its states for each text, from which to start.

        Returns
        -------
        Tensor of shape (n_texts, n_outputs)
        """
        states, counted = self._states(pieces, given)
        scores: Tensor = self.head(states, counted)
        return scores

    def _states(self, pieces: Sequence[Ids], given: Any = None) -> tuple[Tensor, ...]:
        """Return the last layer, (n_texts, n_tokens, width), and which tokens count."""
        lengths = np.array([len(piece) for piece in pieces])
        is_token = np.arange(lengths.max()) < lengths[:, np.newaxis]
        counted = is_token & (np.arange(lengths.max()) >= self._n_skipped)
        counted[:, 0] |= ~counted.any(axis=1)
        states = None
        if given is not None:
            layer, rows = given
            filled = np.zeros((*is_token.shape, self.checkpoint.width), np.float32)
            for row, own in zip(filled, rows, strict=True):
                row[: len(own)] = own
            states = torch.from_numpy(filled).to(self.device)
        if given is None or layer < self.n_layers:
            ids = np.full(is_token.shape, self.tokenizer.pad_id, dtype=np.int64)
            ids[is_token] = np.concatenate(pieces)
            self._given = None if states is None else (layer, states)
            try:
                with self._precision():
                    states = self.model(
                        input_ids=torch.from_numpy(ids).to(self.device),
                        attention_mask=torch.from_numpy(is_token.astype(np.int64)).to(
                            self.device
                        ),
                    ).last_hidden_state
            finally:
                self._given = None
        assert states is not None
        return states.float(), torch.from_numpy(counted).to(self.device)

    def _precision(self) -> Any:
        half = _HALVES.get(self.design.dtype)
        return torch.autocast(self.device.type, dtype=half, enabled=half is not None)

    def _steered(self, i: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return the forward method of block i, which passes states by or reads them.

        What surrounds the blocks, masks, positions and the like, stays the
        architecture's own.
        """

        @functools.wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            states = args[0] if args else kwargs["hidden_states"]
            if self._wanted == i:
                self._read = states.detach()
                if self._stops_there:
                    raise _Enough
            if self._given is not None:
                layer, stored = self._given
                if i < layer:  # not run
                    n_others = self._output_length - 1
                    return (states, *[None] * n_others) if n_others >= 0 else states
                if i == layer and args:
                    args = (stored.to(states.dtype), *args[1:])
                elif i == layer:
                    kwargs["hidden_states"] = stored.to(states.dtype)
            output = forward(*args, **kwargs)
            self._output_length = len(output) if isinstance(output, tuple) else 0
            if self._cuts_last and i == len(self._blocks) - 1:
                if isinstance(output, tuple):
                    return (output[0].detach(), *output[1:])
                return output.detach()
            return output

        return run

    # Many passes

    @torch.no_grad()
    def predict(self, texts: Iterable[str], batch_size: int | None) -> FloatArray:
        """Return the scores of texts, (n_texts, n_outputs), in their order.

        Parameters
        ----------
        texts : iterable of str
        batch_size : int or None
            Texts per pass; None for a budget of tokens.
        """
        self.model.eval()
        pieces = self.pieces(texts)
        result = np.empty((len(pieces), self.design.n_outputs), dtype=np.float32)

        def run(rows: NDArray[np.intp]) -> None:
            scores = self.scores([pieces[i] for i in rows])
            result[rows] = scores.float().cpu().numpy()

        self._run_all(pieces, batch_size, run)
        return result

    @torch.no_grad()
    def read(
        self,
        pieces: Sequence[Ids],
        batch_size: int | None,
        *,
        layer: int | None,
        states: FrozenStates | None,
        wants_features: bool,
    ) -> FloatArray | None:
        """Run all texts once; keep one layer's states, and return pooled features.

        Parameters
        ----------
        pieces : sequence of ndarray
        batch_size : int or None
        layer : int or None
            Layer whose states are kept.
        states : FrozenStates or None
            Where they are kept.
        wants_features : bool
            Whether the last layer is needed; without it the pass stops at `layer`.

        Returns
        -------
        ndarray of shape (n_texts, n_features) or None
        """
        self.model.eval()
        n_features = self.checkpoint.width * len(self.design.poolings)
        features = np.empty((len(pieces) if wants_features else 0, n_features), "f4")
        self._wanted = layer
        self._stops_there = not wants_features

        def run(rows: NDArray[np.intp]) -> None:
            last = None
            with contextlib.suppress(_Enough):
                last, counted = self._states([pieces[i] for i in rows])
                if wants_features:
                    features[rows] = self.head.pool(last, counted).cpu().numpy()
            if states is not None:
                found = last if layer == self.n_layers else self._read
                assert found is not None
                found = found.float().cpu()
                for i, of_text in zip(rows, found.numpy(), strict=True):
                    states.write(i, of_text[: len(pieces[i])])

        try:
            self._run_all(pieces, batch_size, run)
        finally:
            self._wanted = self._read = None
            self._stops_there = False
        return features if wants_features else None

    def _run_all(
        self,
        pieces: Sequence[Ids],
        batch_size: int | None,
        run: Callable[[NDArray[np.intp]], None],
    ) -> None:
        """Run texts in batches, the longest first, halved when they do not fit."""
        lengths = np.array([len(piece) for piece in pieces])
        rows = np.argsort(-lengths, kind="stable")
        while len(rows):
            first = self.split(rows, lengths, batch_size)[0]
            try:
                run(first)
            except Exception as error:
                batch_size = self.shrink(error, first, lengths, batch_size)
                continue
            rows = rows[len(first) :]

    def split(
        self, rows: NDArray[np.intp], lengths: NDArray[Any], batch_size: int | None
    ) -> list[NDArray[np.intp]]:
        """Split texts, sorted by falling length, into batches that fit."""
        batches = []
        while len(rows):
            size = batch_size or max(1, self.budget // int(lengths[rows[0]]))
            batches.append(rows[:size])
            rows = rows[size:]
        return batches

    def shrink(
        self,
        error: Exception,
        rows: NDArray[np.intp],
        lengths: NDArray[Any],
        batch_size: int | None,
    ) -> int | None:
        """Make batches smaller after a batch did not fit, or raise if none can.

        Returns
        -------
        int or None
            The batch size from now on.
        """
        if not _is_out_of_memory(error):
            raise error
        if len(rows) == 1:
            raise torch.OutOfMemoryError(
                f"A single text of {lengths[rows[0]]} tokens does not fit in the "
                f"memory of {self.device}. Pass a smaller max_length, a larger "
                "num_layers_to_freeze, or dtype='bfloat16'."
            ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.budget = max(1, min(self.budget, int(lengths[rows].sum()) // 2))
        logger.info("out of memory: batches of %d tokens from now", self.budget)
        return batch_size and max(1, len(rows) // 2)

    # What trains

    def freeze(self, n_frozen: int) -> None:
        """Freeze the lowest blocks, without dropout there, and unfreeze the others.

        Parameters
        ----------
        n_frozen : int
            0 unfreezes the embeddings too; `n_layers` leaves the head alone.
        """
        self.model.train(n_frozen == 0)
        for block in self._blocks[n_frozen:]:
            block.train(n_frozen < self.n_layers)
        for name, parameter in self.model.named_parameters():
            place = self._places.get(name)
            parameter.requires_grad_(
                place is not None and self._is_free(place, n_frozen)
            )

    def _is_free(self, place: int, n_frozen: int) -> bool:
        if place == len(self._blocks):  # after the last block
            return n_frozen < self.n_layers
        return place >= n_frozen or n_frozen == 0

    def trained(self, n_frozen: int) -> dict[str, nn.Parameter]:
        """Return the parameters that train above a boundary, the head's included."""
        found = {
            f"encoder.{name}": parameter
            for name, parameter in self.model.named_parameters()
            if self._is_free(self._places.get(name, -2), n_frozen)
            and name in self._places
        }
        found.update((f"head.{k}", p) for k, p in self.head.named_parameters())
        return found

    def depth(self, name: str) -> int | None:
        """Return how many blocks lie above a parameter of the encoder; None: head."""
        place = self._places.get(name.removeprefix("encoder."))
        if name.startswith("head.") or place is None:
            return None
        return min(len(self._blocks), max(0, len(self._blocks) - 1 - place))

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        """Where each parameter acts: -1 before the blocks, i in block i, n after them.

        Those that the last layer does not depend on, as a pooler's, are left out.
        """
        in_block = {
            id(parameter): i
            for i, block in enumerate(self._blocks)
            for parameter in block.parameters()
        }
        named = dict(self.model.named_parameters())
        flags = [parameter.requires_grad for parameter in named.values()]
        used, after = self._reached(named), self._reached(named, cuts_last=True)
        for parameter, flag in zip(named.values(), flags, strict=True):
            parameter.requires_grad_(flag)
        return {
            name: in_block.get(
                id(parameter), len(self._blocks) if name in after else -1
            )
            for name, parameter in named.items()
            if name in used
        }

    def _reached(
        self, named: Mapping[str, nn.Parameter], *, cuts_last: bool = False
    ) -> set[str]:
        """Return the parameters that the last layer depends on."""
        self.model.eval().requires_grad_(True)
        self._cuts_last = cuts_last
        try:
            with torch.enable_grad():
                states, _ = self._states(self._probes()[:1])
                if not states.requires_grad:
                    return set()
                grads = torch.autograd.grad(
                    states.sum(), list(named.values()), allow_unused=True
                )
        finally:
            self._cuts_last = False
        return {name for name, g in zip(named, grads, strict=True) if g is not None}

    def check_boundary(self, n_frozen: int) -> None:
        """Refuse to freeze a part of blocks that are one and the same (ALBERT)."""
        if len(self._blocks) != self.n_layers and n_frozen not in (0, self.n_layers):
            reason = (
                "all its layers share their weights; pass 0 or "
                f"{self.n_layers} (all layers)"
            )
            what = f"num_layers_to_freeze={n_frozen}"
            raise ValueError(self.checkpoint.refusal(reason, what))

    # Whether it can be trusted

    def _probes(self) -> list[Ids]:
        contents = self.tokenizer.content_ids(list(PROBES))
        room = (self.checkpoint.limit or 512) - self.tokenizer.n_special
        return [self.tokenizer.surround(ids[: min(room, 40)]) for ids in contents]

    @torch.no_grad()
    def _refuse_leaks(self) -> None:
        """Refuse a network whose texts change with their neighbours, or a decoder."""
        self.model.eval()
        probes = self._probes()
        together, _ = self._states(probes)
        scale = float(together.abs().max()) + 1e-6
        alone = [self._states([probe])[0][0] for probe in probes]
        for i, states in enumerate(alone):
            error = (together[i, : len(states)] - states).abs().max() / scale
            if not error <= _TOLERANCE[self.design.dtype]:
                raise ValueError(
                    self.checkpoint.refusal(
                        "its states of a padded batch differ from those of the same "
                        f"text alone by {error:.1e} of the largest"
                    )
                )
        if torch.allclose(alone[0][0], alone[2][0], rtol=1e-4, atol=1e-5):
            reason = "its first token does not see later ones: it is a decoder"
            raise ValueError(self.checkpoint.refusal(reason))

    @torch.no_grad()
    def can_start_at(self, layer: int) -> bool:
        """Tell whether a pass that starts from a layer's states gives the same."""
        self.model.eval()
        probes = self._probes()
        self._wanted = layer
        try:
            expected, counted = self._states(probes)
            read = expected if layer == self.n_layers else self._read
        finally:
            self._wanted = self._read = None
        assert read is not None
        rows = [
            states[: len(probe)].float().cpu().numpy()
            for states, probe in zip(read, probes, strict=True)
        ]
        found, _ = self._states(probes, (layer, rows))
        error = (found - expected)[counted].abs().max() / expected.abs().max()
        return bool(error <= _TOLERANCE[self.design.dtype])

    # Weights in and out

    def weights(self, names: Iterable[str]) -> Weights:
        """Return weights by the names that `trained` gives; a CPU's share memory."""
        own = self._all_parameters()
        return {name: own[name].detach().cpu().numpy() for name in names}

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Set weights that `weights` returned."""
        own = self._all_parameters()
        with torch.no_grad():
            for name, values in weights.items():
                own[name].copy_(torch.as_tensor(values))

    def _all_parameters(self) -> dict[str, nn.Parameter]:
        found = {f"encoder.{k}": p for k, p in self.model.named_parameters()}
        found.update((f"head.{k}", p) for k, p in self.head.named_parameters())
        return found

    def save(self, directory: Path) -> None:
        """Write what transformers and sentence-transformers read, and the head.

        Parameters
        ----------
        directory : Path
            An empty directory.

        Notes
        -----
        Neither library knows a trained query: "learned_attention" is declared as what
        it began as, the mean.
        """
        source = Path(self.checkpoint.directory)
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, directory / name)
        if self.checkpoint.trust_remote_code:
            for file in source.glob("*.py"):
                shutil.copyfile(file, directory / file.name)
        with quiet():
            self.model.save_pretrained(directory)
        state = {k: v.detach().cpu() for k, v in self.head.state_dict().items()}
        save_file(state, directory / "head.safetensors", metadata={"format": "pt"})
        for name, content in _declarations(self.checkpoint, self.design).items():
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def read_head(self, directory: Path) -> None:
        """Read the head that `save` wrote."""
        state = load_file(directory / "head.safetensors", device=str(self.device))
        self.head.load_state_dict(state)


def _declarations(checkpoint: Checkpoint, design: Design) -> dict[str, Any]:
    """Return the files in which sentence-transformers declares a model's use."""
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    names = {"learned_attention": "mean", "mean_sqrt_len": "mean_sqrt_len_tokens"}
    modes = list(dict.fromkeys(names.get(name, name) for name in design.poolings))
    prompts = {"default": design.prompt} if design.prompt else {}
    return {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"{module}.{kind}"}
            for i, (kind, path) in enumerate(kinds.items())
            for module in ["sentence_transformers.models"]
        ],
        "1_Pooling/config.json": {
            "embedding_dimension": checkpoint.width,
            "pooling_mode": modes[0] if len(modes) == 1 else modes,
            "include_prompt": checkpoint.declared.include_prompt,
        },
        "sentence_bert_config.json": {
            "max_seq_length": design.max_length,
            "do_lower_case": checkpoint.declared.lower_case,
        },
        "config_sentence_transformers.json": {
            "prompts": prompts,
            "default_prompt_name": "default" if prompts else None,
        },
    }


class Trainer:
    """Trains a network, epoch by epoch.

    Parameters
    ----------
    network : TunedNetwork
    recipe : Recipe
    data : Data
    batch_size : int or None, default=None
        Texts per pass; None for a budget of tokens. A step that needs several passes
        adds their gradients up.
    score : callable or None, default=None
        Judges the network after an epoch; needed with ``recipe.n_iter_no_change``.
    checkpoint_dir : Path or None, default=None
        Where the state is kept after each epoch, and gone on from.
    identity : mapping of str to str
        Further digests by name: a checkpoint in which one differs is refused.
    keeps_states : bool, default=True
        Whether the states at the boundary are computed once, or in every epoch.
    verbose : bool, default=False
        Whether a progress bar is shown.

    Attributes
    ----------
    schedule : list of int
        Frozen blocks in each epoch.
    trained : dict of str to Parameter
        What trains, sooner or later.
    history : list of dict
        Of each epoch: "epoch", "n_frozen", "n_trainable", "loss", "score",
        "learning_rate", "seconds".
    best_epoch : int or None
        Epoch of the best score, counted from 1.

    Raises
    ------
    ValueError
        The boundary is not served, or the checkpoint belongs to another run.
    """

    def __init__(
        self,
        network: TunedNetwork,
        recipe: Recipe,
        data: Data,
        *,
        batch_size: int | None = None,
        score: Callable[[], float] | None = None,
        checkpoint_dir: Path | None = None,
        identity: Mapping[str, str] | None = None,
        keeps_states: bool = True,
        verbose: bool = False,
    ) -> None:
        network.check_boundary(recipe.n_frozen)
        self.network = network
        self.recipe = recipe
        self.data = data
        self.history: list[dict[str, Any]] = []
        self.best_epoch: int | None = None
        self._best: dict[str, Tensor] = {}
        self._batch_size = batch_size
        self._score = score
        self.schedule = recipe.schedule(network.n_layers)
        self._n_steps = math.ceil(len(data.texts) / recipe.texts_per_step)
        self.trained = network.trained(recipe.n_frozen)
        self._optimizer = self._make_optimizer()
        is_scaled = network.design.dtype == "float16"
        self._scaler = torch.amp.GradScaler(network.device.type, enabled=is_scaled)
        self._place = checkpoint_dir
        self._identity = dict(identity or {}) | _identity(network, recipe, data)
        is_resumed = self._resume()
        self._pieces = network.pieces(data.texts)
        self._lengths = np.array([len(piece) for piece in self._pieces])
        self._states: FrozenStates | None = None
        self._bar = self._progress(verbose)
        if not self.is_done:
            self._prepare(keeps_states, needs_head=not is_resumed)

    # Before the first epoch

    def _prepare(self, keeps_states: bool, *, needs_head: bool) -> None:
        """Start the head, and compute the states at the boundary."""
        network, boundary = self.network, self.recipe.n_frozen
        if needs_head:
            with self._randomness(0):
                network.head.reset()
        solves_head = needs_head and self.recipe.head_warmup == "probe"
        layer = boundary if keeps_states and boundary > 0 else None
        if layer is not None and not network.can_start_at(layer):
            logger.info("layer %d cannot be started from: frozen layers rerun", layer)
            layer = None
        width = network.checkpoint.width
        if layer is not None and FrozenStates.fits(self._lengths, width):
            self._states = FrozenStates(self._lengths, width)
        if self._states is None:
            layer = None
        try:
            if layer is not None or solves_head:
                features = network.read(
                    self._pieces, self._batch_size,
                    layer=layer, states=self._states, wants_features=solves_head,
                )  # fmt: skip
            if solves_head:
                self._solve_head(features)
        except BaseException:
            self.close()
            raise

    def _solve_head(self, features: Any) -> None:
        """Fit the classifier alone on frozen features, as the probe does.

        Standardized features and an L2 penalty; the scaler is folded into the weights.
        """
        device, n_texts = self.network.device, len(features)
        Z = torch.from_numpy(features).to(device)
        weights = torch.from_numpy(self.data.weights).to(device).unsqueeze(1)
        mean = (weights * Z).mean(dim=0)
        spread = (weights * (Z - mean) ** 2).mean(dim=0).sqrt()
        spread = torch.where(spread > 1e-6, spread, 1.0)
        Z = (Z - mean) / spread
        targets = torch.from_numpy(self.data.targets).to(device)
        classifier = self.network.head.classifier
        matrices = [p for p in classifier.parameters() if p.ndim == 2]
        # Two columns of a softmax share what the one of a logistic regression carries.
        is_pair = targets.ndim == 1 and self.network.design.n_outputs == 2
        penalty = (2.0 if is_pair else 1.0) / (2 * _PROBE_C[len(matrices)] * n_texts)
        if targets.ndim == 2:
            penalty /= targets.shape[1]  # the loss is a mean over labels
        optimizer = torch.optim.LBFGS(
            classifier.parameters(), max_iter=_PROBE_ITERATIONS,
            line_search_fn="strong_wolfe", tolerance_grad=1e-5,
        )  # fmt: skip

        def closure() -> Tensor:
            optimizer.zero_grad()
            losses = _losses(classifier(Z), targets, self.recipe.label_smoothing)
            squares = torch.stack([m.square().sum() for m in matrices])
            loss = (weights[:, 0] * losses).mean() + penalty * squares.sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        first: Any = classifier[0]
        with torch.no_grad():
            first.weight /= spread
            first.bias -= first.weight @ mean
        optimizer.zero_grad()

    def _make_optimizer(self) -> torch.optim.AdamW:
        """Return AdamW with a learning rate per layer; no decay on gains and biases."""
        recipe = self.recipe
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.trained.items():
            depth = self.network.depth(name)
            rate = recipe.head_learning_rate
            if depth is not None:
                rate = recipe.learning_rate * recipe.layer_decay**depth
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        return torch.optim.AdamW(
            [
                {"params": some, "lr": rate, "base": rate, "weight_decay": decay}
                for (rate, decay), some in groups.items()
            ],
            fused=self.network.device.type in ("cpu", "cuda"),
        )

    # Epochs

    @property
    def is_done(self) -> bool:
        """Whether the last epoch was run, or scores have stopped getting better."""
        n_done, patience = len(self.history), self.recipe.n_iter_no_change
        is_stuck = (
            patience is not None
            and self.best_epoch is not None
            and n_done - self.best_epoch >= patience
        )
        return n_done >= self.recipe.max_iter or is_stuck

    def run_epoch(self) -> None:
        """Train on every text once, score, enter it in `history`, keep a checkpoint."""
        started = time.perf_counter()
        epoch, n_steps = len(self.history), self._n_steps
        n_frozen = self.schedule[epoch]
        self.network.freeze(n_frozen)
        losses = []
        with self._randomness(epoch + 1):
            for i, rows in enumerate(self._steps(epoch)):
                rate = self._factor(epoch * n_steps + i)
                try:
                    losses.append(self._step(rows, rate) * len(rows))
                except ArithmeticError:
                    raise ValueError(self._divergence(epoch, i)) from None
                self._bar.update()
        self._optimizer.zero_grad(set_to_none=True)
        n_trainable = sum(p.numel() for p in self.network.trained(n_frozen).values())
        score = None if self._score is None else float(self._score())
        if score is not None and (
            self.best_epoch is None
            or score > self.history[self.best_epoch - 1]["score"]
        ):
            self.best_epoch = epoch + 1
            self._best = {k: p.detach().clone() for k, p in self.trained.items()}
        self.history.append(
            {
                "epoch": epoch + 1,
                "n_frozen": n_frozen,
                "n_trainable": n_trainable,
                "loss": sum(losses) / len(self.data.texts),
                "score": score,
                "learning_rate": self.recipe.learning_rate * rate,
                "seconds": time.perf_counter() - started,
            }
        )
        self._bar.set_postfix(loss=self.history[-1]["loss"], score=score)
        self._save()

    def finish(self) -> None:
        """Go back to the weights of the best epoch, where epochs were scored."""
        if self._best:
            self.network.set_weights(self._best)
        self.network.freeze(self.network.n_layers)
        self.close()

    def close(self) -> None:
        """Delete the states at the boundary; call it however training ends."""
        self._bar.close()
        if self._states is not None:
            self._states.close()
            self._states = None

    def _steps(self, epoch: int) -> list[NDArray[np.intp]]:
        """Return the texts of each step: shuffled, but of like length within a step."""
        rng = np.random.default_rng([self.recipe.seed, epoch])
        order = rng.permutation(len(self._lengths))
        steps = np.array_split(order, self._n_steps)
        like = []
        for start in range(0, len(steps), _STEPS_PER_BUCKET):
            bucket = steps[start : start + _STEPS_PER_BUCKET]
            ends = np.cumsum([len(step) for step in bucket])[:-1]
            rows = np.concatenate(bucket)
            rows = rows[np.argsort(-self._lengths[rows], kind="stable")]
            like += np.split(rows, ends)
        return [like[i] for i in rng.permutation(len(like))]

    def _factor(self, step: int) -> float:
        """Return the share of the learning rate at a step: linear up, linear down."""
        total = self._n_steps * self.recipe.max_iter
        n_up = int(self.recipe.warmup * total)
        if step < n_up:
            return (step + 1) / (n_up + 1)
        return (total - step) / (total - n_up)

    def _step(self, rows: NDArray[np.intp], rate: float) -> float:
        """Update the weights by some texts; return their mean loss."""
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            batches = self.network.split(rows, self._lengths, self._batch_size)
            try:
                loss = sum(self._add_gradients(part, len(rows)) for part in batches)
                break
            except Exception as error:
                self._batch_size = self.network.shrink(
                    error, batches[0], self._lengths, self._batch_size
                )
        for group in self._optimizer.param_groups:
            group["lr"] = group["base"] * rate
        if self.recipe.max_grad_norm is not None:
            self._scaler.unscale_(self._optimizer)
            norm = nn.utils.clip_grad_norm_(
                self.trained.values(), self.recipe.max_grad_norm
            )
            if not self._scaler.is_enabled() and not torch.isfinite(norm):
                raise FloatingPointError
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss

    def _add_gradients(self, rows: NDArray[np.intp], n_in_step: int) -> float:
        given = None
        if self._states is not None:
            given = self.recipe.n_frozen, [self._states.rows(i) for i in rows]
        scores = self.network.scores([self._pieces[i] for i in rows], given)
        device = scores.device
        targets = torch.from_numpy(self.data.targets[rows]).to(device)
        weights = torch.from_numpy(self.data.weights[rows]).to(device)
        losses = _losses(scores, targets, self.recipe.label_smoothing)
        loss = (weights * losses).sum() / n_in_step
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError
        self._scaler.scale(loss).backward()
        return value

    def _divergence(self, epoch: int, step: int) -> str:
        cure = "Pass a smaller learning_rate or head_learning_rate"
        if self.network.design.dtype != "float32":
            cure += ", or dtype='float32'"
        return (
            f"The loss or its gradient is no longer finite in step {step + 1} of epoch "
            f"{epoch + 1}: training diverged with "
            f"learning_rate={self.recipe.learning_rate:g} and "
            f"head_learning_rate={self.recipe.head_learning_rate:g}. {cure}."
        )

    @contextlib.contextmanager
    def _randomness(self, epoch: int) -> Iterator[None]:
        """Have torch draw what the seed and the epoch decide, and go back after."""
        device = self.network.device
        devices = [device] if device.type == "cuda" else []
        seed = np.random.SeedSequence([self.recipe.seed, epoch]).generate_state(1)
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(seed[0]))
            yield

    def _progress(self, verbose: bool) -> Any:
        from tqdm.auto import tqdm

        return tqdm(
            total=self._n_steps * self.recipe.max_iter,
            initial=self._n_steps * len(self.history),
            desc="training",
            unit="step",
            disable=not verbose,
        )

    # Checkpoints

    def _save(self) -> None:
        """Replace the checkpoint: written beside it, then renamed."""
        if self._place is None:
            return
        tensors = {f"now.{k}": p.detach() for k, p in self.trained.items()}
        tensors |= {f"best.{k}": tensor for k, tensor in self._best.items()}
        for name, parameter in self.trained.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{key}.{name}"] = value
        facts = {
            "format": _FORMAT,
            "identity": self._identity,
            "seed": self.recipe.seed,
            "history": self.history,
            "best_epoch": self.best_epoch,
            "scaler": self._scaler.state_dict(),
        }
        place = self._place / _CHECKPOINT
        temporary = place.with_name(f"{_CHECKPOINT}.{uuid.uuid4().hex}.tmp")
        save_file(
            {k: t.cpu().contiguous() for k, t in tensors.items()},
            temporary,
            metadata={"sklearn_bert": json.dumps(facts)},
        )
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, place)

    def _resume(self) -> bool:
        """Go on from the checkpoint, if there is one; return whether there was."""
        if self._place is None:
            return False
        self._place.mkdir(parents=True, exist_ok=True)
        for leftover in self._place.glob(f"{_CHECKPOINT}.*.tmp"):
            leftover.unlink(missing_ok=True)  # of a run that was killed
        place = self._place / _CHECKPOINT
        if not place.is_file():
            return False
        facts = _facts(place)
        theirs = facts["identity"]
        other = [key for key, own in self._identity.items() if theirs.get(key) != own]
        if other:
            raise ValueError(
                f"checkpoint_dir={str(self._place)!r} holds the checkpoint of another "
                f"run: {', '.join(other)} differ. Pass another directory, or delete "
                f"{_CHECKPOINT} there to start again."
            )
        tensors = load_file(place)
        self.history, self.best_epoch = facts["history"], facts["best_epoch"]
        self._scaler.load_state_dict(facts["scaler"])
        device = self.network.device
        for name, parameter in self.trained.items():
            with torch.no_grad():
                parameter.copy_(tensors[f"now.{name}"])
            if f"best.{name}" in tensors:
                self._best[name] = tensors[f"best.{name}"].to(device)
            state = {
                key: tensors[f"adam.{key}.{name}"].to(device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"adam.{key}.{name}" in tensors
            }
            if state:
                self._optimizer.state[parameter] = state
        return True


def seed_of(checkpoint_dir: Path | None) -> int | None:
    """Return the seed of the checkpoint in a directory, if there is one."""
    place = None if checkpoint_dir is None else checkpoint_dir / _CHECKPOINT
    if place is None or not place.is_file():
        return None
    return int(_facts(place)["seed"])


def _facts(place: Path) -> dict[str, Any]:
    """Return what a checkpoint says beside its tensors."""
    try:
        with safe_open(place, framework="pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()["sklearn_bert"])
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{place} cannot be read as a checkpoint ({type(error).__name__}: "
            f"{error}). Delete it to start again, or pass another checkpoint_dir."
        ) from error
    if facts.get("format") != _FORMAT:
        raise ValueError(
            f"{place} has format {facts.get('format')} and this version of "
            f"sklearn_bert reads format {_FORMAT}. Delete it to start again."
        )
    return facts


def _identity(network: TunedNetwork, recipe: Recipe, data: Data) -> dict[str, str]:
    """Return a digest of everything that decides the trained weights, by its name."""

    def digest(parts: Iterable[bytes]) -> str:
        total = hashlib.sha256()
        for part in parts:
            total.update(len(part).to_bytes(8, "little") + part)
        return total.hexdigest()[:32]

    targets = str(data.targets.shape).encode(), data.targets.tobytes()
    numbers = {
        _PARAMETERS.get(name, name): repr(value)
        for name, value in {**asdict(network.design), **asdict(recipe)}.items()
    }
    return {
        **numbers,
        "model": network.checkpoint.fingerprint,
        "X": digest(text.encode("utf-8", "surrogatepass") for text in data.texts),
        "y": digest(targets),
        "sample_weight": digest([data.weights.tobytes()]),
    }


def _losses(scores: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Return the loss of each text, (n_texts,)."""
    if targets.ndim == 1:
        return F.cross_entropy(
            scores, targets, reduction="none", label_smoothing=label_smoothing
        )
    smooth = targets * (1 - label_smoothing) + label_smoothing / 2
    losses = F.binary_cross_entropy_with_logits(scores, smooth, reduction="none")
    return losses.mean(dim=1)


def _token_budget(device: torch.device, checkpoint: Checkpoint) -> int:
    """Return how many tokens a pass may hold, padding included."""
    if device.type == "cpu":
        return _CPU_TOKENS
    if device.type != "cuda":
        return 4 * _CPU_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    # Each block keeps some forty vectors per token for the backward pass.
    bytes_per_token = 4 * 40 * checkpoint.width * max(1, checkpoint.n_layers)
    return max(_CPU_TOKENS, min(_GPU_TOKENS, free // 2 // bytes_per_token))


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
