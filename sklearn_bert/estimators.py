"""What the estimators share: texts as X, an encoder by name, the engine that reads it.

Three layers of one class: whatever takes texts, whatever names a model, whatever reads
a frozen encoder. Parameters are checked here, once, in one wording. They define no
`__init__`: each estimator lists its own parameters, as scikit-learn asks.

Level 6 of the module map: imports `_validation`, `checkpoint`, `features`, `layers` and
`store`; imported by every estimator.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ._validation import (
    check_bool,
    check_choice,
    check_integer,
    check_texts,
    is_integer,
)
from .checkpoint import Checkpoint, find_checkpoint
from .features import Engine, execution
from .layers import ScalarMix, check_combination, check_layer, resolve_layers
from .request import Request
from .store import store_location

if TYPE_CHECKING:
    from .network import Execution

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


class TextEstimator(BaseEstimator):
    """What every estimator here shares: its X is texts, and may lack some."""

    missing: str

    _doc_link_module = "sklearn_bert"
    _doc_link_template = (
        "https://sklearn-bert.readthedocs.io/en/stable/api/"
        "sklearn_bert.{estimator_name}.html"
    )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def _read_texts(self, X: Any, *, is_fit: bool) -> list[str]:
        """Return the texts of X; the only method that reads it."""
        check_choice("missing", self.missing, ("raise", "empty"))
        return check_texts(X, missing=self.missing)


class ModelEstimator(TextEstimator):
    """What estimators share that name an encoder: its files, its limit, a device."""

    # Set by the subclass's __init__.
    model: Any
    max_length: Any
    batch_size: Any
    device: Any
    revision: Any
    local_files_only: Any
    trust_remote_code: Any
    verbose: Any

    # What to do about texts beyond the encoder's limit, for a refusal.
    _cure_for_longer = ""

    def _checkpoint(self) -> Checkpoint:
        if not isinstance(self.model, (str, os.PathLike)) or not str(self.model):
            raise TypeError(
                "model must be the name of a model on the Hugging Face Hub or a "
                f"directory, got {self.model!r}."
            )
        if self.revision is not None and not isinstance(self.revision, str):
            raise TypeError(f"revision must be a str or None, got {self.revision!r}.")
        return find_checkpoint(
            str(self.model),
            revision=self.revision,
            local_files_only=check_bool("local_files_only", self.local_files_only),
            trust_remote_code=check_bool("trust_remote_code", self.trust_remote_code),
        )

    def _check_device(self) -> None:
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise ValueError(
                "device must be 'auto', 'cpu', 'cuda', 'cuda:<index>' or 'mps', "
                f"got {self.device!r}."
            )

    def _check_batch_size(self) -> int | None:
        """Return the texts per batch, or None for a number of tokens."""
        if isinstance(self.batch_size, str):
            check_choice("batch_size", self.batch_size, ("auto",))
            return None
        return check_integer("batch_size", self.batch_size, minimum=1)

    def _is_verbose(self) -> bool:
        if is_integer(self.verbose):  # scikit-learn's levels: 0 is quiet
            return check_integer("verbose", self.verbose, minimum=0) > 0
        return check_bool("verbose", self.verbose)

    def _declared_pooling(
        self, checkpoint: Checkpoint, served: Collection[str]
    ) -> tuple[str, ...]:
        """Return the poolings that ``pooling="auto"`` means."""
        declared = checkpoint.declared
        extra = [name for name in declared.pooling if name not in served]
        if declared.not_served or extra:
            raise ValueError(
                f"model={self.model!r} declares "
                f"{', '.join([*declared.not_served, *extra])} for "
                f"sentence-transformers, which {type(self).__name__} does not apply, "
                "so pooling='auto' cannot equal it. Name a pooling, such as "
                "pooling='mean', to use the features before that step."
            )
        return declared.pooling or ("mean",)

    def _resolve_max_length(self, checkpoint: Checkpoint) -> int | None:
        limit = checkpoint.limit
        if self.max_length is None:
            declared = checkpoint.declared.max_length
            if declared is None or limit is None:
                return declared or limit
            return min(declared, limit)
        max_length = check_integer(
            "max_length", self.max_length, minimum=1, unit="tokens"
        )
        if limit is not None and max_length > limit:
            raise ValueError(
                f"max_length={max_length} is more than this encoder takes: {limit} "
                f"tokens, special ones included.{self._cure_for_longer}"
            )
        return max_length


class EncoderEstimator(ModelEstimator):
    """What estimators share that read a frozen encoder: layers, windows and engine.

    A subclass says which parameters decide its numbers, what it learns, and in
    `_request` what it asks of the encoder.
    """

    # Set by the subclass's __init__.
    layer: Any
    layer_combination: Any
    stride: Any
    memory: Any
    store_layers: Any
    dtype: Any
    token_dtype: Any
    n_jobs: Any

    _cure_for_longer = " Use overflow='chunk' for longer texts."

    # Parameters that decide the numbers: changing one after fit calls for fit again.
    # The model is known by its files, wherever they lie now.
    _decisive: tuple[str, ...]
    # What fit learns from y.
    _learned: tuple[str, ...] = ("gamma_", "layer_scales_", "layer_weights_", "n_iter_")

    # A method, as scikit-learn's HTML view reads every attribute, and this one loads.
    def execution(self) -> Execution:
        """Load the encoder and say how it runs on this machine.

        Returns
        -------
        Execution
            A named tuple: ``layout`` ("packed": texts lie end to end, without padding,
            or "padded", where the architecture does not let its attention be replaced),
            ``linear`` ("prepacked" for oneDNN, or "plain"), ``device`` and ``dtype``.
        """
        check_is_fitted(self)
        return execution(self._request(self._checkpoint()), self._engine())

    # The steps of fit

    def _settle(self) -> None:
        """Resolve the parameters; nothing is learned or encoded yet."""
        # A fit that fails is not fitted, and nothing learned earlier stays.
        for name in ("_fitted_params", *self._learned):
            self.__dict__.pop(name, None)
        self._engine()  # checks the parameters that decide nothing
        self._resolve(self._checkpoint())
        self._mix: ScalarMix | None = None
        self._fitted_params = {
            name: plain_repr(getattr(self, name)) for name in self._decisive
        }

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_fitted_params")

    def _unchanged_request(self, **options: Any) -> Request:
        """Return the request of fit, refusing one that would mean other numbers."""
        self._refuse_changes()
        checkpoint = self._checkpoint()
        if (checkpoint.fingerprint, _reading(checkpoint)) != (
            self.fingerprint_,
            self._reading,
        ):
            raise ValueError(
                f"The files of model={self.model!r} changed since fit, or are those of "
                f"another model (fingerprint {checkpoint.fingerprint[:8]}, was "
                f"{self.fingerprint_[:8]}); features would not match what later steps "
                "were fitted on. Fit again, or pass the model of fit."
            )
        return self._request(checkpoint, **options)

    def _request(self, checkpoint: Checkpoint) -> Request:
        raise NotImplementedError

    # Parameters

    def _engine(self) -> Engine:
        """Check the parameters that never change the numbers."""
        location = store_location(self.memory)
        self._check_device()
        batch_size = self._check_batch_size()
        if self.n_jobs is not None and check_integer("n_jobs", self.n_jobs) == 0:
            raise ValueError("n_jobs must not be 0; pass None, a number or -1.")
        return Engine(
            location=location,
            store_layers=check_choice(
                "store_layers", self.store_layers, ("all", "requested")
            ),
            device=str(self.device),
            batch_size=batch_size,
            n_jobs=self.n_jobs,
            verbose=self._is_verbose(),
        )

    def _resolve(self, checkpoint: Checkpoint) -> None:
        """Check the parameters that decide the numbers and set what they resolve to."""
        self.layers_ = resolve_layers(check_layer(self.layer), checkpoint.n_layers)
        self.layer_combination_ = check_combination(
            self.layer_combination, len(self.layers_)
        )
        self.max_length_ = self._resolve_max_length(checkpoint)
        self.stride_ = self._resolve_stride()
        dtype = check_choice("dtype", self.dtype, _DTYPES)
        self.dtype_ = checkpoint.dtype if dtype == "auto" else dtype
        check_choice("token_dtype", self.token_dtype, ("float32", "float16"))
        self.n_layers_ = checkpoint.n_layers
        self.width_ = checkpoint.width
        self.fingerprint_ = checkpoint.fingerprint
        self._reading = _reading(checkpoint)

    def _resolve_stride(self) -> int:
        if self.stride is None:
            return (self.max_length_ or 0) // 8
        stride = check_integer("stride", self.stride, minimum=0, unit="tokens")
        if self.max_length_ is not None and stride >= self.max_length_:
            raise ValueError(
                f"stride={stride} must be smaller than max_length={self.max_length_}, "
                "else windows do not advance."
            )
        return stride

    def _mixes(self) -> bool:
        combination = self.layer_combination
        return isinstance(combination, str) and combination == "scalar_mix"

    def _learn_by(
        self,
        fit: Callable[..., Any],
        on_step: Callable[[Callable[[], Any]], bool] | None = None,
    ) -> None:
        """Keep what a function learns, and in how many steps; unfitted if it fails.

        `on_step` is given, after each of them, a function that returns a copy of this
        estimator as it is by then; learning ends where it returns True.
        """
        n_steps = 0

        def told(learned: Callable[[], Any]) -> bool:
            nonlocal n_steps
            n_steps += 1
            if on_step is None:
                return False
            n_so_far = n_steps

            def reached() -> Any:
                view = copy.copy(self)
                view._keep(learned())
                view.n_iter_ = n_so_far
                return view

            return on_step(reached)

        try:
            self._keep(fit(on_step=told))
        except BaseException:
            del self._fitted_params
            raise
        self.n_iter_ = n_steps

    def _keep(self, mix: ScalarMix) -> None:
        """Keep what was learned."""
        self._mix = mix
        self.layer_weights_ = mix.weights
        self.gamma_ = mix.gamma
        self.layer_scales_ = mix.scales

    def _refuse_changes(self) -> None:
        """Refuse to transform with parameters that fit has not seen."""
        for name, fitted in self._fitted_params.items():
            refuse_change(name, fitted, getattr(self, name))


def _reading(checkpoint: Checkpoint) -> tuple[bool, bool]:
    """Return what a checkpoint declares about reading texts, beside its files."""
    return checkpoint.declared.lower_case, checkpoint.declared.include_prompt


def refuse_change(name: str, fitted: str, value: Any) -> None:
    """Raise unless a parameter is what `plain_repr` of it was in fit."""
    current = plain_repr(value)
    if current != fitted:
        raise ValueError(
            f"{name} was {fitted} in fit and is {current} now; call fit again after "
            "set_params."
        )


def plain_repr(value: Any) -> str:
    """Return repr, the same for equal values of NumPy and Python, list and tuple."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, (list, tuple, range)):
        return f"[{', '.join(map(plain_repr, value))}]"
    return repr(value)
