"""A network of its own with a head: passes that train, freezing, weights in and out.

A `TunedNetwork` is a private copy of a checkpoint's network with a classification head;
the process's frozen encoders are neither used nor changed. A pass can start from the
states of a layer that `read` kept, so that frozen blocks need not run again.

In which order texts come, how weights move and what is kept between epochs is decided
in `training`.

Level 5 of the module map: imports `_validation`, `checkpoint`, `encoder`,
`exceptions`, `network`, `pooling`, `process`, `ragged` and `tokenizer`. Only
`training` and `finetune` import it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import shutil
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ._validation import level_outside
from .checkpoint import HEAD_FILE, TOKENIZER_FILES, Checkpoint
from .encoder import resolve_device
from .exceptions import CutWarning
from .network import exact, find_blocks, is_out_of_memory, load_model, send
from .pooling import Members, pool
from .process import Turns
from .ragged import Ragged, Spool
from .tokenizer import PROBES, QUIET, Ids, Tokenizer

__all__ = ["DRAWING", "Design", "TunedNetwork"]

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
Weights = dict[str, NDArray[Any]]

DRAWING = Turns()
"""Held while torch's generator, which is the process's, is set to draw from."""

_CPU_TOKENS = 2048  # per forward pass
_GPU_TOKENS = 65_536  # at most, and less where memory is short
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
    lower_case, include_prompt : bool
        What the checkpoint declared when training began: whether texts are lowered,
        and whether a prompt counts in the pooling.
    """

    poolings: tuple[str, ...]
    max_length: int | None
    prompt: str
    hidden_size: int
    n_outputs: int
    is_multilabel: bool
    dtype: str
    lower_case: bool = False
    include_prompt: bool = True


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
            query = torch.zeros(width, dtype=torch.float32)  # begins as the mean
            self.query = nn.Parameter(query)
        n_in, n_out = width * len(self.poolings), design.n_outputs
        linear = functools.partial(nn.Linear, dtype=torch.float32)
        if design.hidden_size:
            middle = linear(n_in, design.hidden_size)
            last = linear(design.hidden_size, n_out)
            self.classifier = nn.Sequential(middle, nn.GELU(), last)
        else:
            self.classifier = nn.Sequential(linear(n_in, n_out))

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

    @torch.inference_mode(False)  # a caller's would make weights that cannot train
    def __init__(self, checkpoint: Checkpoint, design: Design, device: str) -> None:
        self.checkpoint = checkpoint
        self.design = design
        self.n_layers = checkpoint.n_layers
        self.device = torch.device(resolve_device(device))
        self.tokenizer = Tokenizer(checkpoint)
        self._check_tokenizer()
        with DRAWING, torch.random.fork_rng([]):  # for weights that are not there
            self.model, has_pooler = load_model(checkpoint, "float32")
            self.head = Head(design, checkpoint.width)
        if not has_pooler and getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # random, and would be saved as if trained
        self._blocks = find_blocks(self.model, checkpoint)
        self._given: tuple[int, Tensor] | None = None  # states that enter a block
        self._wanted: Collection[int] = ()  # layers to read
        self._read: dict[int, Tensor] = {}
        self._last: int | None = None  # layer to stop at
        self._cuts_last = False
        self._output_length = 0  # of the tuple that blocks return, 0 if a tensor
        for i, block in enumerate(self._blocks):
            block.forward = _steered(weakref.ref(self), i, weakref.ref(block))
        self.model.to(self.device)
        self.head.to(self.device)
        self.budget = _token_budget(self.device, checkpoint)
        self._refuse_leaks()

    # Texts

    def _check_tokenizer(self) -> None:
        self.tokenizer.check_lengths(self.design.max_length, None)
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
            warning = CutWarning(
                f"{n_cut} of {len(lengths)} texts are longer than max_length={limit} "
                f"tokens and were cut; {lost:.1f} % of all tokens are lost (the "
                f"longest text has {lengths.max()})."
            )
            warning.n_cut, warning.longest = n_cut, int(lengths.max())
            warning.n_lost = int(np.maximum(lengths - limit, 0).sum())
            warnings.warn(warning, stacklevel=level_outside())
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
            states = send(filled, self.device)
        if given is None or layer < self.n_layers:
            ids = np.full(is_token.shape, self.tokenizer.pad_id, dtype=np.int64)
            ids[is_token] = np.concatenate(pieces)
            self._given = None if states is None else (layer, states)
            try:
                with exact(self.device), self._precision():
                    states = self.model(
                        input_ids=send(ids, self.device),
                        attention_mask=send(is_token.astype(np.int64), self.device),
                    ).last_hidden_state
            finally:
                self._given = None
        assert states is not None
        return states.float(), send(counted, self.device)

    def _precision(self) -> Any:
        half = _HALVES.get(self.design.dtype)
        # Within a caller's autocast a cache would keep weights from before a step.
        return torch.autocast(
            self.device.type, half, enabled=half is not None, cache_enabled=False
        )

    def _run_block(
        self, i: int, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run block i, or pass its states by, or read them.

        What surrounds the blocks, masks, positions and the like, stays the
        architecture's own.
        """
        states = args[0] if args else kwargs["hidden_states"]
        if i in self._wanted:
            self._read[i] = states.detach()
        if self._last == i:
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

    # Many passes

    def predict(self, texts: Iterable[str], batch_size: int | None) -> FloatArray:
        """Return the scores of texts, (n_texts, n_outputs), in their order.

        Parameters
        ----------
        texts : iterable of str
        batch_size : int or None
            Texts per pass; None for a budget of tokens.
        """
        return self.predict_pieces(self.pieces(texts), batch_size)

    @torch.no_grad()
    def predict_pieces(
        self,
        pieces: Sequence[Ids],
        batch_size: int | None,
        given: tuple[int, Ragged] | None = None,
    ) -> FloatArray:
        """Return the scores of tokenized texts, as `predict`.

        `given` are a layer and its states, from which to start.
        """
        self.model.eval()
        result = np.empty((len(pieces), self.design.n_outputs), dtype=np.float32)

        def run(rows: NDArray[np.intp]) -> None:
            start = None if given is None else (given[0], list(given[1][rows]))
            scores = self.scores([pieces[i] for i in rows], start)
            result[rows] = scores.float().cpu().numpy()

        self._run_all(pieces, batch_size, run)
        return result

    @torch.no_grad()
    def read(
        self,
        pieces: Sequence[Ids],
        batch_size: int | None,
        *,
        states: Mapping[int, Spool],
        wants_features: bool,
    ) -> FloatArray | None:
        """Run all texts once; keep some layers' states, and return pooled features.

        Parameters
        ----------
        pieces : sequence of ndarray
        batch_size : int or None
        states : mapping of int to Spool
            Layers whose states are kept, and where.
        wants_features : bool
            Whether the last layer is needed; without it the pass stops at the highest
            that is kept.

        Returns
        -------
        ndarray of shape (n_texts, n_features) or None
        """
        self.model.eval()
        n_features = self.checkpoint.width * len(self.design.poolings)
        features = np.empty((len(pieces) if wants_features else 0, n_features), "f4")
        self._wanted = states.keys()
        self._last = None if wants_features else max(states)

        def run(rows: NDArray[np.intp]) -> None:
            last = None
            with contextlib.suppress(_Enough):
                last, counted = self._states([pieces[i] for i in rows])
                if wants_features:
                    features[rows] = self.head.pool(last, counted).cpu().numpy()
            lengths = np.array([len(pieces[i]) for i in rows])
            is_token = np.arange(lengths.max()) < lengths[:, np.newaxis]
            for layer, spool in states.items():
                found = last if layer == self.n_layers else self._read[layer]
                assert found is not None
                tokens = found.float().cpu().numpy()[is_token]
                spool.add(rows, Ragged.end_to_end(tokens, lengths))

        try:
            self._run_all(pieces, batch_size, run)
        finally:
            self._wanted, self._read, self._last = (), {}, None
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
                with exact(self.device):
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
        if not is_out_of_memory(error):
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

    def check_boundary(self, n_frozen: int, what: str) -> None:
        """Refuse to freeze a part of blocks that are one and the same (ALBERT).

        `what` is the parameter that asks for it, and its value.
        """
        if len(self._blocks) != self.n_layers and n_frozen not in (0, self.n_layers):
            reason = "all its layers share their weights, so that all train or none"
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
        self._wanted = (layer,)
        try:
            expected, counted = self._states(probes)
            read = self._read.get(layer, expected)  # the last one enters no block
        finally:
            self._wanted, self._read = (), {}
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
                if isinstance(values, np.ndarray) and not values.flags.writeable:
                    values = values.copy()  # of a mapped file; torch would warn
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
        with QUIET:
            self.model.save_pretrained(directory)
        state = {k: v.detach().cpu() for k, v in self.head.state_dict().items()}
        save_file(state, directory / HEAD_FILE, metadata={"format": "pt"})
        for name, content in _declarations(self.checkpoint, self.design).items():
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def read_head(self, directory: Path) -> None:
        """Read the head that `save` wrote."""
        state = load_file(directory / HEAD_FILE, device=str(self.device))
        self.head.load_state_dict(state)


def _steered(
    network: weakref.ref[TunedNetwork], i: int, block: weakref.ref[nn.Module]
) -> Callable[..., Any]:
    """Return a forward method of block i that its network steers.

    It holds neither: a network that is let go is freed at once, with its weights.
    """
    module = block()
    assert module is not None
    plain = type(module).forward

    @functools.wraps(plain)
    def run(*args: Any, **kwargs: Any) -> Any:
        steering, own = network(), block()
        assert steering is not None
        assert own is not None
        return steering._run_block(i, functools.partial(plain, own), args, kwargs)

    return run


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
