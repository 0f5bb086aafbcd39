"""Run a function in several threads at once, each with its share of torch's threads.

With one thread per pass a pass has no barriers: threads that work on a batch each never
wait for one another, as those that share every operation of one batch do, several
hundred times a pass.

Level 1 of the module map: only `encoder` imports it; it imports `process`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

import torch

from .process import Turns

__all__ = ["can_share_threads", "share_threads"]

Result = TypeVar("Result")

_setting = Turns()  # one call at a time sets numbers of threads


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
        With 1 it runs in this thread, with all of torch's threads; so it does where no
        other thread can be started.
    stop : callable
        Called when one of them raises: the others should return soon. The first
        exception is raised when they have.

    Returns
    -------
    list
    """
    if n_workers == 1:
        return [work()]
    results: list[Result] = []
    errors: list[BaseException] = []
    n_threads = torch.get_num_threads()

    def run(n_own: int) -> None:
        try:
            torch.get_num_threads()  # torch sets it when a thread first asks: not later
            torch.set_num_threads(n_own)
            are_set.wait()
            results.append(work())
        except threading.BrokenBarrierError:
            return  # not all could be started
        except BaseException as error:
            errors.append(error)
            stop()

    threads: list[threading.Thread] = []
    try:
        with _setting:
            are_set = threading.Barrier(n_workers + 1)
            try:
                for i in range(n_workers):
                    n_own = n_threads // n_workers + (i < n_threads % n_workers)
                    thread = threading.Thread(target=run, args=(max(1, n_own),))
                    thread.start()
                    threads.append(thread)
                are_set.wait()
            except BaseException:
                are_set.abort()
                raise
            finally:
                torch.set_num_threads(n_threads)  # what threads to come begin with
        for thread in threads:
            thread.join()
    except BaseException as error:
        no_room = isinstance(error, RuntimeError) and len(threads) < n_workers
        if not no_room:
            stop()
        for thread in threads:
            with contextlib.suppress(RuntimeError):
                thread.join()
        torch.set_num_threads(n_threads)  # one may have come late
        if no_room:  # for another thread: none has begun
            return [work()]
        raise
    if errors:
        raise errors[0]
    return results
