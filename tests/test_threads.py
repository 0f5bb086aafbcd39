"""Several threads take what there is to do, each with its share of torch's threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sklearn_bert.threads import can_share_threads, share_threads

pytestmark = pytest.mark.skipif(
    not can_share_threads(), reason="this torch has one number of threads for all"
)


@pytest.fixture(autouse=True)
def five_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.mark.parametrize(
    ("n_workers", "shares"), [(1, [5]), (2, [2, 3]), (4, [1, 1, 1, 2]), (6, [1] * 6)]
)
def test_torch_threads_are_shared_out_and_given_back(n_workers, shares):
    all_there = threading.Barrier(n_workers)

    def work():
        all_there.wait(timeout=10)
        before = torch.get_num_threads()
        torch.ones(300, 300) @ torch.ones(300, 300)
        assert torch.get_num_threads() == before
        return before, threading.get_ident(), threads_of_a_new_thread()

    found = share_threads(work, n_workers, lambda: None)
    assert sorted(share for share, _, _ in found) == shares
    assert len({thread for _, thread, _ in found}) == n_workers
    assert {of_new for _, _, of_new in found} == {5}
    assert torch.get_num_threads() == threads_of_a_new_thread() == 5


def test_one_worker_is_the_thread_that_calls():
    assert share_threads(threading.get_ident, 1, lambda: None) == [
        threading.get_ident()
    ]


def test_what_a_worker_raises_stops_the_others_and_is_raised():
    stopped = threading.Event()
    numbers = iter(range(3))

    def work():
        if next(numbers) == 1:
            raise KeyError("one")
        assert stopped.wait(timeout=10)

    with pytest.raises(KeyError, match="one"):
        share_threads(work, 3, stopped.set)
    assert torch.get_num_threads() == threads_of_a_new_thread() == 5


def test_where_no_thread_can_be_started_the_caller_works(monkeypatch):
    start, started = threading.Thread.start, []

    def failing(self):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", failing)
    stopped = []
    found = share_threads(threading.get_ident, 4, lambda: stopped.append(1))
    assert found == [threading.get_ident()]
    assert not stopped  # there is all still to do
    assert not any(thread.is_alive() for thread in started)
    assert torch.get_num_threads() == 5
