"""Searches and `n_jobs` on clusters, through joblib's backends for them.

dask runs with all other tests, on a cluster of two processes; `make test-clusters` runs
Ray and Spark too, in an environment of its own.
"""

import json
import os
import pickle
import shutil
import sys
from collections import OrderedDict
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
from joblib._parallel_backends import ThreadingBackend
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_bert import BertVectorizer, checkpoint, encoder, features
from sklearn_bert.checkpoint import find_again, find_checkpoint
from sklearn_bert.datasets import load_docstrings, make_tiny_encoder
from sklearn_bert.inspection import layer_sweep
from sklearn_bert.store import FeatureStore, store_location

WINDOW = 8  # texts: some ten windows, for the workers to take turns


@pytest.fixture(scope="module")
def docs():
    """Return short texts on ten topics, no two alike, and the topics."""
    docs = load_docstrings(8)
    return np.array([text[:60] for text in docs.data], dtype=object), docs.target


@pytest.fixture(scope="module")
def loads(tmp_path_factory):
    """Return a file in which each worker writes its id when it loads an encoder."""
    return tmp_path_factory.mktemp("workers") / "loads"


def beginning(loads):
    """Return what workers do first: count how often they load, make windows small."""
    path, n_texts, parent = str(loads), WINDOW, os.getpid()

    def begin(X=None):
        import os

        if os.getpid() == parent:  # the last fit of a search
            return X
        from sklearn_bert import encoder, features

        features._WINDOW_TEXTS = n_texts
        load = encoder.Encoder.__init__
        if load.__name__ != "noted":

            def noted(self, *given):
                with open(path, "a") as file:
                    file.write(f"{os.getpid()}\n")
                load(self, *given)

            encoder.Encoder.__init__ = noted
        return X

    return begin


@pytest.fixture(scope="module")
def dask(loads, tmp_path_factory):
    """Return a client of a dask cluster of two processes."""
    distributed = pytest.importorskip(
        "distributed", reason="distributed: install the group 'tests'"
    )
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0",
        local_directory=str(tmp_path_factory.mktemp("dask")),
    ) as cluster, distributed.Client(cluster) as client:  # fmt: skip
        client.run(beginning(loads))
        yield client


@contextmanager
def ray(loads):
    """Run Ray on this machine, with two slots."""
    ray = pytest.importorskip("ray", reason="ray: install the group 'clusters'")
    from ray.util.joblib import register_ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False,
            runtime_env={"worker_process_setup_hook": beginning(loads)},
        )  # fmt: skip
        register_ray()
        yield
        ray.shutdown()


@contextmanager
def spark(loads):
    """Run Spark on this machine, with two slots."""
    sql = pytest.importorskip("pyspark.sql", reason="pyspark: install 'clusters'")
    joblibspark = pytest.importorskip("joblibspark", reason="install 'clusters'")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("Spark needs Java")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        build = sql.SparkSession.builder.master("local[2]")
        build = build.config("spark.ui.enabled", "false")
        session = build.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
        joblibspark.register_spark()
        yield
        session.stop()


spark_warnings = pytest.mark.filterwarnings(
    "ignore:Spark local mode doesn't support:UserWarning",
    "ignore:.apply_async. is deprecated:DeprecationWarning",
    "ignore:Spark session is not provided:UserWarning",
)


@pytest.fixture(
    scope="module", params=["dask", "ray", pytest.param("spark", marks=spark_warnings)]
)
def backend(request, loads):
    """Return the name of a backend, while its cluster runs."""
    if request.param == "dask":
        request.getfixturevalue("dask")
        yield "dask"
    else:
        with {"ray": ray, "spark": spark}[request.param](loads):
            yield request.param


@pytest.fixture
def on(backend):
    """Return what makes joblib use a cluster."""
    # Made at the time of use: it acts when it is made.
    return partial(joblib.parallel_config, backend=backend, n_jobs=2)


def search(model, memory, begin):
    steps = [
        ("begin", FunctionTransformer(begin)),
        ("bert", BertVectorizer(model, memory=str(memory))),
        ("clf", LogisticRegression(C=0.1, max_iter=1000)),
    ]
    grid = {"bert__layer": [0, 1, 2], "bert__pooling": ["cls", "mean"]}
    return GridSearchCV(Pipeline(steps), grid, cv=2, error_score="raise")


def rows_and_keys(memory):
    (space,) = (p for p in memory.glob("joblib/sklearn_bert-features/*") if p.is_dir())
    info = FeatureStore(store_location(memory), space.name).info()
    return info["n_rows"], info["n_keys"]


def test_a_search_on_a_cluster_equals_the_local_one(on, docs, loads, tmp_path, work):
    model = make_tiny_encoder(tmp_path / "new", seed=2)  # that no worker has loaded
    loads.unlink(missing_ok=True)
    with on():
        there = search(model, tmp_path / "there", beginning(loads)).fit(*docs)
    assert work().n_texts == 0  # of this process
    assert rows_and_keys(tmp_path / "there") == (len(docs[0]), len(docs[0]))
    who = loads.read_text().split()
    assert 1 <= len(who) == len(set(who)) <= 2
    here = search(model, tmp_path / "here", None).fit(*docs)
    assert there.best_params_ == here.best_params_
    for name in ("split0_test_score", "split1_test_score"):
        np.testing.assert_allclose(there.cv_results_[name], here.cv_results_[name])


