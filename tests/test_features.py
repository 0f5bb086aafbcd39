"""Memory stays bounded, and forked processes work."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from sklearn_bert import BertVectorizer, features
from sklearn_bert.features import Engine, _Run
from sklearn_bert.store import FeatureStore

CODE = """
import json, resource, sys, warnings
import numpy as np
from sklearn_bert import BertVectorizer, features

warnings.simplefilter("ignore")
model, memory, n_texts = sys.argv[1], sys.argv[2] or None, int(sys.argv[3])
vectorizer = BertVectorizer(model, memory=memory, layer=[0, 1, 2]).fit([])
vectorizer.transform(["warm up"] * 10)
texts = [f"a short text, number {i}" for i in range(n_texts)]
def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
result = vectorizer.transform(texts)
print(json.dumps({"grown": peak() - before, "output": result.nbytes}))
"""


def test_windows_of_long_texts_hold_few_of_them(tiny):
    vectorizer = BertVectorizer(tiny, overflow="chunk", max_length=64, stride=0)
    vectorizer.fit([])
    request = vectorizer._request(vectorizer._checkpoint())
    long = _Run(["word " * 5000] * 40, request, Engine())
    assert max(map(len, long._windows(np.arange(40)))) <= 4
    short = _Run(["word"] * 1000, request, Engine())
    assert [len(window) for window in short._windows(np.arange(1000))] == [512, 488]


def test_shards_are_merged_during_a_long_call(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_WINDOW_TEXTS", 2)
    monkeypatch.setattr(features, "_MERGE_EVERY", 16)
    n_shards, looked = [], []
    append, located = FeatureStore.append, _Run._located

    def counted(self, *args):
        name = append(self, *args)
        n_shards.append(len(self._shards))
        return name

    def noted(self, *args):
        looked.append(1)
        return located(self, *args)

    monkeypatch.setattr(FeatureStore, "append", counted)
    monkeypatch.setattr(_Run, "_located", noted)
    texts = [f"text {i}" for i in range(256)]
    found = BertVectorizer(tiny, memory=tmp_path).fit_transform(texts)
    assert len(n_shards) == 128
    assert max(n_shards) <= 16 + 3 * 8
    assert len(looked) <= 128  # its own merged shards are not looked into again
    monkeypatch.undo()
    np.testing.assert_allclose(
        found, BertVectorizer(tiny).fit_transform(texts), atol=1e-6
    )
    again = BertVectorizer(tiny, memory=tmp_path).fit_transform(texts)
    np.testing.assert_array_equal(again, found)


FORKED = """
import multiprocessing, os, sys, threading
from sklearn_bert import BertVectorizer, features
model, memory = sys.argv[1:]
vectorizer = BertVectorizer(model, memory=memory).fit([])
vectorizer.transform([f"text {i}" for i in range(50)])
def keep_busy():
    while True:
        vectorizer.transform(["text 1"])
for _ in range(2):
    threading.Thread(target=keep_busy, daemon=True).start()
def child(i):
    return vectorizer.transform([f"child {i}", "text 1"]).shape
with multiprocessing.get_context("fork").Pool(4) as pool:
    print(pool.map_async(child, range(8)).get(timeout=60), flush=True)
os._exit(0)  # without waiting for the threads
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_forked_children_of_a_busy_process_encode_too(tiny, tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, tiny, str(tmp_path)],
        check=True, capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert run.stdout.strip() == str([(2, 32)] * 8)


@pytest.mark.slow
@pytest.mark.parametrize("is_kept", [False, True])
def test_memory_grows_only_with_the_output(tiny, tmp_path, is_kept):
    memory = str(tmp_path) if is_kept else ""

    def overhead(n_texts):
        run = subprocess.run(
            [sys.executable, "-c", CODE, tiny, memory, str(n_texts)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        numbers = json.loads(run.stdout)
        return numbers["grown"] - numbers["output"]

    few, many = overhead(2_000), overhead(20_000)
    # Per text beyond its features: its key, its place, its share of a dictionary, about
    # 0.8 kB for many texts; the allocator adds some for few.
    assert many - few < 18_000 * 2_000
