"""README and the pages: every block runs, every link leads somewhere, no name is stale.

A page's ``python`` blocks share one namespace and an empty directory that holds a small
``reviews.csv``. Comment lines right below a ``print`` are what it prints, with ``...``
for any text; comments elsewhere are comments.
"""

import ast
import csv
import doctest
import inspect
import io
import itertools
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from sklearn_bert import BertVectorizer
from sklearn_bert.datasets import load_docstrings

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
GENERATED = {"_build", "api", "gallery"}

if not (README.is_file() and DOCS.is_dir()):
    pytest.skip("the documentation is not beside these tests", allow_module_level=True)

PAGES = [
    README,
    *sorted(
        page
        for page in DOCS.rglob("*.md")
        if not GENERATED & set(page.relative_to(DOCS).parts)
    ),
]
GUIDE = [page for page in PAGES if page.parent.name == "guide"]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name_of(page):
    return str(page.relative_to(ROOT))


def read(page):
    return page.read_text(encoding="utf-8")


def blocks(page):
    """Yield the python blocks of a page, each on the line on which it stands."""
    text = read(page)
    for match in BLOCK.finditer(text):
        yield "\n" * text.count("\n", 0, match.start(1)) + match[1]


def printed_as_said(code):
    """Return the comment lines right below calls of print, without the hash."""
    lines, said = code.split("\n"), []
    for node in ast.walk(ast.parse(code)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Name)
            and node.value.func.id == "print"
        ):
            comments = itertools.takewhile(
                lambda line: line.startswith("# "), lines[node.end_lineno :]
            )
            said += [(node.end_lineno, line[2:]) for line in comments]
    return [line for _, line in sorted(said, key=lambda entry: entry[0])]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Make an empty directory with a labelled CSV file the current one."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    data = load_docstrings(30)
    with (tmp_path / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        rows = zip(data.data, data.target, strict=True)
        writer.writerows((text, "ab"[label]) for text, label in rows if label < 2)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    pyplot.close("all")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_blocks_of_a_page_run_and_print_what_they_say(page, workplace):
    namespace = {"__name__": "__main__"}
    for code in blocks(page):
        with redirect_stdout(io.StringIO()) as stream:
            exec(compile(code, str(page), "exec"), namespace)
        printed = iter(stream.getvalue().split("\n"))
        check = doctest.OutputChecker().check_output
        for said in printed_as_said(code):
            assert any(
                check(said + "\n", line + "\n", doctest.ELLIPSIS) for line in printed
            ), f"{said!r} is not in {stream.getvalue()!r}"


def test_a_line_that_is_not_printed_is_noticed():
    code = "print('a',\n      'b')\n# a b\nx = 1\n# said of nothing\nprint(x)  # one\n"
    assert printed_as_said(code) == ["a b"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_files(page):
    for target in LINK.findall(FENCED.sub("", read(page))):
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            continue
        path = page.parent / target.partition("#")[0]
        assert path.is_file(), f"{name_of(page)} links to {target}"


def test_the_guide_names_every_parameter():
    text = "\n".join(map(read, GUIDE))
    for name in inspect.signature(BertVectorizer).parameters:
        assert re.search(rf"`{name}(=[^`]*)?`", text), name


def test_the_readme_names_the_parameters_that_choose_features():
    text = read(README)
    for name in inspect.signature(BertVectorizer).parameters:
        if name not in {
            "model", "stride", "missing", "revision", "local_files_only",
            "trust_remote_code", "verbose",
        }:  # fmt: skip
            assert f"`{name}`" in text, name


def test_make_targets_that_pages_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    named = {
        target
        for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", read(page), re.MULTILINE)
    }
    assert {"demo", "test"} <= named
    assert named <= targets, named - targets


def test_test_files_that_the_promises_name_exist():
    named = re.findall(r"tests/\w+\.py", read(DOCS / "concepts.md"))
    assert len(named) > 10
    for path in named:
        assert (ROOT / path).is_file(), path


def test_tests_that_pages_name_exist():
    named = {
        pair
        for page in PAGES
        for pair in re.findall(r"(tests/[\w/]+\.py)::(\w+)", read(page))
    }
    assert len(named) > 20
    for path, name in named:
        assert f"def {name}(" in read(ROOT / path), f"{path}::{name}"


def test_the_api_page_lists_what_modules_export():
    import importlib

    page = read(DOCS / "api.rst")
    for module in (
        "", ".inspection", ".postprocessing", ".search_spaces", ".tables", ".datasets",
        ".export", ".upkeep",
    ):  # fmt: skip
        names = importlib.import_module(f"sklearn_bert{module}").__all__
        for name in set(names) - {"__version__"}:
            assert re.search(rf"^   {name}$", page, re.MULTILINE), name


def test_no_file_names_a_path_of_this_machine():
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listing.returncode:
        pytest.skip("not a git checkout")
    local = re.compile(r"(?<![\w./-])/(?:work|root|home)/\w")
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not local.search(text), name


def test_the_tables_of_the_benchmarks_are_those_of_the_result_files():
    script = ROOT / "benchmarks" / "tables.py"
    if not script.is_file():
        pytest.skip("the benchmarks are not beside an installed package")
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
