"""The scripts of docs/examples/recipes, each run on a cluster of two workers.

What happens in other processes is counted there: a `sitecustomize` on PYTHONPATH has
each of them write down when it loads an encoder, with how many threads, and how many
texts it encodes.
"""

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from sklearn_bert import BertVectorizer
from sklearn_bert.datasets import load_docstrings, make_tiny_encoder

pa = pytest.importorskip("pyarrow", reason="install the group 'tests'")
pq = pytest.importorskip("pyarrow.parquet", reason="install the group 'tests'")

RECIPES = Path(__file__).resolve().parents[1] / "docs" / "examples" / "recipes"
N_PER_FILE = 40
NOTES = """
import importlib.machinery
import os
import sys


class Noting(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        init, encode = module.Encoder.__init__, module.Encoder.encode

        def note(*words):
            with open(os.environ["NOTES"], "a") as file:
                print(os.getpid(), *words, file=file)

        def noted_init(self, *args):
            init(self, *args)
            note("threads", module.torch.get_num_threads())

        def noted_encode(self, texts, plan):
            note("texts", len(texts))
            return encode(self, texts, plan)

        module.Encoder.__init__, module.Encoder.encode = noted_init, noted_encode


class Finder:
    @staticmethod
    def find_spec(name, path, target=None):
        if name != "sklearn_bert.encoder":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = Noting(name, spec.origin)
        return spec


sys.meta_path.insert(0, Finder)
"""

if not RECIPES.is_dir():
    pytest.skip("the documentation is not beside these tests", allow_module_level=True)


