"""What the threads of a process share, and what a forked child makes of it.

A fork copies the memory and one thread of a process. What the other threads were within
stays as it was for good: a lock that one of them held opens never again. Both classes
here begin anew in a child.

Level 0 of the module map.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

__all__ = ["ProcessWide", "Turns"]


class Turns:
    """A lock: one thread at a time is within."""

    def __init__(self) -> None:
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def are_taken(self) -> bool:
        """Whether a thread is within."""
        return self._lock.locked()


class ProcessWide:
    """A setting of the process that holds while any thread is within.

    The first thread that comes makes it, and the last one that goes takes it back.

    Parameters
    ----------
    make : callable
        Returns what takes it back.
    """

    def __init__(self, make: Callable[[], Callable[[], None]]) -> None:
        self._make = make
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._n_within = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_within:
                self._take_back = self._make()
            self._n_within += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_within -= 1
            if not self._n_within:
                self._take_back()
