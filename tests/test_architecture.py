"""Modules import only from levels below their own; torch stays in one place."""

import ast
import graphlib
from pathlib import Path

import pytest

import sklearn_bert

PACKAGE = Path(sklearn_bert.__file__).parent
LEVELS = {
    "_validation": 0,
    "callbacks": 0,
    "exceptions": 0,
    "naming": 0,
    "process": 0,
    "postprocessing": 0,
    "ragged": 0,
    "shard": 1,
    "claims": 0,
    "datasets": 0,
    "tables": 1,
    "attention": 0,
    "kernels": 0,
    "threads": 1,
    "objective": 1,
    "store": 2,
    "layers": 1,
    "pooling": 1,
    "checkpoint": 1,
    "geometry": 1,
    "heads": 1,
    "learning": 2,
    "tokenizer": 2,
    "upkeep": 3,
    "request": 2,
    "network": 3,
    "encoder": 4,
    "features": 5,
    "tuned": 5,
    "estimators": 6,
    "persistence": 6,
    "training": 6,
    "vectorizer": 7,
    "probe": 8,
    "finetune": 7,
    "tokens": 7,
    "inspection": 8,
    "token_probe": 8,
    "search_spaces": 9,
    "export": 8,
    "demo": 9,
    "__main__": 10,
}
WITH_TORCH = {
    "attention", "kernels", "threads", "tokenizer", "network", "encoder", "tuned",
    "training",
}  # fmt: skip
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
MODULES += sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
PARTS = sorted(PACKAGE.glob("*/*.py"))  # of modules that are subpackages


def path_of(module):
    path = PACKAGE / f"{module}.py"
    return path if path.is_file() else PACKAGE / module / "__init__.py"


def imports(path, *, top_level_only=False):
    """Return the modules that a file imports: those of the package by their name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    depth = len(path.relative_to(PACKAGE).parts)  # dots that lead to the package
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level and node.level < depth:
                found.add(f"{path.parent.name}.{node.module}")
            elif node.level:
                found |= {node.module} if node.module else {a.name for a in node.names}
            else:
                found.add(node.module.split(".")[0])
    return found


def parts_imported(path):
    """Return the parts of its own subpackage that a part imports."""
    own = f"{path.parent.name}."
    return {name.removeprefix(own) for name in imports(path) if name.startswith(own)}


def test_every_module_has_a_level():
    assert set(MODULES) == set(LEVELS)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_levels_below(module):
    path = path_of(module)
    files = [path] if path.name != "__init__.py" else list(path.parent.glob("*.py"))
    inside = set().union(*map(imports, files)) & set(LEVELS)
    assert all(LEVELS[other] < LEVELS[module] for other in inside), inside


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_its_level_and_who_it_imports(module):
    doc = ast.get_docstring(ast.parse(path_of(module).read_text(encoding="utf-8")))
    assert f"Level {LEVELS[module]} of the module map" in " ".join(doc.split())


@pytest.mark.parametrize("module", sorted(set(MODULES) - WITH_TORCH))
def test_only_the_encoder_and_what_it_is_made_of_import_torch_at_their_top(module):
    torch = {"torch", "transformers"}
    assert not torch & imports(path_of(module), top_level_only=True)


@pytest.mark.parametrize(
    "path", PARTS, ids=lambda path: f"{path.parent.name}.{path.stem}"
)
def test_parts_compute_or_draw(path):
    assert not {"torch", "transformers", "matplotlib"} & imports(
        path, top_level_only=True
    )
    if path.name != "__init__.py":
        others = parts_imported(path)
        is_display = path.stem.endswith("_display")
        assert is_display or "_drawing" not in others
        assert not [other for other in others if other.endswith("_display")]


def test_parts_import_each_other_without_cycles():
    graph = {path.stem: parts_imported(path) for path in PARTS}
    del graph["__init__"]
    assert set().union(*graph.values()) <= set(graph)
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises on a cycle


def test_the_store_knows_nothing_of_the_rest_of_the_package():
    assert imports(path_of("shard")) & set(LEVELS) == {"ragged"}
    assert not imports(path_of("claims")) & set(LEVELS)
    assert imports(path_of("store")) & set(LEVELS) == {
        "claims", "exceptions", "ragged", "shard",
    }  # fmt: skip


def test_the_map_in_the_docs_names_every_module_and_level():
    page = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"
    if not page.is_file():
        pytest.skip("the documentation is not beside these tests")
    text = page.read_text(encoding="utf-8")
    for module, level in LEVELS.items():
        assert f"| {level} | `{module}` |" in text, module
