"""A store as a whole: what it holds, whether it is intact, less of it."""

import datetime
import os
from pathlib import Path

import joblib
import pytest

from sklearn_bert import BertVectorizer
from sklearn_bert.upkeep import check_store, clear_store, describe_store, reduce_store

TEXTS = ["one", "two", "three"]


@pytest.fixture
def memory(tiny, tmp_path):
    """Return a directory with the features of three texts."""
    BertVectorizer(tiny, memory=tmp_path / "kept").fit_transform(TEXTS)
    return tmp_path / "kept"


def shards(memory):
    return [path.parent for path in memory.rglob("header.json")]


def test_a_store_tells_whose_features_it_holds(tiny, memory):
    info = describe_store(memory)
    (space,) = info.spaces
    fingerprint = BertVectorizer(tiny).fit([]).fingerprint_
    assert (space.model, space.encoder, space.dtype) == (tiny, fingerprint, "float32")
    assert (space.n_texts, space.n_shards) == (3, 1)
    assert 3 * 3 * 3 * 32 * 4 == space.n_bytes < info.n_bytes
    assert datetime.datetime.now() - space.last_used < datetime.timedelta(minutes=5)
    assert describe_store(memory / "joblib") == info


def test_features_of_another_version_are_named_and_left_alone(memory):
    other = memory / "joblib" / "sklearn_bert-features" / "v0-of-long-ago"
    other.mkdir()
    assert describe_store(memory).others == (other,)
    assert check_store(memory).others == (other,)


def test_every_number_is_checked(memory):
    assert check_store(memory).n_shards == 1
    assert check_store(memory).damaged == ()
    path = shards(memory)[0] / "cls.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    ((damaged, why),) = check_store(memory).damaged
    assert damaged == path.parent
    assert why == "cls.npy does not match its checksum"


@pytest.mark.parametrize("name", ["header.json", "keys.npy", "max.npy"])
def test_a_file_that_is_gone_is_damage(memory, name):
    (shards(memory)[0] / name).unlink()
    ((_, why),) = check_store(memory).damaged
    assert name in why


def test_a_shard_that_is_a_link_is_damage(memory, tmp_path):
    shard = shards(memory)[0]
    os.symlink(shard, shard.with_name("0" * 32), target_is_directory=True)
    ((damaged, why),) = check_store(memory).damaged
    assert damaged.name == "0" * 32
    assert "symbolic link" in why


def test_a_store_is_reduced_by_size_and_by_age(tiny, memory):
    assert reduce_store(memory, bytes_limit="1G", age_limit="30d")[0] == 0
    for stamp in memory.rglob("output.pkl"):
        os.utime(stamp, (0, 0))
    assert reduce_store(memory, age_limit=datetime.timedelta(days=1))[0] > 3000
    assert shards(memory) == []
    BertVectorizer(tiny, memory=memory).fit_transform(TEXTS)
    gone, left = reduce_store(memory, bytes_limit=0)
    assert gone > 3000 > left
    assert describe_store(memory).spaces[0].n_texts == 0
    assert describe_store(memory).spaces[0].last_used is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"Pass bytes_limit \(--bytes-limit\), age_limit"),
        (
            {"bytes_limit": "ten"},
            "bytes_limit='ten' must be a number of bytes",
        ),
        ({"bytes_limit": -1}, "bytes_limit=-1 must be a number of bytes"),
        ({"bytes_limit": True}, "bytes_limit=True must be"),
        ({"age_limit": "3 months"}, "age_limit='3 months' must be a number of hours"),
        ({"age_limit": datetime.timedelta(-1)}, "must not be negative"),
        ({"age_limit": "999999d"}, "age_limit='999999d' is longer than dates reach"),
        ({"age_limit": "99999999999d"}, "is longer than dates reach"),
        ({"age_limit": datetime.timedelta.max}, "is longer than dates reach"),
    ],
)
def test_limits_that_are_none_are_refused(memory, given, message):
    with pytest.raises(ValueError, match=message):
        reduce_store(memory, **given)
    assert len(shards(memory)) == 1


@pytest.mark.parametrize(
    ("given", "n_bytes"),
    [("2k", 2048), ("0.5 M", 2**19), ("1GiB", 2**30), ("10gb", 10 * 2**30), (7, 7)],
)
def test_sizes_are_read_as_joblib_reads_them(memory, monkeypatch, given, n_bytes):
    limits = {}
    monkeypatch.setattr(
        joblib.Memory, "reduce_size", lambda _, **given: limits.update(given)
    )
    reduce_store(memory, bytes_limit=given)
    assert limits == {"bytes_limit": n_bytes, "age_limit": None}


def test_clearing_leaves_other_functions_results(memory):
    kept = joblib.Memory(memory, verbose=0).cache(len)
    kept("four")
    n_files = sum(path.is_file() for path in memory.rglob("*"))
    assert clear_store(memory) > 3000
    assert shards(memory) == []
    assert kept.check_call_in_cache("four")
    assert 0 < sum(path.is_file() for path in memory.rglob("*")) < n_files


def test_a_store_that_was_cleared_is_an_empty_one(memory):
    clear_store(memory)
    info = describe_store(memory)
    assert (info.spaces, info.n_bytes) == ((), 0)
    assert describe_store(info.directory) == info


@pytest.mark.parametrize("ask", [describe_store, check_store, clear_store])
def test_what_is_no_store_is_refused_and_left_alone(ask, tmp_path):
    with pytest.raises(ValueError, match=r"is no store of features: .* as --memory"):
        ask(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        ask(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_only_the_directory_of_a_memory_is_reduced(memory):
    moved = memory.rename(memory.with_name("moved")) / "joblib"
    renamed = Path(moved).rename(moved.with_name("features"))
    with pytest.raises(ValueError, match="not the directory of a joblib"):
        reduce_store(renamed, bytes_limit=0)