def test_encoding_on_a_cluster_equals_encoding_here(
    on, backend, docs, loads, tmp_path, work, monkeypatch
):
    monkeypatch.setattr(features, "_WINDOW_TEXTS", WINDOW)
    monkeypatch.setattr(encoder, "_registry", OrderedDict())
    model = make_tiny_encoder(tmp_path / "new", seed=1)
    loads.unlink(missing_ok=True)
    vectorizer = BertVectorizer(model, n_jobs=2)
    with on():
        there = vectorizer.fit_transform([*docs[0], *docs[0]])
    assert work().n_texts == len(docs[0])
    assert not encoder._registry  # nothing was loaded here
    np.testing.assert_allclose(
        there, np.tile(vectorizer.set_params(n_jobs=1).transform(docs[0]), (2, 1)),
        atol=1e-5,
    )  # fmt: skip
    if backend != "spark" or loads.exists():  # its workers may not say
        who = loads.read_text().split()
        assert 1 <= len(who) == len(set(who)) <= 2


def test_what_a_cluster_encoded_is_kept_here(
    on, docs, tiny, tmp_path, work, monkeypatch
):
    monkeypatch.setattr(features, "_WINDOW_TEXTS", WINDOW)
    vectorizer = BertVectorizer(tiny, memory=str(tmp_path), n_jobs=2)
    with on():
        there = vectorizer.fit_transform(docs[0])
    assert work().n_texts == len(docs[0])
    np.testing.assert_array_equal(vectorizer.transform(docs[0]), there)
    assert work().n_texts == len(docs[0])


def test_dask_workers_share_the_texts_of_a_search(dask, docs, tiny, tmp_path, loads):
    def n_texts():
        from sklearn_bert import features

        return features.WORK.n_texts

    before = sum(dask.run(n_texts).values())
    with joblib.parallel_config(backend="dask"):
        search(tiny, tmp_path, beginning(loads)).fit(*docs)
    assert sum(dask.run(n_texts).values()) - before == len(docs[0])


def test_a_task_of_dask_encodes_in_its_own_process(dask):
    # Through the cluster it would wait for workers that wait for its claims.
    def n_workers(n_jobs):
        import joblib

        from sklearn_bert import features

        with joblib.parallel_config(backend="dask"):
            return features._n_workers(n_jobs)

    assert dask.submit(n_workers, 2).result(timeout=300) == 1
    assert dask.submit(n_workers, None).result(timeout=300) == 1
    with joblib.parallel_config(backend="dask"):
        assert features._n_workers(2) == 2


# Backends that return lists, without a cluster


class Lists(ThreadingBackend):
    """Return results as Ray's and Spark's do, and note pools, calls and sizes."""

    supports_return_generator = False
    pools, calls, sizes = 0, [], []

    def configure(self, *args, **kwargs):
        type(self).pools += 1
        return super().configure(*args, **kwargs)

    def start_call(self):
        self.calls.append(0)

    def submit(self, func, callback=None):
        self.note(func)
        return super().submit(func, callback)

    def apply_async(self, func, callback=None):  # its name before joblib 1.5
        self.note(func)
        return super().apply_async(func, callback)

    def note(self, func):
        self.calls[-1] += len(func)
        self.sizes.append(len(pickle.dumps(func.items)))


@pytest.fixture
def lists(monkeypatch):
    """Return a class that notes what a backend is asked, and have joblib use it."""
    monkeypatch.setattr(features, "_WINDOW_TEXTS", WINDOW)
    noting = type("Noting", (Lists,), {"pools": 0, "calls": [], "sizes": []})
    joblib.register_parallel_backend("lists", noting)
    with joblib.parallel_config(backend="lists", n_jobs=2):
        yield noting


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_backend_that_cannot_stream_gets_few_windows_at_a_time(
    docs, tiny, lists, tmp_path, is_kept
):
    memory = str(tmp_path) if is_kept else None
    there = BertVectorizer(tiny, memory=memory).fit_transform(docs[0])
    assert sum(lists.calls) == len(docs[0]) / WINDOW
    assert max(lists.calls) == (2 if is_kept else 4)
    with joblib.parallel_config(n_jobs=1, backend="sequential"):
        here = BertVectorizer(tiny).fit_transform(docs[0])
    np.testing.assert_allclose(there, here, atol=1e-5)


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_run_starts_one_pool(docs, tiny, lists, tmp_path, is_kept):
    memory = str(tmp_path) if is_kept else None
    BertVectorizer(tiny, memory=memory).fit_transform(docs[0])
    assert len(lists.calls) > 2
    assert lists.pools == 1


