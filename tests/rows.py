"""Made-up features that follow from their key, so that any process can check them.

Run as a script it is one of the processes that the store's tests start and kill; it
imports neither torch nor scikit-learn.
"""

import hashlib
import itertools
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from sklearn_bert import store as store_module
from sklearn_bert.store import FeatureStore

SPACE = "v1-rows"
WIDTH = 4
MEAN = {"mean": (0, 1, 2)}
BOTH = {"mean": (0, 1, 2), "cls": (0, 2)}


def keys_of(names):
    """Return digests as keys, of anything that prints; keys as they are."""
    if getattr(names, "dtype", None) == "S16":
        return names
    return np.array([hashlib.md5(str(n).encode()).digest() for n in names], dtype="S16")


def n_tokens_of(keys):
    return np.array([1 + sum(key) % 500 for key in keys], dtype=np.int32)


def values_of(keys, column, layers):
    """Return float32 of any bits, NaN included: (n_layers, n_keys, WIDTH)."""
    raw = b"".join(
        hashlib.blake2b(
            key.ljust(16, b"\0") + column.encode() + bytes([layer]),
            digest_size=4 * WIDTH,
        ).digest()
        for layer in layers
        for key in keys
    )
    return np.frombuffer(raw, "<f4").reshape(len(layers), len(keys), WIDTH)


def append(store, names, wanted=MEAN):
    """Keep the rows of names or keys."""
    keys = keys_of(names)
    return store.append(
        keys,
        n_tokens_of(keys),
        {c: (layers, values_of(keys, c, layers)) for c, layers in wanted.items()},
    )


def found(store, names, wanted=MEAN):
    """Return which rows the store has, per column, after checking every bit of them."""
    keys = keys_of(names)
    while (answer := _read(store, keys, wanted)) is None:
        pass
    return answer


def _read(store, keys, wanted):
    answer = {}
    for column, hits in store.find(keys, wanted).items():
        which = np.flatnonzero(hits.found)
        layers = wanted[column]
        out = np.full((len(which), len(layers), WIDTH), 7, dtype=np.float32)
        if not store.read(hits, which, column, layers, out):
            return None
        expected = values_of(keys[which], column, layers).swapaxes(0, 1)
        if out.tobytes() != np.ascontiguousarray(expected).tobytes():
            raise AssertionError("the store lied")
        if (hits.n_tokens[which] != n_tokens_of(keys[which])).any():
            raise AssertionError("the store lied about token counts")
        answer[column] = hits.found
    return answer


def compute(store, names, at_most=8, seconds=0.0):
    """Return how many rows were computed here so that the store has them all."""
    keys, n_computed = keys_of(names), 0
    store.reopen()
    pending = np.flatnonzero(~found(store, keys)["mean"])
    while len(pending):
        with store.claim(keys[pending], at_most) as mine:
            window = pending[:at_most] if mine is None else pending[mine]
            store.refresh()
            window = window[~found(store, keys[window])["mean"]]
            time.sleep(seconds * len(window))
            append(store, keys[window])
            n_computed += len(window)
        n_before = len(pending)
        pending = pending[~found(store, keys[pending])["mean"]]
        if len(pending) == n_before:
            store.wait(keys[pending])
            store.refresh()
    return n_computed


# Processes


def say(*numbers):
    """Print for the test that started this process."""
    sys.stdout.write(" ".join(map(str, numbers)) + "\n")
    sys.stdout.flush()


def hold(location, n):
    """Claim n rows for ever."""
    store = FeatureStore(location, SPACE)
    with store.claim(keys_of(range(int(n))), int(n)) as mine:
        say(len(mine))
        time.sleep(600)


def write(location, seed):
    """Append shards for ever; print the number of each that is finished."""
    store, rng = FeatureStore(location, SPACE), np.random.default_rng(int(seed))
    for i in itertools.count():
        n = int(rng.integers(1, 500))
        append(store, [f"{seed} {i} {j}" for j in range(n)])
        say(i, n)
        if i % 10 == 9:
            store.merge()


def share(location, first, last, seconds):
    """Compute rows that others compute too; print how many were computed here."""
    store = FeatureStore(location, SPACE)
    names = range(int(first), int(last))
    say(compute(store, names, seconds=float(seconds)))


def die(location):
    """Die before each file operation of appending and merging in turn."""
    store_module._MERGE_AT = 3
    for n_operations in itertools.count():
        place = Path(location) / str(n_operations)
        for i in range(3):
            append(FeatureStore(place, SPACE), [i, "twice"])
        if not (pid := os.fork()):
            _die_before(n_operations)
            store = FeatureStore(place, SPACE)
            with store.claim(keys_of([3]), 1):
                append(store, [3])
            store.merge()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        store = FeatureStore(place, SPACE)
        store.refresh()
        if not found(store, ["twice", 0, 1, 2])["mean"].all():
            raise AssertionError(f"lost rows by dying before operation {n_operations}")
        if compute(store, range(4)) > 1:
            raise AssertionError("computed again what was there")
        store.merge()
        if store.info()["n_keys"] != 5:
            raise AssertionError(store.info())
        if status == 0:
            say(n_operations)
            return


def _die_before(n_operations):
    left = iter(range(n_operations))
    kinds = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.utime")

    def hook(event, _):
        if event in kinds and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
