"""Every kind of damage to a small store: never a wrong number, never an exception."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import warnings
import zlib
from pathlib import Path

import fuzz
import numpy as np
import pytest
import rows
from processes import EVERYTHING, TEXTS

from sklearn_bert import BertTokenVectorizer, BertVectorizer, features
from sklearn_bert import store as store_module
from sklearn_bert.claims import _CLAIM
from sklearn_bert.datasets import make_tiny_encoder
from sklearn_bert.shard import Unreadable, open_shard
from sklearn_bert.store import FeatureStore, StoreWarning, store_location


def fresh_store(place):
    """Return a store as a process that has warned of nothing opens it."""
    store_module._warned.clear()
    return FeatureStore(place, rows.SPACE)


@contextlib.contextmanager
def within(seconds):
    """Fail, rather than hang."""

    def stop(*_):
        raise TimeoutError(f"more than {seconds} seconds")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


# Rows per text, which tests/test_store.py does not damage


def values_of_rows(keys, counts):
    return np.concatenate(
        [
            rows.values_of(np.repeat(key, n), "tokens", (0, 1))
            for key, n in zip(keys, counts, strict=True)
        ],
        axis=1,
    )


def append_rows(store, names):
    """Keep 0 to 3 rows per name, which follow from the name; return the shard."""
    keys = rows.keys_of(names)
    counts = np.array([sum(key) % 4 for key in keys])
    columns = {"tokens": ((0, 1), values_of_rows(keys, counts))}
    name = store.append(keys, rows.n_tokens_of(keys), columns, counts)
    return store.directory / name


def n_found_rows(store, names):
    """Return how many texts are found, after checking every bit of their rows."""
    keys = rows.keys_of(names)
    store.refresh()
    while True:
        hits = store.find(keys, {"tokens": (0, 1)})["tokens"]
        which = np.flatnonzero(hits.found)
        counts = hits.n_rows[which]
        assert counts.tolist() == [sum(key) % 4 for key in keys[which]]
        out = np.full((counts.sum(), 2, rows.WIDTH), 7, dtype=np.float32)
        if store.read(hits, which, "tokens", (0, 1), out):
            break
    if len(which):
        expected = values_of_rows(keys[which], counts).swapaxes(0, 1)
        assert out.tobytes() == np.ascontiguousarray(expected).tobytes()
    return len(which)


@pytest.mark.parametrize("kind", ["flip", "cut"])
def test_no_byte_of_rows_per_text_changes_unnoticed(tmp_path, scale, figures, kind):
    store = FeatureStore(tmp_path, rows.SPACE)
    path, whole = append_rows(store, range(6)), append_rows(store, ["whole"])
    assert whole.is_dir()
    n_damaged = 0
    for file in [*sorted(path.glob("*.npy")), path / "header.json"]:
        raw = file.read_bytes()
        for i in range(0, len(raw), scale(3, 1)):
            flipped = raw[:i] + bytes([raw[i] ^ 0x10]) + raw[i + 1 :]
            file.write_bytes(flipped if kind == "flip" else raw[:i])
            with pytest.warns(StoreWarning, match=f"{path.name} are left") as caught:
                assert n_found_rows(fresh_store(tmp_path), [*range(6), "whole"]) == 1
            assert len(caught) == 1
            n_damaged += 1
        file.write_bytes(raw)
    assert n_found_rows(fresh_store(tmp_path), [*range(6), "whole"]) == 7
    figures({"files_damaged": n_damaged, "unnoticed": 0})


# Through transform


@pytest.fixture
def kept(tiny, tmp_path):
    """Return a function that transforms three texts, and their one shard."""

    def transform():
        features._stores.clear()
        store_module._warned.clear()
        vectorizer = BertVectorizer(tiny, memory=tmp_path, **EVERYTHING)
        return vectorizer.fit_transform(TEXTS[:3])

    transform()
    (shard,) = shards_of(tmp_path)
    return transform, shard


def shards_of(memory):
    place = Path(store_location(memory))
    return [path for path in place.glob("*/*/*") if len(path.name) == 32]


def restore(shard, spare):
    """Leave the undamaged shard only."""
    for path in shard.parent.iterdir():
        if len(path.name) == 32:
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
    shutil.copytree(spare, shard, symlinks=True)


def test_no_flipped_byte_reaches_transform(
    kept, expected, tmp_path_factory, scale, figures
):
    transform, shard = kept
    spare = shutil.copytree(shard, tmp_path_factory.mktemp("spare") / "shard")
    draw, n_damaged = random.Random(0), 0
    for name in sorted(os.listdir(shard)):
        if name == "output.pkl":
            continue
        raw = (shard / name).read_bytes()
        step = 1 if name == "header.json" else 16
        for i in range(0, len(raw), scale(16 * step, (step + 3) // 4)):
            flipped = bytes([raw[i] ^ draw.randrange(1, 256)])
            (shard / name).write_bytes(raw[:i] + flipped + raw[i + 1 :])
            with pytest.warns(StoreWarning, match=shard.name) as caught:
                found = transform()
            assert len(caught) == 1
            np.testing.assert_allclose(found, expected[:3], atol=1e-5)
            restore(shard, spare)
            n_damaged += 1
    figures({"bytes_flipped": n_damaged, "wrong_numbers": 0, "exceptions": 0})


def link_to_a_secret(file):
    secret = file.parents[1] / "secret"
    secret.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(secret)


def link_to_zeros(file):
    file.unlink()
    file.symlink_to("/dev/zero")


def pipe(file):
    file.unlink()
    os.mkfifo(file)


def listening_socket(file):
    file.unlink()
    here = os.getcwd()
    os.chdir(file.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(file.name)
    finally:
        os.chdir(here)


FILES = ["header.json", "keys.npy", "n_tokens.npy", "checksums.npy", "cls.npy"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", [link_to_a_secret, link_to_zeros, pipe, listening_socket]
)
def test_what_is_no_plain_file_is_left_out_at_once(kept, expected, name, damage):
    transform, shard = kept
    damage(shard / name)
    with within(20), pytest.warns(StoreWarning, match=shard.name) as caught:
        found = transform()
    assert len(caught) == 1
    np.testing.assert_allclose(found, expected[:3], atol=1e-5)


@pytest.mark.skipif(os.name == "nt", reason="no modes")
def test_files_that_may_only_be_read_are_read(kept, work):
    transform, shard = kept
    for path in shard.iterdir():
        path.chmod(0o444)
    before = work().n_texts
    transform()
    assert work().n_texts == before


@pytest.mark.parametrize("name", FILES)
def test_files_swapped_between_fingerprints_are_left_out(
    kept, expected, tmp_path, tmp_path_factory, name
):
    transform, shard = kept
    other = make_tiny_encoder(tmp_path_factory.mktemp("other"), seed=1)
    BertVectorizer(other, memory=tmp_path, **EVERYTHING).fit_transform(TEXTS[:3])
    (foreign,) = set(shards_of(tmp_path)) - {shard}
    same = (foreign / name).read_bytes() == (shard / name).read_bytes()
    shutil.copy(foreign / name, shard / name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = transform()
    assert len(caught) == (not same)  # keys and counts are those of the texts
    np.testing.assert_allclose(found, expected[:3], atol=1e-5)


def forge(shard, **changes):
    """Change a shard's header and make every checksum right."""
    file = shard / "header.json"
    content = {**json.loads(file.read_bytes().splitlines()[0]), **changes}
    for name in content["crcs"]:
        content["crcs"][name] = zlib.crc32((shard / f"{name}.npy").read_bytes())
    raw = json.dumps(content).encode()
    file.write_bytes(raw + b"\n%08x\n" % zlib.crc32(raw))


