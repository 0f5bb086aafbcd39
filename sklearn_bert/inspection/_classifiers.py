"""The classifier that scores features unless another is given, and how many run.

Parts of `inspection` import this; it imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Any

import joblib
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

__all__ = ["default_classifier", "map_on_one_thread"]


def default_classifier() -> Pipeline:
    """Return what `layer_sweep` documents and measured."""
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, tol=1e-3, max_iter=1000)
    )


def map_on_one_thread(
    function: Callable[..., Any],
    arguments: Iterable[tuple[Any, ...]],
    *,
    n_jobs: int | None,
    is_shown: bool = False,
) -> list[Any]:
    """Return what a function gives for each tuple, each call on one thread.

    At the sizes of a probe more threads make it several times slower. `is_shown` draws
    a progress bar on the standard error.
    """
    from tqdm.auto import tqdm

    calls = list(arguments)
    backend, _ = joblib.parallel.get_active_backend()  # those of Ray and Spark cannot
    return_as = "generator" if backend.supports_return_generator else "list"
    with threadpool_limits(1):
        results = joblib.Parallel(n_jobs=n_jobs, return_as=return_as)(
            joblib.delayed(_on_one_thread)(os.getpid(), function, call)
            for call in calls
        )
        bar = tqdm(
            results, total=len(calls), desc="scoring", unit="cell", disable=not is_shown
        )
        return list(bar)


def _on_one_thread(
    parent: int, function: Callable[..., Any], call: tuple[Any, ...]
) -> Any:
    # A limit holds for a whole process: threads of one must not set and reset it.
    is_here = os.getpid() == parent
    with contextlib.nullcontext() if is_here else threadpool_limits(1):
        return function(*call)
