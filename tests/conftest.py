"""Fixtures that every test file shares; nothing here needs a network."""

import csv
import gzip
import os

# Read once, when transformers or tokenizers are first imported. A job that tests the
# hub sets HF_HUB_OFFLINE=0 itself.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable

import labelled
import pytest

from sklearn_bert import features
from sklearn_bert.datasets import make_tiny_encoder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a random BERT of two layers and width 32."""
    return make_tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def work() -> Callable[[], features.Work]:
    """Return a function that tells what was encoded here since the test began."""
    before = features.WORK.copy()
    return lambda: features.WORK.since(before)


@pytest.fixture(autouse=True)
def forget_earlier_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep one test's texts from counting towards another's "third time" warning."""
    monkeypatch.setattr(features, "_encoded_before", {})
    monkeypatch.setattr(features, "_has_noticed", False)
    monkeypatch.setattr(features, "_told", set())
    # Whether a half precision is slow depends on the machine that runs the tests.
    monkeypatch.setattr(features, "_has_warned", {"bfloat16", "float16"})


@pytest.fixture(scope="session")
def read_data() -> Callable[..., tuple[list[str], list[str]]]:
    """Return a function that reads real labelled texts, or skips where there are none.

    ``read_data("mr/mr.csv.gz", n=200)`` gives the first 200 texts and their labels;
    ``split="te"`` keeps the rows of one split. The files are no part of the project.
    """

    def read(
        name: str, *, n: int | None = None, split: str | None = None
    ) -> tuple[list[str], list[str]]:
        path = labelled.find(name)
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = [r for r in csv.DictReader(file) if split in (None, r.get("split"))]
        return [r["text"] for r in rows[:n]], [r["label"] for r in rows[:n]]

    return read