def replace_by_zeros(memory, shard, n_rows, width, counts=None):
    """Put a shard of the same texts in a shard's place, with every checksum right."""
    store = FeatureStore(store_location(memory), shard.parent.name)
    values = np.zeros((3, n_rows, width), dtype=np.float32)
    columns = dict.fromkeys(("cls", "mean", "max"), ((0, 1, 2), values))
    keys = np.load(shard / "keys.npy")
    shutil.rmtree(shard)
    store.append(keys, np.ones(3, np.int32), columns, counts)


def test_a_forged_shard_of_another_width_is_left_out(kept, expected, tmp_path):
    transform, shard = kept
    replace_by_zeros(tmp_path, shard, n_rows=3, width=8)
    with pytest.warns(StoreWarning, match=r"its rows hold 8 numbers"):
        found = transform()
    np.testing.assert_allclose(found, expected[:3], atol=1e-5)


def test_a_forged_file_that_is_too_short_is_left_out(kept, expected):
    transform, shard = kept
    os.truncate(shard / "n_tokens.npy", (shard / "n_tokens.npy").stat().st_size - 4)
    forge(shard)
    with pytest.warns(StoreWarning, match=r"n_tokens.npy does not match its checksum"):
        found = transform()
    np.testing.assert_allclose(found, expected[:3], atol=1e-5)


def test_a_forged_shard_of_several_rows_per_text_is_not_used(kept, expected, tmp_path):
    transform, shard = kept
    replace_by_zeros(tmp_path, shard, n_rows=6, width=32, counts=np.array([0, 2, 4]))
    np.testing.assert_allclose(transform(), expected[:3], atol=1e-5)


