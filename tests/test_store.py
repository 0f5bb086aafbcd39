"""The store is a dictionary on disk that may lose and never lies; no torch here."""

import datetime
import errno
import io
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
import rows
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from rows import BOTH, MEAN, SPACE, append, compute, found, keys_of

from sklearn_bert import claims as claims_module
from sklearn_bert import shard as shard_module
from sklearn_bert import store as store_module
from sklearn_bert.store import FeatureStore, StoreWarning, store_location

FILES = [
    "checksums.npy", "cls.npy", "header.json", "keys.npy", "mean.npy", "n_tokens.npy",
    "output.pkl",
]  # fmt: skip
TEN_DAYS = 10 * 86400


@pytest.fixture
def location(tmp_path):
    return store_location(tmp_path)


@pytest.fixture
def store(location):
    return FeatureStore(location, SPACE)


def reopened(store):
    """Return the same store as another process sees it, which has warned of nothing."""
    store_module._warned.clear()
    fresh = FeatureStore(store.directory.parents[1], SPACE)
    fresh.reopen()
    return fresh


def shards_of(store):
    return sorted(p for p in store.directory.iterdir() if len(p.name) == 32)


def shard_of(store, names, wanted=MEAN):
    """Append names as one shard and return its directory."""
    before = set(shards_of(store) if store.directory.is_dir() else [])
    append(store, names, wanted)
    (path,) = set(shards_of(store)) - before
    return path


def last_access(path):
    return os.stat(path / "output.pkl").st_atime


def make_old(path, seconds=TEN_DAYS):
    """Set back the times of a file, or of a directory and what is in it."""
    then = time.time() - seconds
    for each in [path, *path.rglob("*")]:
        os.utime(each, (then, then))


def start(*arguments):
    """Run rows.py in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", rows.__file__, *map(str, arguments)],
        # Threads of a linear algebra library would make forking a warning.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


# A dictionary


def test_rows_come_back_bit_for_bit_in_any_order(store):
    append(store, range(1000), BOTH)
    shuffled = np.random.default_rng(0).permutation(1500)
    has = found(store, shuffled, BOTH)
    assert (has["mean"] == (shuffled < 1000)).all()
    assert (has["cls"] == (shuffled < 1000)).all()


def test_a_row_asked_for_twice_is_found_twice(store):
    append(store, range(3))
    assert found(store, [1, 1, 2, 9, 1])["mean"].tolist() == [1, 1, 1, 0, 1]


@pytest.mark.parametrize("n_shards", [1, 40])
def test_rows_in_the_order_on_disk_are_every_row_once(store, n_shards):
    for i in range(n_shards):
        append(store, range(50 * i, 50 * (i + 1)))
    hits = store.find(keys_of(range(50 * n_shards)), MEAN)["mean"]
    which = np.arange(0, 50 * n_shards, 3)
    order = hits.order(which)
    assert sorted(which[order]) == which.tolist()
    assert (np.diff(hits._shard[which[order]]) >= 0).all()


def test_nothing_is_found_in_an_empty_store_or_for_no_keys(store):
    store.reopen()
    assert not found(store, range(3))["mean"].any()
    append(store, [1])
    assert len(found(store, [])["mean"]) == 0


def test_appending_nothing_makes_no_shard(store):
    assert append(store, []) is None
    assert store.info()["n_shards"] == 0


@pytest.mark.parametrize("wanted", [{"mean": (0, 3)}, {"max": (0,)}])
def test_a_column_or_layer_that_was_not_stored_is_not_found(store, wanted):
    append(store, range(3))
    assert not found(store, range(3), wanted)[next(iter(wanted))].any()


def test_columns_of_a_row_may_lie_in_different_shards(store):
    append(store, range(5), MEAN)
    append(store, range(3, 8), {"cls": (0, 2)})
    has = found(store, range(8), {"mean": (1,), "cls": (2,)})
    assert has["mean"].tolist() == [True] * 5 + [False] * 3
    assert has["cls"].tolist() == [False] * 3 + [True] * 5


def test_only_the_named_shards_are_looked_in(store):
    paths = [shard_of(store, [i]) for i in range(3)]
    hits = store.find(keys_of(range(3)), MEAN, among=[paths[1].name, "gone"])
    assert hits["mean"].found.tolist() == [False, True, False]


def test_refresh_tells_what_others_wrote_from_what_was_known(store, location):
    other = FeatureStore(location, SPACE)
    seen = store.refresh() | {append(store, [1])}
    theirs = append(other, [2])
    assert store.refresh() - seen == {theirs}
    assert store.refresh() == seen | {theirs}


def test_spaces_share_nothing(location):
    append(FeatureStore(location, SPACE), range(3))
    other = FeatureStore(location, "v1-other")
    other.reopen()
    assert not found(other, range(3))["mean"].any()


def test_a_space_must_not_look_like_a_cache_item(location):
    with pytest.raises(ValueError, match=r"must not look like a shard, got 'aaa"):
        FeatureStore(location, "a" * 32)


def test_facts_for_people_lie_beside_the_shards(location):
    store = FeatureStore(location, SPACE, {"model": "some/name"})
    with store.claim(keys_of([1]), 1):
        append(store, [1])
    about = json.loads((store.directory / "about.json").read_text())
    assert about == {"model": "some/name"}


KEYS = st.one_of(
    st.integers(0, 40).map(lambda i: keys_of([i])[0].ljust(16, b"\0")),
    st.sampled_from([b"\0" * 16, b"a" + b"\0" * 15, b"\0" * 15 + b"a", b"\xff" * 16]),
)


class StoreAsDictionary(RuleBasedStateMachine):
    """Two processes' views of a store against one dictionary."""

    def __init__(self, base):
        super().__init__()
        self.location = base / str(len(list(base.iterdir())))
        self.location.mkdir()
        self.rows = {column: set() for column in BOTH}

    @initialize()
    def open(self):
        self.views = [FeatureStore(self.location, SPACE) for _ in range(2)]

    @rule(
        view=st.integers(0, 1),
        keys=st.lists(KEYS, unique=True, max_size=12),
        wanted=st.sampled_from([MEAN, BOTH]),
    )
    def append(self, view, keys, wanted):
        append(self.views[view], np.array(keys, dtype="S16"), wanted)
        for column in wanted:
            self.rows[column] |= set(keys)

    @rule(view=st.integers(0, 1), keys=st.lists(KEYS, min_size=1, max_size=30))
    def look_up(self, view, keys):
        store = self.views[view]
        store.refresh()
        has = found(store, np.array(keys, dtype="S16"), BOTH)
        for column in BOTH:
            assert has[column].tolist() == [key in self.rows[column] for key in keys]

    @rule(view=st.integers(0, 1))
    def merge(self, view):
        self.views[view].merge()

    @rule(view=st.integers(0, 1))
    def reopen(self, view):
        self.views[view] = FeatureStore(self.location, SPACE)
        self.views[view].reopen()

    @rule()
    def clear(self):
        shutil.rmtree(self.location / "sklearn_bert-features", ignore_errors=True)
        self.rows = {column: set() for column in BOTH}

    @invariant()
    def counts(self):
        if hasattr(self, "views"):
            n_keys = len(set().union(*self.rows.values()))
            assert self.views[0].info()["n_keys"] == n_keys


