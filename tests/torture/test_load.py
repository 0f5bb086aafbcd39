"""Many processes and threads on one store, while joblib evicts and clears it."""

import os

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="not Linux"),
]


@pytest.mark.parametrize(("n_processes", "n_threads"), [(8, 0), (0, 8)])
def test_cold_workers_encode_each_text_once(
    result_of, tiny, tmp_path, expected_file, figures, n_processes, n_threads
):
    counts = result_of("cold", tiny, tmp_path, expected_file, n_processes, n_threads)
    assert counts["encoded"] == counts["texts"]
    figures(counts)


def test_workers_agree_while_joblib_evicts_and_clears(
    result_of, tiny, tmp_path, expected_file, scale, figures
):
    seconds = scale(4, 600)
    counts = result_of("load", tiny, tmp_path, expected_file, seconds)
    assert counts["calls"] >= 8
    assert counts["more_files"] <= 8  # shards being read at that moment
    # Encoders load, and oneDNN keeps buffers for each size of batch that it meets.
    assert counts["more_megabytes"] < scale(256, 128)
    figures({**counts, "wrong_results": 0})


def test_cycles_of_fit_and_transform_leak_nothing(
    result_of, tiny, tmp_path, expected_file, scale, figures
):
    counts = result_of("cycle", tiny, tmp_path, expected_file, scale(60, 10_000))
    assert counts["more_files"] == counts["more_threads"] == 0
    assert counts["more_megabytes"] < 32
    figures(counts)


def test_forks_spawned_and_loky_processes_and_threads_agree(
    result_of, tiny, tmp_path, expected_file, scale
):
    methods = scale("fork threading", "fork spawn loky threading")
    names = result_of("start_methods", tiny, tmp_path, expected_file, methods)
    assert names == methods.split()
