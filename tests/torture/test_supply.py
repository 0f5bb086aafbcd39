"""What a checkpoint can do: run no code, unpickle nothing, ask no network."""

import importlib
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch

from sklearn_bert import BertVectorizer, checkpoint
from sklearn_bert.checkpoint import DEFAULT_MODEL, find_checkpoint

CODE = """
import os
os.mkdir({place!r})
from transformers import BertConfig, BertModel

class EvilConfig(BertConfig):
    model_type = "evil"

class EvilModel(BertModel):
    config_class = EvilConfig
"""


@pytest.fixture
def model(tiny, tmp_path):
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def with_code(model, model_type):
    """Add code of its own to a checkpoint; return what that makes when it runs."""
    trace = model.parent / "executed"
    (model / "evil.py").write_text(CODE.format(place=str(trace)))
    config = json.loads((model / "config.json").read_text())
    config["model_type"] = model_type
    config["auto_map"] = {
        "AutoConfig": "evil.EvilConfig",
        "AutoModel": "evil.EvilModel",
    }
    (model / "config.json").write_text(json.dumps(config))
    name = model / "tokenizer_config.json"
    content = json.loads(name.read_text())
    content["auto_map"] = {"AutoTokenizer": ["evil.EvilTokenizer", None]}
    name.write_text(json.dumps(content))
    return trace


@pytest.mark.parametrize("model_type", ["bert", "evil"])
def test_code_of_a_checkpoint_runs_only_where_it_is_trusted(
    result_of, model, monkeypatch, model_type
):
    trace = with_code(model, model_type)
    error = result_of("remote_code", model, "no", model.parent)
    assert not trace.exists()
    assert bool(error) == (model_type == "evil")  # bert is served by transformers
    result_of("remote_code", model, "yes", model.parent)
    assert trace.exists()  # so the test would notice


class Bomb:
    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("format", ["plain", "torch"])
@pytest.mark.parametrize("keeps_safetensors", [True, False])
def test_a_planted_pickle_of_weights_is_never_executed(
    model, format, keeps_safetensors
):
    trace = model.parent / "executed"
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        if format == "torch":
            torch.save({"weight": Bomb(trace)}, model / name)
        else:
            (model / name).write_bytes(pickle.dumps(Bomb(trace), protocol=2))
    if keeps_safetensors:
        assert BertVectorizer(str(model)).fit_transform(["a"]).shape == (1, 32)
    else:
        (model / "model.safetensors").unlink()
        with pytest.raises(ValueError, match=r"cannot be loaded from"):
            BertVectorizer(str(model)).fit_transform(["a"])
    assert not trace.exists()


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """Return a copy of the packaged model that is found instead of it."""
    spec = importlib.util.find_spec(checkpoint._PACKAGED_MODULE)
    source = Path(spec.submodule_search_locations[0]) / "model"
    target = tmp_path / "copy_of_a_package" / "model"
    shutil.copytree(source, target)
    (target.parent / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(checkpoint, "_PACKAGED_MODULE", "copy_of_a_package")
    return target


def test_a_true_copy_of_the_packaged_model_is_used_without_importing_it(packaged):
    assert find_checkpoint(DEFAULT_MODEL).directory == str(packaged)
    assert "copy_of_a_package" not in sys.modules


@pytest.mark.parametrize("name", ["model.safetensors", *checkpoint._PACKAGED_FILES])
@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_tampered_copy_of_the_packaged_model_is_refused(packaged, name, damage):
    if damage == "remove" and name == "model.safetensors":
        pytest.skip("no copy at all")
    content = (packaged / name).read_bytes()
    (packaged / name).unlink()
    if damage == "change":
        (packaged / name).write_bytes(content[:-2] + b" " + content[-1:])
    with pytest.raises(ValueError, match=rf"{name} does not have the expected SHA-256"):
        find_checkpoint(DEFAULT_MODEL)


def test_a_file_that_only_bears_a_digest_as_its_name_is_read(model):
    honest = find_checkpoint(str(model)).fingerprint
    blobs = model / "blobs"
    blobs.mkdir()
    weights = model / "model.safetensors"
    forged = blobs / checkpoint._digest(weights)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    forged.write_bytes(content)
    weights.unlink()
    weights.symlink_to(forged)
    assert find_checkpoint(str(model)).fingerprint != honest


@pytest.mark.parametrize("given", ["environment", "local_files_only"])
def test_no_socket_is_opened_offline(result_of, tiny, given):
    assert result_of("offline", tiny, given) == [32, 384]
