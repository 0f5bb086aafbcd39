"""Training through an encoder: the recipe, the loop, its checkpoints.

A `Trainer` trains what lies above a boundary of a `TunedNetwork`, which gradual
unfreezing lowers. The states of the layers at the boundaries are computed once and read
back each epoch, so that an epoch costs what the trained blocks cost. Everything random
in an epoch follows from the seed and the epoch's number: a checkpoint needs no state of
a generator, and a run that was killed goes on to the same weights.

What a text, a label or a parameter may be is decided elsewhere, in `finetune`.

Level 6 of the module map: imports `_validation`, `claims`, `network`, `ragged`,
`tokenizer` and `tuned`. Only `finetune` imports it, when there is something to train.
"""

from __future__ import annotations

import contextlib
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
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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

from ._validation import level_outside
from .claims import release, try_lock
from .network import exact, send
from .ragged import Ragged, Spool
from .tokenizer import Ids
from .tuned import DRAWING, TunedNetwork

__all__ = ["Data", "Recipe", "Trainer", "seed_of"]

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]

_CHECKPOINT = "checkpoint.safetensors"
_FORMAT = 1  # of that file
_STEPS_PER_BUCKET = 50  # texts are sorted by length among those of so many steps
# Inverse strength of the penalty when the head is fitted alone, by how many matrices it
# has: for one, the default of BertProbeClassifier; under it, two would shrink to zero.
_PROBE_C = {1: 0.01, 2: 1.0}
_PROBE_ITERATIONS = 200
# What a user calls a field of Design or Recipe, in a refusal.
_PARAMETERS = {
    "poolings": "pooling", "hidden_size": "head or hidden_size",
    "n_outputs": "classes of y", "is_multilabel": "kind of y",
    "n_frozen": "num_layers_to_freeze", "seed": "random_state",
    "lower_case": "do_lower_case of model", "include_prompt": "include_prompt of model",
}  # fmt: skip
# What differs only because something else does is not named beside it.
_OUT = (
    "held-out texts", "held-out labels", "held-out weights", "X", "y", "sample_weight",
)  # fmt: skip
_FOLLOWS = {
    "early_stopping": (
        *_OUT, "n_iter_no_change", "scoring", "validation_fraction", "classes of y",
    ),
    "validation_fraction": _OUT,
    "random_state": _OUT,
    "class_weight": ("sample_weight",),
    "classes of y": ("y",),
    "kind of y": ("y", "classes of y"),
}  # fmt: skip


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
    weights : ndarray of shape (n_texts,) or (n_texts, n_labels), float32
        With a mean of 1, and for no text all 0.
    """

    texts: list[str]
    targets: NDArray[Any]
    weights: FloatArray


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
        Whether the states at the boundaries are computed once, or in every epoch.
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
        The boundary is not served, or the checkpoint belongs to another run or is
        being written by one.
    """

    @torch.inference_mode(False)  # of a caller, in which nothing trains
    def __init__(
        self,
        network: TunedNetwork,
        recipe: Recipe,
        data: Data,
        *,
        batch_size: int | None = None,
        held_out: Sequence[str] = (),
        score: Callable[[FloatArray], float] | None = None,
        checkpoint_dir: Path | None = None,
        identity: Mapping[str, str] | None = None,
        keeps_states: bool = True,
        verbose: bool = False,
    ) -> None:
        self.schedule = recipe.schedule(network.n_layers)
        network.check_boundary(
            recipe.n_frozen, f"num_layers_to_freeze={recipe.n_frozen}"
        )
        for n_frozen in set(self.schedule):
            network.check_boundary(n_frozen, f"unfreezing={recipe.unfreezing!r}")
        self.network = network
        self.recipe = recipe
        self.data = data
        self.history: list[dict[str, Any]] = []
        self.best_epoch: int | None = None
        self._best: dict[str, Tensor] = {}
        self._batch_size = batch_size
        self._score = score
        self._n_steps = math.ceil(len(data.texts) / recipe.texts_per_step)
        self.trained = network.trained(recipe.n_frozen)
        self._optimizer = self._make_optimizer()
        is_scaled = network.design.dtype == "float16"
        self._scaler = torch.amp.GradScaler(network.device.type, enabled=is_scaled)
        self._place = checkpoint_dir
        self._identity = dict(identity or {}) | _identity(network, recipe, data)
        self._states: dict[int, Ragged] = {}  # by layer, of the texts to learn from
        self._held_out: dict[int, Ragged] = {}  # and of those to score on
        self._to_close = contextlib.ExitStack()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            if checkpoint_dir is not None:
                self._lock(checkpoint_dir)
            is_resumed = self._resume()
            n_texts = len(data.texts)
            pieces = network.pieces([*data.texts, *held_out])  # one warning for all
            self._pieces, self._pieces_out = pieces[:n_texts], pieces[n_texts:]
            self._lengths = np.array([len(piece) for piece in self._pieces])
            self._bar = self._to_close.enter_context(self._progress(verbose))
            if not self.is_done:
                self._prepare(keeps_states, needs_head=not is_resumed)
            on_failure.pop_all()

    # Before the first epoch

    def _prepare(self, keeps_states: bool, *, needs_head: bool) -> None:
        """Start the head, and compute the states at the boundaries."""
        network = self.network
        if needs_head:
            with self._draws(0):
                network.head.reset()
        solves_head = needs_head and self.recipe.head_warmup == "probe"
        layers = self._worth_keeping() if keeps_states else []
        if layers or solves_head:
            self._states, features = self._read(self._pieces, layers, solves_head)
            if features is not None:
                self._refuse_broken(features)
                with exact(network.device):
                    self._solve_head(features)
        if layers and self._pieces_out:
            self._held_out, _ = self._read(self._pieces_out, layers, False)

    def _read(
        self, pieces: list[Ids], layers: list[int], wants_features: bool
    ) -> tuple[dict[int, Ragged], FloatArray | None]:
        """Run texts once; return their states of some layers, and pooled features."""
        spools = {layer: Spool(len(pieces), max_bytes=0) for layer in layers}
        features = self.network.read(
            pieces, self._batch_size, states=spools, wants_features=wants_features
        )
        return {layer: spool.finish() for layer, spool in spools.items()}, features

    def _worth_keeping(self) -> list[int]:
        """Return the boundaries to come whose states spare more than they cost.

        That depends on the whole schedule, so that a run that goes on reads what one
        that was not killed reads.
        """
        uses = Counter(self.schedule)
        layers = [layer for layer in uses if layer > 0]
        layers.sort(key=lambda layer: (-layer * uses[layer], layer))
        is_free = self.recipe.head_warmup == "probe"  # that pass runs in any case
        if not is_free and not _spares(layers, uses):
            return []
        for layer in [k for k in layers if not self.network.can_start_at(k)]:
            logger.info("layer %d cannot be started from: frozen layers rerun", layer)
            layers.remove(layer)
        n_tokens = sum(map(len, (*self._pieces, *self._pieces_out)))
        layers = layers[: _room(n_tokens, self.network.checkpoint.width, layers)]
        if not is_free and not _spares(layers, uses):
            return []
        to_come = self.schedule[len(self.history) :]
        return [layer for layer in layers if layer in to_come]

    def _refuse_broken(self, features: FloatArray) -> None:
        n_broken = int((~np.isfinite(features).all(axis=1)).sum())
        if n_broken:
            dtype = self.network.design.dtype
            cure = "its weights are damaged"
            if dtype != "float32":
                cure = f"dtype={dtype!r} does not suit it; pass dtype='float32'"
            raise ValueError(
                f"The encoder gives {n_broken} of {len(features)} texts features that "
                f"are not finite, before any training: {cure}."
            )

    def _solve_head(self, features: FloatArray) -> None:
        """Fit the classifier alone on frozen features, as the probe does.

        Standardized features and an L2 penalty; the scaler is folded into the weights.
        """
        device, n_texts = self.network.device, len(features)
        Z = torch.from_numpy(features).to(device)
        weights = torch.from_numpy(self.data.weights).to(device)
        of_rows = weights.reshape(n_texts, -1).mean(dim=1, keepdim=True)
        mean = (of_rows * Z).mean(dim=0)
        spread = (of_rows * (Z - mean) ** 2).mean(dim=0).sqrt()
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
            losses = _losses(
                classifier(Z), targets, weights, self.recipe.label_smoothing
            )
            squares = torch.stack([m.square().sum() for m in matrices])
            loss = losses.mean() + penalty * squares.sum()
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
        # Not before the last block to be unfrozen had that many epochs.
        since = max(self.best_epoch or 0, self.schedule.index(min(self.schedule)))
        is_stuck = patience is not None and n_done - since >= patience
        return n_done >= self.recipe.max_iter or is_stuck

    @torch.inference_mode(False)
    @torch.enable_grad()
    def run_epoch(self) -> None:
        """Train on every text once, score, enter it in `history`, keep a checkpoint."""
        started = time.perf_counter()
        epoch, n_steps = len(self.history), self._n_steps
        n_frozen = self.schedule[epoch]
        self.network.freeze(n_frozen)
        for states in (self._states, self._held_out):
            for layer in [k for k in states if k > n_frozen]:
                del states[layer]  # the boundary only goes down
        losses = []
        draws = self._draws(epoch + 1)
        for i, rows in enumerate(self._steps(epoch)):
            rate = self._factor(epoch * n_steps + i)
            try:
                with draws:
                    losses.append(self._step(rows, rate) * len(rows))
            except ArithmeticError:
                raise ValueError(self._divergence(epoch, i)) from None
            self._bar.update()
        self._optimizer.zero_grad(set_to_none=True)
        if not all(bool(torch.isfinite(p).all()) for p in self.trained.values()):
            raise ValueError(self._divergence(epoch, len(losses) - 1))  # not kept
        n_trainable = sum(p.numel() for p in self.network.trained(n_frozen).values())
        score = None
        if self._score is not None:
            score = float(self._score(self._scores_out()))
        if score is not None and math.isnan(score):
            self._warn_of_nan(epoch)
        elif score is not None and (
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

    def _scores_out(self) -> FloatArray:
        """Return the scores of the texts held out, from the states kept of them."""
        given = None
        if self._held_out:
            layer = max(self._held_out)
            given = layer, self._held_out[layer]
        return self.network.predict_pieces(self._pieces_out, self._batch_size, given)

    def _warn_of_nan(self, epoch: int) -> None:
        if any(math.isnan(done["score"]) for done in self.history):
            return  # it was said
        warnings.warn(
            f"The score of epoch {epoch + 1} is NaN, and such an epoch is never the "
            "best. Hold out more texts with validation_fraction, or pass another "
            "scoring.",
            UserWarning,
            stacklevel=level_outside(),
        )

    def finish(self) -> None:
        """Go back to the weights of the best epoch, where epochs were scored."""
        if self._best:
            self.network.set_weights(self._best)
        self.network.freeze(self.network.n_layers)
        self.close()

    def close(self) -> None:
        """Let states and the checkpoint go; call it however training ends."""
        self._to_close.close()
        self._states.clear()
        self._held_out.clear()

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
            loss = 0.0
            try:
                for part in self.network.split(rows, self._lengths, self._batch_size):
                    with exact(self.network.device):
                        loss += self._add_gradients(part, len(rows))
                break
            except Exception as error:
                self._batch_size = self.network.shrink(
                    error, part, self._lengths, self._batch_size
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
        if self._states:
            layer = max(self._states)
            given = layer, list(self._states[layer][rows])
        scores = self.network.scores([self._pieces[i] for i in rows], given)
        targets = send(self.data.targets[rows], scores.device)
        weights = send(self.data.weights[rows], scores.device)
        losses = _losses(scores, targets, weights, self.recipe.label_smoothing)
        loss = losses.sum() / n_in_step
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
            "The loss, its gradient or a weight is no longer finite in step "
            f"{step + 1} of epoch {epoch + 1}: training diverged with "
            f"learning_rate={self.recipe.learning_rate:g} and "
            f"head_learning_rate={self.recipe.head_learning_rate:g}. {cure}."
        )

    def _draws(self, epoch: int) -> _Draws:
        """Return the random numbers that the seed and the epoch decide."""
        seed = np.random.SeedSequence([self.recipe.seed, epoch]).generate_state(1)
        return _Draws(self.network.device, int(seed[0]))

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
        # In a directory of its own, as safetensors puts files beside what it writes.
        aside = self._place / f"{_CHECKPOINT}.{uuid.uuid4().hex}.tmp"
        try:
            aside.mkdir()
            save_file(
                {k: t.cpu().contiguous() for k, t in tensors.items()},
                aside / _CHECKPOINT,
                metadata={"sklearn_bert": json.dumps(facts)},
            )
            with open(aside / _CHECKPOINT, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(aside / _CHECKPOINT, self._place / _CHECKPOINT)
        except (OSError, SafetensorError) as error:  # a full disk, most often
            warnings.warn(
                f"The checkpoint of epoch {len(self.history)} was not written to "
                f"{self._place}: {error}. Training goes on; a run that is stopped now "
                "begins again at the checkpoint before it, if there is one.",
                UserWarning,
                stacklevel=level_outside(),
            )
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _lock(self, place: Path) -> None:
        """Keep other runs away from a directory, where its file system has locks."""
        place.mkdir(parents=True, exist_ok=True)
        try:
            directory = os.open(place, os.O_RDONLY)
        except OSError:  # Windows opens no directories
            return
        self._to_close.callback(release, directory)
        with contextlib.suppress(OSError):
            if not try_lock(directory):
                raise ValueError(
                    f"checkpoint_dir={os.fspath(place)!r} is in use by another fit "
                    "just now. Pass each its own, or wait for that one."
                )

    def _resume(self) -> bool:
        """Go on from the checkpoint, if there is one; return whether there was."""
        if self._place is None:
            return False
        for leftover in self._place.glob(f"{_CHECKPOINT}.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)  # of a run that was killed
        place = self._place / _CHECKPOINT
        if not place.is_file():
            return False
        facts = _facts(place)
        theirs = facts["identity"]
        keys = [*self._identity, *(key for key in theirs if key not in self._identity)]
        other = [k for k in keys if theirs.get(k) != self._identity.get(k)]
        follow = {name for cause in other for name in _FOLLOWS.get(cause, ())}
        # Where none are held out, the seed decides on none.
        if "held-out texts" not in {*theirs, *self._identity}:
            follow -= {name for name in _OUT if "random_state" in other}
        other = [key for key in other if key not in follow]
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


class _Draws:
    """A sequence of random numbers for torch, drawn from wherever it is entered.

    torch draws from generators of the process. They are this one's within, and what
    they were after, so that fits in threads take turns, step by step.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        devices = [torch.device("cpu"), device][: 1 + (device.type != "cpu")]
        self._own = [torch.Generator(d).manual_seed(seed).get_state() for d in devices]
        self._device = device

    def __enter__(self) -> None:
        with contextlib.ExitStack() as on_failure:
            on_failure.enter_context(DRAWING)
            self._others = self._swap(self._own)
            on_failure.pop_all()

    def __exit__(self, *error: object) -> None:
        with contextlib.ExitStack() as turn:
            turn.push(DRAWING)
            self._own = self._swap(self._others)

    def _swap(self, states: list[Tensor]) -> list[Tensor]:
        before = [torch.get_rng_state()]
        torch.set_rng_state(states[0])
        kind: Any = getattr(torch, self._device.type)
        if self._device.type == "cuda":
            before.append(kind.get_rng_state(self._device))
            kind.set_rng_state(states[1], self._device)
        elif self._device.type == "mps":
            before.append(kind.get_rng_state())
            kind.set_rng_state(states[1])
        return before


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


def _spares(layers: list[int], uses: Mapping[int, int]) -> bool:
    """Tell whether states spare more runs of a block than the pass that makes them."""
    return sum(layer * uses[layer] for layer in layers) > max(layers, default=0)


def _room(n_tokens: int, width: int, layers: list[int]) -> int:
    """Return how many layers' states fit on the disk, and warn if not all do."""
    needed = 4 * width * n_tokens
    free = shutil.disk_usage(tempfile.gettempdir()).free
    n_fit = min(len(layers), int(0.9 * free / needed))
    if n_fit < len(layers):
        warnings.warn(
            f"The states of frozen layers take {len(layers) * needed / 1e9:.1f} GB and "
            f"the directory for temporary files has {free / 1e9:.1f} GB left: those of "
            f"{n_fit} of {len(layers)} layers are kept, and blocks below the others "
            "run again in their epochs. Point TMPDIR at a larger disk to avoid that.",
            UserWarning,
            stacklevel=level_outside(),
        )
    return n_fit


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


def _losses(
    scores: Tensor, targets: Tensor, weights: Tensor, label_smoothing: float
) -> Tensor:
    """Return the weighted loss of each text, (n_texts,)."""
    if targets.ndim == 1:
        losses = F.cross_entropy(
            scores, targets, reduction="none", label_smoothing=label_smoothing
        )
        return weights * losses
    smooth = targets * (1 - label_smoothing) + label_smoothing / 2
    losses = F.binary_cross_entropy_with_logits(scores, smooth, reduction="none")
    return (weights.reshape(len(losses), -1) * losses).mean(dim=1)
