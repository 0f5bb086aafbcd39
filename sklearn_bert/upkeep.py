"""Upkeep: what a store as a whole holds, whether it is intact, and making it smaller.

A store here is the directory that estimators got as `memory`, with the features of any
number of encoders. Nothing is created: what is no store is refused.

This module does not know how features lie on disk, which `store` knows, or in which
order they go, which joblib decides. Level 3 of the module map: imports `store`.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .store import features_directory, find_spaces

__all__ = [
    "SpaceInfo", "StoreCheck", "StoreInfo", "check_store", "clear_store",
    "describe_store", "reduce_store",
]  # fmt: skip

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([hdw])", re.IGNORECASE)
_AGES = {"h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class SpaceInfo:
    """The features of one encoder in one precision.

    Attributes
    ----------
    directory : Path
    model : str
        The name under which it was first stored.
    encoder : str
        Fingerprint of its files.
    dtype : str
    n_texts, n_shards, n_bytes : int
        Texts are counted once, in whatever layers and poolings they are stored; one
        that was cut, once for every length and way of cutting.
    last_used : datetime or None
    """

    directory: Path
    model: str
    encoder: str
    dtype: str
    n_texts: int
    n_shards: int
    n_bytes: int
    last_used: datetime.datetime | None


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes
    ----------
    directory : Path
    spaces : tuple of SpaceInfo
    others : tuple of Path
        Features that another version of sklearn-bert made, and this one does not read.
    n_bytes : int
        Of all files, those included.
    """

    directory: Path
    spaces: tuple[SpaceInfo, ...]
    others: tuple[Path, ...]
    n_bytes: int


@dataclass(frozen=True)
class StoreCheck:
    """Whether a store is intact.

    Attributes
    ----------
    n_shards : int
        Read and compared with their checksums, all of them.
    n_bytes : int
    damaged : tuple of (Path, str)
        Directories of shards that cannot be used, and why.
    others : tuple of Path
        Not checked: another version's.
    """

    n_shards: int
    n_bytes: int
    damaged: tuple[tuple[Path, str], ...]
    others: tuple[Path, ...]


def describe_store(memory: str | os.PathLike[str]) -> StoreInfo:
    """Return which encoders' features a store holds, how many, and when last used.

    Parameters
    ----------
    memory : str or path-like
        The directory that estimators got as `memory`.

    Returns
    -------
    StoreInfo

    Raises
    ------
    FileNotFoundError, ValueError
        It does not exist, or is no store.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_bert import BertVectorizer
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> from sklearn_bert.upkeep import describe_store
    >>> encoder, memory = make_tiny_encoder(tempfile.mkdtemp()), tempfile.mkdtemp()
    >>> _ = BertVectorizer(encoder, memory=memory).fit_transform(["one", "two"])
    >>> [space.n_texts for space in describe_store(memory).spaces]
    [2]
    """
    location = _find(memory)
    stores, others = find_spaces(location)
    spaces = []
    for store in stores:
        facts, about = store.info(), store.about()
        used = facts["last_used"]
        spaces.append(
            SpaceInfo(
                directory=store.directory,
                model=str(about.get("model", "?")),
                encoder=str(about.get("encoder", "?")),
                dtype=str(about.get("dtype", "?")),
                n_texts=facts["n_keys"],
                n_shards=facts["n_shards"],
                n_bytes=facts["n_bytes"],
                last_used=datetime.datetime.fromtimestamp(used) if used else None,
            )
        )
    directory = features_directory(location)
    return StoreInfo(directory, tuple(spaces), tuple(others), _n_bytes(directory))


def check_store(memory: str | os.PathLike[str]) -> StoreCheck:
    """Read every stored number and compare it with its checksum.

    Parameters
    ----------
    memory : str or path-like
        The directory that estimators got as `memory`.

    Returns
    -------
    StoreCheck
        Damaged shards are left out by whoever reads the store; their texts are encoded
        again. Their directories may be removed.
    """
    stores, others = find_spaces(_find(memory))
    n_shards = n_bytes = 0
    damaged = []
    for store in stores:
        for path, wrong in store.verify():
            n_shards += 1
            n_bytes += _n_bytes(path)
            if wrong is not None:
                damaged.append((path, wrong))
    return StoreCheck(n_shards, n_bytes, tuple(damaged), tuple(others))