# Random damage, and headers that are forged with right checksums


FORGED = [
    -1, 0, 1, 2, 3, 2**31, 2**63, 10**40, 1.5, True, None, "", "3", [], {}, [0, 0],
    "<f2", "<f4", "|O", "../../x", {"mean": [0, 0]}, {"mean": []}, {"": [0]},
    {"keys": [0]}, {"mean": [10**30]}, {"mean": [-1]}, {"mean": [0] * 5000},
]  # fmt: skip


def damage(draw, path, other):
    """Change a shard in one to three random ways."""
    for _ in range(draw.randrange(1, 4)):
        file = draw.choice(sorted(path.iterdir()))
        raw = bytearray(file.read_bytes())
        spot = draw.randrange(len(raw) + 1)
        end = min(len(raw), spot + draw.randrange(1, 40))
        kind = draw.randrange(7)
        if kind == 0:
            raw[spot:end] = bytes(end - spot)
        elif kind == 1:
            del raw[spot:end]
        elif kind == 2:
            raw[spot:spot] = draw.randbytes(draw.randrange(1, 40))
        elif kind == 3:
            theirs = (other / file.name).read_bytes()
            raw[spot:end] = theirs[spot:end]
        elif kind == 4:
            raw[spot:end] = draw.randbytes(end - spot)
        file.write_bytes(raw)
        if kind >= 5:
            names = ["format", "space", "dtype", "n_texts", "n_rows", "width"]
            names += ["n_block_rows", "columns", "crcs"]
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                forge(path, **{draw.choice(names): draw.choice(FORGED)})


def test_random_damage_raises_nothing_but_its_own_error(tmp_path, scale, figures):
    draw, n_left = random.Random(0), 0
    store = FeatureStore(tmp_path, rows.SPACE)
    one = append_rows(store, range(5))
    two = store.directory / rows.append(store, range(3), rows.BOTH)
    n_runs = scale(250, 5_000)
    for i in range(n_runs):
        source, other = (one, two) if i % 2 else (two, one)
        path = shutil.copytree(source, tmp_path / "copy")
        with contextlib.suppress(FileNotFoundError):  # the other has no such file
            damage(draw, path, other)
        with within(20), contextlib.suppress(Unreadable, OSError):
            shard = open_shard(path, rows.SPACE)
            for column, layers in shard.columns.items():
                texts = np.arange(len(shard.keys))
                counts = shard.counts(texts)
                out = np.empty((counts.sum(), len(layers), rows.WIDTH), np.float32)
                where = np.cumsum(counts) - counts
                shard.read(column, layers, texts, out, where)
            n_left += 1
        shutil.rmtree(path)
    figures({"damaged_shards": n_runs, "harmless": n_left, "other_errors": 0})


def test_inputs_that_a_fuzzer_found_are_read_right(tmp_path):
    target, inputs = fuzz.Target(tmp_path), sorted(fuzz.CORPUS.iterdir())
    assert len(inputs) > 10
    for data in [*target.seeds(), *(path.read_bytes() for path in inputs)]:
        target.try_input(data)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files")
def test_whatever_lies_among_claims_neither_blocks_nor_raises(tmp_path):
    store, keys = FeatureStore(tmp_path, rows.SPACE), rows.keys_of(range(4))
    with store.claim(keys[:1], 1):
        pass
    place = store.directory / "claims"
    draw = random.Random(0)
    paths = [place / f"{i:032x}.claim" for i in range(6)]
    assert all(_CLAIM.fullmatch(path.name) for path in paths)
    os.mkfifo(paths[0])
    paths[1].symlink_to("/dev/zero")
    paths[2].mkdir()
    paths[3].write_bytes(draw.randbytes(17))
    paths[4].write_bytes(b"")
    os.truncate(paths[4], 2**40)
    paths[5].symlink_to("nowhere")
    with within(20), store.claim(keys, 4) as mine:
        assert len(mine) == 4
        store.wait(keys)


# Rows of tokens and words through their estimators


def test_damaged_words_are_encoded_again(tiny, tmp_path):
    texts = [["one", "two"], ["three"]]
    vectorizer = BertTokenVectorizer(tiny, memory=tmp_path)
    before = vectorizer.fit_transform(texts)
    for shard in shards_of(tmp_path):
        os.truncate(shard / "n_rows.npy", 130)
    features._stores.clear()
    with pytest.warns(StoreWarning, match=r"n_rows.npy does not match its checksum"):
        after = vectorizer.fit_transform(texts)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
