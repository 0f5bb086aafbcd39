"""A checkpoint's tokenizer, used without its limits, padding and special tokens.

`Tokenizer` finds out once what the checkpoint's tokenizer puts around every text, and
then turns texts, or texts given as words, into content tokens alone: cutting, windows
and special tokens are the encoder's own decisions. A tokenizer that rewrites texts, or
whose special tokens depend on the text, is refused.

Level 2 of the module map: imports `checkpoint` and `process`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import transformers
from numpy.typing import NDArray

from .checkpoint import Checkpoint
from .process import ProcessWide

__all__ = ["PROBES", "QUIET", "Ids", "Tokenizer"]

Ids = NDArray[np.int64]

PROBES = ("a b", "The quick brown fox jumps over 13 lazy dogs; why?", "a b c d e f g")
"""Short texts to try a tokenizer and a network on; two begin with the same token."""


class Tokenizer:
    """Tokens of texts, and what stands around them.

    Parameters
    ----------
    checkpoint : Checkpoint

    Attributes
    ----------
    prefix, suffix : ndarray of int
        Special tokens before and after every text.
    n_special : int
        How many they are.
    pad_id : int

    Raises
    ------
    ValueError
        The tokenizer cannot be loaded, or is not served.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tokenizer = _load(checkpoint)
        side = getattr(self._tokenizer, "truncation_side", "right")
        self._keeps_end = side == "left"
        pad = self._tokenizer.pad_token_id
        self.pad_id = 0 if pad is None else int(pad)
        around = {self._around(checkpoint, text) for text in PROBES}
        if len(around) > 1:
            raise ValueError(
                checkpoint.refusal("its special tokens depend on the text")
            )
        prefix, suffix = around.pop()
        self.prefix = np.array(prefix, dtype=np.int64)
        self.suffix = np.array(suffix, dtype=np.int64)
        self.n_special = len(prefix) + len(suffix)

    def _around(
        self, checkpoint: Checkpoint, text: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the special tokens before and after a text."""
        content = self.content_ids([text])[0].tolist()
        ids = list(self._tokenizer([text])["input_ids"][0])
        for start in range(len(ids) - len(content) + 1):
            end = start + len(content)
            if ids[start:end] == content:
                return tuple(ids[:start]), tuple(ids[end:])
        raise ValueError(checkpoint.refusal("its tokenizer rewrites texts"))

    def content_ids(self, texts: list[str]) -> list[Ids]:
        """Tokenize without special tokens and without any limit."""
        texts = [_without_surrogates(text) for text in texts]
        if self._tokenizer.is_fast:
            encodings = self._tokenizer.backend_tokenizer.encode_batch(
                texts, add_special_tokens=False
            )
            return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        ids = self._tokenizer(
            texts,
            add_special_tokens=False,
            truncation=False,
            padding=False,
            verbose=False,
        )["input_ids"]
        return [np.array(row, dtype=np.int64) for row in ids]

    def of_words(self, texts: Sequence[tuple[str, ...]]) -> list[tuple[Ids, Ids]]:
        """Tokenize texts given as words, each word for itself.

        Returns
        -------
        list of (ids, edges)
            Word w of a text has the tokens ``ids[edges[w] : edges[w + 1]]``; none, if
            the tokenizer leaves nothing of it.
        """
        texts = [tuple(map(_without_surrogates, words)) for words in texts]
        if not self._tokenizer.is_fast:
            pieces = [self.content_ids(list(words)) for words in texts]
            empty = np.empty(0, dtype=np.int64)
            return [
                (np.concatenate([empty, *ids]), np.cumsum([0, *map(len, ids)]))
                for ids in pieces
            ]
        encodings = self._for_words.encode_batch(
            texts, is_pretokenized=True, add_special_tokens=False
        )
        return [
            (
                np.array(encoding.ids, dtype=np.int64),
                np.searchsorted(
                    np.array(encoding.word_ids, dtype=np.int64),
                    np.arange(len(words) + 1),
                ),
            )
            for words, encoding in zip(texts, encodings, strict=True)
        ]

    @cached_property
    def _for_words(self) -> Any:
        """The tokenizer, with a space before a word where spaces are part of tokens."""
        backend = self._tokenizer.backend_tokenizer
        content = json.loads(backend.to_str())
        steps = [content["pre_tokenizer"] or {}]
        while steps:
            step = steps.pop()
            if step.get("type") == "ByteLevel":
                step["add_prefix_space"] = True
            steps += step.get("pretokenizers", [])
        return type(backend).from_str(json.dumps(content))

    def count(self, texts: list[str]) -> NDArray[np.int32]:
        """Return tokens per text, special ones included, before any cut."""
        lengths = [len(ids) + self.n_special for ids in self.content_ids(texts)]
        return np.array(lengths, dtype=np.int32)

    def cut(
        self, content: Ids, max_length: int | None, stride: int | None
    ) -> list[Ids]:
        """Return the pieces of a text's tokens that are run, without special tokens.

        One piece where `stride` is None; else windows that share `stride` tokens.
        """
        if max_length is None or len(content) + self.n_special <= max_length:
            return [content]
        room = max_length - self.n_special
        if stride is None:
            start = len(content) - room if self._keeps_end else 0
            return [content[start : start + room]]
        starts = range(0, len(content) - stride, room - stride)
        return [content[start : start + room] for start in starts]

    def check_lengths(self, max_length: int | None, stride: int | None) -> None:
        """Refuse a limit under which nothing is left of a text, or windows stand."""
        if max_length is None:
            return
        room = max_length - self.n_special
        if room < 1:
            raise ValueError(
                f"max_length={max_length} leaves no room for text: this encoder "
                f"adds {self.n_special} special tokens; pass at least "
                f"{self.n_special + 1}."
            )
        if stride is not None and stride >= room:
            raise ValueError(
                f"stride={stride} must be smaller than max_length less the "
                f"special tokens ({room}), else windows do not advance."
            )

    def count_windows(
        self, texts: list[str], max_length: int | None, stride: int
    ) -> list[int]:
        """Return the windows of each text, one for those that are not cut."""
        self.check_lengths(max_length, stride)
        contents = self.content_ids(texts)
        return [len(self.cut(ids, max_length, stride)) for ids in contents]

    def windows(
        self, text: str, max_length: int | None, stride: int, n_skipped: int
    ) -> tuple[str, ...]:
        """Return the parts of a text that its windows show, spaces and all.

        The first `n_skipped` characters, a prompt, are left out. A tokenizer that does
        not know where its tokens stand writes them anew.
        """
        self.check_lengths(max_length, stride)
        text = _without_surrogates(text)
        ids = self.content_ids([text])[0]
        windows = self.cut(np.arange(len(ids)), max_length, stride)
        if len(windows) == 1:
            return (text[n_skipped:],)
        if not self._tokenizer.is_fast:
            parts = (self._tokenizer.decode(ids[w].tolist()) for w in windows)
            return tuple(map(str, parts))
        (encoding,) = self._tokenizer.backend_tokenizer.encode_batch(
            [text], add_special_tokens=False
        )
        starts = [max(n_skipped, encoding.offsets[w[0]][0]) for w in windows]
        ends = [encoding.offsets[w[-1]][1] for w in windows]
        starts[0], ends[-1] = n_skipped, len(text)
        return tuple(text[a:b] for a, b in zip(starts, ends, strict=True))

    def n_excluded(self, prompt: str) -> int:
        """Return how many first tokens a prompt that never counts takes up."""
        return len(self.prefix) + len(self.content_ids([prompt])[0]) if prompt else 0

    def tokens(
        self,
        text: str,
        max_length: int | None,
        *,
        special: bool,
        excluded_prompt: str = "",
    ) -> tuple[str, ...]:
        """Return the tokens of a text that count, as the tokenizer writes them."""
        (content,) = self.cut(self.content_ids([text])[0], max_length, None)
        n_suffix = 0 if special else len(self.suffix)
        start = max(
            self.n_excluded(excluded_prompt), 0 if special else len(self.prefix)
        )
        ids = self.surround(content)[start:]
        ids = ids[: len(ids) - n_suffix]
        return tuple(self._tokenizer.convert_ids_to_tokens(ids.tolist()))

    def surround(self, content: Ids) -> Ids:
        """Return content tokens with the special tokens around them."""
        return np.concatenate([self.prefix, content, self.suffix])


def _load(checkpoint: Checkpoint) -> Any:
    try:
        with QUIET:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                checkpoint.directory,
                trust_remote_code=checkpoint.trust_remote_code,
                local_files_only=True,
            )
    except (OSError, KeyError, ValueError, RuntimeError, ImportError) as error:
        raise ValueError(
            f"The tokenizer of model={checkpoint.name!r} cannot be loaded from "
            f"{checkpoint.directory}: {error}"
        ) from error
    if tokenizer.is_fast:
        # Some checkpoints carry a fixed length and padding of their own.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        if checkpoint.declared.lower_case:
            from tokenizers.normalizers import Lowercase, Sequence

            normalizer = tokenizer.backend_tokenizer.normalizer
            steps = [Lowercase()] if normalizer is None else [Lowercase(), normalizer]
            tokenizer.backend_tokenizer.normalizer = Sequence(steps)
    elif checkpoint.declared.lower_case:
        tokenizer.do_lower_case = True
    return tokenizer


def _without_surrogates(text: str) -> str:
    """Replace lone surrogates, which no tokenizer takes, by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _silence() -> Callable[[], None]:
    from transformers.utils import logging as untyped

    logging: Any = untyped
    level, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    def restore() -> None:
        logging.set_verbosity(level)
        if has_bar:
            logging.enable_progress_bar()

    return restore


QUIET = ProcessWide(_silence)
"""Within it transformers shows neither its load report nor progress bars."""
