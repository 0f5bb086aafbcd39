"""The public surface, pinned."""

import inspect
import subprocess
import sys

import pytest

import sklearn_bert
from sklearn_bert import (
    BertProbeClassifier,
    BertTokenProbeClassifier,
    BertTokenVectorizer,
    BertVectorizer,
)


def test_package_exports_exactly_these_names():
    assert sklearn_bert.__all__ == [
        "BertFineTuneClassifier", "BertProbeClassifier", "BertTokenProbeClassifier",
        "BertTokenVectorizer", "BertVectorizer", "__version__", "span_f1",
    ]  # fmt: skip
    assert all(hasattr(sklearn_bert, name) for name in sklearn_bert.__all__)


def test_vectorizer_parameters_and_their_order():
    parameters = inspect.signature(BertVectorizer).parameters
    assert list(parameters) == [
        "model", "layer", "layer_combination", "pooling", "special_tokens", "normalize",
        "max_length", "overflow", "stride", "chunk_pooling", "prompt", "missing",
        "memory", "store_layers", "batch_size", "device", "dtype", "token_dtype",
        "n_jobs", "revision", "local_files_only", "trust_remote_code", "verbose",
    ]  # fmt: skip
    kinds = {p.kind for name, p in parameters.items() if name != "model"}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_a_probe_takes_the_vectorizers_parameters_with_their_defaults():
    of_probe = inspect.signature(BertProbeClassifier).parameters
    of_vectorizer = dict(inspect.signature(BertVectorizer).parameters)
    del of_vectorizer["layer_combination"]
    assert list(of_probe)[: len(of_vectorizer)] == list(of_vectorizer)
    assert all(of_probe[name] == of_vectorizer[name] for name in of_vectorizer)
    assert list(of_probe)[len(of_vectorizer) :] == [
        "head", "standardize", "C", "class_weight", "hidden_size", "dropout", "cv",
        "scoring", "max_iter", "random_state",
    ]  # fmt: skip


def test_a_vectorizer_of_words_takes_the_same_parameters_where_it_takes_them():
    of_words = inspect.signature(BertTokenVectorizer).parameters
    of_texts = inspect.signature(BertVectorizer).parameters
    shared = [name for name in of_words if name in of_texts]
    assert list(of_words) == [*shared[:3], "subwords", "word_pattern", *shared[3:]]
    differing = [name for name in shared if of_words[name] != of_texts[name]]
    assert differing == ["store_layers"]  # of words, all layers would be large
    assert [name for name in of_texts if name in of_words] == shared


def test_a_tagger_takes_the_parameters_of_a_vectorizer_of_words_and_of_a_probe():
    of_tagger = inspect.signature(BertTokenProbeClassifier).parameters
    of_words = dict(inspect.signature(BertTokenVectorizer).parameters)
    of_probe = inspect.signature(BertProbeClassifier).parameters
    del of_words["layer_combination"]
    assert list(of_tagger)[: len(of_words)] == list(of_words)
    assert all(of_tagger[name] == of_words[name] for name in of_words)
    of_head = list(of_tagger)[len(of_words) :]
    assert of_head == list(of_probe)[-len(of_head) :]
    assert all(of_tagger[name] == of_probe[name] for name in of_head)


@pytest.mark.parametrize(
    "estimator",
    [
        BertVectorizer,
        BertProbeClassifier,
        BertTokenVectorizer,
        BertTokenProbeClassifier,
    ],
)
def test_every_parameter_is_documented_with_its_default(estimator):
    doc = inspect.getdoc(estimator)
    for name, parameter in inspect.signature(estimator).parameters.items():
        default = parameter.default
        shown = f'"{default}"' if isinstance(default, str) else str(default)
        shown = f"r{shown}" if "\\" in shown else shown
        (line,) = [line for line in doc.splitlines() if line.startswith(f"{name} : ")]
        assert line.endswith(f"default={shown}"), line


def test_importing_the_package_imports_neither_torch_nor_transformers():
    code = (
        "import sys, sklearn_bert; assert not {'torch', 'transformers', 'sklearn'} "
        "& set(sys.modules); sklearn_bert.BertVectorizer(); "
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(sklearn_bert, "BertVectoriser")


def test_dir_lists_the_public_names():
    assert set(sklearn_bert.__all__) <= set(dir(sklearn_bert))
