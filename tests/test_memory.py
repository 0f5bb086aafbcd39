"""The store seen from outside: BertVectorizer and the user's joblib Memory."""

import datetime
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest

from sklearn_bert import BertVectorizer, features, request
from sklearn_bert import store as store_module
from sklearn_bert.datasets import make_tiny_encoder
from sklearn_bert.store import FeatureStore, StoreWarning, store_location

TEXTS = [f"text number {i} of zymurgy" for i in range(12)]
EVERYTHING = {"layer": "all", "pooling": ["cls", "mean", "max"]}


@pytest.fixture
def memory(tmp_path):
    return joblib.Memory(tmp_path / "memory", verbose=0)


@pytest.fixture(autouse=True)
def forget_open_stores(monkeypatch):
    monkeypatch.setattr(features, "_stores", type(features._stores)())
    monkeypatch.setattr(features, "_announced", set())


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Keep torch's threads from waiting for each other over tiny matrices."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def fresh(tiny):
    """Return a function that encodes texts without a store."""
    rows = {}

    def encode(texts):
        new = [text for text in texts if text not in rows]
        if new:
            vectors = BertVectorizer(tiny, **EVERYTHING).fit_transform(new)
            rows.update(zip(new, vectors, strict=True))
        return np.array([rows[text] for text in texts])

    return encode


def encode(tiny, memory, texts=TEXTS, **params):
    """Return features as a process that opens the store anew computes them."""
    features._stores.clear()
    store_module._warned.clear()
    params = {**EVERYTHING, **params}
    return BertVectorizer(tiny, memory=memory, **params).fit_transform(texts)


def close_to(expected):
    return pytest.approx(expected, abs=1e-5)


def shards(memory):
    place = Path(store_location(memory)) / "sklearn_bert-features"
    return sorted(p for p in place.glob("*/*") if len(p.name) == 32)


def info(memory):
    (space,) = {path.parent for path in shards(memory)}
    return FeatureStore(store_location(memory), space.name).info()


def in_windows(monkeypatch, n_texts):
    """Make shards of so many texts."""
    monkeypatch.setattr(features, "_WINDOW_TEXTS", n_texts)


