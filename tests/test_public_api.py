"""The public surface, pinned."""

import inspect
import subprocess
import sys

import pytest

import sklearn_bert
from sklearn_bert import BertProbeClassifier, BertVectorizer


def test_package_exports_exactly_these_names():
    assert sklearn_bert.__all__ == [
        "BertProbeClassifier", "BertVectorizer", "__version__",
    ]  # fmt: skip
    assert all(hasattr(sklearn_bert, name) for name in sklearn_bert.__all__)


def test_vectorizer_parameters_and_their_order():
    parameters = inspect.signature(BertVectorizer).parameters
    assert list(parameters) == [
        "model", "layer", "layer_combination", "pooling", "special_tokens", "normalize",
        "max_length", "overflow", "stride", "prompt", "missing", "memory",
        "store_layers", "batch_size", "device", "dtype", "token_dtype", "n_jobs",
        "revision", "local_files_only", "trust_remote_code", "verbose",
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
        "head", "standardize", "C", "class_weight", "hidden_size", "cv", "scoring",
        "max_iter", "random_state",
    ]  # fmt: skip


@pytest.mark.parametrize("estimator", [BertVectorizer, BertProbeClassifier])
def test_every_parameter_is_documented_with_its_default(estimator):
    doc = inspect.getdoc(estimator)
    for name, parameter in inspect.signature(estimator).parameters.items():
        default = parameter.default
        shown = f'"{default}"' if isinstance(default, str) else str(default)
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
