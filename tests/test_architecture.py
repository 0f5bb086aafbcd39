"""Modules import only from levels below their own; torch stays in one place."""

import ast
from pathlib import Path

import pytest

import sklearn_bert

PACKAGE = Path(sklearn_bert.__file__).parent
LEVELS = {
    "_validation": 0,
    "shard": 0,
    "claims": 0,
    "datasets": 0,
    "attention": 0,
    "kernels": 0,
    "store": 1,
    "layers": 1,
    "pooling": 1,
    "checkpoint": 1,
    "tokenizer": 2,
    "network": 3,
    "encoder": 4,
    "features": 5,
    "vectorizer": 6,
    "probe": 7,
    "inspection": 7,
    "__main__": 8,
}
WITH_TORCH = {"attention", "kernels", "tokenizer", "network", "encoder"}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imports(module, *, top_level_only=False):
    """Return the modules that a module imports, relative ones without a dot."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                found |= {node.module} if node.module else {a.name for a in node.names}
            else:
                found.add(node.module.split(".")[0])
    return found


def test_every_module_has_a_level():
    assert set(MODULES) == set(LEVELS)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_levels_below(module):
    inside = imports(module) & set(LEVELS)
    assert all(LEVELS[other] < LEVELS[module] for other in inside), inside


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_its_level_and_who_it_imports(module):
    doc = ast.get_docstring(ast.parse((PACKAGE / f"{module}.py").read_text()))
    assert f"Level {LEVELS[module]} of the module map" in " ".join(doc.split())


@pytest.mark.parametrize("module", sorted(set(MODULES) - WITH_TORCH))
def test_only_the_encoder_and_what_it_is_made_of_import_torch_at_their_top(module):
    assert not {"torch", "transformers"} & imports(module, top_level_only=True)


def test_the_store_knows_nothing_of_the_rest_of_the_package():
    assert not imports("shard") & set(LEVELS)
    assert not imports("claims") & set(LEVELS)
    assert imports("store") & set(LEVELS) == {"shard", "claims"}


def test_the_map_in_the_docs_names_every_module_and_level():
    page = PACKAGE.parent / "docs" / "architecture.md"
    if not page.is_file():
        pytest.skip("the documentation is not beside an installed package")
    text = page.read_text(encoding="utf-8")
    for module, level in LEVELS.items():
        assert f"| {level} | `{module}` |" in text, module
