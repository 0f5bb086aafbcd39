"""Several rows per text: in memory, in a spool, and in the store."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import SPACE, keys_of

from sklearn_bert import store as store_module
from sklearn_bert.ragged import Ragged, Spool, expand, join, starts_of
from sklearn_bert.store import FeatureStore, StoreWarning, store_location

COUNTS = st.lists(st.integers(0, 5), min_size=1, max_size=12).map(np.array)
COLUMN, LAYERS = "tokens", (1, 3)


def ragged(counts, seed=0, shape=(2,), dtype=np.float32):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(int(np.sum(counts)), *shape)).astype(dtype)
    return Ragged.end_to_end(values, counts)


def same(a, b):
    return len(a) == len(b) and all(
        np.array_equal(x, y) for x, y in zip(a, b, strict=True)
    )


# In memory


@given(COUNTS, st.randoms(use_true_random=False))
def test_some_texts_have_the_rows_that_they_had(counts, random):
    whole = ragged(counts)
    which = np.array([random.randrange(len(counts)) for _ in range(7)])
    assert same(whole[which], [list(whole)[i] for i in which])
    together = np.concatenate([list(whole)[i] for i in which])
    np.testing.assert_array_equal(whole[which].rows, together)


@given(COUNTS, st.integers(1, 9), st.integers(0, 3))
def test_batches_are_every_text_once_with_its_rows(counts, n_rows, n_repeated):
    # Equal texts share their rows.
    whole = ragged(counts)[np.r_[np.arange(len(counts)), : n_repeated % len(counts)]]
    seen = []
    for which, rows in whole.batches(n_rows):
        seen += which.tolist()
        np.testing.assert_array_equal(rows, whole[which].rows)
        last = whole.counts[which[-1]]
        assert len(which) == 1 or len(rows) - last < n_rows + last
    assert sorted(seen) == list(range(len(whole)))


def test_rows_that_lie_in_order_are_not_copied():
    whole = ragged([2, 0, 3])
    assert np.shares_memory(whole.rows, whole.values)
    assert all(np.shares_memory(rows, whole.values) for _, rows in whole.batches(2))


def test_starts_and_expand_undo_each_other():
    counts = np.array([3, 0, 2])
    np.testing.assert_array_equal(expand(starts_of(counts), counts), np.arange(5))


@pytest.mark.parametrize("max_bytes", [10**9, 40, 0])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_spool_gives_back_what_came_in_any_order(max_bytes, dtype):
    whole = ragged([2, 0, 3, 1, 4], shape=(2, 3), dtype=dtype)
    spool = Spool(5, max_bytes)
    for which in ([3], [4, 0], [1, 2]):
        part = whole[np.array(which)]
        spool.add(np.array(which), Ragged.end_to_end(part.rows, part.counts))
    result = spool.finish()
    assert same(result, whole)
    assert isinstance(result.values, np.memmap) == (max_bytes < 10**9)
    assert result.values.dtype == dtype


@pytest.mark.parametrize("max_bytes", [10**9, 0])
def test_a_spool_of_no_rows_is_texts_without_rows(max_bytes):
    spool = Spool(2, max_bytes)
    assert [len(rows) for rows in spool.finish()] == [0, 0]


# In the store


@pytest.fixture
def store(tmp_path):
    return FeatureStore(store_location(tmp_path), SPACE)


def values_of(name, dtype=np.float32):
    """Return the rows of one text: the number of them and their values follow it."""
    n_rows = name * 7 % 5  # some have none
    rng = np.random.default_rng(name)
    return rng.normal(size=(len(LAYERS), n_rows, 24)).astype(dtype)


def append(store, names, dtype=np.float32):
    parts = [values_of(name, dtype) for name in names]
    counts = np.array([part.shape[1] for part in parts])
    columns = {COLUMN: (LAYERS, np.concatenate(parts, axis=1))}
    return store.append(
        keys_of(names), np.arange(len(names), dtype=np.int32), columns, counts
    )


def check(store, names, dtype=np.float32, layers=LAYERS):
    names = list(names)
    hits = store.find(keys_of(names), {COLUMN: layers})[COLUMN]
    assert hits.found.all()
    out = np.empty((hits.n_rows.sum(), len(layers), 24), dtype=dtype)
    assert store.read(hits, np.arange(len(names)), COLUMN, layers, out)
    expected = [values_of(n, dtype)[[LAYERS.index(k) for k in layers]] for n in names]
    expected = np.concatenate(expected, axis=1)
    np.testing.assert_array_equal(out, expected.swapaxes(0, 1))


def reopened(store):
    store_module._warned.clear()
    fresh = FeatureStore(store.directory.parents[1], SPACE)
    fresh.reopen()
    return fresh


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_come_back_bit_for_bit_in_any_order(store, dtype):
    append(store, range(40), dtype)
    for view in (store, reopened(store)):
        check(view, range(40), dtype)
        check(view, [17, 3, 3, 0, 39, 5], dtype, layers=(3,))


def test_texts_without_any_row_are_found(store):
    append(store, [0, 5, 10])
    check(reopened(store), [10, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_merged_shards_hold_the_same_rows(store, monkeypatch, dtype):
    monkeypatch.setattr(store_module, "_MERGE_AT", 2)
    for start in range(0, 60, 6):
        append(store, range(start, start + 9), dtype)  # neighbours overlap
    before = store.info()["n_shards"]
    store.merge()
    assert store.info()["n_shards"] < before
    check(store, range(63), dtype)
    check(reopened(store), range(63), dtype)


def test_shards_of_one_row_and_of_several_are_not_merged_with_each_other(
    store, monkeypatch
):
    monkeypatch.setattr(store_module, "_MERGE_AT", 2)
    names = range(1, 5)
    append(store, names)
    ones = np.ones((2, 4, 24), dtype=np.float32)
    store.append(keys_of(names), np.ones(4, np.int32), {"mean": (LAYERS, ones)})
    assert store.merge() == 0
    check(store, names)


def test_the_files_are_what_numpy_reads(store):
    path = store.directory / append(store, range(6), np.float16)
    counts = np.load(path / "n_rows.npy", allow_pickle=False)
    values = np.load(path / f"{COLUMN}.npy", allow_pickle=False)
    assert values.dtype == np.float16
    assert values.shape == (2, counts.sum(), 24)


@pytest.mark.parametrize("mask", [0x01, 0xFF])
def test_no_flipped_byte_of_the_counts_goes_unnoticed(store, mask):
    file = store.directory / append(store, range(3)) / "n_rows.npy"
    good = file.read_bytes()
    for i in range(len(good)):
        file.write_bytes(good[:i] + bytes([good[i] ^ mask]) + good[i + 1 :])
        with pytest.warns(StoreWarning, match=r"n_rows.npy does not match"):
            view = reopened(store)
        assert not view.find(keys_of(range(3)), {COLUMN: LAYERS})[COLUMN].found.any()
    file.write_bytes(good)
    check(reopened(store), range(3))


def test_counts_that_are_gone_are_a_warning_and_a_miss(store):
    (store.directory / append(store, range(3)) / "n_rows.npy").unlink()
    with pytest.warns(StoreWarning, match=r"left out"):
        view = reopened(store)
    assert not view.find(keys_of(range(3)), {COLUMN: LAYERS})[COLUMN].found.any()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=20))
def test_any_texts_in_any_order_are_read(names):
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        store = FeatureStore(store_location(directory), SPACE)
        for start in (0, 11, 22):
            append(store, range(start, start + 11))
        check(store, names)


@pytest.mark.parametrize("how", ["mean", "max", "first"])
def test_rows_are_joined_text_by_text_in_any_order(how):
    values = np.random.default_rng(0).normal(size=(9, 2, 3))
    rows = Ragged(values, np.array([4, 0, 4, 8]), np.array([3, 4, 3, 1]))
    naive = {"mean": np.mean, "max": np.max, "first": lambda part, axis: part[0]}[how]
    expected = [naive(part, axis=0) for part in rows]
    np.testing.assert_allclose(join(rows, how), expected)
