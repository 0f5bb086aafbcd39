"""Ctrl-C and a device without memory, at any moment: the next run is right."""

import numpy as np
import pytest
import torch
from processes import EVERYTHING, TEXTS

from sklearn_bert import BertVectorizer, features, network
from sklearn_bert.encoder import Encoder


def test_a_timer_may_interrupt_at_any_moment(
    result_of, tiny, tmp_path, expected_file, scale, figures
):
    counts = result_of("interrupt", tiny, tmp_path, expected_file, scale(12, 300))
    assert counts["interrupted"] > scale(3, 100)
    figures(counts)


def test_any_forward_pass_may_be_interrupted(
    tiny, tmp_path, expected, work, monkeypatch
):
    monkeypatch.setattr(features, "_WINDOW_TEXTS", 8)
    run, n_passes = network.Network.run, [0]
    vectorizer = BertVectorizer(tiny, memory=tmp_path, **EVERYTHING)

    def interrupt(self, *arguments):
        n_passes[0] += 1
        if n_passes[0] % 2:
            raise KeyboardInterrupt
        return run(self, *arguments)

    monkeypatch.setattr(network.Network, "run", interrupt)
    n_interrupted, found = 0, None
    while found is None:
        try:
            found = vectorizer.fit_transform(TEXTS[:40])
        except KeyboardInterrupt:
            n_interrupted += 1
    np.testing.assert_allclose(found, expected[:40], atol=1e-5)
    assert n_interrupted == 5  # windows; each is kept as it ends
    assert work().n_texts == 40


def test_running_out_of_memory_halves_batches_and_keeps_right_rows(
    tiny, tmp_path, expected, monkeypatch
):
    run, sizes = Encoder._run, []

    def fail(self, pieces, *arguments):
        sizes.append(len(pieces))
        if len(pieces) > 3:
            raise torch.OutOfMemoryError("by a test")
        return run(self, pieces, *arguments)

    monkeypatch.setattr(Encoder, "_run", fail)
    vectorizer = BertVectorizer(tiny, memory=tmp_path, **EVERYTHING)
    found = vectorizer.fit_transform(TEXTS[:30])
    np.testing.assert_allclose(found, expected[:30], atol=1e-5)
    assert max(sizes) > 3
    np.testing.assert_array_equal(vectorizer.transform(TEXTS[:30]), found)


def test_a_text_that_does_not_fit_keeps_what_did(tiny, tmp_path, work, monkeypatch):
    monkeypatch.setattr(features, "_WINDOW_TEXTS", 4)
    run = Encoder._run

    def fail(self, pieces, *arguments):
        if min(map(len, pieces)) < 8:
            raise torch.OutOfMemoryError("by a test")
        return run(self, pieces, *arguments)

    texts = [*TEXTS[:8], "short"]
    vectorizer = BertVectorizer(tiny, memory=tmp_path, **EVERYTHING)
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "_run", fail)
        with pytest.raises(torch.OutOfMemoryError, match=r"A single text of \d+ token"):
            vectorizer.fit_transform(texts)
    before = work().n_texts
    vectorizer.fit_transform(texts)
    assert work().n_texts - before == 1
