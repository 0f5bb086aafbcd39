"""A store that others wrote to: nothing is executed, nothing outside it is touched."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import rows
from processes import EVERYTHING, TEXTS

from sklearn_bert import BertVectorizer
from sklearn_bert.store import FeatureStore, StoreWarning, store_location

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no links for everybody")


class Bomb:
    """Makes a directory wherever it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def plant(space, outside):
    """Put what could hurt wherever a reader, a writer or joblib might look."""
    bomb = pickle.dumps(Bomb(outside / "exploded"))
    shards = sorted(path for path in space.iterdir() if len(path.name) == 32)
    for place in (*shards, space, *space.parents[:2], space / "claims"):
        for name in ("output.pkl", "mean.pkl", "metadata.json", "func_code.py"):
            (place / name).write_bytes(bomb)
    with (shards[0] / "mean.npy").open("wb") as stream:
        objects = np.array([Bomb(outside / "exploded")], dtype=object)
        np.save(stream, objects, allow_pickle=True)
    content = json.loads((shards[1] / "header.json").read_bytes().splitlines()[0])
    content["columns"] = {"../../../../outside/victim": [0, 1, 2]}
    (shards[1] / "header.json").write_text(json.dumps(content) + "\n00000000\n")
    for file, target in (
        (shards[2] / "cls.npy", "victim"),
        (shards[2] / "output.pkl", "victim"),
        (shards[3] / "header.json", "victim"),
        (space / "claims" / "mutex", "victim"),
        (space / "claims" / "merge", "new"),
        (space / "claims" / f"{'a' * 32}.claim", "victim"),
        (space / f"{'b' * 32}.tmp", "directory"),
        (space / ("c" * 32), "directory"),
        (space / "about.json", "dangling"),
    ):
        file.unlink(missing_ok=True)
        file.symlink_to(outside / target)


@pytest.mark.slow
def test_planted_files_run_nothing_and_lead_nowhere(
    result_of, tiny, tmp_path, expected_file
):
    memory, outside = tmp_path / "memory", tmp_path / "outside"
    (outside / "directory").mkdir(parents=True)
    (outside / "directory" / "kept").write_text("kept")
    (outside / "victim").write_bytes(b"x" * 160)
    os.utime(outside / "victim", (0, 0))
    for first in range(0, 60, 10):
        BertVectorizer(tiny, memory=memory, **EVERYTHING).fit_transform(
            TEXTS[first : first + 10]
        )
    (space,) = Path(store_location(memory)).glob("*/v*")
    plant(space, outside)
    seen = result_of("watched", tiny, memory, expected_file)
    assert seen == {"executed": [], "read": [], "written": []}
    assert sorted(os.listdir(outside)) == ["directory", "victim"]
    assert os.listdir(outside / "directory") == ["kept"]
    assert (outside / "victim").stat().st_mtime == 0


@pytest.mark.parametrize("level", [0, 1])
def test_a_linked_directory_is_one_warning_and_stays_as_it_is(tmp_path, level):
    store = FeatureStore(tmp_path / "memory", rows.SPACE)
    rows.append(store, range(3))
    link = [store.directory, *store.directory.parents][level]
    os.rename(link, tmp_path / "outside")
    link.symlink_to(tmp_path / "outside")
    before = sorted((tmp_path / "outside").rglob("*"))
    store = FeatureStore(tmp_path / "memory", rows.SPACE)
    with pytest.warns(StoreWarning, match=r"neither read nor kept.*link"):
        store.reopen()
    with store.claim(rows.keys_of([4]), 1) as mine:
        assert mine is None
    assert not rows.append(store, [4])
    store.merge()
    assert not rows.found(store, range(3))["mean"].any()
    assert sorted((tmp_path / "outside").rglob("*")) == before


def test_linked_claims_are_not_followed(tmp_path):
    store = FeatureStore(tmp_path / "memory", rows.SPACE)
    rows.append(store, range(3))
    (tmp_path / "outside").mkdir()
    (store.directory / "claims").symlink_to(tmp_path / "outside")
    with store.claim(rows.keys_of([4]), 1) as mine:
        assert mine is None
    assert os.listdir(tmp_path / "outside") == []


@pytest.mark.parametrize("name", ["../elsewhere", "a/../../../elsewhere"])
def test_a_name_of_a_model_never_becomes_a_path(tiny, tmp_path, name):
    place = tmp_path / "a" / name
    (tmp_path / "a" / "a").mkdir(parents=True)
    place.resolve().parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(tiny, place.resolve())
    memory = tmp_path / "memory"
    BertVectorizer(str(place), memory=memory).fit_transform(["text"])
    (space,) = Path(store_location(memory)).glob("sklearn_bert-features/*")
    assert space.name.startswith("v")
    assert "elsewhere" not in space.name
