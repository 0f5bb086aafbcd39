"""Any text in any container under any parameters: right, or an error with the row."""

import re

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from processes import IS_LONG
from test_damage import within

from sklearn_bert import BertVectorizer
from sklearn_bert.request import keys_of

ODD = [
    *["", " ", "\x00", "a\x00b", "\ud800", "a\udfffb", "\udc80\ud800", "\ufeffa"],
    *["\u200b", "مرحبا", "\u202eab\u202c", "e\u0301\u0327", "👩\u200d👧", "ﷺ", "İ"],
    *["\u1112\u1161", "[CLS]", "[MASK] a [SEP]", "\r\n\t\v\f", "\u2028"],
    *["a" * 700, "字" * 300],
]
TEXT = st.one_of(st.sampled_from(ODD), st.text(st.characters(codec=None), max_size=40))
MISSING = [None, float("nan"), pd.NA]
NO_TEXT = [3, b"bytes", 1.5, ["list"], True]
CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "object array": lambda texts: _object_array(texts),
    "column of objects": lambda texts: _object_array(texts)[:, np.newaxis],
    "str array": np.array,
    "pandas": lambda texts: pd.Series(texts, index=range(3, 3 + len(texts))),
    "pandas objects": lambda texts: pd.Series(texts, dtype=object),
    "pandas frame": lambda texts: pd.DataFrame({"a": _object_array(texts)}),
    "polars": lambda texts: pl.Series(texts, dtype=pl.String),
    "polars frame": lambda texts: pl.DataFrame(
        {"a": pl.Series(texts, dtype=pl.String)}
    ),
}
PARAMETERS = st.fixed_dictionaries(
    {
        "layer": st.sampled_from([-1, 0, [0, 2], "all"]),
        "pooling": st.sampled_from(
            ["mean", "cls", "max", "attention", "mean_sqrt_len", ["cls", "max"]]
        ),
        "special_tokens": st.booleans(),
        "normalize": st.booleans(),
        "max_length": st.sampled_from([None, 5, 64]),
        "overflow": st.sampled_from(["truncate", "chunk"]),
        "stride": st.just(1),
        "prompt": st.sampled_from([None, "query: "]),
        "batch_size": st.sampled_from(["auto", 1, 3]),
    }
).filter(lambda given: given["pooling"] != "attention" or given["layer"] == -1)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*were cut", "ignore:.*encoded for the third time"
)
many = settings(
    max_examples=300 if IS_LONG else 30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def _object_array(texts):
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def contained(kind, texts):
    """Return texts in a container, and as it gives them back; None if it refuses."""
    try:
        container = CONTAINERS[kind](texts)
    except (UnicodeError, TypeError, ValueError):  # lone surrogates in Arrow's UTF-8
        return None
    if kind == "str array":  # NumPy cuts NULs at the end
        return container, [str(text) for text in container]
    return container, texts


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("memory")


@many
@given(
    texts=st.lists(TEXT, min_size=1, max_size=6),
    kind=st.sampled_from(sorted(CONTAINERS)),
    parameters=PARAMETERS,
    keeps=st.booleans(),
)
def test_any_texts_in_any_container_equal_each_text_alone(
    tiny, place, texts, kind, parameters, keeps
):
    both = contained(kind, texts)
    if both is None:
        return
    container, given_back = both
    with within(60):
        memory = place if keeps else None
        found = BertVectorizer(tiny, memory=memory, **parameters).fit_transform(
            container
        )
        assert len(found) == len(texts)
        alone = BertVectorizer(tiny, **parameters)
        for row, text in zip(found, given_back, strict=True):
            np.testing.assert_allclose(row, alone.fit_transform([text])[0], atol=2e-5)


@many
@given(
    texts=st.lists(TEXT, min_size=1, max_size=5),
    row=st.integers(0, 5),
    what=st.sampled_from([*MISSING, *NO_TEXT]),
    kind=st.sampled_from(["list", "tuple", "iterator", "object array"]),
)
def test_what_is_no_text_is_an_error_that_names_its_row(tiny, texts, row, what, kind):
    row = min(row, len(texts))
    mixed = [*texts[:row], what, *texts[row:]]
    with pytest.raises((TypeError, ValueError), match=rf"in row {row}\b"):
        BertVectorizer(tiny).fit(CONTAINERS[kind](mixed))


@pytest.mark.parametrize("what", MISSING, ids=str)
def test_missing_texts_read_as_empty_are_empty_texts(tiny, what):
    vectorizer = BertVectorizer(tiny, missing="empty")
    found = vectorizer.fit_transform(["a", what, ""])
    np.testing.assert_array_equal(found[1], found[2])


@many
@given(st.lists(TEXT, min_size=2, max_size=20, unique=True))
def test_distinct_texts_have_distinct_keys(texts):
    words = [tuple(text.split(" ")) for text in texts]
    keys = keys_of([*texts, *words], "").tolist()
    keys += keys_of(texts, "truncate 5").tolist()
    assert len(set(keys)) == 2 * len(texts) + len(set(words))


def test_very_many_empty_texts_are_encoded_once(tiny, tmp_path, work, scale, figures):
    n_texts = scale(10_000, 1_000_000)
    found = BertVectorizer(tiny, memory=tmp_path).fit_transform([""] * n_texts)
    assert found.shape == (n_texts, 32)
    assert (found == found[0]).all()
    assert work().n_texts == 1
    figures({"texts": n_texts, "encoded": 1})


@pytest.mark.parametrize("overflow", ["truncate", "chunk"])
def test_a_very_long_text_is_read_to_its_end(tiny, tmp_path, scale, figures, overflow):
    n_bytes = scale(50_000, 10_000_000 if overflow == "truncate" else 1_000_000)
    text = "ab " * (n_bytes // 3)
    vectorizer = BertVectorizer(
        tiny, memory=tmp_path, overflow=overflow, max_length=64, pooling="max"
    )
    found = vectorizer.fit_transform([text + "z", "short"])
    plain = vectorizer.fit_transform([text, "short"])
    np.testing.assert_allclose(found[1], plain[1], atol=1e-5)
    # Cut, the last letter is not seen; in windows, it is.
    assert (np.abs(found[0] - plain[0]).max() < 1e-5) == (overflow == "truncate")
    np.testing.assert_array_equal(vectorizer.transform([text]), plain[:1])
    figures({"bytes": n_bytes})


def test_a_text_too_long_is_an_error_that_names_its_row(tiny, scale):
    texts = ["short", "short", "long " * scale(10_000, 2_000_000)]
    vectorizer = BertVectorizer(tiny, overflow="raise", max_length=64)
    message = re.compile(r"longer than max_length=64 tokens \(first in row 2, longest")
    with pytest.raises(ValueError, match=message):
        vectorizer.fit_transform(texts)
