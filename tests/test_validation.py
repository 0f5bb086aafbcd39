"""Labels from any container, of which none may be missing."""

from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sklearn_bert._validation import check_choice, check_labels, check_several_classes

NAN = float("nan")


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        ([True, False], [True, False]),
        ([[0, 1], [1, 1]], [[0, 1], [1, 1]]),
        ([0.5, 2], [0.5, 2.0]),
        (pd.Series(["a", "b"], dtype="string"), ["a", "b"]),
        (pd.Series([1, 2], dtype="Int64"), [1, 2]),
        (pd.Series(["a", "b"], dtype="category"), ["a", "b"]),
        (pd.DataFrame({"y": ["a", "b"]}), [["a"], ["b"]]),
        (sparse.csr_matrix([[0, 1], [1, 0]]), [[0, 1], [1, 0]]),
        ([], []),
        (np.array([], dtype=object), []),
        (pd.Series([], dtype=object), []),
        (np.empty((0, 3), dtype=object), []),
        (np.ma.array([1, 2], mask=[False, False]), [1, 2]),
    ],
)
def test_labels_are_read_from_any_container(y, expected):
    assert check_labels(y).tolist() == expected


@pytest.mark.parametrize("missing", [None, NAN, np.nan, pd.NA, pd.NaT])
@pytest.mark.parametrize(
    "make",
    [
        list, tuple, np.array, lambda y: [[label] for label in y],
        lambda y: pd.Series(y, dtype=object), lambda y: pd.DataFrame({"y": y}),
        lambda y: pd.Series(y, dtype="category"),
        lambda y: pd.Series(y, dtype="string"),
    ],
)  # fmt: skip
def test_a_missing_label_is_named_by_its_row(make, missing):
    y = make(["a", "b", missing, "a"])
    if isinstance(y, np.ndarray) and y.dtype.kind == "U":
        pytest.skip("it is the text 'nan' already")
    with pytest.raises(ValueError, match=r"missing label .* first in row 2\. Leave"):
        check_labels(y)


@pytest.mark.parametrize(
    "y",
    [
        np.array([0, 1, NAN]), np.array([[0, 1], [1, 0], [1, np.inf]]),
        pd.Series([0, 1, None]),
    ],
)  # fmt: skip
def test_a_missing_number_is_named_by_its_row(y):
    with pytest.raises(ValueError, match=r"NaN or infinity, first in row 2"):
        check_labels(y)


@pytest.mark.parametrize(
    ("y", "row"),
    [
        (np.ma.array([0, 1, 2], mask=[False, True, False]), 1),
        ([0, 1, np.ma.masked], 2), (np.ma.masked, 0),
        ([np.array([1, 1]), np.ma.array([0, 1], mask=[False, True])], 1),
        ([["a"], [np.ma.masked], ["b"]], 1), ([[0, 1], [1, np.ma.masked]], 1),
        (np.array(["a", np.ma.masked], dtype=object), 1),
    ],
)  # fmt: skip
def test_a_masked_label_is_a_missing_label(y, row):
    with pytest.raises(ValueError, match=rf"missing label \(.*\), first in row {row}"):
        check_labels(y)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy before 2.0")
def test_labels_may_be_strings_of_any_length():
    kind = np.dtypes.StringDType(na_object=None)
    y = check_labels(np.array(["a", "bcd"], dtype=kind))
    assert y.dtype == np.dtype("<U3")
    assert y.tolist() == ["a", "bcd"]
    assert check_labels(np.empty((0, 2), dtype=kind)).shape == (0, 2)
    with pytest.raises(ValueError, match=r"missing label \(None\), first in row 1"):
        check_labels(np.array(["a", None], dtype=kind))


def test_a_missing_date_is_a_missing_label():
    with pytest.raises(ValueError, match=r"missing label \(None\), first in row 1"):
        check_labels([datetime(2026, 1, 1), None])


@pytest.mark.parametrize(
    ("y", "found"),
    [([3, 3], "one class: 3"), (["a"], "one class: 'a'"), ([], "no lab")],
)
def test_fewer_than_two_classes_are_refused(y, found):
    with pytest.raises(ValueError, match=rf"y needs at least two classes, got {found}"):
        check_several_classes(np.array(y))
    with pytest.raises(ValueError, match=rf"me needs at .* classes in y, got {found}"):
        check_several_classes(np.array(y), "me")


def test_an_unknown_choice_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"got 'meen'\. Did you mean 'mean'\?"):
        check_choice("pooling", "meen", ["cls", "mean", None])
    with pytest.raises(ValueError, match=r"got 'luck'\.$"):
        check_choice("pooling", "luck", ["cls", "mean", None])
    with pytest.raises(ValueError, match=r"got 3\.$"):
        check_choice("pooling", 3, ["cls", "mean", None])
