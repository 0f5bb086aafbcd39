"""The demo texts and the tiny encoder: offline, repeatable, and what they promise."""

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sklearn_bert import datasets
from sklearn_bert.datasets import load_docstrings, make_tiny_encoder


@pytest.fixture(scope="module")
def docs():
    return load_docstrings()


@pytest.fixture(scope="module")
def fresh_process():
    """Digest of the texts and imports of a process that may not use the network."""
    code = """
import hashlib, json, sys
def refuse_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise AssertionError(event)
sys.addaudithook(refuse_network)
from sklearn_bert.datasets import load_docstrings
texts = "\\n".join(load_docstrings().data)
modules = sorted({"torch", "transformers", "scipy.signal"} & set(sys.modules))
print(json.dumps([hashlib.sha256(texts.encode()).hexdigest(), modules]))
"""
    root = Path(datasets.__file__).parents[1]
    output = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "1"},
        capture_output=True,
        check=True,
    ).stdout
    return json.loads(output)


def largest_possible():
    return min(len(texts) for texts in datasets._read_topics().values())


# load_docstrings


def test_default_is_a_thousand_texts_in_balanced_classes(docs):
    assert len(docs.data) == 1000
    assert docs.target.shape == (1000,)
    np.testing.assert_array_equal(np.bincount(docs.target), [100] * 10)


def test_target_indexes_sorted_topic_names(docs):
    assert np.issubdtype(docs.target.dtype, np.integer)
    assert docs.target_names == sorted(set(docs.target_names))
    assert len(docs.target_names) == docs.target.max() + 1


def test_texts_are_distinct_even_between_classes():
    texts = load_docstrings(None).data
    assert len({text.casefold() for text in texts}) == len(texts)


def test_texts_are_single_lines_of_at_least_five_words(docs):
    for text in docs.data:
        assert type(text) is str
        assert text == " ".join(text.split())
        assert len(text.split()) >= 5


@pytest.mark.parametrize("trace", [">>>", "----", "`", ".. math", ":func:", "\\"])
def test_texts_hold_no_examples_sections_or_markup(trace):
    assert not [text for text in load_docstrings(None).data if trace in text]


def test_rows_of_the_classes_are_shuffled(docs):
    assert len(set(docs.target[:50])) > 5


def test_same_random_state_gives_same_texts(docs):
    again = load_docstrings(random_state=0)
    assert again.data == docs.data
    np.testing.assert_array_equal(again.target, docs.target)


def test_other_random_state_gives_other_texts(docs):
    assert set(load_docstrings(random_state=1).data) != set(docs.data)


def test_random_state_instance_is_accepted():
    state = np.random.RandomState(0)
    assert load_docstrings(5, random_state=state).data == load_docstrings(5).data


def test_another_process_without_network_reads_the_same_texts(docs, fresh_process):
    here = hashlib.sha256("\n".join(docs.data).encode()).hexdigest()
    assert fresh_process[0] == here


def test_loading_texts_imports_no_package_that_it_reads(fresh_process):
    assert fresh_process[1] == []


def test_smaller_sample_is_part_of_a_larger_one(docs):
    assert set(load_docstrings(10).data) < set(docs.data)


def test_changing_a_result_leaves_the_next_one_alone(docs):
    first = load_docstrings(5)
    first.data.clear()
    first.target_names.clear()
    second = load_docstrings(5)
    assert len(second.data) == 50
    assert second.target_names == docs.target_names


def test_none_takes_the_whole_smallest_class():
    counts = np.bincount(load_docstrings(None).target)
    np.testing.assert_array_equal(counts, [largest_possible()] * 10)


def test_every_class_has_room_beyond_the_default():
    assert largest_possible() >= 120


def test_description_names_versions_and_counts(docs):
    import scipy

    assert f"scipy {scipy.__version__}" in docs.DESCR
    for topic, texts in datasets._read_topics().items():
        assert f"{topic}: {len(texts)} texts" in docs.DESCR


def test_known_docstrings_are_under_their_topic():
    rows = datasets._read_topics().items()
    found = {topic: [text for text, _ in texts] for topic, texts in rows}
    assert "Compute the Matthews correlation coefficient (MCC)." in found["evaluation"]
    # Written in C, so documented by add_newdoc.
    assert "Chi square cumulative distribution function." in found["special functions"]


