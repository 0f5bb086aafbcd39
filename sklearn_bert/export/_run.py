"""A run: rows go through the vectorizer into an output, or are compared with it.

What a run says, it says once: warnings of its parts are added up.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..exceptions import CutWarning
from ..features import every_cut_told
from ..vectorizer import BertVectorizer
from ._output import Output, Part
from ._rows import Digest, Rows, RowsOfPart, name_of

__all__ = ["Changed", "Run"]

_VERSIONS_OF = ("torch", "transformers", "tokenizers", "numpy", "pyarrow")
_SECONDS_BETWEEN = (30.0, 0.5)  # two showings of progress, in a log and in a terminal
_SECONDS_BEFORE = 1.0  # the first one


class Changed(Exception):
    """The rows are not those of which the output was made."""


class Run:
    """Rows go through the vectorizer into an output."""

    def __init__(
        self, vectorizer: BertVectorizer, rows: Rows, *, verbose: bool
    ) -> None:
        self.vectorizer = vectorizer
        self.rows = rows
        self.rows.missing = vectorizer.missing
        self.verbose = verbose
        self.n_rows_encoded = 0
        self._seen: set[tuple[Any, ...]] = set()  # where warnings came from

    def compare_all(self, manifest: Any) -> None:
        """Raise Changed unless an output that is complete is of these rows."""
        digest, found = Digest(), ""
        n_rows = 0
        with self._bar("comparing") as bar:
            for part in self.rows:
                found = digest.after(part)
                n_rows += len(part.texts)
                bar.show(n_rows, self.rows.n_bytes)
                if n_rows > manifest["n_rows"]:
                    break
        if (n_rows, found) != (manifest["n_rows"], manifest["digest"]):
            many = "more rows" if n_rows > manifest["n_rows"] else f"{n_rows:,} rows"
            if n_rows == manifest["n_rows"]:
                many = "as many rows, but other ones"
            raise Changed(
                f"it holds {manifest['n_rows']:,}, and {self._files()} now has {many}."
            )

    def into(self, output: Output) -> Any:
        """Encode what is not finished; return the manifest."""
        digest, found = Digest(), ""
        parts = iter(self.rows)
        done = list(output.parts)
        counts = Counter[str]()
        n_rows = 0
        with self._bar("comparing") as bar:
            for finished in done:
                part = next(parts, RowsOfPart())
                found = digest.after(part)
                self._compare(part, found, finished, n_rows)
                n_rows += finished.n_rows
                _count(counts, finished.facts)
                bar.show(n_rows, self.rows.n_bytes)
        with self._bar("encoding") as bar, self._noting(output):
            for part in parts:
                found = digest.after(part)
                features, facts = self._encode(part, output)
                output.append(features, part.ids or None, found, facts)
                n_rows += len(part.texts)
                self.n_rows_encoded += len(part.texts)
                _count(counts, facts)
                bar.show(self.n_rows_encoded, self.rows.n_bytes)
            manifest = output.finish(self._facts(n_rows, found, counts))
        output.publish()
        self._warn(n_rows, counts)
        return manifest

    def _compare(
        self, part: RowsOfPart, found: str, finished: Part, n_rows: int
    ) -> None:
        if len(part.texts) == finished.n_rows and found == finished.digest:
            return
        last = n_rows + finished.n_rows
        if not part.texts:
            raise Changed(
                f"{last:,} rows are finished, and {self._files()} now has {n_rows:,}."
            )
        raise Changed(
            f"rows {n_rows + 1:,} to {last:,} of {self._files()} are not those that "
            "were encoded."
        )

    def _files(self) -> str:
        names = list(map(name_of, self.rows.files))
        if len(names) == 1:
            return names[0]
        return f"{names[0]} and {len(names) - 1} more, taken together,"

    def _encode(
        self, part: RowsOfPart, output: Output
    ) -> tuple[np.ndarray, dict[str, int]]:
        facts = Counter[str](n_empty=sum(not text for text in part.texts))
        try:
            with self._warnings_into(facts):
                features = np.asarray(self.vectorizer.transform(part.texts))
        except ValueError as error:  # names a row of this part
            message = re.sub(
                r"\brow (\d+)\b", lambda found: part.place(int(found[1])), str(error)
            )
            raise ValueError(message) from error
        with np.errstate(over="ignore"):
            kept = features.astype(output.dtype, copy=False)
        if not np.isfinite(kept).all() and np.isfinite(features).all():
            row = int(np.flatnonzero(~np.isfinite(kept).all(axis=1))[0])
            raise ValueError(
                f"{part.place(row)} has features up to "
                f"{np.abs(features[row]).max():g}, beyond float16; pass "
                "out_dtype='float32' (--out-dtype float32)."
            )
        return kept, {name: count for name, count in facts.items() if count}

    @contextlib.contextmanager
    def _warnings_into(self, facts: Counter[str]) -> Iterator[None]:
        """Count what was cut; let other warnings through, each once per run."""
        # Each part counts its own.
        with every_cut_told(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for entry in caught:
            message = entry.message
            if isinstance(message, CutWarning):
                _count(
                    facts,
                    {
                        "n_cut": message.n_cut,
                        "n_tokens_lost": message.n_lost,
                        "longest": message.longest,
                    },
                )
                continue
            where = entry.category, entry.filename, entry.lineno
            is_advice = "third time" in str(message)  # a part is no repetition
            if where not in self._seen and not is_advice:
                self._seen.add(where)
                warnings.warn_explicit(message, *where)

    @contextlib.contextmanager
    def _noting(self, output: Output) -> Iterator[None]:
        """Say with whatever ends a run how much of it is kept."""
        try:
            yield
        except BaseException as error:
            n_rows = sum(part.n_rows for part in output.parts)
            if n_rows:
                error.add_note(
                    f"{n_rows:,} rows are finished and kept in {output.place.partial}; "
                    "the same call or command goes on from there."
                )
            raise

    def _facts(self, n_rows: int, digest: str, counts: Counter[str]) -> dict[str, Any]:
        vectorizer = self.vectorizer
        versions = {}
        for name in _VERSIONS_OF:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(name)
        return {
            "n_rows": n_rows,
            "digest": digest,
            "model": str(vectorizer.model),
            "revision": vectorizer.revision,
            "features": _blocks(vectorizer.get_feature_names_out()),
            "inputs": [
                {
                    "file": name_of(file),
                    "n_rows": n,
                    "n_bytes": os.path.getsize(file) if os.path.isfile(file) else None,
                }
                for file, n in zip(self.rows.files, self.rows.n_rows, strict=True)
            ],
            "counts": {name: n for name, n in sorted(counts.items()) if n},
            "versions": versions,
        }

    def _warn(self, n_rows: int, counts: Counter[str]) -> None:
        """Say once what was lost, in the run that completes an output."""
        if counts["n_cut"]:
            warnings.warn(
                f"{counts['n_cut']:,} of {n_rows:,} texts are longer than max_length="
                f"{self.vectorizer.max_length_} tokens and were cut; "
                f"{counts['n_tokens_lost']:,} tokens are lost (the longest text has "
                f"{counts['longest']:,}). Pass overflow='chunk' (--overflow chunk) to "
                "use whole texts.",
                UserWarning,
                stacklevel=4,
            )
        if counts["n_empty"]:
            warnings.warn(
                f"{counts['n_empty']:,} of {n_rows:,} texts are empty; their features "
                "are those of no words.",
                UserWarning,
                stacklevel=4,
            )

    def _bar(self, what: str) -> Bar:
        return Bar(what, self.rows.size(), self.rows.n_bytes, self.verbose)


def _count(counts: Counter[str], facts: dict[str, int]) -> None:
    """Add up counts; the longest is the longest of all."""
    longest = max(counts["longest"], facts.get("longest", 0))
    counts.update(facts)
    counts["longest"] = longest


def _blocks(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the names of features without their number: "layer6_mean", 0 to 384."""
    blocks: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        stem = name.rpartition("_")[0]
        if not blocks or blocks[-1]["name"] != stem:
            blocks.append({"name": stem, "start": i, "stop": i})
        blocks[-1]["stop"] = i + 1
    return blocks


class Bar:
    """Progress: by bytes of files where they are known, with the rate of texts."""

    def __init__(self, what: str, total: int | None, done: int, verbose: bool) -> None:
        from tqdm.auto import tqdm

        what_is_left = "[{elapsed}<{remaining}]" if total else "[{elapsed}]"
        self._what = what
        self._started = time.perf_counter()
        self._bar = tqdm(
            total=total,
            initial=done,
            disable=not verbose,
            bar_format="{percentage:3.0f}%|{bar}| {desc} " + what_is_left
            if total
            else "{desc} " + what_is_left,
            mininterval=_SECONDS_BETWEEN[sys.stderr.isatty()],
            miniters=0,  # rows go on after the last byte was read
            delay=_SECONDS_BEFORE,
            leave=False,
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, n_rows: int, n_bytes: int) -> None:
        rate = n_rows / max(time.perf_counter() - self._started, 1e-9)
        self._bar.set_description_str(
            f"{self._what}: {n_rows:,} rows, {rate:,.0f} a second", refresh=False
        )
        self._bar.update(n_bytes - self._bar.n)