def run(code, *arguments):
    """Start Python on some code and return the process."""
    return subprocess.Popen(
        [sys.executable, "-W", "error::UserWarning", "-c", code, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


# What joblib manages


def test_joblib_counts_exactly_the_shards(tiny, memory, monkeypatch):
    in_windows(monkeypatch, 5)
    encode(tiny, memory)
    items = {item.path for item in memory.store_backend.get_items()}
    assert items == set(map(str, shards(memory)))
    assert len(items) == 3


def test_cleared_texts_are_encoded_again(tiny, memory, fresh, work):
    expected = fresh(TEXTS)
    before = work().n_texts
    encode(tiny, memory)
    memory.clear(warn=False)
    assert encode(tiny, memory) == close_to(expected)
    assert work().n_texts - before == 2 * len(TEXTS)


def test_only_evicted_texts_are_encoded_again(tiny, memory, fresh, work, monkeypatch):
    in_windows(monkeypatch, 4)
    fresh(TEXTS)
    before = work().n_texts
    encode(tiny, memory)
    for age, path in enumerate(shards(memory)):
        then = time.time() - 86400 * (10 + age)
        os.utime(path / "output.pkl", (then, then))
    kept = np.load(shards(memory)[0] / "keys.npy")
    encode(tiny, memory, [text for text in TEXTS if key(text) in kept])
    memory.reduce_size(age_limit=datetime.timedelta(days=1))
    assert len(shards(memory)) == 1
    assert encode(tiny, memory) == close_to(fresh(TEXTS))
    assert work().n_texts - before == 12 + 8


def key(text):
    return request.keys_of([text], "")[0]


def test_a_text_that_is_not_cut_is_found_by_one_key(tiny, memory, monkeypatch):
    long = ["word " * 100]
    encode(tiny, memory, max_length=64)
    with pytest.warns(UserWarning, match="were cut"):
        encode(tiny, memory, long, max_length=64)
    made = []

    def noted(texts, cut):
        made.append(cut)
        return request.keys_of(texts, cut)

    monkeypatch.setattr(features, "keys_of", noted)
    encode(tiny, memory, max_length=64)
    assert made == [""]
    features._told.clear()
    with pytest.warns(UserWarning, match="were cut"):
        encode(tiny, memory, long, max_length=64)
    assert made == ["", "", "truncate 64"]


def test_clearing_between_looking_and_reading_is_made_good(
    tiny, memory, fresh, monkeypatch
):
    encode(tiny, memory)
    find = FeatureStore.find
    clears = iter([memory.clear])

    def find_and_clear(self, *args):
        hits = find(self, *args)
        if clear := next(clears, None):
            clear(warn=False)
        return hits

    monkeypatch.setattr(FeatureStore, "find", find_and_clear)
    assert encode(tiny, memory) == close_to(fresh(TEXTS))
    assert info(memory)["n_keys"] == len(TEXTS)


def test_clearing_between_windows_is_made_good(tiny, memory, fresh, monkeypatch):
    in_windows(monkeypatch, 3)
    append = FeatureStore.append

    def append_and_clear(self, *args):
        append(self, *args)
        memory.clear(warn=False)
        return True

    monkeypatch.setattr(FeatureStore, "append", append_and_clear)
    assert encode(tiny, memory) == close_to(fresh(TEXTS))


# The store may lose, never lie


def flip(path, other):
    raw = bytearray(path.read_bytes())
    raw[-2] ^= 0x55
    path.write_bytes(raw)


def truncate(path, other):
    path.write_bytes(path.read_bytes()[:-1])


def remove(path, other):
    path.unlink()


def fill_with_zeros(path, other):
    path.write_bytes(bytes(path.stat().st_size))


def put_a_directory(path, other):
    path.unlink()
    path.mkdir()


def swap(path, other):
    mine, theirs = path.read_bytes(), (other / path.name).read_bytes()
    path.write_bytes(theirs)
    (other / path.name).write_bytes(mine)


@pytest.mark.parametrize(
    "name", ["header.json", "keys.npy", "n_tokens.npy", "checksums.npy", "cls.npy"]
)
@pytest.mark.parametrize(
    "damage", [flip, truncate, remove, fill_with_zeros, put_a_directory, swap]
)
def test_damaged_features_are_encoded_again(
    tiny, memory, fresh, monkeypatch, name, damage
):
    in_windows(monkeypatch, 6)
    texts = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff", *TEXTS[:6]]
    encode(tiny, memory, texts)
    first, second = shards(memory)
    damage(first / name, second)
    with pytest.warns(StoreWarning, match=r"are left out and will be") as caught:
        result = encode(tiny, memory, texts)
    assert result == close_to(fresh(texts))
    at_fault = [first, second] if damage is swap else [first]
    assert len(caught) == len(at_fault)
    assert {str(p) for p in at_fault} == {
        str(p) for p in at_fault for w in caught if str(p) in str(w.message)
    }


def test_a_shard_of_another_encoder_is_left_out(tiny, memory, fresh, tmp_path):
    other = make_tiny_encoder(tmp_path / "other", seed=1)
    encode(other, memory)
    (foreign,) = shards(memory)
    encode(tiny, memory, TEXTS[:1])
    (own,) = set(shards(memory)) - {foreign}
    shutil.copytree(foreign, own.parent / foreign.name)
    with pytest.warns(StoreWarning, match=r"belongs to other features"):
        assert encode(tiny, memory) == close_to(fresh(TEXTS))


def test_the_directory_of_another_encoder_is_left_out(tiny, memory, fresh, tmp_path):
    other = make_tiny_encoder(tmp_path / "other", seed=1)
    encode(tiny, memory)
    encode(other, memory)
    spaces = sorted({path.parent for path in shards(memory)})
    os.rename(spaces[0], spaces[0].with_name("spare"))
    os.rename(spaces[1], spaces[0])
    os.rename(spaces[0].with_name("spare"), spaces[1])
    with pytest.warns(StoreWarning, match=r"belongs to other features"):
        assert encode(tiny, memory) == close_to(fresh(TEXTS))


# Places that cannot be written


def refuse(*args, **kwargs):
    raise PermissionError("refused by a test")


@pytest.mark.parametrize("name", ["mkdir", "rename"])
def test_a_read_only_place_is_one_warning(tiny, tmp_path, fresh, monkeypatch, name):
    expected = fresh(TEXTS)
    monkeypatch.setattr(os, name, refuse)
    vectorizer = BertVectorizer(tiny, memory=tmp_path / "memory", **EVERYTHING)
    with pytest.warns(StoreWarning, match=r"not kept in .*refused") as caught:
        results = [vectorizer.fit_transform(TEXTS) for _ in range(2)]
    assert len(caught) == 1
    assert results == [close_to(expected)] * 2


def test_a_place_below_a_file_is_one_warning(tiny, tmp_path, fresh):
    (tmp_path / "file").write_text("")
    vectorizer = BertVectorizer(tiny, memory=tmp_path / "file" / "below", **EVERYTHING)
    with pytest.warns(StoreWarning, match=r"Features are not kept") as caught:
        results = [vectorizer.fit_transform(TEXTS) for _ in range(2)]
    assert len(caught) == 1
    assert results == [close_to(fresh(TEXTS))] * 2


def test_a_disk_that_fills_up_is_one_warning(tiny, memory, fresh, monkeypatch):
    in_windows(monkeypatch, 3)
    expected = fresh(TEXTS)
    write_shard = store_module.write_shard
    free = iter([True, True])

    def write_until_full(directory, *args):
        write_shard(directory, *args)
        if not next(free, False):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "write_shard", write_until_full)
    with pytest.warns(StoreWarning, match=r"No space left on device") as caught:
        assert encode(tiny, memory) == close_to(expected)
    assert len(caught) == 1
    assert info(memory)["n_keys"] == 6
    assert not list(shards(memory)[0].parent.glob("*.tmp"))


# Forms of memory


def test_every_form_of_memory_is_one_store(tiny, tmp_path, fresh, work):
    path = tmp_path / "memory"
    for memory in (str(path), path, joblib.Memory(str(path), verbose=0)):
        assert encode(tiny, memory) == close_to(fresh(TEXTS))
    assert info(path)["n_rows"] == len(TEXTS)


@pytest.mark.parametrize("memory", [None, joblib.Memory(None, verbose=0)])
def test_no_memory_keeps_nothing(tiny, tmp_path, fresh, monkeypatch, memory):
    monkeypatch.chdir(tmp_path)
    assert encode(tiny, memory) == close_to(fresh(TEXTS))
    assert os.listdir(tmp_path) == []


def test_a_memory_of_another_type_is_refused_before_encoding(tiny, work):
    with pytest.raises(TypeError, match=r"memory must be None, a path or a joblib"):
        encode(tiny, 3)
    assert work().n_texts == 0


def test_a_memory_without_a_file_system_is_refused(tiny, memory, work):
    memory.store_backend = type("CloudBackend", (), {"location": "bucket"})()
    with pytest.raises(ValueError, match=r"CloudBackend has none. Pass a local"):
        encode(tiny, memory)
    assert work().n_texts == 0


# What a row is found by


def test_two_encoders_never_share_a_row(tiny, memory, tmp_path, fresh, work):
    other = make_tiny_encoder(tmp_path / "other", seed=1)
    vectors = encode(other, memory)
    assert encode(tiny, memory) == close_to(fresh(TEXTS))
    assert work().n_texts >= 2 * len(TEXTS)
    np.testing.assert_array_equal(encode(other, memory), vectors)


def test_one_encoder_under_two_names_shares_rows(tiny, memory, tmp_path, work):
    copy = shutil.copytree(tiny, tmp_path / "copy")
    expected = encode(tiny, memory)
    np.testing.assert_array_equal(encode(str(copy), memory), expected)
    assert work().n_texts == len(TEXTS)


def test_no_text_is_written(tiny, memory):
    encode(tiny, memory)
    raws = [path.read_bytes() for path in memory_files(memory)]
    assert len(raws) >= 8
    assert not any(b"zymurgy" in raw.lower() for raw in raws)
    assert not any("zymurgy" in str(path) for path in memory_files(memory))


def memory_files(memory):
    return [p for p in Path(store_location(memory)).rglob("*") if p.is_file()]


WARM = """
import sys
import joblib, numpy as np, sklearn.base  # scipy cannot be imported after the next line
sys.modules["torch"] = sys.modules["transformers"] = None
from sklearn_bert import BertVectorizer
arguments = joblib.load(sys.argv[1])
out = BertVectorizer(**arguments["params"]).fit_transform(arguments["texts"])
np.save(sys.argv[2], out)
"""


def test_a_warm_process_needs_no_torch_and_gives_the_same_bits(tiny, memory, tmp_path):
    expected = encode(tiny, memory)
    params = {"model": tiny, "memory": memory, **EVERYTHING}
    joblib.dump({"params": params, "texts": TEXTS[::-1]}, tmp_path / "arguments")
    with run(WARM, tmp_path / "arguments", tmp_path / "out.npy") as process:
        pass
    assert process.returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy")[::-1], expected)


# Small shards


def test_texts_that_come_one_by_one_end_in_few_shards(
    tiny, memory, fresh, work, monkeypatch
):
    monkeypatch.setattr(store_module, "_MERGE_AT", 3)
    vectorizer = BertVectorizer(tiny, memory=memory, **EVERYTHING)
    expected = fresh(texts := [f"number {i}" for i in range(30)])
    before = work().n_texts
    for text in texts:
        vectorizer.fit_transform([text])
    held = info(memory)
    assert held["n_shards"] <= 2 * 2  # of 1 to 7 texts, of 8 to 63
    assert held["n_rows"] == held["n_keys"] == 30
    n_bytes = sum(path.stat().st_size for path in memory_files(memory))
    assert n_bytes < 2 * held["n_bytes"] + 2_000 * held["n_shards"]
    assert vectorizer.transform(texts) == close_to(expected)
    assert work().n_texts - before == 30


# At once


COLD = """
import sys, time
from pathlib import Path
import numpy as np
from sklearn_bert import BertVectorizer, features
from sklearn_bert import encoder
features._WINDOW_TEXTS = 4
model, memory, first, last, out = sys.argv[1:]
texts = [f"text number {i} of zymurgy" for i in range(int(first), int(last))]
me = Path(memory + out[-5])
me.write_text("")
while not all(Path(memory + name).exists() for name in "ab"):  # begin together
    time.sleep(0.01)
vectorizer = BertVectorizer(
    model, memory=memory, layer="all", pooling=["cls", "mean", "max"]
)
np.save(out, vectorizer.fit_transform(texts))
print(features.WORK.n_texts)
"""


@pytest.mark.slow
def test_processes_encode_each_distinct_text_once(tiny, tmp_path, fresh):
    memory = tmp_path / "memory"
    ranges = {"a": (0, 60), "b": (20, 80)}
    processes = [
        run(COLD, tiny, memory, *ends, tmp_path / f"{name}.npy")
        for name, ends in ranges.items()
    ]
    n_encoded = []
    for process in processes:
        with process:
            n_encoded.append(int(process.stdout.read()))
    assert sum(n_encoded) == 80
    held = info(memory)
    assert held["n_rows"] == held["n_keys"] == 80
    for name, ends in ranges.items():
        texts = [f"text number {i} of zymurgy" for i in range(*ends)]
        assert np.load(tmp_path / f"{name}.npy") == close_to(fresh(texts))


def test_threads_encode_each_distinct_text_once(tiny, memory, fresh, monkeypatch):
    in_windows(monkeypatch, 4)
    texts = [f"number {i}" for i in range(60)]
    vectorizers = [BertVectorizer(tiny, memory=memory, **EVERYTHING) for _ in range(3)]
    results = [None] * 3

    def work(i):
        results[i] = vectorizers[i].fit_transform(texts[10 * i : 10 * i + 40])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        assert results[i] == close_to(fresh(texts[10 * i : 10 * i + 40]))
    held = info(memory)
    assert held["n_rows"] == held["n_keys"] == 60


def test_processes_with_other_columns_share_what_they_can(tiny, memory, work):
    requested = {"store_layers": "requested", "layer": 1}
    encode(tiny, memory, pooling="mean", **requested)
    encode(tiny, memory, pooling="cls", **requested)
    assert work().n_texts == 2 * len(TEXTS)
    encode(tiny, memory, pooling=["cls", "mean"], **requested)
    assert work().n_texts == 2 * len(TEXTS)


# What is said before it hurts


def test_growth_beyond_a_gigabyte_is_announced_once(tiny, memory, monkeypatch):
    monkeypatch.setattr(features, "_LARGE_BYTES", 5_000)
    vectorizer = BertVectorizer(tiny, memory=memory)
    with pytest.warns(UserWarning, match=r"grows by .* 12 new texts\).*requested"):
        vectorizer.fit_transform(TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectorizer.fit_transform([text + "!" for text in TEXTS])


def test_small_growth_is_not_announced(tiny, memory, monkeypatch):
    monkeypatch.setattr(features, "_LARGE_BYTES", 50_000)
    encode(tiny, memory)


def test_growth_of_a_large_store_is_announced(tiny, memory, monkeypatch):
    encode(tiny, memory)
    monkeypatch.setattr(features, "_LARGE_BYTES", info(memory)["n_bytes"] + 100)
    with pytest.warns(UserWarning, match=r"1 new texts"):
        encode(tiny, memory, ["one more"])


def test_the_third_encoding_without_memory_is_noticed(tiny, memory):
    vectorizer = BertVectorizer(tiny).fit(TEXTS)
    vectorizer.transform(TEXTS)
    vectorizer.transform(TEXTS)
    with pytest.warns(UserWarning, match=r"12 texts were encoded for the third time"):
        vectorizer.transform(TEXTS)


def test_reading_from_a_store_is_no_encoding(tiny, memory):
    for _ in range(4):
        encode(tiny, memory)


def test_texts_beyond_a_number_are_not_counted(tiny, monkeypatch):
    monkeypatch.setattr(features, "_REMEMBERED", 5)
    vectorizer = BertVectorizer(tiny).fit(TEXTS)
    vectorizer.transform(TEXTS)
    vectorizer.transform(TEXTS)
    with pytest.warns(UserWarning, match=r"^5 texts were encoded for the third time"):
        vectorizer.transform(TEXTS)
