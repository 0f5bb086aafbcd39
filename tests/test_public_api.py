"""The public surface, pinned."""

import inspect
import subprocess
import sys

import sklearn_bert
from sklearn_bert import BertVectorizer


def test_package_exports_exactly_these_names():
    assert sklearn_bert.__all__ == ["BertVectorizer", "__version__"]
    assert all(hasattr(sklearn_bert, name) for name in sklearn_bert.__all__)


def test_vectorizer_parameters_and_their_order():
    parameters = inspect.signature(BertVectorizer).parameters
    assert list(parameters) == [
        "model", "layer", "layer_combination", "pooling", "special_tokens", "normalize",
        "max_length", "overflow", "stride", "prompt", "missing", "memory",
        "store_layers", "batch_size", "device", "dtype", "n_jobs", "revision",
        "local_files_only", "trust_remote_code", "verbose",
    ]  # fmt: skip
    kinds = {p.kind for name, p in parameters.items() if name != "model"}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_every_parameter_is_documented_with_its_default():
    doc = inspect.getdoc(BertVectorizer)
    for name, parameter in inspect.signature(BertVectorizer).parameters.items():
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
