"""scikit-learn's checks feed numbers: estimators that spell them out as words.

An adapter has `SpellsNumbers` before the real class and takes its `__init__` from
`with_default_model`; it changes nothing else. Import `numeric_encoder` beside it.
"""

import shutil
import tempfile
from pathlib import Path
from types import FunctionType
from uuid import uuid4

import pytest
from sklearn.utils.validation import validate_data
from threadpoolctl import threadpool_limits

from sklearn_bert.datasets import make_tiny_encoder

# Named now, as checks are collected with an instance; written when the first test runs.
NUMERIC_ENCODER = str(Path(tempfile.gettempdir()) / f"sklearn_bert-{uuid4().hex}")


@pytest.fixture(scope="module", autouse=True)
def numeric_encoder():
    make_tiny_encoder(NUMERIC_ENCODER)
    # At this size, threads cost each other more time than they save.
    with threadpool_limits(1):
        yield
    shutil.rmtree(NUMERIC_ENCODER)


def with_default_model(init):
    """Copy an `__init__`, with all its parameters, under another default model."""
    changed = FunctionType(
        init.__code__, init.__globals__, "__init__", (NUMERIC_ENCODER,)
    )
    changed.__kwdefaults__ = init.__kwdefaults__
    return changed


class SpellsNumbers:
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = False
        tags.input_tags.one_d_array = False
        tags.input_tags.two_d_array = True
        return tags

    def _read_texts(self, X, *, is_fit):
        X = validate_data(self, X, reset=is_fit)
        return super()._read_texts(
            [" ".join(f"{number:.1f}" for number in row) for row in X], is_fit=is_fit
        )
