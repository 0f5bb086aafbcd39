"""`BertFineTuneClassifier`: a classifier that trains through the encoder.

The only estimator here that changes an encoder: a copy of its own, which the process's
frozen encoders never see. This module decides what parameters and labels mean; the
network, the loop and its checkpoints are `training`'s, and where a fitted estimator has
its weights is `persistence`'s.

Level 7 of the module map: imports `_validation`, `callbacks`, `checkpoint`,
`estimators`, `heads`, `naming`, `persistence`, `pooling`, `process`, `training` and
`tuned`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import os
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin
from sklearn.metrics import check_scoring, get_scorer
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ._validation import (
    check_bool,
    check_choice,
    check_integer,
    check_positive,
    check_within,
    is_integer,
    level_outside,
)
from .callbacks import CallbackSupportMixin, Task, with_callbacks
from .checkpoint import DEFAULT_MODEL, Checkpoint, find_checkpoint
from .estimators import ModelEstimator
from .heads import (
    check_one_score,
    check_sample_weight,
    check_target,
    classes_of,
    of_rows,
    weigh,
)
from .naming import digest, name_of
from .persistence import Trained, plain, read
from .pooling import read_pooling
from .process import Turns

if TYPE_CHECKING:
    from .training import Data, Recipe, Trainer
    from .tuned import Design, TunedNetwork

__all__ = ["BertFineTuneClassifier"]

_FILTERS = Turns()  # to change the process's filters of warnings
_POOLINGS = ("cls", "mean", "max", "mean_sqrt_len", "learned_attention")
_DTYPES = ("auto", "float32", "bfloat16", "float16")
# Parameters that decide the scores of a fitted network.
_DECISIVE = ("model", "revision", "pooling", "max_length", "prompt", "dtype")
_NAMES = ("model", "revision")  # of an encoder, which may have others
# What fit learns and save writes, beside classes_ and the weights.
_FACTS = (
    "best_epoch_", "fingerprint_", "history_", "max_length_", "n_bytes_", "n_iter_",
    "n_layers_", "pooling_", "prompt_", "schedule_", "width_",
)  # fmt: skip
_LEARNED = (*_FACTS, "_fitted_params", "_trained", "classes_")


class BertFineTuneClassifier(CallbackSupportMixin, ClassifierMixin, ModelEstimator):
    """Classify texts by an encoder that is trained with the classifier, or partly so.

    The head is fitted on frozen features first, as a probe; then the blocks above the
    lowest `num_layers_to_freeze` are trained together with it. What lies below is
    computed once per text and read back in every epoch, so freezing 4 of 6 layers costs
    what training 2 costs.

    Parameters
    ----------
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        Name on the Hugging Face Hub or a directory, as in `BertVectorizer`. Its files
        are never changed.
    pooling : {"auto", "cls", "mean", "max", "mean_sqrt_len", "learned_attention"} or \
