"""How long the torture tests run, what they measured, and what they share.

``make test`` runs the short form. ``make torture`` sets SKLEARN_BERT_TORTURE=long, and
what is counted then ends in long_run.json, from which the page in the docs is written.
"""

import functools
import os
import time

import figures as figures_module
import numpy as np
import pytest
from processes import EVERYTHING, IS_LONG, TEXTS, ask, start

from sklearn_bert import BertVectorizer, features
from sklearn_bert import store as store_module


@pytest.fixture(scope="session")
def scale():
    """Return a function that chooses between the short and the long form."""
    return lambda short, long: long if IS_LONG else short


@pytest.fixture
def figures(request):
    """Return a function that notes what a test counted, for the long form's page."""
    begun = time.monotonic()
    noted = {}
    yield noted.update
    seconds = round(time.monotonic() - begun)
    failed = getattr(request.node, "has_failed", True)
    if IS_LONG and noted and not failed:
        figures_module.note(request.node, {"seconds": seconds, **noted})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.has_failed = report.failed
    return report


@pytest.fixture(autouse=True)
def as_a_new_process(monkeypatch):
    """Forget open stores, and which warnings were given."""
    monkeypatch.setattr(features, "_stores", type(features._stores)())
    monkeypatch.setattr(features, "_announced", set())
    monkeypatch.setattr(store_module, "_warned", set())


@pytest.fixture(scope="session")
def expected(tiny):
    """Features of `processes.TEXTS` without a store, one row per text."""
    return BertVectorizer(tiny, **EVERYTHING).fit_transform(TEXTS)


@pytest.fixture(scope="session")
def expected_file(expected, tmp_path_factory):
    """Return where `expected` lies, for other processes."""
    path = tmp_path_factory.mktemp("expected") / "expected.npy"
    np.save(path, expected)
    return path


@pytest.fixture(scope="session")
def server():
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    with start("serve") as process:
        yield process
        process.stdin.close()


@pytest.fixture
def result_of(server, scale):
    """Return a function that runs one of `processes` and returns what it counted."""
    return functools.partial(ask, server, seconds=scale(120, 1500))
