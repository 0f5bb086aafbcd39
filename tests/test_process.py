"""Threads take turns and share settings; a forked child begins anew."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sklearn_bert.process import ProcessWide, Turns


def test_a_setting_is_taken_back_when_the_last_thread_leaves():
    settings = ["asked"]

    def set_full():
        settings.append("full")
        return lambda: settings.append("asked")

    guard = ProcessWide(set_full)
    with guard, ThreadPoolExecutor(1) as pool:
        pool.submit(guard.__enter__).result()
    assert settings == ["asked", "full"]
    guard.__exit__(None, None, None)
    assert settings == ["asked", "full", "asked"]


def test_threads_take_turns():
    turns, order = Turns(), []

    def late():
        with turns:
            order.append("late")

    thread = threading.Thread(target=late)
    with turns:
        assert turns.are_taken()
        thread.start()
        thread.join(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "late"]
    assert not turns.are_taken()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_finds_open_what_a_thread_of_its_parent_holds():
    turns, setting = Turns(), ProcessWide(lambda: lambda: None)
    is_within, may_end = threading.Event(), threading.Event()

    def hold():
        with turns, setting._lock:
            is_within.set()
            may_end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    is_within.wait()
    child = os.fork()
    if not child:  # it hangs, and pytest's limit ends it, if a lock is still held
        is_open = turns._lock.acquire(timeout=5) and setting._lock.acquire(timeout=5)
        os._exit(0 if is_open else 1)
    _, status = os.waitpid(child, 0)
    may_end.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