sequence of them, default="auto"
        How the token states of the last layer become one vector; a sequence, or text
        such as "mean,max", concatenates. "auto" is what the checkpoint declares for
        sentence-transformers, else "mean". "learned_attention" weights tokens by a
        trained query.
    max_length : int or None, default=None
        Longest input in tokens, special ones included; longer texts are cut, with one
        warning that counts the loss. None is what the checkpoint declares, else the
        encoder's own limit. A step's memory and time grow with its longest text.
    prompt : str or None, default=None
        Put before every text; None is what the checkpoint declares.
    missing : {"raise", "empty"}, default="raise"
        Whether None, NaN and ``pd.NA`` are refused or read as "".
    batch_size : int or "auto", default="auto"
        Texts per forward pass; "auto" fills batches of like length to a number of
        tokens, and halves them when they do not fit in memory. A step of more texts
        adds up the gradients of several passes, so this does not change the result
        beyond float noise and the draws of dropout.
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", "mps"; "auto" takes a GPU if there is one.
    dtype : {"float32", "bfloat16", "float16", "auto"}, default="float32"
        Precision in which the encoder computes; weights and updates stay float32. The
        halves save time and memory on a GPU; "bfloat16" also saves time on a CPU that
        has it. "auto" is the checkpoint's.
    revision : str or None, default=None
        Branch, tag or commit on the hub.
    local_files_only : bool, default=False
        Whether the hub is never asked.
    trust_remote_code : bool, default=False
        Whether Python code in the checkpoint may be run.
    verbose : bool, default=False
        Whether a progress bar is shown while training.
    num_layers_to_freeze : int, default=0
        Blocks that are never trained, from the lowest, as in
        ``blocks[:num_layers_to_freeze]``: 0 trains everything, the embeddings too,
        which are frozen with the first block, and was the most accurate wherever
        training paid; -2 trains the top two blocks, in a third of the time;
        ``n_layers`` trains the head alone, a probe.
    unfreezing : {"none", "gradual"}, default="none"
        Whether blocks are trained from the first epoch, or one more in each epoch, from
        the top, after one of the head alone if `head_warmup` is 0. `schedule_` shows
        it.
    head : {"linear", "mlp"}, default="linear"
        "mlp" has one hidden layer with GELU.
    hidden_size : int, default=128
        Units of the hidden layer of "mlp".
    head_warmup : "probe" or int, default="probe"
        How the head starts. "probe" fits it to convergence on frozen features, with
        the penalty of `BertProbeClassifier`, before the first epoch. A number trains it
        alone, from random weights, for that many of the `max_iter` epochs; with 0, head
        and blocks begin together, which needs more texts and then often ends higher.
    max_iter : int, default=4
        Epochs.
    texts_per_step : int, default=16
        Texts per update of the weights. Fewer make more, noisier updates.
    learning_rate : float, default=0.0001
        Of the top block, at its highest. Too large a one loses what the encoder knows:
        take a third or less to train all of a large encoder.
    head_learning_rate : float, default=0.001
        Of the head, at its highest.
    layer_decay : float, default=0.9
        Factor of the learning rate from each block to the one below; 1 treats all
        alike.
    warmup : float, default=0.1
        Share of all updates over which learning rates rise from 0, linearly; then they
        fall to 0, linearly.
    weight_decay : float, default=0.01
        Of AdamW; not on biases and gains.
    max_grad_norm : float or None, default=1.0
        Norm to which the gradient of a step is cut; None never cuts.
    label_smoothing : float, default=0.0
        Share of each target that is spread over all classes, below 1.
    class_weight : dict, "balanced" or None, default=None
        Weights per class, multiplied with ``sample_weight``. For several labels each
        weighs texts in its own way, "balanced" by how many texts have it; a list gives
        a dict for each.
    early_stopping : bool, default=False
        Whether training ends after `n_iter_no_change` epochs without a better score on
        held-out texts, and goes back to the weights of the best epoch.
    validation_fraction : float, default=0.1
        Share of the texts held out for `early_stopping`, stratified by class.
    n_iter_no_change : int, default=2
        Epochs without a better score that end training, once all its blocks train.
    scoring : str, callable or None, default=None
        What `early_stopping` maximises; None is accuracy. Sample weights count in it,
        unless it is a metric of one's own that takes none.
    checkpoint_dir : str, path-like or None, default=None
        Where the state is kept after each epoch, in one file that replaces the last,
        of 12 bytes per trained weight (16 with `early_stopping`). A fit that was killed
        goes on from there, to the same weights; one of other texts, labels or
        parameters is refused, and so is a second one at the same time, where
        directories can be locked (not on Windows).
    weights_in_pickle : bool, default=True
        Whether a pickle carries the trained weights, 4 bytes each. If False, it carries
        the path given to `save`, which must have been called.
    random_state : int, RandomState or None, default=None
        Dropout, order of texts, held-out texts, first weights. An int makes results
        repeat bitwise on a CPU with the same number of threads.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,) or (n_labels, 2)
        Labels; 0 and 1 for each label if `y` was a multilabel indicator.
    history_ : list of dict
        Of each epoch: "epoch" from 1, "n_frozen", "n_trainable" (parameters), "loss"
        (mean over its texts), "score" (on held-out texts, None without
        `early_stopping`), "learning_rate" (of the top block, at its end), "seconds".
    schedule_ : list of int
        Frozen blocks in each of the `max_iter` epochs.
    n_iter_ : int
        Epochs run.
    n_bytes_ : int
        Size of the trained weights, which a pickle carries if `weights_in_pickle`.
    best_epoch_ : int
        Epoch whose weights were kept; only with `early_stopping`, and if a score was a
        number.
    n_layers_, width_ : int
        Number of blocks, size of a token state.
    pooling_ : tuple of str
        Poolings used.
    max_length_ : int or None
        Longest input in tokens; None if the encoder has no limit.
    prompt_ : str
        What is put before each text.
    fingerprint_ : str
        Digest of the files of the encoder that training began from.

    See Also
    --------
    BertProbeClassifier : The same with a frozen encoder; cheaper, and often enough.
    BertVectorizer : Features of the tuned encoder, by ``model=`` the directory given to
        `save`.

    Notes
    -----
    A weight of zero drops a text; any other multiplies its loss. Repeating a text is
    not the same as doubling its weight, as it makes other steps.

    References
    ----------
    Howard and Ruder 2018, "Universal language model fine-tuning for text
    classification", for gradual unfreezing and learning rates by layer. Kumar et al.
    2022, "Fine-tuning can distort pretrained features and underperform
    out-of-distribution", for the head that starts as a probe.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_bert import BertFineTuneClassifier
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> encoder = make_tiny_encoder(tempfile.mkdtemp())
    >>> texts = ["good film", "bad film", "good plot", "bad plot"] * 5
    >>> classifier = BertFineTuneClassifier(
    ...     encoder, num_layers_to_freeze=1, learning_rate=1e-3, random_state=0
    ... )
    >>> classifier.fit(texts, [1, 0, 1, 0] * 5).predict(["good film", "bad plot"])
    array([1, 0])
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        pooling: Any = "auto",
        max_length: int | None = None,
        prompt: str | None = None,
        missing: str = "raise",
        batch_size: Any = "auto",
        device: str = "auto",
        dtype: str = "float32",
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        verbose: bool = False,
        num_layers_to_freeze: int = 0,
        unfreezing: str = "none",
        head: str = "linear",
        hidden_size: int = 128,
        head_warmup: Any = "probe",
        max_iter: int = 4,
        texts_per_step: int = 16,
        learning_rate: float = 1e-4,
        head_learning_rate: float = 1e-3,
        layer_decay: float = 0.9,
        warmup: float = 0.1,
        weight_decay: float = 0.01,
        max_grad_norm: float | None = 1.0,
        label_smoothing: float = 0.0,
        class_weight: Any = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 2,
        scoring: Any = None,
        checkpoint_dir: Any = None,
        weights_in_pickle: bool = True,
        random_state: Any = None,
    ) -> None:
        self.model = model
        self.pooling = pooling
        self.max_length = max_length
        self.prompt = prompt
        self.missing = missing
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.revision = revision
        self.local_files_only = local_files_only
        self.trust_remote_code = trust_remote_code
        self.verbose = verbose
        self.num_layers_to_freeze = num_layers_to_freeze
        self.unfreezing = unfreezing
        self.head = head
        self.hidden_size = hidden_size
        self.head_warmup = head_warmup
        self.max_iter = max_iter
        self.texts_per_step = texts_per_step
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.layer_decay = layer_decay
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.scoring = scoring
        self.checkpoint_dir = checkpoint_dir
        self.weights_in_pickle = weights_in_pickle
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> BertFineTuneClassifier:
        """Train the head and the blocks above the frozen ones.

        Callbacks of scikit-learn (1.9) are told of each epoch, and may end training.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)
            Texts, or a 2-D container with one column of them.
        y : array-like of shape (n_texts,) or (n_texts, n_labels)
            Classes, or a multilabel indicator of 0 and 1.
        sample_weight : array-like of shape (n_texts,), default=None
            Weight of each text in the loss, relative to the others.

        Returns
        -------
        BertFineTuneClassifier
            This estimator.

        Raises
        ------
        ValueError, TypeError
            A parameter, a row of `X` or `y` is not valid, training diverged, or
            `checkpoint_dir` holds another run; the message names it.
        """
        for name in _LEARNED:  # a fit that fails leaves nothing behind
            self.__dict__.pop(name, None)
        check_one_score(self.scoring)
        if isinstance(self.scoring, str):
            get_scorer(self.scoring)
        batch_size = self._check_machine()
        place = self._checkpoint_place()
        texts = self._read_texts(X, is_fit=True)
        y = check_target(y, len(texts), self)
        given = check_sample_weight(sample_weight, len(y))
        weights = weigh(y, self.class_weight, given)
        checkpoint = self._find_encoder()
        classes = classes_of(y)
        design = self._make_design(checkpoint, len(classes), y.ndim == 2)
        recipe = self._make_recipe(checkpoint, place)
        rows, held_out = self._split(y, weights, recipe.seed)

        from .training import Trainer
        from .tuned import TunedNetwork

        network = TunedNetwork(checkpoint, design, self.device)
        fitted = self._resolved(checkpoint, design, classes)
        judge, out = None, [texts[i] for i in held_out]
        given = None if given is None else given[held_out]
        if out:
            judge = self._judge(fitted, network, out, y[held_out], given)
        identity = {}
        if place is not None:
            identity = self._identity(out, y[held_out], given)
        trainer = Trainer(
            network, recipe, _data(texts, y, weights, rows, classes),
            batch_size=batch_size, held_out=out, score=judge, checkpoint_dir=place,
            identity=identity, verbose=self._is_verbose(),
        )  # fmt: skip
        with (
            contextlib.closing(trainer),
            Task.root(self, recipe.max_iter, texts, y, sample_weight) as task,
        ):
            while not (trainer.is_done or task.is_stopped):
                lent: list[Trained] = []
                with task.step("epoch") as epoch:
                    trainer.run_epoch()
                    epoch.attributes = functools.partial(
                        self._snapshot, fitted, trainer, design, lent
                    )
                for trained in lent:
                    trained.rest()
            trainer.finish()
        learned = _learned(trainer, design)
        learned["_trained"].enliven(network, self.device)
        self.__dict__.update(fitted | learned)
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
        scores = self._scores(X)
        if self._trained.design["is_multilabel"]:
            return (scores > 0).astype(int)
        return np.asarray(self.classes_[scores.argmax(axis=1)])

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
        scores = self._scores(X).astype(np.float64)
        is_multilabel = self._trained.design["is_multilabel"]
        return np.asarray(expit(scores) if is_multilabel else softmax(scores, axis=1))

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the head's scores, before softmax or sigmoid.

        Parameters
        ----------
        X : iterable of str of shape (n_texts,)

        Returns
        -------
        ndarray of shape (n_texts,) or (n_texts, n_classes)
            With two classes, by how much the second one is ahead.
        """
        scores = self._scores(X)
        if len(self.classes_) == 2 and not self._trained.design["is_multilabel"]:
            return np.asarray(scores[:, 1] - scores[:, 0])
        return scores

    # Files

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the whole tuned encoder, its tokenizer and the head, without pickle.

        The directory is a model: transformers, sentence-transformers and
        ``BertVectorizer(model=directory)`` read it. They see the encoder and its
        pooling; a trained query, which they do not know, is declared as "mean".

        Parameters
        ----------
        directory : str or path-like
            A new or empty directory. It appears complete or not at all.

        Raises
        ------
        ValueError
            `directory` holds something, or a parameter or a class cannot be written
            as JSON.
        """
        check_is_fitted(self)
        self._refuse_changes()
        params = self.get_params(deep=False)
        facts = {
            "params": {name: plain(name, value) for name, value in params.items()},
            "classes": {
                "dtype": self.classes_.dtype.str,
                "values": plain("y", self.classes_),
            },
            "fitted": {k: getattr(self, k) for k in _FACTS if hasattr(self, k)},
        }
        self._trained.save(directory, facts, self._network(), self._find_encoder)

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        *,
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> BertFineTuneClassifier:
        """Return the fitted classifier that `save` wrote into a directory.

        Parameters
        ----------
        directory : str or path-like
        device : str, default=None
            Where it is to run; None is where it ran when it was saved, or "auto".
        trust_remote_code : bool, default=False
            Whether code that the directory brings may run, as some architectures need
            it. What the saved classifier was allowed does not count.

        Returns
        -------
        BertFineTuneClassifier
            With the parameters that it was saved with, but these two.

        Raises
        ------
        ValueError
            `directory` holds no saved classifier, its files changed since `save`, or it
            needs code of its own and `trust_remote_code` is False.
        """
        facts, trained = read(directory)
        params = facts["params"]
        params["class_weight"] = _class_weight(params["class_weight"])
        has_code = params["trust_remote_code"] and any(
            Path(directory).expanduser().rglob("*.py")
        )
        if has_code and not trust_remote_code:
            raise ValueError(
                f"directory={os.fspath(directory)!r} was saved with code of its own. "
                "Read it, then pass trust_remote_code=True to run it."
            )
        params["trust_remote_code"] = check_bool("trust_remote_code", trust_remote_code)
        if device is not None:
            params["device"] = device
        classifier = cls(**params)
        classifier._check_device()
        classes = facts["classes"]
        classifier.__dict__.update(
            facts["fitted"],
            pooling_=tuple(facts["fitted"]["pooling_"]),
            classes_=np.array(classes["values"], dtype=classes["dtype"]),
            _fitted_params=classifier._decisive(),
            _trained=trained,
        )
        trained.weights = classifier._network().weights(trained.names)
        return classifier

    def __copy__(self) -> BertFineTuneClassifier:
        return self._copy(self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> BertFineTuneClassifier:
        return self._copy(copy.deepcopy(self.__dict__, memo))

    def _copy(self, state: Mapping[str, Any]) -> BertFineTuneClassifier:
        # A copy has the weights, whatever a pickle has.
        other = type(self).__new__(type(self))
        other.__dict__.update(state)
        return other

    def __getstate__(self) -> Any:
        state = dict(super().__getstate__())
        if "_trained" in state and not self.weights_in_pickle:
            state["_trained"] = self._trained.without_weights()
        return state

    # The network of a fitted estimator

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_trained")

    def _refuse_changes(self) -> None:
        """Refuse to go on with parameters that fit has not seen."""
        for name, now in self._decisive().items():
            then = self._fitted_params[name]
            if now == then or (name in _NAMES and self._is_same_encoder()):
                continue
            raise ValueError(
                f"{name} was {then!r} in fit and is {now!r} now; call fit again after "
                "set_params."
            )

    def _is_same_encoder(self) -> bool:
        """Whether what `model` names now, or names elsewhere, is the encoder of fit."""
        return bool(self._find_encoder().fingerprint == self.fingerprint_)

    def _scores(self, X: Any) -> np.ndarray:
        """Return the head's outputs, (n_texts, n_outputs)."""
        check_is_fitted(self)
        self._refuse_changes()
        batch_size = self._check_machine()
        texts = self._read_texts(X, is_fit=False)
        return np.asarray(self._network().predict(texts, batch_size))

    def _network(self) -> TunedNetwork:
        """Return the tuned network, loading it where this process has not yet."""
        return self._trained.network(self._find_encoder, self.model, self.device)

    # The steps of fit

    def _resolved(
        self, checkpoint: Checkpoint, design: Design, classes: np.ndarray
    ) -> dict[str, Any]:
        """Return the fitted attributes that training does not decide."""
        return {
            "classes_": classes,
            "pooling_": design.poolings,
            "max_length_": design.max_length,
            "prompt_": design.prompt,
            "n_layers_": checkpoint.n_layers,
            "width_": checkpoint.width,
            "fingerprint_": checkpoint.fingerprint,
            "_fitted_params": self._decisive(),
        }

    def _identity(
        self, held_out: list[str], y: np.ndarray, weights: np.ndarray | None
    ) -> dict[str, str]:
        """Return what names a run beside its recipe, network and texts to train on."""
        identity = {
            "class_weight": repr(plain("class_weight", self.class_weight)),
            "early_stopping": str(len(held_out) > 0),
        }
        if held_out:
            identity |= {
                "validation_fraction": str(self.validation_fraction),
                "scoring": name_of(self.scoring),
                "held-out texts": digest(held_out),
                "held-out labels": digest(y.tolist()),
            }
            if weights is not None:
                relative = weights / weights.mean()
                identity["held-out weights"] = digest(relative.tolist())
        return identity

    def _judge(
        self,
        fitted: Mapping[str, Any],
        network: TunedNetwork,
        texts: list[str],
        y: np.ndarray,
        weights: np.ndarray | None,
    ) -> Callable[[np.ndarray], float]:
        """Return a function that judges the network as it is by held-out texts.

        It is given the network's scores of them. The weights of texts count where the
        scorer takes them.
        """
        view = copy.copy(self)
        given = np.zeros((len(texts), network.design.n_outputs), dtype=np.float32)
        kind: Any = type(self)
        itself = weakref.ref(view)  # a cycle would keep the network
        trained = Trained(asdict(network.design), "", None, [])
        trained.enliven(network, self.device)
        view.__dict__.update(
            fitted,
            _trained=trained,
            _read_texts=lambda X, is_fit: X,  # they were read by fit
            # A scorer may ask for other texts than all, which are run.
            _scores=lambda X: given.copy() if X is texts else kind._scores(itself(), X),
        )
        scorer = check_scoring(view, self.scoring)
        options = {}
        if weights is not None and (self.scoring is None or _takes_weights(scorer)):
            options["sample_weight"] = weights

        def judge(scores: np.ndarray) -> float:
            given[...] = scores
            try:
                return float(scorer(view, texts, y, **options))
            except Exception as error:
                raise ValueError(
                    f"scoring={self.scoring!r} cannot judge the {len(texts)} texts "
                    f"that early_stopping holds out ({type(error).__name__}: {error}). "
                    "Hold out more texts with validation_fraction, or pass another "
                    "scoring."
                ) from error

        made_of = getattr(getattr(scorer, "_score_func", None), "__module__", "")
        if self.scoring is None or made_of.startswith("sklearn."):
            # Before anything is trained. Overlapping, the filters of one thread would
            # outlast those of another.
            with _FILTERS, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                judge(given)
        return judge

    def _snapshot(
        self,
        fitted: Mapping[str, Any],
        trainer: Trainer,
        design: Design,
        lent: list[Trained],
    ) -> dict[str, Any]:
        """Return the fitted attributes as if training had ended with this epoch.

        The network trains on: `lent` gets what must let it go before that.
        """
        learned = _learned(trainer, design)
        trained = learned["_trained"]
        trained.weights = {k: v.copy() for k, v in trained.weights.items()}
        trained.enliven(trainer.network, self.device)
        lent.append(trained)
        return {**fitted, **learned}

    def _split(
        self, y: np.ndarray, weights: np.ndarray | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to train on, those of weight 0 left out, and to score on."""
        rows = np.arange(len(y))
        if weights is not None:
            rows = np.flatnonzero(of_rows(weights))
        if not check_bool("early_stopping", self.early_stopping):
            return rows, rows[:0]
        n_out = max(1, round(self.validation_fraction * len(rows)))
        if n_out >= len(rows):
            smaller = "a smaller fraction, or " if len(rows) > 1 else ""
            raise ValueError(
                f"early_stopping=True with validation_fraction="
                f"{self.validation_fraction!r} holds out all of {len(rows)} texts; "
                f"pass {smaller}early_stopping=False."
            )
        stratify = None
        if y.ndim == 1:
            _, counts = np.unique(y[rows], return_counts=True)
            room = min(n_out, len(rows) - n_out)
            # Where a class is too rare for both parts, the draw is a plain one.
            stratify = y[rows] if counts.min() > 1 and len(counts) <= room else None
        train, held_out = train_test_split(
            rows, test_size=n_out, random_state=seed, stratify=stratify
        )
        if y.ndim == 1:  # a class is never held out as a whole
            is_lost = ~np.isin(y[held_out], y[train])
            lost, first = np.unique(y[held_out[is_lost]], return_index=True)
            back = np.flatnonzero(is_lost)[first]
            train = np.append(train, held_out[back])
            held_out = np.delete(held_out, back)
            if not len(held_out):
                raise ValueError(
                    f"early_stopping=True would hold out all texts of {lost.tolist()}; "
                    "give more texts of each class, or early_stopping=False."
                )
        return train, held_out

    # Parameters

    def _find_encoder(self, place: Path | None = None) -> Checkpoint:
        """Find the files of `model`, or of a directory that `save` wrote."""
        if place is None:
            return self._checkpoint()
        return find_checkpoint(
            str(place),
            local_files_only=check_bool("local_files_only", self.local_files_only),
            trust_remote_code=check_bool("trust_remote_code", self.trust_remote_code),
        )

    def _check_machine(self) -> int | None:
        """Check the parameters that decide no number, and return the batch size."""
        self._check_device()
        check_bool("weights_in_pickle", self.weights_in_pickle)
        self._is_verbose()
        return self._check_batch_size()

    def _checkpoint_place(self) -> Path | None:
        if self.checkpoint_dir is None:
            return None
        if not isinstance(self.checkpoint_dir, (str, os.PathLike)):
            raise TypeError(
                "checkpoint_dir must be a directory or None, got "
                f"{self.checkpoint_dir!r}."
            )
        if not os.fspath(self.checkpoint_dir):
            raise ValueError("checkpoint_dir must be a directory or None, got ''.")
        place = Path(self.checkpoint_dir).expanduser()
        if place.exists() and not place.is_dir():
            raise ValueError(
                f"checkpoint_dir={os.fspath(place)!r} is a file; pass a directory."
            )
        return place

    def _decisive(self) -> dict[str, Any]:
        return {name: plain(name, getattr(self, name)) for name in _DECISIVE}

    def _make_design(
        self, checkpoint: Checkpoint, n_outputs: int, is_multilabel: bool
    ) -> Design:
        from .tuned import Design

        declared = checkpoint.declared
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise TypeError(f"prompt must be a str or None, got {self.prompt!r}.")
        hidden_size = check_integer("hidden_size", self.hidden_size, minimum=1)
        head = check_choice("head", self.head, ("linear", "mlp"))
        dtype = check_choice("dtype", self.dtype, _DTYPES)
        return Design(
            poolings=self._resolve_pooling(checkpoint),
            max_length=self._resolve_max_length(checkpoint),
            prompt=declared.prompt if self.prompt is None else str(self.prompt),
            hidden_size=hidden_size if head == "mlp" else 0,
            n_outputs=n_outputs,
            is_multilabel=is_multilabel,
            dtype=checkpoint.dtype if dtype == "auto" else dtype,
            lower_case=declared.lower_case,
            include_prompt=declared.include_prompt,
        )

    def _resolve_pooling(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        pooling = read_pooling(self.pooling)
        if isinstance(pooling, str):
            name = check_choice("pooling", pooling, ("auto", *_POOLINGS))
            if name != "auto":
                return (name,)
            return self._declared_pooling(checkpoint, _POOLINGS)
        if not isinstance(pooling, (Sequence, np.ndarray)) or not len(pooling):
            raise TypeError(
                f"pooling must be one of {', '.join(map(repr, ('auto', *_POOLINGS)))}, "
                f"or a non-empty sequence of these without 'auto', got "
                f"{self.pooling!r}."
            )
        names = tuple(
            check_choice(f"pooling[{i}]", name, _POOLINGS)
            for i, name in enumerate(pooling)
        )
        if len(set(names)) < len(names):
            raise ValueError(
                f"pooling must not name a pooling twice, got {self.pooling!r}."
            )
        return names

    def _make_recipe(self, checkpoint: Checkpoint, place: Path | None) -> Recipe:
        from .training import Recipe

        n_layers = checkpoint.n_layers
        n_frozen = check_integer("num_layers_to_freeze", self.num_layers_to_freeze)
        if not -n_layers <= n_frozen <= n_layers:
            raise ValueError(
                f"num_layers_to_freeze={n_frozen} is out of range: this encoder has "
                f"{n_layers} blocks; pass 0 (train everything) to {n_layers} (the head "
                f"alone), or -{n_layers} to -1 for all but the top ones."
            )
        head_warmup = self.head_warmup
        if isinstance(head_warmup, str):
            check_choice("head_warmup", head_warmup, ("probe",))
        else:
            head_warmup = check_integer("head_warmup", head_warmup, minimum=0)
        patience = check_integer("n_iter_no_change", self.n_iter_no_change, minimum=1)
        share = check_within("validation_fraction", self.validation_fraction, 1.0)
        if self.early_stopping and not share:
            raise ValueError(
                "early_stopping=True needs texts to stop by, got validation_fraction="
                f"{self.validation_fraction!r}; pass a larger one."
            )
        max_norm = self.max_grad_norm
        if max_norm is not None:
            max_norm = check_positive("max_grad_norm", max_norm)
        recipe = Recipe(
            n_frozen=n_frozen % n_layers if n_frozen < 0 else n_frozen,
            unfreezing=check_choice("unfreezing", self.unfreezing, ("none", "gradual")),
            head_warmup=head_warmup,
            texts_per_step=check_integer(
                "texts_per_step", self.texts_per_step, minimum=1
            ),
            max_iter=check_integer("max_iter", self.max_iter, minimum=1),
            learning_rate=check_positive("learning_rate", self.learning_rate),
            head_learning_rate=check_positive(
                "head_learning_rate", self.head_learning_rate
            ),
            layer_decay=check_within("layer_decay", self.layer_decay, 1.0),
            warmup=check_within("warmup", self.warmup, 1.0),
            weight_decay=check_within("weight_decay", self.weight_decay, np.inf),
            max_grad_norm=max_norm,
            label_smoothing=check_within(
                "label_smoothing", self.label_smoothing, 1.0, is_open=True
            ),
            n_iter_no_change=patience if self.early_stopping else None,
            seed=self._seed(place),
        )
        if recipe.n_frozen < n_layers == min(recipe.schedule(n_layers)):
            warnings.warn(
                f"No block is trained: the head alone takes all max_iter="
                f"{recipe.max_iter} epochs with head_warmup={head_warmup!r} and "
                f"unfreezing={recipe.unfreezing!r}. Pass a larger max_iter.",
                UserWarning,
                stacklevel=level_outside(),
            )
        return recipe

    def _seed(self, place: Path | None) -> int:
        """Return the seed of this fit: if none is asked for, that of a checkpoint."""
        from .training import seed_of

        seed = None if is_integer(self.random_state) else seed_of(place)
        if seed is None:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return seed


def _learned(trainer: Trainer, design: Design) -> dict[str, Any]:
    """Return the fitted attributes that training decides."""
    names = list(trainer.trained)
    network = trainer.network
    weights = network.weights(names)
    learned = {
        "history_": list(trainer.history),
        "schedule_": trainer.schedule,
        "n_iter_": len(trainer.history),
        "n_bytes_": sum(values.nbytes for values in weights.values()),
        "_trained": Trained(
            asdict(design), network.checkpoint.fingerprint, weights, names
        ),
    }
    if trainer.best_epoch is not None:
        learned["best_epoch_"] = trainer.best_epoch
    return learned


def _data(
    texts: list[str],
    y: np.ndarray,
    weights: np.ndarray | None,
    rows: np.ndarray,
    classes: np.ndarray,
) -> Data:
    """Return some rows as the trainer takes them."""
    from .training import Data

    if y.ndim == 2:
        targets = y[rows].astype(np.float32)
    else:
        targets = np.searchsorted(classes, y[rows]).astype(np.int64)
    own = (
        np.ones(len(rows)) if weights is None else weights[rows] / weights[rows].mean()
    )
    return Data([texts[i] for i in rows], targets, own.astype(np.float32))


def _takes_weights(scorer: Any) -> bool:
    """Whether a scorer, or the metric that it is made of, has a sample_weight."""
    try:
        parameters = inspect.signature(
            getattr(scorer, "_score_func", scorer)
        ).parameters
    except (TypeError, ValueError):  # it does not say
        return False
    return "sample_weight" in parameters


def _class_weight(written: Any) -> Any:
    """Return a class_weight as it was before `plain` made lists of mappings."""
    if not isinstance(written, list):
        return written
    # A mapping is a list of pairs, one per label a list of these, of str or of None.
    if all(isinstance(p, list) and len(p) == 2 and _is_plain(p[0]) for p in written):
        return dict(written)
    return [dict(own) if isinstance(own, list) else own for own in written]


def _is_plain(value: Any) -> bool:
    return not isinstance(value, list)
