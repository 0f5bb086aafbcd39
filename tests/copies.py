"""Estimators as they come back from a file."""

import pytest


def skops_copy(estimator):
    """Return what skops reads back, trusting only types of this package."""
    io = pytest.importorskip("skops.io")
    content = io.dumps(estimator)
    untrusted = io.get_untrusted_types(data=content)
    assert all(name.startswith("sklearn_bert.") for name in untrusted), untrusted
    return io.loads(content, trusted=untrusted)