def test_too_many_texts_per_class_is_refused_with_the_largest_possible():
    largest = largest_possible()
    with pytest.raises(ValueError, match=rf"n_per_class=100000 .* 1 and {largest},"):
        load_docstrings(100_000)
    assert len(load_docstrings(largest).data) == 10 * largest


@pytest.mark.parametrize("n_per_class", [0, -1])
def test_no_texts_per_class_is_refused(n_per_class):
    with pytest.raises(ValueError, match=f"n_per_class={n_per_class} is out of range"):
        load_docstrings(n_per_class)


@pytest.mark.parametrize("n_per_class", [2.0, "10", True])
def test_n_per_class_of_another_type_is_refused(n_per_class):
    with pytest.raises(TypeError, match="n_per_class must be an integer or None, got"):
        load_docstrings(n_per_class)


def test_numpy_integers_are_accepted():
    assert len(load_docstrings(np.int64(3)).data) == 30


def test_missing_package_is_named():
    with pytest.raises(ModuleNotFoundError, match="'no_such_package', which is not"):
        datasets._find_package("no_such_package")


def test_blocked_package_can_still_be_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert (datasets._find_package("torch") / "nn").is_dir()


@pytest.mark.parametrize(
    ("docstring", "summary"),
    [
        ("Sum two\n    numbers.\n\n    More.", "Sum two numbers."),
        ("airy(z, out=None)\n\nAiry functions.", "Airy functions."),
        ("Scale.\nArgs:\n  x: a number", "Scale."),
        ("Scale::\n\n    >>> f()", "Scale:"),
        (".. deprecated:: 1.0\n\nScale.", "Scale."),
        ("Parameters\n----------\nx : int", ""),
        (">>> f()\n1\n\nScale.", ""),
        ("See :func:`~a.b.c`, :class:`d.e` and ``f``.", "See c, d.e and f."),
        ("The rule of `Simpson <https://x.org>`_ [1]_.", "The rule of Simpson."),
        ("Estimate a density (KDE)", "Estimate a density (KDE)"),
    ],
)
def test_summary_is_the_first_paragraph_of_prose(docstring, summary):
    assert datasets._summarise(docstring) == summary


def test_only_public_objects_are_read():
    code = """
def public(): "a"
def _private(): "no"
class Public:
    "b"
    def method(self): "c"
    def _method(self): "no"
    def __len__(self): "no"
class _Private:
    "no"
    def method(self): "no"
if True:
    def guarded(): "d"
add_newdoc("name", "e")
add_newdoc("_name", "no")
add_newdoc("place", "name", "f")
add_newdoc("place", "Class", ("method", "g"))
add_newdoc("place", "name", computed())
print("a", "no")
"""
    found = list(datasets._public_docstrings(ast.parse(code).body, "function"))
    assert [docstring for docstring, _ in found] == list("abcdefg")
    assert [kind[0] for _, kind in found] == list("fcmfffm")


def test_kind_says_what_each_text_documents(docs):
    assert set(docs.kind) == {"class", "function", "method"}
    assert len(docs.kind) == len(docs.data)
    is_class = docs.kind == "class"
    says_compute = np.char.startswith(docs.data, "Compute ")
    assert is_class[says_compute].mean() < 0.1 < is_class.mean()


# make_tiny_encoder


def load(model):
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    return tokenizer, AutoModel.from_pretrained(model, local_files_only=True).eval()


def mean_features(model, texts):
    """Masked means of the last layer, in the plainest way."""
    import torch

    tokenizer, encoder = load(model)
    rows = []
    for text in texts:
        with torch.inference_mode():
            states = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state
        rows.append(states[0].mean(0).numpy())
    return np.stack(rows)


def test_tiny_encoder_writes_four_files_and_returns_a_string(tmp_path):
    model = make_tiny_encoder(tmp_path / "new" / "tiny")
    assert model == str(tmp_path / "new" / "tiny")
    assert sorted(os.listdir(model)) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_tiny_encoder_has_the_sizes_asked_for(tmp_path):
    _, encoder = load(make_tiny_encoder(tmp_path, n_layers=3, width=24, n_heads=2))
    assert encoder.config.num_hidden_layers == len(encoder.encoder.layer) == 3
    assert encoder.config.hidden_size == 24
    assert encoder.config.num_attention_heads == 2
    assert encoder.config.max_position_embeddings == 64


