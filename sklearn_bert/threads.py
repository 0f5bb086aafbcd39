"""Run a function in several threads at once, each with its share of torch's threads.

With one thread per pass a pass has no barriers: threads that work on a batch each never
wait for one another, as those that share every operation of one batch do, several
hundred times a pass.

Level 0 of the module map: only `encoder` imports it; it imports nothing of the package.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["can_share_threads", "share_threads"]

Result = TypeVar("Result")


def can_share_threads() -> bool:
    """Whether this torch lets each thread have a number of threads of its own."""
    return bool(torch.backends.openmp.is_available())


def share_threads(
    work: Callable[[], Result], n_workers: int, stop: Callable[[], None]
) -> list[Result]:
    """Run a function in several threads; return what each returns.

    Parameters
    ----------
    work : callable
        Takes what there is to do until there is nothing left.
    n_workers : int
        With 1 it runs in this thread, with all of torch's threads.
    stop : callable
        Called when one of them raises: the others should return soon. The first
        exception is raised when they have.

    Returns
    -------
    list
    """
    if n_workers == 1:
        return [work()]
    n_threads = torch.get_num_threads()
    shares = [
        n_threads // n_workers + (i < n_threads % n_workers) for i in range(n_workers)
    ]
    are_set = threading.Barrier(n_workers + 1)

    def run(n_own: int) -> Result:
        torch.get_num_threads()  # torch sets it when a thread first asks: not later
        torch.set_num_threads(max(1, n_own))
        are_set.wait()
        try:
            return work()
        except BaseException:
            stop()
            raise

    with ThreadPoolExecutor(n_workers, "sklearn_bert") as pool:
        futures = [pool.submit(run, n_own) for n_own in shares]
        are_set.wait()
        torch.set_num_threads(n_threads)  # what threads to come begin with, too
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop()
            raise
