"""Processes die at random moments: what was finished is there and right."""

import os
import shutil
import time

import processes
import pytest
import rows
from processes import start

from sklearn_bert import store as store_module
from sklearn_bert.store import FeatureStore

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
A_DAY = 86400


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds_ahead", "short", "long"), [(0, 5, 200), (A_DAY, 2, 50)]
)
def test_rows_outlive_their_killed_writers(
    tmp_path, scale, figures, monkeypatch, seconds_ahead, short, long
):
    n_kills, finished = scale(short, long), []
    with (
        start("write", tmp_path, "steady", 0) as steady,
        start("read", tmp_path) as reader,
        start("killed_writers", tmp_path, n_kills, seconds_ahead) as writers,
    ):
        for line in writers.stdout:
            seed, i, n = line.split()
            finished += [f"{seed} {i} {j}" for j in range(int(n))]
            reader.stdin.writelines(f"{name}\n" for name in finished[-int(n) :])
        assert steady.poll() is None
        steady.kill()
        n_read = int(reader.communicate("end\n")[0])
    assert reader.returncode == writers.returncode == 0
    assert len(finished) > n_kills
    store = FeatureStore(tmp_path, rows.SPACE)
    store.reopen()
    assert rows.found(store, finished)["mean"].all()
    assert rows.compute(store, ["one more", *finished], at_most=512) == 1
    debris = list(store.directory.rglob("*.tmp"))
    monkeypatch.setattr(store_module, "_DEBRIS_SECONDS", 0.0)
    store.merge()
    left = [*store.directory.rglob("*.tmp"), *store.directory.rglob("*.claim")]
    assert left == []
    figures(
        {
            "writers_killed": n_kills,
            "rows_finished": len(finished),
            "rows_checked_meanwhile": n_read,
            "rows_wrong_or_lost": 0,
            "unfinished_shards_swept": len(debris),
        }
    )


@pytest.mark.slow
def test_texts_outlive_killed_encoders(
    result_of, tiny, tmp_path, expected_file, scale, figures
):
    n_kills = scale(3, 40)
    counts = result_of("kill_encoders", tiny, tmp_path, expected_file, n_kills)
    assert counts["n_keys"] == len(processes.TEXTS)
    if n_kills > 10:  # they died in the middle
        assert len(set(counts["stored_at_kills"])) > 5
    figures({"encoders_killed": n_kills, "features_wrong_or_lost": 0})


@pytest.mark.slow
def test_trainings_outlive_their_kills(result_of, tiny, tmp_path, scale, figures):
    n_kills = scale(6, 100)
    counts = result_of("kill_trainings", tiny, tmp_path, n_kills)
    assert counts["most_files"] <= 2  # a checkpoint, and one half written
    assert counts["kills_with_a_checkpoint"] >= n_kills // 2
    figures({"fits_killed": n_kills, **counts, "other_weights_than_uninterrupted": 0})


@pytest.mark.parametrize("seconds", [2 * 3600, A_DAY, 30 * 365 * A_DAY])
def test_what_is_dated_ahead_is_swept_like_what_is_old(tmp_path, seconds):
    store = FeatureStore(tmp_path, rows.SPACE)
    rows.append(store, [1])
    debris = store.directory / f"{'a' * 32}.tmp"
    debris.mkdir()
    os.utime(debris, (time.time() + seconds,) * 2)
    store.merge()
    assert not debris.exists()
    assert rows.found(store, [1])["mean"].all()


def test_a_claim_dated_ahead_blocks_nobody(tmp_path):
    store, other = (FeatureStore(tmp_path, rows.SPACE) for _ in range(2))
    keys = rows.keys_of([1])
    with store.claim(keys, 1):
        (path,) = (store.directory / "claims").glob("*.claim")
        os.utime(path, (time.time() + A_DAY,) * 2)
        with other.claim(keys, 1) as mine:
            assert len(mine) == 1


def test_shards_dated_ahead_are_read_and_merged(tmp_path):
    store = FeatureStore(tmp_path, rows.SPACE)
    for name in range(8):
        rows.append(store, [name])
    processes._date(store.directory, time.time() + A_DAY)
    assert store.merge() == 8
    shutil.rmtree(store.directory / "claims")
    assert rows.found(store, range(8))["mean"].all()