@pytest.mark.parametrize("with_pooler", [True, False])
def test_only_the_pooler_may_be_missing_from_the_checkpoint(tmp_path, with_pooler):
    from transformers import AutoModel

    model = make_tiny_encoder(tmp_path, with_pooler=with_pooler)
    _, report = AutoModel.from_pretrained(model, output_loading_info=True)
    missing = set() if with_pooler else {"pooler.dense.weight", "pooler.dense.bias"}
    assert set(report["missing_keys"]) == missing
    assert not report["unexpected_keys"]


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    files = [
        Path(make_tiny_encoder(tmp_path / name, seed=seed), "model.safetensors")
        for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    ]
    same, again, other = (file.read_bytes() for file in files)
    assert same == again
    assert same != other


def test_global_random_states_are_left_alone(tmp_path):
    import torch

    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    make_tiny_encoder(tmp_path, seed=7)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002


def test_features_of_different_texts_differ_clearly(tmp_path):
    model = make_tiny_encoder(tmp_path, vocabulary=["good", "bad", "film"])
    rows = mean_features(model, ["good film", "bad film", "a film", "", "film film"])
    distances = np.linalg.norm(rows[:, None] - rows, axis=2)
    assert distances[~np.eye(5, dtype=bool)].min() > 0.5


def test_tokenizer_lowers_case_and_splits_unknown_words_into_characters(tmp_path):
    tokenizer, _ = load(make_tiny_encoder(tmp_path, vocabulary=["Good", "café"]))
    assert tokenizer.tokenize("gOOd cafe, hé7!") == [
        "good", "cafe", ",", "h", "##e", "##7", "!",
    ]  # fmt: skip
    assert tokenizer.tokenize("日本") == ["[UNK]", "[UNK]"]


def test_tokenizer_frames_pads_and_truncates_like_bert(tmp_path):
    tokenizer, _ = load(make_tiny_encoder(tmp_path))
    assert tokenizer("a", "b").tokens() == ["[CLS]", "a", "[SEP]", "b", "[SEP]"]
    assert tokenizer("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]
    assert tokenizer.pad_token_id == 0
    assert tokenizer.model_max_length == 64
    assert len(tokenizer("x " * 100, truncation=True).input_ids) == 64


def test_longest_text_fits_the_positions(tmp_path):
    rows = mean_features(make_tiny_encoder(tmp_path), ["x " * 62])
    assert np.isfinite(rows).all()


def test_repeated_vocabulary_from_a_generator_is_counted_once(tmp_path):
    words = (word for word in ["good", "GOOD", "a"])
    tokenizer, encoder = load(make_tiny_encoder(tmp_path / "1", vocabulary=words))
    plain, _ = load(make_tiny_encoder(tmp_path / "2"))
    assert len(tokenizer) == len(plain) + 1 == encoder.config.vocab_size


@pytest.mark.parametrize("word", ["two words", "don't", "", " good"])
def test_vocabulary_entry_that_is_no_single_word_is_refused(tmp_path, word):
    with pytest.raises(ValueError, match="vocabulary must hold single words, got"):
        make_tiny_encoder(tmp_path, vocabulary=["good", word])


def test_vocabulary_as_one_string_is_refused(tmp_path):
    with pytest.raises(TypeError, match="vocabulary must be an iterable of words"):
        make_tiny_encoder(tmp_path, vocabulary="good film")


def test_width_that_heads_cannot_share_is_refused(tmp_path):
    with pytest.raises(ValueError, match="width=30 must be a multiple of n_heads=4"):
        make_tiny_encoder(tmp_path, width=30)


@pytest.mark.parametrize("name", ["n_layers", "width", "n_heads"])
def test_impossible_sizes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        make_tiny_encoder(tmp_path, **{name: 0})
    with pytest.raises(TypeError, match=rf"{name} must be an integer, got 4\.0"):
        make_tiny_encoder(tmp_path, **{name: 4.0})