@pytest.fixture(scope="module")
def texts():
    return [text[:60] for text in load_docstrings(16).data][: 4 * N_PER_FILE]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def place(tmp_path, texts):
    """Return a directory with three files of rows and a place for what is noted."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(NOTES)
    for number in range(3):
        add_file(tmp_path, texts, number)
    return tmp_path


def add_file(place, texts, number):
    """Write some of the texts as two row groups, beside a column that is not asked for.

    The ids of a file are not in order.
    """
    ids = np.arange(number * N_PER_FILE, (number + 1) * N_PER_FILE)[::-1]
    rows = {
        "other": [0.5] * N_PER_FILE,
        "id": ids,
        "said": [texts[i] for i in ids],
    }
    path = place / "rows" / f"{number}.parquet"
    pq.write_table(pa.table(rows), path, row_group_size=N_PER_FILE // 2)


def tool(name, group):
    return pytest.importorskip(name, reason=f"{name}: install the group {group!r}")


def options(place, encoder):
    return [
        "--input", str(place / "rows"), "--output", str(place / "out"),
        "--text", "said", "--model", encoder, "--layer", "1,2", "--pooling", "cls",
    ]  # fmt: skip


def run(name, place, encoder, *more, **environment):
    """Run a script; return its exit status and what it said."""
    given = {
        key: value
        for key, value in os.environ.items()
        if key not in {"OMP_NUM_THREADS", "COVERAGE_PROCESS_CONFIG"}
    }
    given |= {"PYTHONPATH": str(place / "path"), "NOTES": str(place / "notes")}
    given |= {"RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, RECIPES / name, *options(place, encoder), *more],
        env=given | environment, cwd=place, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
    )  # fmt: skip
    return done.returncode, done.stdout


def noted(place, what):
    """Return what was noted of one kind: pairs of a process and a number."""
    lines = [line.split() for line in (place / "notes").read_text().splitlines()]
    return [(pid, int(number)) for pid, kind, number in lines if kind == what]


def assert_right(place, encoder, texts):
    """Every id is there once, beside the features of its text."""
    out = pq.read_table(place / "out", columns=["id", "features"])
    assert sorted(out["id"].to_pylist()) == list(range(len(texts)))
    vectorizer = BertVectorizer(encoder, layer=[1, 2], pooling="cls")
    expected = vectorizer.fit_transform([texts[i] for i in out["id"].to_pylist()])
    features = np.stack(out["features"].to_pylist())
    np.testing.assert_allclose(features, expected, atol=1e-5)


def assert_each_worker_loaded_once(place):
    loads = noted(place, "threads")
    assert len(loads) == len({pid for pid, _ in loads}) == 2
    assert {n_threads for _, n_threads in loads} == {1}


def n_encoded(place):
    return sum(n for _, n in noted(place, "texts"))


def load(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Dask


# It has not followed pandas 3.1 yet.
dask_warnings = pytest.mark.filterwarnings("ignore:The inplace keyword in")


@pytest.mark.slow
def test_two_workers_of_dask_encode_each_text_once(place, encoder, texts):
    tool("distributed", "tests")
    status, said = run("dask_dataframe.py", place, encoder, "--slice", "6")
    assert status == 0, said
    assert_right(place, encoder, texts[:120])
    assert_each_worker_loaded_once(place)
    assert n_encoded(place) == 120


@pytest.fixture
def convert(place, encoder):
    """Return a function that runs the recipe of Dask in this process."""
    dask = tool("dask", "tests")
    tool("distributed", "tests")
    recipe = load("dask_dataframe")

    def convert(*more):
        with dask.config.set(scheduler="synchronous"):
            given = [*options(place, encoder), "--slice", "4", *more]
            recipe.convert(recipe.parse(given))

    return convert


@dask_warnings
def test_dask_leaves_alone_what_is_complete(place, encoder, texts, convert, work):
    convert()
    assert work().n_texts == 120
    convert()
    assert work().n_texts == 120
    (place / "out" / "slice-00000004" / "_SUCCESS").unlink()
    convert()
    assert work().n_texts == 120 + N_PER_FILE
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* for the third time")
        assert_right(place, encoder, texts[:120])


@dask_warnings
def test_dask_refuses_to_go_on_with_other_files(place, texts, convert):
    convert()
    add_file(place, texts, 3)
    with pytest.raises(SystemExit, match="of another input or other settings"):
        convert()


@dask_warnings
def test_dask_writes_half_precision(place, convert):
    convert("--out-dtype", "float16")
    kind = pq.read_table(place / "out")["features"].type
    assert kind == pa.list_(pa.float16(), 64)
    with pytest.raises(SystemExit, match="other settings"):
        convert()


# Ray and Spark: a second run finds another file, and encodes that only


def test_two_actors_of_ray_encode_each_text_once(place, encoder, texts):
    tool("ray", "clusters")
    more = ["--actors", "2", "--cores", "4", "--batch", "32", "--rows", "40"]
    status, said = run("ray_data.py", place, encoder, *more)
    assert status == 0, said
    assert_right(place, encoder, texts[:120])
    assert_each_worker_loaded_once(place)
    assert n_encoded(place) == 120

    add_file(place, texts, 3)
    status, said = run("ray_data.py", place, encoder, *more)
    assert status == 0, said
    assert_right(place, encoder, texts)
    assert n_encoded(place) == 160

    status, said = run("ray_data.py", place, encoder, *more, "--pooling", "max")
    assert status == 1
    assert "out.about notes another model or other settings" in said
    assert n_encoded(place) == 160


def test_actors_of_ray_leave_cores_to_read_with(place, encoder):
    tool("ray", "clusters")
    more = ["--actors", "2", "--cores", "3"]
    status, said = run("ray_data.py", place, encoder, *more)
    assert status == 2
    assert "2 actors do not leave two of 3 cores free" in said


def test_two_workers_of_spark_encode_each_text_once(place, encoder, texts):
    tool("pyspark", "clusters")
    environment = {
        "PYSPARK_SUBMIT_ARGS": "--master local[2] --conf spark.ui.enabled=false "
        "--conf spark.sql.shuffle.partitions=4 pyspark-shell",
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    more = ["--batch", "16", "--files", "2", "--partitions", "4"]
    status, said = run("spark.py", place, encoder, *more, **environment)
    assert status == 0, said
    assert_right(place, encoder, texts[:120])
    assert_each_worker_loaded_once(place)
    assert n_encoded(place) == 120

    add_file(place, texts, 3)
    status, said = run("spark.py", place, encoder, *more, **environment)
    assert status == 0, said
    assert_right(place, encoder, texts)
    assert n_encoded(place) == 160

    other = [*more, "--pooling", "max"]
    status, said = run("spark.py", place, encoder, *other, **environment)
    assert status == 1
    assert "out.about notes another model or other settings" in said
    assert n_encoded(place) == 160
