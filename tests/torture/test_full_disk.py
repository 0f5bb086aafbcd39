"""Disks that are full, read-only, gone or slow: results are right all the same."""

import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import rows
from processes import EVERYTHING, TEXTS, start

from sklearn_bert import BertVectorizer, checkpoint
from sklearn_bert import shard as shard_module
from sklearn_bert import store as store_module
from sklearn_bert.store import FeatureStore, StoreWarning


def count_of(name, *arguments):
    """Run one of `processes` that needs no torch."""
    import json

    with start(name, *arguments) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(printed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["once", "sticky", "vanish", "interrupt"])
def test_any_file_operation_may_fail(
    result_of, tiny, tmp_path, expected_file, scale, figures, kind
):
    memory = tmp_path / "memory"
    step = scale(17, 1)
    counts = result_of("inject", tiny, memory, expected_file, kind, step)
    assert counts["operations"] > 40
    assert (counts["warnings"] > 0) == (kind in ("once", "sticky"))
    figures(counts)


@pytest.fixture
def small_disk():
    """A file system of 96 kB of its own, where this user may mount one."""
    place = tempfile.mkdtemp()
    command = ["mount", "-t", "tmpfs", "-o", "size=96k,mode=777", "tmpfs", place]
    try:
        is_mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        is_mounted = False
    if not is_mounted:
        os.rmdir(place)
        pytest.skip("only root may mount a small disk")
    yield Path(place)
    subprocess.run(["umount", "-l", place], check=True)
    os.rmdir(place)


def test_a_real_full_disk_is_one_warning(tiny, small_disk, expected):
    vectorizer = BertVectorizer(tiny, memory=small_disk, **EVERYTHING)
    with pytest.warns(StoreWarning, match=r"not kept in .*No space left") as caught:
        found = vectorizer.fit_transform(TEXTS)
    assert len(caught) == 1
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not list(small_disk.rglob("*.tmp"))


def test_no_length_at_which_files_must_end_leaves_a_part(tmp_path, scale, figures):
    store = FeatureStore(tmp_path, rows.SPACE)
    rows.append(store, ["before"])
    limits = range(0, scale(2600, 3000), scale(650, 50))
    for limit in limits:
        kept, n_found, messages = count_of("limited", tmp_path, limit)
        assert kept == (not messages)
        assert n_found == 1 + 50 * kept
        assert len(list(store.directory.glob("*.tmp"))) == 0
        if kept:
            break
        assert "Features are not kept" in messages[0]
        assert len(messages) == 1
    figures({"limits_of_size": len(limits)})


@pytest.mark.skipif(os.name == "nt", reason="no modes")
def test_a_store_of_others_is_read_silently_and_left_alone():
    place = Path(tempfile.mkdtemp())  # pytest's own are closed to others
    try:
        store = FeatureStore(place / "joblib", rows.SPACE)
        for first in range(0, 30, 3):
            rows.append(store, range(first, first + 3))
        before = sorted(place.rglob("*"))
        for path in [place, *before]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        n_found, n_while_reading, kept, messages = count_of(
            "as_nobody", place / "joblib"
        )
        assert (n_found, n_while_reading, kept) == (30, 0, [None, None])
        assert len(messages) == 1
        assert "Permission denied" in messages[0]
        assert sorted(place.rglob("*")) == before
    finally:
        for path in place.rglob("*"):
            path.chmod(0o755)
        shutil.rmtree(place)


class Lagging:
    """A directory listing as others see it on a network: late, in any order."""

    def __init__(self, draw):
        self.draw, self.scandir = draw, os.scandir

    def __call__(self, path):
        with self.scandir(path) as entries:
            shown = [e for e in entries if self.draw.random() < 0.7]
        self.draw.shuffle(shown)
        return _Entries(shown)


class _Entries(list):
    def __enter__(self):
        return iter(self)

    def __exit__(self, *_):
        pass


def test_shards_that_are_seen_late_are_only_computed_again(
    tiny, tmp_path, expected, monkeypatch, scale
):
    monkeypatch.setattr(os, "scandir", Lagging(random.Random(0)))
    monkeypatch.setattr(store_module, "_MERGE_AT", 3)
    draw = random.Random(1)
    for _ in range(scale(15, 300)):
        which = draw.sample(range(len(TEXTS)), 8)
        vectorizer = BertVectorizer(tiny, memory=tmp_path, **EVERYTHING)
        found = vectorizer.fit_transform([TEXTS[i] for i in which])
        np.testing.assert_allclose(found, expected[which], atol=1e-5)


def test_a_shard_whose_files_are_seen_late_is_left_out(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path, rows.SPACE)
    rows.append(store, range(3))
    real = shard_module.open_shard

    def not_there_yet(path, space):
        raise FileNotFoundError(2, "not there yet", str(path / "keys.npy"))

    monkeypatch.setattr(store_module, "open_shard", not_there_yet)
    other = FeatureStore(tmp_path, rows.SPACE)
    with pytest.warns(StoreWarning, match=r"not there yet"):
        other.reopen()
    assert not rows.found(other, range(3))["mean"].any()
    monkeypatch.setattr(store_module, "open_shard", real)
    later = FeatureStore(tmp_path, rows.SPACE)
    later.reopen()
    assert rows.found(later, range(3))["mean"].all()


def test_two_changes_within_a_tick_of_the_clock_are_noticed(tmp_path, monkeypatch):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    real = os.stat(weights)
    monkeypatch.setattr(os, "stat", lambda path: real)  # a clock that stands still
    one = checkpoint._digest(weights)
    weights.write_bytes(b"two")
    assert checkpoint._digest(weights) != one