def test_a_pool_grows_after_a_small_round(lists):
    run = object.__new__(features._Run)
    run._workers, run._parallel = ExitStack(), None
    for n in (2, 8):
        calls = (joblib.delayed(abs)(-i) for i in range(n))
        assert list(run._in_workers(calls, n)) == list(range(n))
        assert run._parallel.n_jobs == n
    run._workers.close()


def test_what_is_sent_to_workers_is_a_name(docs, tiny, lists):
    BertVectorizer(tiny).fit_transform(docs[0])
    assert max(lists.sizes) < 4_000 + 2 * sum(map(len, docs[0][:WINDOW]))
    weights = (Path(tiny) / "model.safetensors").stat().st_size
    assert weights > 10 * max(lists.sizes)


def test_an_error_of_a_worker_closes_the_pool(docs, tiny, lists, monkeypatch):
    vectorizer = BertVectorizer(tiny).fit([])
    monkeypatch.setattr(encoder, "get_encoder", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division"):
        vectorizer.transform(docs[0])
    monkeypatch.undo()
    assert vectorizer.transform(docs[0]).shape == (len(docs[0]), 32)


def test_a_sweep_runs_on_a_backend_that_cannot_stream(docs, tiny, lists, tmp_path):
    sweep = layer_sweep(*docs, model=tiny, memory=str(tmp_path), cv=2)
    with joblib.parallel_config(backend="sequential"):
        here = layer_sweep(*docs, model=tiny, memory=str(tmp_path), cv=2)
    assert here.n_texts_encoded == 0
    np.testing.assert_allclose(sweep.scores, here.scores)


# Machines that keep a model's files elsewhere


@pytest.fixture
def plan(monkeypatch):
    """Return what to encode, in a process that has loaded nothing."""
    monkeypatch.setattr(encoder, "_registry", OrderedDict())
    return encoder.Plan(columns={"mean": (2,)}, max_length=64)


def test_a_worker_finds_the_files_by_the_name_of_the_model(tiny, plan):
    here = find_checkpoint(tiny)
    there = replace(here, directory="/of/another/machine")
    np.testing.assert_array_equal(
        encoder.encode(there, "cpu", "float32", ["a text"], plan).columns["mean"],
        encoder.encode(here, "cpu", "float32", ["a text"], plan).columns["mean"],
    )


@pytest.mark.parametrize("is_there", [False, True])
def test_a_worker_with_other_files_of_that_name_is_refused(
    tiny, plan, tmp_path, is_there
):
    other = make_tiny_encoder(tmp_path, seed=3)
    directory = other if is_there else "/elsewhere"
    sent = replace(find_checkpoint(tiny), directory=directory, name=other)
    with pytest.raises(ValueError, match=r"in .* on .* are not those that were read"):
        encoder.encode(sent, "cpu", "float32", ["a text"], plan)


def test_other_files_where_the_sender_has_them_are_passed_over(tiny, plan, tmp_path):
    other = make_tiny_encoder(tmp_path, seed=4)
    sent = replace(find_checkpoint(tiny), directory=other)
    assert find_again(sent) == Path(tiny)


def test_code_of_other_files_is_not_run_before_they_are_refused(tiny, plan, tmp_path):
    other = Path(make_tiny_encoder(tmp_path, seed=5))
    config = json.loads((other / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}
    del config["num_hidden_layers"]  # known to the code alone
    (other / "config.json").write_text(json.dumps(config))
    (other / "evil.py").write_text("raise SystemExit")
    sent = replace(find_checkpoint(tiny), trust_remote_code=True, name=str(other))
    sent = replace(sent, directory=str(other))
    with pytest.raises(ValueError, match="are not those that were read"):
        encoder.encode(sent, "cpu", "float32", ["a text"], plan)


def test_a_worker_without_the_files_says_which_it_is(tiny, plan, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    sent = replace(find_checkpoint(tiny), directory=nowhere, name=nowhere)
    with pytest.raises(ValueError, match=r"lacks the files of model="):
        encoder.encode(sent, "cpu", "float32", ["a text"], plan)


def test_a_snapshot_of_the_hub_is_asked_for_by_its_commit(tiny, monkeypatch):
    asked = []

    def find(model, revision, local_files_only):
        asked.append((revision, local_files_only))
        return Path(tiny)

    monkeypatch.setattr(checkpoint, "_find_directory", find)
    snapshot = f"/cache/models--a--b/snapshots/{'5e' * 20}/0_Transformer"
    assert find_again(replace(find_checkpoint(tiny), directory=snapshot)) == Path(tiny)
    assert asked[-1] == ("5e" * 20, True)


# CUDA


@pytest.mark.parametrize("device", ["cuda", "auto", "cuda:1"])
def test_a_gpu_has_its_number_so_that_no_encoder_is_loaded_twice(monkeypatch, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    assert encoder.resolve_device(device) == "cuda:1"


def test_cuda_in_a_forked_process_is_refused_with_a_cure(monkeypatch):
    monkeypatch.setattr("torch.cuda._is_in_bad_fork", lambda: True)
    with pytest.raises(RuntimeError, match=r'forked after .*"loky".*"spawn".*"cpu"'):
        encoder.resolve_device("cuda")