def reduce_store(
    memory: str | os.PathLike[str],
    *,
    bytes_limit: str | int | None = None,
    age_limit: str | datetime.timedelta | None = None,
) -> tuple[int, int]:
    """Remove what was not used for the longest time, through ``Memory.reduce_size``.

    Results of other functions that are cached in the same joblib ``Memory`` count and
    go as well.

    Parameters
    ----------
    memory : str or path-like
        The directory that estimators got as `memory`.
    bytes_limit : str or int, default=None
        What may stay, such as "10G", "500M" or 2048; as in joblib, K is 1024.
    age_limit : str or timedelta, default=None
        What was not read or written for so long goes: "12h", "30d" or "4w".

    Returns
    -------
    n_bytes_gone, n_bytes_left : int
        Of features.
    """
    import joblib

    if bytes_limit is None and age_limit is None:
        raise ValueError(
            "Pass bytes_limit (--bytes-limit), age_limit (--age-limit) or both."
        )
    limits = {"bytes_limit": _bytes_of(bytes_limit), "age_limit": _age_of(age_limit)}
    location = _find(memory)
    directory = features_directory(location)
    before = _n_bytes(directory)
    parent, name = os.path.split(location)
    if name != "joblib":
        raise ValueError(
            f"{location} is not the directory of a joblib.Memory, which is named "
            "'joblib'; rename it."
        )
    joblib.Memory(parent, verbose=0).reduce_size(**limits)
    left = _n_bytes(directory)
    return before - left, left


def clear_store(memory: str | os.PathLike[str]) -> int:
    """Remove all features; other functions' results in the same ``Memory`` stay.

    Parameters
    ----------
    memory : str or path-like
        The directory that estimators got as `memory`.

    Returns
    -------
    int
        Bytes that are gone.
    """
    directory = features_directory(_find(memory))
    n_bytes = _n_bytes(directory)
    shutil.rmtree(directory, ignore_errors=True)  # others may be at work there
    if left := _n_bytes(directory):
        raise OSError(f"{left:,} bytes in {directory} could not be removed.")
    directory.mkdir(exist_ok=True)  # it is still a store
    return n_bytes


def _find(memory: str | os.PathLike[str]) -> str:
    """Return where the joblib Memory of a store keeps its results."""
    path = Path(os.path.abspath(os.path.expanduser(memory)))
    places = [path / "joblib", path]
    if features_directory(str(path.parent)) == path:
        places.append(path.parent)
    for place in places:
        if features_directory(str(place)).is_dir():
            return str(place)
    if not path.exists():
        raise FileNotFoundError(f"{os.fspath(memory)} does not exist.")
    raise ValueError(
        f"{os.fspath(memory)} is no store of features: there is no "
        f"{features_directory('joblib')} in it. Name the directory that estimators got "
        "as memory, or the command line as --memory."
    )


def _n_bytes(directory: Path) -> int:
    n_bytes = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                n_bytes += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:  # merged or evicted just now
                continue
    return n_bytes


def _bytes_of(limit: Any) -> int | None:
    if limit is None:
        return None
    found = _BYTES.fullmatch(str(limit).strip())
    if isinstance(limit, bool) or found is None:
        raise ValueError(
            f"bytes_limit={limit!r} must be a number of bytes, such as 10G, 500M or "
            "2048."
        )
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _age_of(limit: Any) -> datetime.timedelta | None:
    if limit is None:
        return None
    if isinstance(limit, datetime.timedelta) and limit < datetime.timedelta():
        raise ValueError(f"age_limit={limit!r} must not be negative.")
    try:
        age = limit if isinstance(limit, datetime.timedelta) else _read_age(limit)
        datetime.datetime.now() - age  # as joblib reckons
    except OverflowError:
        raise ValueError(f"age_limit={limit!r} is longer than dates reach.") from None
    return age


def _read_age(limit: Any) -> datetime.timedelta:
    """Read an age such as "30d"."""
    found = _AGE.fullmatch(str(limit).strip())
    if found is None:
        raise ValueError(
            f"age_limit={limit!r} must be a number of hours, days or weeks, such as "
            "12h, 30d or 4w."
        )
    return datetime.timedelta(**{_AGES[found[2].lower()]: float(found[1])})
