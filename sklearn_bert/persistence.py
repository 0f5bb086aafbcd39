"""Where the weights of a trained classifier are: in a process, a pickle, a directory.

`Trained` holds the weights that training changed, as NumPy arrays, and makes a network
of them in any process. The frozen weights come from where training found them, or from
the directory into which `Trained.save` wrote all of them. What a directory holds beside
a model is one JSON file; nothing in it is a pickle.

What the facts in that file mean is decided elsewhere, in `finetune`.

Level 6 of the module map: imports `checkpoint` and `tuned`, the latter when a network
is made. Only `finetune` imports it.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .checkpoint import HEAD_FILE, Checkpoint

if TYPE_CHECKING:
    from .tuned import TunedNetwork

__all__ = ["Trained", "plain", "read"]

_FORMAT = 1  # of the file below
_FILE = "finetune.json"  # without it, nothing else there counts

# Finds the files of an encoder: the one that training began from, or a directory's.
Finder = Callable[[Path | None], Checkpoint]


class _Live:
    """A network while its process lives; neither pickled nor copied."""

    def __init__(self, network: TunedNetwork | None = None, device: str = "") -> None:
        self.network = network
        self.device = device

    def __reduce__(self) -> Any:
        return _Live, ()

    def __deepcopy__(self, memo: Any) -> _Live:
        return _Live()


class Trained:
    """The weights that training changed, and where the others are.

    Parameters
    ----------
    design : dict
        Fields of `tuned.Design`.
    fingerprint : str
        Of the encoder that training began from.
    weights : dict of str to ndarray, or None
        By the names that `TunedNetwork.trained` gives; None: in the directory.
    names : list of str
        Their names.
    """

    def __init__(
        self,
        design: dict[str, Any],
        fingerprint: str,
        weights: dict[str, np.ndarray] | None,
        names: list[str],
    ) -> None:
        self.design = design
        self.fingerprint = fingerprint
        self.weights = weights
        self.names = names
        # Directory, fingerprint of its encoder, digest of its head.
        self.place: tuple[str, str, str] | None = None
        self._live = _Live()

    def enliven(self, network: TunedNetwork, device: str) -> None:
        """Use a network that has these weights, in this process."""
        self._live = _Live(network, device)

    def rest(self) -> None:
        """Let the network go, which may train on; the weights are here."""
        self._live = _Live()

    def without_weights(self) -> Trained:
        """Return one that reads its weights from where they were saved.

        Raises
        ------
        ValueError
            They were not saved.
        """
        if self.place is None:
            raise ValueError(
                "weights_in_pickle=False pickles the path given to save, and save was "
                "not called: call save(directory) first, or pass "
                "weights_in_pickle=True."
            )
        other = copy.copy(self)
        other.weights = None
        return other

    def network(self, find: Finder, model: str, device: str) -> TunedNetwork:
        """Return the network, made where this process has not yet.

        Parameters
        ----------
        find : callable
        model : str
            What the user calls the encoder that training began from.
        device : str

        Raises
        ------
        ValueError
            The files of the encoder or of the directory changed or are gone.
        """
        live = self._live
        if live.network is None or live.device != device:
            live.network, live.device = self._load(find, model, device), device
        return live.network

    def _load(self, find: Finder, model: str, device: str) -> TunedNetwork:
        from .tuned import Design, TunedNetwork

        place = self._find_place(find)
        checkpoint = find(place)
        if place is None and checkpoint.fingerprint != self.fingerprint:
            raise ValueError(
                f"The files of model={model!r} changed since fit (fingerprint "
                f"{checkpoint.fingerprint[:8]}, was {self.fingerprint[:8]}), and the "
                "frozen layers come from them. Fit again; save and load keep every "
                "layer."
            )
        poolings = tuple(self.design["poolings"])
        design = Design(**(self.design | {"poolings": poolings}))
        for name in ("lower_case", "include_prompt"):
            now, then = getattr(checkpoint.declared, name), getattr(design, name)
            if now != then:
                raise ValueError(
                    f"The files of model={model!r} declared {name}={then} when it was "
                    f"fitted and declare {name}={now} now. Fit again, or put them back."
                )
        network = TunedNetwork(checkpoint, design, device)
        if self.weights is not None:
            network.set_weights(self.weights)
        else:
            assert place is not None
            network.read_head(place)
        return network

    def _find_place(self, find: Finder) -> Path | None:
        """Return where the weights were saved, if the files are still there."""
        if self.place is None:
            return None
        path, problem = Path(self.place[0]), "it is not there"
        if path.is_dir():
            problem = "its files changed since save"
            with contextlib.suppress(ValueError, OSError):  # not a model any more
                if (find(path).fingerprint, _digest_of(path)) == self.place[1:]:
                    return path
        if self.weights is not None:
            return None  # they are here, the frozen layers where training found them
        raise ValueError(
            f"The weights of this classifier are in {str(path)!r}, and {problem}. Put "
            "it back, or pickle with weights_in_pickle=True."
        )

    def save(
        self,
        directory: str | os.PathLike[str],
        facts: Mapping[str, Any],
        network: TunedNetwork,
        find: Finder,
    ) -> None:
        """Write a directory that is a model, and the facts; complete or not at all.

        Parameters
        ----------
        directory : str or path-like
            New or empty.
        facts : mapping
            What `read` gives back; of what JSON holds.
        network : TunedNetwork
            With these weights.
        find : callable

        Raises
        ------
        ValueError
            `directory` holds something.
        """
        path = Path(directory).expanduser().resolve()  # a link stays, to what it names
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(
                f"directory={os.fspath(directory)!r} is not empty; pass a new one."
            )
        content = {
            "format": _FORMAT, **facts, "design": self.design, "trained": self.names,
            "began": self.fingerprint,
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        # In an empty directory, which may be a mount, files are moved up.
        aside = path if path.exists() else path.parent
        temporary = aside / f".{path.name}.{uuid.uuid4().hex}.tmp"
        temporary.mkdir()
        try:
            network.save(temporary)
            content["encoder"] = find(temporary).fingerprint
            content["head"] = _digest_of(temporary)
            text = json.dumps(content, indent=2) + "\n"
            (temporary / _FILE).write_text(text, encoding="utf-8")
            if path.exists():
                _fill(path, temporary)
            else:
                os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self.place = (str(path), content["encoder"], content["head"])


def read(directory: str | os.PathLike[str]) -> tuple[dict[str, Any], Trained]:
    """Return the facts that `Trained.save` wrote, and what it wrote them of.

    Raises
    ------
    ValueError
        `directory` holds no such file, or one of another version.
    """
    path = Path(directory).expanduser().absolute()
    try:
        content = json.loads((path / _FILE).read_text(encoding="utf-8"))
        found = content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"directory={os.fspath(directory)!r} holds no classifier that save "
            f"wrote: {_FILE} cannot be read ({type(error).__name__}: {error})."
        ) from error
    if found != _FORMAT:
        raise ValueError(
            f"{path / _FILE} has format {found} and this version of sklearn_bert "
            f"reads format {_FORMAT}."
        )
    trained = Trained(content["design"], content["began"], None, content["trained"])
    trained.place = (str(path), content["encoder"], content["head"])
    return content, trained


def _digest_of(directory: Path) -> str:
    """Return a digest of the head in a directory."""
    return hashlib.sha256((directory / HEAD_FILE).read_bytes()).hexdigest()[:32]


def _fill(directory: Path, source: Path) -> None:
    """Move all that is in a directory's own one up, the facts last, or nothing."""
    names = sorted(os.listdir(source), key=lambda name: name == _FILE)
    try:
        for name in names:
            os.replace(source / name, directory / name)
    except BaseException:
        for name in names:
            if (directory / name).exists() and not (source / name).exists():
                os.replace(directory / name, source / name)
        raise


def plain(name: str, value: Any) -> Any:
    """Return a parameter as JSON has it: equal values of any type become one.

    Parameters
    ----------
    name : str
        For the refusal.
    value : object

    Raises
    ------
    ValueError
        JSON cannot hold it.
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, (list, tuple)):
        return [plain(name, item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"{name} holds {value!r}, which JSON cannot; it takes numbers and str only. "
        "Replace it to save the classifier, for example by "
        f"set_params({name}=None)."
    )
