"""Where an output lies, complete or growing: every name, and what may not be one."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

__all__ = ["Place", "find_place"]

# Readers of a directory of Parquet skip names that begin with "_".
_MANIFEST = "_manifest.json"
FORMATS = ("npy", "parquet")
_ENDINGS = {".npy": "npy", ".parquet": "parquet", ".pq": "parquet"}
# A directory may well be named "v1.0", but not like this.
_OTHER_ENDINGS = frozenset(
    (
        ".csv", ".tsv", ".json", ".jsonl", ".txt", ".gz", ".zip", ".npz", ".pkl",
        ".joblib", ".feather", ".arrow", ".h5", ".hdf5", ".pt", ".safetensors",
    )
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Place:
    """The names of one output.

    Attributes
    ----------
    out : Path
        As it was given.
    format : {"npy", "parquet"}
    is_file : bool
        Whether it is one file, or else a directory.
    """

    out: Path
    format: str
    is_file: bool

    # Complete

    @property
    def features(self) -> Path:
        """A file, or a directory of Parquet."""
        is_out = self.is_file or self.format == "parquet"
        return self.out if is_out else self.out / "features.npy"

    @property
    def ids(self) -> Path:
        """Ids beside ``.npy``."""
        return self._beside("ids.jsonl")

    @property
    def manifest(self) -> Path:
        """What was made."""
        return self._beside("manifest.json" if self.is_file else _MANIFEST)

    @property
    def replaced(self) -> Path:
        """The output before, for the moment in which a directory is replaced."""
        return self.out.with_name(f"{self.out.name}.replaced")

    def _beside(self, name: str) -> Path:
        if not self.is_file:
            return self.out / name
        return self.out.with_name(f"{self.out.name}.{name}")

    # Growing

    @property
    def partial(self) -> Path:
        """The directory in which it grows."""
        return self.out.with_name(f"{self.out.name}.partial")

    @property
    def begun(self) -> Path:
        """What is being made."""
        return self.partial / _MANIFEST

    @property
    def journal(self) -> Path:
        """The parts that are finished."""
        return self.partial / "journal.jsonl"

    @property
    def rows(self) -> Path:
        """Features that are finished and not in a file of Parquet yet."""
        return self.partial / "features.npy"

    @property
    def row_ids(self) -> Path:
        """Ids of these."""
        return self.partial / "ids.jsonl"

    def sealed(self, number: int) -> Path:
        """Return a file of Parquet."""
        name = "features.parquet" if self.is_file else f"part-{number:05d}.parquet"
        return self.partial / name


def find_place(out: str | os.PathLike[str], format: str | None) -> Place:
    """Return where an output is to lie, or refuse what it is called."""
    if format is not None and format not in FORMATS:
        raise ValueError(f"format={format!r} must be one of {FORMATS}.")
    path = Path(out).expanduser()
    if path.name in ("", ".."):
        path = path.resolve()
    if path.is_symlink():  # to a larger disk, perhaps
        path = path.resolve()
    ending = path.suffix.lower()
    told = _ENDINGS.get(ending)
    if ending in _OTHER_ENDINGS:
        raise ValueError(
            f"out={str(out)!r} ends in {ending}, which is not written: name a file "
            "that ends in .npy or .parquet, or a directory."
        )
    if told is not None and format not in (None, told):
        raise ValueError(
            f"out={str(out)!r} is named like {told}, but format={format!r}."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"out={str(out)!r}: there is no directory {path.parent}."
        )
    if path.is_dir():
        if told is not None:
            raise IsADirectoryError(f"out={str(out)!r} is a directory.")
        here = Path.cwd()
        if path.resolve() in (here, *here.parents):
            raise ValueError(
                f"out={str(out)!r} is the working directory or holds it, and would be "
                "replaced as a whole; name a directory in it."
            )
        if os.path.ismount(path):
            raise ValueError(
                f"out={str(out)!r} is where a file system is mounted; name a directory "
                "in it."
            )
    elif path.exists() and told is None:
        raise FileExistsError(
            f"out={str(out)!r} is a file; name one that ends in .npy or .parquet, or a "
            "directory."
        )
    return Place(path, told or format or "npy", told is not None)
