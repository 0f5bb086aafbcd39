"""Where labelled texts are, if anywhere; they are no part of the project."""

import os
from pathlib import Path

import pytest

DATA = Path(
    os.environ.get("SKLEARN_BERT_DATA")
    or Path(__file__).resolve().parents[2] / "shared" / "data"
)


def find(name: str) -> Path:
    """Return the path of a file of labelled texts, or skip the test that needs it."""
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"no {path}: point SKLEARN_BERT_DATA at the labelled texts")
    return path
