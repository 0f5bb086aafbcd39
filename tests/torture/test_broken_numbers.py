"""NaN and infinity are errors that name the text, and are never kept."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import EVERYTHING
from safetensors.torch import load_file, save_file

from sklearn_bert import BertTokenVectorizer, BertVectorizer, features
from sklearn_bert.encoder import Encoder
from sklearn_bert.store import FeatureStore, store_location


def edited(tiny, place, edit):
    """Copy the tiny encoder and change its weights."""
    model = Path(shutil.copytree(tiny, place / "model"))
    weights = load_file(model / "model.safetensors")
    edit(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return str(model)


def token_of(model, text):
    """Return the number of the token that a text of one token has."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(model)(text)["input_ids"][1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_token_of_broken_weights_names_the_row(tiny, tmp_path, work, value):
    number = token_of(tiny, "z")

    def edit(weights):
        weights["embeddings.word_embeddings.weight"][number] = value

    model = edited(tiny, tmp_path, edit)
    memory = tmp_path / "memory"
    vectorizer = BertVectorizer(model, memory=memory, **EVERYTHING)
    message = r"gives NaN or infinity in layer 1 for the text in row 2, 'a z'; nothing"
    with pytest.raises(ValueError, match=message):
        vectorizer.fit_transform(["a", "b", "a z", "a"])
    assert stored(memory) == 0
    assert np.isfinite(vectorizer.fit_transform(["a", "b", "a"])).all()
    assert stored(memory) == 2


def stored(memory):
    place = Path(store_location(memory))
    return sum(
        FeatureStore(place, space.name).info()["n_keys"] for space in place.glob("*/v*")
    )


def test_weights_that_are_all_broken_are_refused_at_once(tiny, tmp_path):
    def edit(weights):
        weights["encoder.layer.1.output.dense.weight"][:] = float("nan")

    model = edited(tiny, tmp_path, edit)
    with pytest.raises(ValueError, match=r"cannot be served|gives NaN or infinity"):
        BertVectorizer(model, memory=tmp_path / "memory").fit_transform(["a"])
    assert stored(tmp_path / "memory") == 0


def test_half_precision_that_overflows_for_one_text_says_so(tiny, tmp_path):
    number = token_of(tiny, "z")

    def edit(weights):
        weights["embeddings.word_embeddings.weight"][number] = 6e4
        weights["embeddings.position_embeddings.weight"][50] = 2e4

    model = edited(tiny, tmp_path, edit)
    texts = ["a b", 49 * "a " + "z"]
    vectorizer = BertVectorizer(model, dtype="float16", memory=tmp_path / "memory")
    with pytest.raises(ValueError, match=r"row 1, 'a a .*pass dtype='float32'"):
        vectorizer.fit_transform(texts)
    assert stored(tmp_path / "memory") == 0
    assert np.isfinite(BertVectorizer(model).fit_transform(texts)).all()


def test_the_row_that_is_named_is_that_of_X(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_WINDOW_TEXTS", 2)
    encode = Encoder.encode

    def break_one(self, texts, plan):
        encoded = encode(self, texts, plan)
        for values in encoded.columns.values():
            values[:, [i for i, text in enumerate(texts) if text == "bad"]] = np.nan
        return encoded

    monkeypatch.setattr(Encoder, "encode", break_one)
    texts = ["longest of all", "longest of all", "a", "bad", "bad"]
    vectorizer = BertVectorizer(tiny, memory=tmp_path)
    with pytest.raises(ValueError, match=r"in layer 0 for the text in row 3, 'bad'"):
        vectorizer.fit_transform(texts)


def test_broken_words_name_their_text(tiny, tmp_path):
    number = token_of(tiny, "z")

    def edit(weights):
        weights["embeddings.word_embeddings.weight"][number] = float("nan")

    model = edited(tiny, tmp_path, edit)
    vectorizer = BertTokenVectorizer(model, memory=tmp_path / "memory")
    with pytest.raises(ValueError, match=r"row 1, \('a', 'z'\)"):
        vectorizer.fit_transform([["a", "b"], ["a", "z"]])
    assert stored(tmp_path / "memory") == 0


def test_float16_is_not_broken_by_what_it_can_hold(tiny):
    found = BertVectorizer(tiny, dtype="float16").fit_transform(["a b"])
    exact = BertVectorizer(tiny).fit_transform(["a b"])
    assert torch.allclose(torch.tensor(found), torch.tensor(exact), atol=1e-2)