def test_a_store_is_a_dictionary(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_MERGE_AT", 2)
    run_state_machine_as_test(
        lambda: StoreAsDictionary(tmp_path),
        settings=settings(
            max_examples=20,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("width", [1, 3, 4096, 5000])
def test_any_width_is_stored_in_whole_rows(store, width):
    values = np.random.default_rng(0).standard_normal((2, 30, width), dtype=np.float32)
    keys = keys_of(range(30))
    store.append(keys, np.ones(30, np.int32), {"max": ((4, 7), values)})
    hits = reopened(store).find(keys, {"max": (7,)})["max"]
    out = np.empty((30, 1, width), dtype=np.float32)
    assert store.read(hits, np.arange(30), "max", (7,), out)
    np.testing.assert_array_equal(out[:, 0], values[1])


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_any_part_of_a_large_shard_is_read_right(store, share):
    n, width = 300, 4096  # a block per row: more blocks than are read at once
    values = np.random.default_rng(0).standard_normal((1, n, width), dtype=np.float32)
    keys = keys_of(range(n))
    store.append(keys, np.ones(n, np.int32), {"max": ((0,), values)})
    which = np.random.default_rng(1).permutation(n)[: int(share * n)]
    hits = store.find(keys, {"max": (0,)})["max"]
    out = np.empty((len(which), 1, width), dtype=np.float32)
    assert store.read(hits, which, "max", (0,), out)
    np.testing.assert_array_equal(out[:, 0], values[0, which])
    which = which[hits.order(which)]  # where neighbours are copied as one
    assert store.read(hits, which, "max", (0,), out)
    np.testing.assert_array_equal(out[:, 0], values[0, which])


def test_a_row_in_several_shards_hides_no_other(store):
    for names in (range(4), range(4), range(4, 6)):
        append(store, names)
    assert found(store, range(6))["mean"].all()
    assert found(store, range(5))["mean"].all()


# What lies on disk


def test_a_shard_is_plain_npy_files(store):
    path = shard_of(store, range(20), BOTH)
    assert sorted(os.listdir(path)) == FILES
    keys = np.load(path / "keys.npy", allow_pickle=False)
    assert (keys == np.sort(keys_of(range(20)))).all()
    mean = np.load(path / "mean.npy", mmap_mode="r", allow_pickle=False)
    assert mean.dtype == np.float32
    assert mean.tobytes() == rows.values_of(keys, "mean", (0, 1, 2)).tobytes()
    n_tokens = np.load(path / "n_tokens.npy", allow_pickle=False)
    assert (n_tokens == rows.n_tokens_of(keys)).all()


@pytest.mark.parametrize("shape", [(1,), (7, 100_000, 384), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["<f4", "|S16", "<i4"])
def test_headers_are_what_numpy_reads(tmp_path, dtype, shape):
    raw = shard_module._npy_header(np.dtype(dtype), shape)
    (tmp_path / "x.npy").write_bytes(raw)
    with open(tmp_path / "x.npy", "rb") as stream:
        assert np.lib.format.read_magic(stream) == (1, 0)
        header = np.lib.format.read_array_header_1_0(stream)
        assert stream.tell() == len(raw)
    assert len(raw) % 64 == 0
    assert header == (shape, False, np.dtype(dtype))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux only")
def test_no_file_stays_open(store):
    before = os.listdir("/proc/self/fd")
    for i in range(8):
        with store.claim(keys_of([i]), 1):
            append(store, [i])
    found(store, range(8))
    store.merge()
    found(store, range(8))
    assert len(os.listdir("/proc/self/fd")) == len(before)


# joblib manages it


def test_joblib_counts_exactly_the_shards(tmp_path):
    memory = joblib.Memory(tmp_path, verbose=0)
    store = FeatureStore(store_location(memory), SPACE)
    paths = [shard_of(store, range(i, i + 20)) for i in range(3)]
    with store.claim(keys_of([77]), 1):
        items = {item.path: item.size for item in memory.store_backend.get_items()}
    assert set(items) == set(map(str, paths))
    size = sum(file.stat().st_size for file in paths[0].iterdir())
    assert items[str(paths[0])] == size


def test_searching_does_not_make_shards_young(tmp_path, store):
    # On file systems mounted relatime, listing a directory renews its time of access.
    path = shard_of(store, [1])
    make_old(path)
    memory = joblib.Memory(str(tmp_path), verbose=0)
    for _ in range(2):
        (item,) = memory.store_backend.get_items()
    age = datetime.datetime.now() - item.last_access
    assert abs(age.total_seconds() - TEN_DAYS) < 60


def test_age_limit_spares_what_was_read_lately(tmp_path, store):
    paths = [shard_of(store, [i]) for i in range(3)]
    for path in paths:
        make_old(path)
    store = reopened(store)
    assert found(store, [1])["mean"].all()
    joblib.Memory(str(tmp_path), verbose=0).reduce_size(
        age_limit=datetime.timedelta(days=1)
    )
    assert shards_of(store) == [paths[1]]
    assert found(store, range(3))["mean"].tolist() == [False, True, False]


def test_bytes_limit_evicts_the_least_recently_read(tmp_path, store):
    paths = [shard_of(store, range(100 * i, 100 * i + 100)) for i in range(4)]
    for age, path in zip((40, 30, 20, 10), paths, strict=True):
        make_old(path, 86400 * age)
    size = sum(file.stat().st_size for file in paths[0].iterdir())
    store = reopened(store)
    assert found(store, [0])["mean"].all()  # the oldest becomes the youngest
    joblib.Memory(str(tmp_path), verbose=0).reduce_size(bytes_limit=2 * size)
    assert shards_of(store) == sorted([paths[0], paths[3]])


def test_a_shard_is_stamped_at_most_once_a_minute(store, monkeypatch):
    path = shard_of(store, [1])
    found(store, [1])
    make_old(path)
    found(store, [1])
    assert time.time() - last_access(path) > TEN_DAYS - 60
    now = time.monotonic()
    monkeypatch.setattr(shard_module.time, "monotonic", lambda: now + 61)
    found(store, [1])
    assert time.time() - last_access(path) < 60


def test_clear_empties_the_store_and_it_can_be_filled_again(tmp_path, store):
    append(store, range(3))
    joblib.Memory(str(tmp_path), verbose=0).clear(warn=False)
    store.reopen()
    assert not found(store, range(3))["mean"].any()
    append(store, range(3))
    assert found(store, range(3))["mean"].all()


def test_rows_that_vanish_after_find_are_not_found_again(store, tmp_path):
    append(store, range(3))
    hits = store.find(keys_of(range(3)), MEAN)["mean"]
    joblib.Memory(str(tmp_path), verbose=0).clear(warn=False)
    out = np.empty((3, 3, rows.WIDTH), dtype=np.float32)
    assert not store.read(hits, np.arange(3), "mean", (0, 1, 2), out)
    assert not found(store, range(3))["mean"].any()


def test_clearing_while_a_shard_is_written_loses_nothing(tmp_path, store, monkeypatch):
    memory = joblib.Memory(str(tmp_path), verbose=0)
    write_file = shard_module._write_file
    clears = iter([None, memory.clear])

    def clear_in_between(path, content):
        write_file(path, content)
        if clear := next(clears, None):
            clear(warn=False)

    monkeypatch.setattr(shard_module, "_write_file", clear_in_between)
    assert append(store, range(3))
    assert found(reopened(store), range(3))["mean"].all()


def test_a_shard_that_lost_files_while_written_is_written_again(store, monkeypatch):
    write_file = shard_module._write_file
    losses = iter([None, "mean.npy"])

    def lose(path, content):
        write_file(path, content)
        if name := next(losses, None):
            (path.parent / name).unlink()

    monkeypatch.setattr(shard_module, "_write_file", lose)
    assert append(store, range(3))
    assert found(reopened(store), range(3))["mean"].all()


# Damage


def small(store):
    """Return a shard of 3 rows and one of other rows that stays whole."""
    append(store, ["whole"], BOTH)
    return shard_of(store, range(3), BOTH)


def survivors(store, path, *, n_warnings):
    """Return how many of three damaged rows are found, per column, all right."""
    store = FeatureStore(store.directory.parents[1], SPACE)
    store_module._warned.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store.reopen()
        has = found(store, [0, "whole", 1, 2], BOTH)
        store.refresh()
        assert found(store, [0, 1, 2], BOTH)["mean"].sum() == has["mean"].sum() - 1
    assert all(has[column][1] for column in BOTH)
    assert len(caught) == n_warnings, [str(w.message) for w in caught]
    for warning in caught:
        assert warning.category is StoreWarning
        assert f"{path} are left out" in str(warning.message)
    return {column: int(has[column].sum()) - 1 for column in BOTH}


def is_used(file):
    """Whether a file holds anything that is ever read."""
    return file.name != "output.pkl"


LOST = {"mean": 0, "cls": 0}
KEPT = {"mean": 3, "cls": 3}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mask", [0x01, 0xFF])
def test_no_flipped_byte_goes_unnoticed(store, name, mask):
    file = small(store) / name
    whole = file.read_bytes()
    for i in range(len(whole)):
        flipped = bytearray(whole)
        flipped[i] ^= mask
        file.write_bytes(flipped)
        left = survivors(store, file.parent, n_warnings=int(is_used(file)))
        assert left == (LOST if is_used(file) else KEPT), i


@pytest.mark.parametrize("name", FILES)
def test_no_truncation_goes_unnoticed(store, name):
    file = small(store) / name
    whole = file.read_bytes()
    for i in range(len(whole)):
        file.write_bytes(whole[:i])
        left = survivors(store, file.parent, n_warnings=int(is_used(file)))
        assert left == (LOST if is_used(file) else KEPT), i


def missing(file):
    file.unlink()


def empty(file):
    file.write_bytes(b"")


def huge(file):
    os.truncate(file, 2**40)


def zero_filled(file):
    file.write_bytes(bytes(file.stat().st_size))


def longer(file):
    file.write_bytes(file.read_bytes() + b"\0")


def a_directory(file):
    file.unlink()
    file.mkdir()


def a_dangling_link(file):
    file.unlink()
    file.symlink_to("nowhere")


def an_array_of_objects(file):
    file.unlink()
    with file.open("wb") as stream:
        np.save(stream, np.array([Bomb()], dtype=object), allow_pickle=True)


def an_archive(file):
    with file.open("wb") as stream:
        np.savez(stream, x=np.zeros(3))


class Bomb:
    """Leaves a trace wherever it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (str(Path(rows.__file__).with_name("exploded")),)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        missing, empty, zero_filled, longer, huge, a_directory, a_dangling_link,
        an_array_of_objects, an_archive,
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_warning_and_no_row(store, name, damage):
    file = small(store) / name
    damage(file)
    left = survivors(store, file.parent, n_warnings=int(is_used(file)))
    assert left == (LOST if is_used(file) else KEPT)
    assert not Path(rows.__file__).with_name("exploded").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array.astype(np.float64),
        lambda array: array.astype(">f4"),
        lambda array: array.view("<i4"),
        lambda array: array[:, :2],
        lambda array: array[None],
        lambda array: array.reshape(array.shape[0], -1),
        np.asfortranarray,
        lambda array: array[::-1],
        lambda array: array[:, ::-1],
    ],
)
@pytest.mark.parametrize("name", ["mean.npy", "cls.npy"])
def test_another_array_than_was_written_is_left_out(store, name, change):
    file = small(store) / name
    np.save(file, change(np.load(file)))
    assert survivors(store, file.parent, n_warnings=1) == LOST


@pytest.mark.parametrize(
    "name", [n for n in FILES if n not in ("output.pkl", "cls.npy")]
)
def test_files_swapped_between_shards_are_left_out(store, name):
    one, two = shard_of(store, range(3)), shard_of(store, range(3, 6))
    os.rename(one / name, one.parent / "spare")
    os.rename(two / name, one / name)
    os.rename(one.parent / "spare", two / name)
    with pytest.warns(StoreWarning) as caught:
        assert not found(reopened(store), range(6))["mean"].any()
    assert len(caught) == 2


def test_swapped_columns_are_left_out(store):
    path = shard_of(store, range(3), {"mean": (0, 1), "cls": (0, 1)})
    os.rename(path / "mean.npy", path / "spare")
    os.rename(path / "cls.npy", path / "mean.npy")
    os.rename(path / "spare", path / "cls.npy")
    with pytest.warns(StoreWarning, match=r"does not match its checksum"):
        has = found(reopened(store), range(3), {"mean": (0,), "cls": (0,)})
    assert not has["mean"].any()


def test_a_shard_of_another_space_is_left_out(store, location):
    other = FeatureStore(location, "v1-other")
    foreign = shard_of(other, range(3))
    append(store, [9])
    shutil.copytree(foreign, store.directory / foreign.name)
    with pytest.warns(StoreWarning, match=r"belongs to other features \(v1-other\)"):
        has = found(reopened(store), [0, 1, 2, 9])["mean"]
    assert has.tolist() == [False, False, False, True]


def rewrite_header(path, **changes):
    """Change a header and make its checksum right."""
    content = json.loads((path / "header.json").read_bytes().splitlines()[0])
    for name, value in changes.items():
        if value is None:
            del content[name]
        else:
            content[name] = value
    raw = json.dumps(content).encode()
    (path / "header.json").write_bytes(raw + b"\n%08x\n" % zlib.crc32(raw))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": 99}, r"it has format 99, this version reads 2"),
        ({"columns": {"../x": [0, 1, 2]}}, r"impossible values"),
        ({"columns": {"/etc/passwd": [0]}}, r"impossible values"),
        ({"columns": {"mean\n": [0]}}, r"impossible values"),
        ({"columns": {"mean": ["0"]}}, r"is not a header"),
        ({"columns": [1]}, r"is not a header"),
        ({"columns": {"mean": 3}}, r"is not a header"),
        ({"columns": {"keys": [0, 1, 2]}}, r"is not what header.json says"),
        ({"columns": {"mean": [0, 1, 2], "cls": [0]}}, r"does not match its checksum"),
        ({"n_texts": -1}, r"impossible values"),
        ({"n_texts": 2}, r"impossible values"),
        ({"n_texts": 2, "n_rows": 2}, r"keys.npy is too large"),
        ({"n_texts": "3"}, r"is not a header"),
        ({"n_texts": 10**30, "n_rows": 10**30}, r"does not match its checksum"),
        ({"n_rows": -1}, r"impossible values"),
        ({"n_rows": 4}, r"impossible values"),
        ({"dtype": "<f8"}, r"is not a header"),
        ({"dtype": "<f2"}, r"is not what header.json says"),
        ({"width": 0}, r"impossible values"),
        ({"width": 8}, r"is not what header.json says"),
        ({"width": 10**12}, r"is not what header.json says"),
        ({"n_block_rows": 0}, r"impossible values"),
        ({"n_block_rows": 1}, r"does not match its checksum"),
        ({"crcs": {}}, r"does not match its checksum"),
        ({"crcs": None}, r"is not a header"),
        ({"space": ["v1-rows"]}, r"belongs to other features"),
    ],
)
def test_a_header_that_says_something_else_is_left_out(store, changes, why):
    path = shard_of(store, range(3))
    rewrite_header(path, **changes)
    wanted = {"mean": (0,), "keys": (0,)}
    with pytest.warns(StoreWarning, match=why):
        has = found(reopened(store), range(3), wanted)
    assert not has["mean"].any()
    assert not has["keys"].any()


def test_a_block_may_be_larger_than_its_shard(store):
    rewrite_header(shard_of(store, range(3)), n_block_rows=10**30)
    assert found(reopened(store), range(3))["mean"].all()


@pytest.mark.parametrize("raw", [b"[" * 10**5, b"\xff\xfe", b"null", b"{}", b"1e999"])
def test_a_header_that_is_none_is_left_out(store, raw):
    path = shard_of(store, range(3))
    (path / "header.json").write_bytes(raw + b"\n%08x\n" % zlib.crc32(raw))
    with pytest.warns(StoreWarning, match=r"is not a header"):
        assert not found(reopened(store), range(3))["mean"].any()


@pytest.mark.parametrize("kind", ["file", "link", "empty directory"])
def test_what_only_looks_like_a_shard_is_one_warning(store, kind, tmp_path):
    real = shard_of(store, range(3))
    odd = store.directory / ("f" * 32)
    if kind == "file":
        odd.write_text("")
    elif kind == "link":
        os.rename(real, tmp_path / "elsewhere")
        odd.symlink_to(tmp_path / "elsewhere")
    else:
        odd.mkdir()
    with pytest.warns(StoreWarning, match=f"{odd.name} are left out") as caught:
        store = reopened(store)
    assert len(caught) == 1
    store.reopen()
    assert found(store, range(3))["mean"].all() == (kind != "link")


def test_a_damaged_shard_is_one_warning_per_process(store):
    path = shard_of(store, range(3))
    zero_filled(path / "mean.npy")
    with pytest.warns(StoreWarning) as caught:
        assert not found(reopened(store), range(3))["mean"].any()
    assert len(caught) == 1
    for _ in range(2):
        other = FeatureStore(store.directory.parents[1], SPACE)
        other.reopen()
        assert not found(other, range(3))["mean"].any()


def test_a_planted_pickle_is_never_opened(store):
    import pickle

    path = shard_of(store, range(3))
    for name in ("output.pkl", "mean.pkl", "keys.pkl"):
        (path / name).write_bytes(pickle.dumps(Bomb()))
        (store.directory / name).write_bytes(pickle.dumps(Bomb()))
    assert found(reopened(store), range(3))["mean"].all()
    assert not Path(rows.__file__).with_name("exploded").exists()


def test_a_directory_that_cannot_be_listed_is_empty(store, monkeypatch):
    append(store, range(3))
    monkeypatch.setattr(os, "scandir", refuse)
    store.reopen()
    assert not found(store, range(3))["mean"].any()


def test_a_shard_that_cannot_be_opened_is_one_warning(store, monkeypatch):
    append(store, range(3))
    monkeypatch.setattr(shard_module, "open", refuse, raising=False)
    with pytest.warns(StoreWarning, match=r"refused by a test") as caught:
        store = reopened(store)
    assert len(caught) == 1
    store.reopen()


# Places that cannot be written


def refuse(*args, **kwargs):
    raise PermissionError(errno.EACCES, "refused by a test")


@pytest.mark.parametrize("name", ["mkdir", "rename"])
def test_a_read_only_store_is_one_warning(store, monkeypatch, name):
    monkeypatch.setattr(os, name, refuse)
    with store.claim(keys_of([1]), 1):
        with pytest.warns(StoreWarning, match=r"not kept in .*: .*refused") as caught:
            assert not append(store, [1])
        assert len(caught) == 1
    store.reopen()
    assert not append(store, [1])
    assert store.merge() == 0


def test_a_store_below_a_file_is_one_warning(tmp_path):
    (tmp_path / "file").write_text("")
    store = FeatureStore(store_location(tmp_path / "file" / "below"), SPACE)
    with store.claim(keys_of([1]), 1) as mine:
        assert mine is None
    with pytest.warns(StoreWarning, match=r"Features are not kept") as caught:
        assert not append(store, [1])
    assert len(caught) == 1
    store.reopen()
    assert not append(store, [1])


def test_a_read_only_store_is_read_without_a_warning(store, monkeypatch):
    append(store, range(3))
    for name in ("mkdir", "rename", "replace", "unlink", "utime"):
        monkeypatch.setattr(os, name, refuse)
    store = reopened(store)
    assert found(store, range(3))["mean"].all()
    assert store.merge() == 0


def test_a_full_disk_is_one_warning_and_leaves_nothing(store, monkeypatch):
    append(store, ["before"], BOTH)

    class Disk(io.FileIO):
        """Takes so many writes."""

        def write(self, raw):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(raw)

    n_writes = 0
    while True:
        left = iter(range(n_writes))
        monkeypatch.setattr(shard_module, "open", Disk, raising=False)
        store = reopened(store)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if append(store, range(3), BOTH):
                break
        assert [w.category for w in caught] == [StoreWarning]
        assert "No space left" in str(caught[0].message)
        assert len(os.listdir(store.directory)) == 2  # about.json, the first shard
        assert found(reopened(store), ["before", 0], BOTH)["mean"].tolist() == [1, 0]
        n_writes += 1
    assert n_writes > 6
    assert found(reopened(store), ["before", 0, 1, 2], BOTH)["mean"].all()


def test_after_a_full_disk_the_next_run_tries_again(store, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.warns(StoreWarning):
            assert not append(store, [1])
    assert not append(store, [1])
    store.reopen()
    assert append(store, [1])


# Merging


def test_many_small_shards_become_few_and_nothing_is_lost(store):
    for i in range(200):
        append(store, [i])
        store.merge()
    info = store.info()
    assert info["n_shards"] <= 3 * (store_module._MERGE_AT - 1)
    assert info["n_rows"] == info["n_keys"] == 200
    assert found(reopened(store), range(200))["mean"].all()


def test_rows_are_rewritten_a_logarithmic_number_of_times(store, monkeypatch):
    n_written = [0]
    write_shard = store_module.write_shard

    def count(directory, space, keys, *args):
        n_written[0] += len(keys)
        write_shard(directory, space, keys, *args)

    monkeypatch.setattr(store_module, "write_shard", count)
    for i in range(512):
        append(store, [i])
        store.merge()
    assert n_written[0] <= 512 * (1 + 3)  # log8(512) = 3
    assert store.info()["n_shards"] == 1


def test_merged_shards_stay_below_a_size(store, monkeypatch):
    n_bytes = 100 * rows.WIDTH * 4 * 3
    monkeypatch.setattr(store_module, "_MERGE_MAX_BYTES", 10 * n_bytes)
    for i in range(25):
        append(store, range(100 * i, 100 * i + 100))
    assert store.merge() == 20
    sizes = sorted(shard.n_bytes for shard in store._shards.values())
    assert sizes == [n_bytes] * 5 + [10 * n_bytes] * 2
    assert found(reopened(store), range(2500))["mean"].all()


def test_merging_keeps_one_copy_of_a_row(store):
    for i in range(8):
        append(store, ["twice", i])
    assert store.merge() == 8
    assert store.info()["n_rows"] == 9
    assert found(reopened(store), ["twice", *range(8)])["mean"].all()


def test_merging_copies_of_one_shard_keeps_one(store):
    for _ in range(8):
        append(store, range(3))
    assert store.merge() == 8
    assert store.info()["n_rows"] == 3
    assert found(reopened(store), range(3))["mean"].all()


def test_merging_leaves_out_a_damaged_shard(store):
    paths = [shard_of(store, [i]) for i in range(10)]
    zero_filled(paths[4] / "mean.npy")
    with pytest.warns(StoreWarning, match=paths[4].name) as caught:
        assert store.merge() == 9
    assert len(caught) == 1
    assert found(store, range(10))["mean"].tolist() == [i != 4 for i in range(10)]
    assert len(shards_of(store)) == 2


def test_merging_leaves_shards_of_other_columns_alone(store):
    for i in range(8):
        append(store, [i], BOTH if i % 2 else MEAN)
    assert store.merge() == 0


def test_a_merged_shard_is_as_old_as_the_youngest_of_its_parts(store):
    for i, path in enumerate([shard_of(store, [i]) for i in range(8)]):
        make_old(path, TEN_DAYS + i)
    store.merge()
    (merged,) = shards_of(store)
    assert abs(time.time() - last_access(merged) - TEN_DAYS) < 60


def test_merging_what_cannot_be_removed_changes_nothing(store, monkeypatch):
    paths = [shard_of(store, [i]) for i in range(8)]
    rename = os.rename

    def guard(source, target):
        if Path(source) in paths:
            refuse()
        rename(source, target)

    monkeypatch.setattr(os, "rename", guard)
    assert store.merge() == 0
    assert shards_of(store) == sorted(paths)
    assert found(store, range(8))["mean"].all()


def test_what_was_found_before_a_merge_is_found_again_after_it(store, location):
    reader = FeatureStore(location, SPACE)
    for i in range(8):
        append(store, [i])
    reader.reopen()
    hits = reader.find(keys_of(range(8)), MEAN)["mean"]
    assert store.merge() == 8
    out = np.empty((8, 3, rows.WIDTH), dtype=np.float32)
    assert not reader.read(hits, np.arange(8), "mean", (0, 1, 2), out)
    reader.refresh()
    assert found(reader, range(8))["mean"].all()


def test_threads_read_while_others_append_merge_and_evict(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_MERGE_AT", 3)
    memory = joblib.Memory(str(tmp_path), verbose=0)
    store = FeatureStore(store_location(memory), SPACE)
    until = time.monotonic() + 1.0
    errors = []

    def repeat(task):
        try:
            while time.monotonic() < until:
                task()
        except BaseException as error:
            errors.append(error)

    def read():
        store.refresh()
        found(store, range(300))

    draw = random.Random(0)

    def add():
        append(store, draw.sample(range(300), 5))

    tasks = [
        read, read, add, add, store.merge, store.info,
        lambda: memory.reduce_size(items_limit=4),
        lambda: (time.sleep(0.3), shutil.rmtree(store.directory, ignore_errors=True)),
    ]  # fmt: skip
    threads = [threading.Thread(target=repeat, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Files that joblib removes one by one may be missed half-way: that is a warning.
    assert [e for e in errors if not isinstance(e, StoreWarning)] == []
    compute(store, range(300))
    assert found(reopened(store), range(300))["mean"].all()


# Processes that want the same rows


def test_a_claim_takes_the_first_free_rows(store, location):
    other = FeatureStore(location, SPACE)
    keys = keys_of(range(10))
    with store.claim(keys, 4) as mine:
        assert mine.tolist() == [0, 1, 2, 3]
        with other.claim(keys[::-1], 8) as theirs:
            assert theirs.tolist() == [0, 1, 2, 3, 4, 5]
            with store.claim(keys, 4) as rest:
                assert rest.tolist() == []
    with store.claim(keys, 100) as mine:
        assert len(mine) == 10
    assert [p.name for p in (store.directory / "claims").iterdir()] == ["mutex"]


def test_a_claim_ends_with_an_error_too(store):
    with pytest.raises(KeyError), store.claim(keys_of([1]), 1):
        raise KeyError
    with store.claim(keys_of([1]), 1) as mine:
        assert len(mine) == 1


def test_waiting_ends_when_a_claim_does(store, location, monkeypatch):
    monkeypatch.setattr(claims_module, "_WAIT_SECONDS", 60.0)
    is_claimed, has_ended = threading.Event(), threading.Event()

    def hold():
        with FeatureStore(location, SPACE).claim(keys_of([1]), 1):
            is_claimed.set()
            time.sleep(0.1)
            has_ended.set()

    holder = threading.Thread(target=hold)
    holder.start()
    is_claimed.wait()
    store.wait(keys_of([1, 2]))
    assert has_ended.is_set()
    holder.join()


def test_waiting_for_what_nobody_computes_ends_at_once(store, monkeypatch):
    monkeypatch.setattr(claims_module, "_WAIT_SECONDS", 1e9)
    with store.claim(keys_of([1]), 1):
        store.wait(keys_of([2]))


def test_waiting_ends_when_time_is_up(store, monkeypatch):
    monkeypatch.setattr(claims_module, "_WAIT_SECONDS", 0.05)
    with store.claim(keys_of([1]), 1):
        store.wait(keys_of([1]))


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_holder_blocks_nobody(store, location, monkeypatch):
    monkeypatch.setattr(claims_module, "_WAIT_SECONDS", 1e9)
    with start("hold", location, 5) as holder:
        assert holder.stdout.readline() == "5\n"
        with store.claim(keys_of(range(7)), 7) as mine:
            assert mine.tolist() == [5, 6]
        holder.kill()
    store.wait(keys_of(range(5)))
    with store.claim(keys_of(range(7)), 7) as mine:
        assert len(mine) == 7


def test_a_claim_counts_for_some_minutes_only(store, location):
    other = FeatureStore(location, SPACE)
    with store.claim(keys_of([1]), 1):
        for path in (store.directory / "claims").glob("*.claim"):
            make_old(path, 700)
        with other.claim(keys_of([1]), 1) as mine:
            assert len(mine) == 1


def test_without_locks_everybody_computes(store, monkeypatch):
    def no_locks(descriptor):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(claims_module, "try_lock", no_locks)
    with store.claim(keys_of([1]), 1) as mine:
        assert mine is None
    assert store.merge() == 0
    assert compute(store, range(20)) == 20


def test_a_process_that_stopped_while_claiming_does_not_block(store, monkeypatch):
    monkeypatch.setattr(claims_module, "_MUTEX_SECONDS", 0.05)
    with store._claims.exclusive("mutex"), store.claim(keys_of([1]), 1) as mine:
        assert mine is None


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 17])
def test_a_claim_that_cannot_be_read_is_none(store, content):
    with store.claim(keys_of([0]), 1):
        (store.directory / "claims" / f"{'a' * 32}.claim").write_bytes(content)
        with store.claim(keys_of([1]), 1) as mine:
            assert len(mine) == 1


def test_threads_compute_each_row_once(store, location):
    stores = [store, store, FeatureStore(location, SPACE)]
    counts = [0] * 3

    def work(i):
        counts[i] = compute(stores[i], range(20 * i, 20 * i + 100), seconds=0.0005)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 140
    info = store.info()
    assert info["n_rows"] == info["n_keys"] == 140


def test_processes_compute_each_row_once(store, location):
    workers = [
        start("share", location, first, first + 200, 0.001) for first in (0, 50, 100)
    ]
    counts = []
    for worker in workers:
        with worker:
            counts.append(int(worker.stdout.read()))
    assert sum(counts) == 300
    info = store.info()
    assert info["n_rows"] == info["n_keys"] == 300
    assert found(store, range(300))["mean"].all()


# Processes that die


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_writer_killed_at_any_moment_loses_nothing_finished(store, location):
    draw = random.Random(0)
    finished = []
    for seed in range(10):
        with start("write", location, seed) as writer:
            deadline = None
            for line in writer.stdout:
                i, n = map(int, line.split())
                finished += [f"{seed} {i} {j}" for j in range(n)]
                deadline = deadline or time.monotonic() + draw.uniform(0, 0.1)
                if time.monotonic() > deadline:
                    writer.kill()
    store = reopened(store)
    assert len(finished) > 1000
    assert found(store, finished)["mean"].all()
    assert compute(store, ["one more", *finished], at_most=512) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_process_may_die_before_any_file_operation(tmp_path):
    with start("die", tmp_path) as process:
        n_operations = int(process.stdout.read())
    assert n_operations > 50


def test_debris_is_swept_when_it_is_old(store):
    append(store, [1])
    claims = store.directory / "claims"
    claims.mkdir()
    debris = [
        store.directory / f"{'a' * 32}.tmp",
        store.directory / f"{'b' * 32}.tmp",
        claims / f"{'c' * 32}.claim",
    ]
    debris[0].mkdir()
    (debris[0] / "mean.npy").write_bytes(b"half")
    debris[1].write_text("half")
    debris[2].write_bytes(b"x" * 16)
    others = [store.directory / "notes.tmp", claims / "notes"]
    for path in others:
        path.write_text("not ours")
    store.merge()
    assert all(path.exists() for path in debris)
    for path in [*debris, *others]:
        make_old(path)
    store.merge()
    assert not any(path.exists() for path in debris)
    assert all(path.exists() for path in others)
    assert found(store, [1])["mean"].all()


# The user's memory


def test_every_form_of_a_path_is_the_same_place(tmp_path, monkeypatch):
    expected = joblib.Memory(str(tmp_path), verbose=0).store_backend.location
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    monkeypatch.setenv("USERPROFILE", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path.parent)
    for memory in (
        str(tmp_path),
        tmp_path,
        joblib.Memory(str(tmp_path), verbose=0),
        os.path.join("~", tmp_path.name),
        tmp_path.name,
        Path(tmp_path.name),
        joblib.Memory(tmp_path.name, verbose=0),
    ):
        assert store_location(memory) == expected


def test_a_new_place_is_hidden_from_git(tmp_path):
    pytest.importorskip("joblib", minversion="1.5", reason="joblib writes the file")
    store_location(tmp_path / "new")
    assert "*" in (tmp_path / "new" / ".gitignore").read_text()


@pytest.mark.parametrize("memory", [None, joblib.Memory(None, verbose=0)])
def test_no_place_keeps_nothing(memory):
    assert store_location(memory) is None


@pytest.mark.parametrize("memory", [3, b"path", ["path"], True])
def test_a_memory_of_another_type_is_refused(memory):
    with pytest.raises(TypeError, match=r"None, a path or a joblib.Memory, got "):
        store_location(memory)


def test_a_memory_without_a_file_system_is_refused(monkeypatch):
    from joblib._store_backends import StoreBackendBase, StoreBackendMixin

    class CloudBackend(StoreBackendBase, StoreBackendMixin):
        def _open_item(self, f, mode): ...
        def _item_exists(self, location): ...
        def _move_item(self, src, dst): ...
        def create_location(self, location): ...
        def clear_location(self, location): ...
        def get_items(self): ...
        def configure(self, location, verbose=0, backend_options=None): ...

    monkeypatch.setitem(joblib.memory._STORE_BACKENDS, "cloud", CloudBackend)
    memory = joblib.Memory("bucket", backend="cloud", verbose=0)
    with pytest.raises(ValueError, match=r"CloudBackend has none. Pass a local"):
        store_location(memory)
