"""The page "What you can rely on" names tests that exist, and figures that were run."""

import ast
import re

import figures as figures_module
import pytest

PAGE = figures_module.PAGE
ROOT = figures_module.ROOT
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")

if not PAGE.is_file():
    pytest.skip("the documentation is not beside these tests", allow_module_level=True)


def names_of_tests(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_page_names_exists():
    named = NAMED.findall(PAGE.read_text(encoding="utf-8"))
    assert len(named) > 40
    for path, name in named:
        assert name in names_of_tests(path), f"{path}::{name}"


def test_every_promise_names_a_test():
    rows = re.findall(r"^\| ([A-Z].*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 30
    assert [row for row in rows if not NAMED.search(row)] == []


def test_the_page_shows_the_figures_of_the_last_long_run():
    text = PAGE.read_text(encoding="utf-8")
    assert figures_module.page_with_figures(text) == text
    assert len(figures_module.load()) > 10
    for name in figures_module.load():
        file, _, test = name.partition("::")
        assert test.partition("[")[0] in names_of_tests(f"tests/torture/{file}.py"), (
            name
        )
