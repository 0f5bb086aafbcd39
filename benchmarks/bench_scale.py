"""Measure whether memory and time per text stay constant up to a million texts.

Protocol. 10,000, 100,000 and a million distinct short texts (eight words of docstrings
and a number) go once through `BertVectorizer.transform`. Each number has a fresh
process, with and without a store, and a tiny random encoder, so that the texts dominate
and not the network. Before that the encoder is loaded and one text is encoded. Reported
are the peak resident size above the one before, less the bytes of the output, in all
and per text, and microseconds per text.

Command: ``python benchmarks/bench_scale.py [--texts N ...] [--keep | --out FILE]
[--short]``
"""

from __future__ import annotations

import argparse
import tempfile
import time

import common

WIDTH = 64
_N_WORDS = 8


def make_tiny(directory: str) -> str:
    from sklearn_bert.datasets import make_tiny_encoder

    words = {w for text in common.summaries() for w in text.lower().split()}
    return make_tiny_encoder(
        directory, width=WIDTH, vocabulary=sorted(filter(str.isalpha, words))
    )


def make_distinct(n_texts: int) -> list[str]:
    words = " ".join(common.summaries()).split()
    starts = range(len(words) - _N_WORDS)
    return [
        " ".join(words[(s := starts[i % len(starts)]) : s + _N_WORDS]) + f" {i}"
        for i in range(n_texts)
    ]


def prepare(model, n_texts, memory):
    from sklearn_bert import BertVectorizer

    texts = make_distinct(n_texts)
    vectorizer = BertVectorizer(model, memory=memory).fit([])
    vectorizer.transform(["warm up"])

    def work():
        before = common.peak_bytes()
        started = time.perf_counter()
        result = vectorizer.transform(texts)
        return {
            "seconds": time.perf_counter() - started,
            "output_bytes": result.nbytes,
            "beyond_bytes": common.peak_bytes() - before - result.nbytes,
        }

    return work


def measure(n_texts: int, is_stored: bool) -> dict:
    with tempfile.TemporaryDirectory() as place:
        arguments = {
            "model": make_tiny(f"{place}/encoder"),
            "n_texts": n_texts,
            "memory": f"{place}/memory" if is_stored else None,
        }
        answers, absent = common.race(__file__, {"ours": arguments}, 1)
    if absent:
        return {"absent": absent["ours"]}
    facts = answers["ours"][0]
    return {
        "n_texts": n_texts,
        "is_stored": is_stored,
        "output_mb": round(facts["output_bytes"] / 1e6, 1),
        "beyond_mb": round(facts["beyond_bytes"] / 1e6, 1),
        "beyond_bytes_per_text": round(facts["beyond_bytes"] / n_texts),
        "us_per_text": round(1e6 * facts["seconds"] / n_texts, 1),
    }


def report(results: dict) -> str:
    """Return the tables of results, in Markdown."""
    header = (
        "texts", "store", "output, MB", "peak beyond it, MB", "bytes per text beyond",
        "microseconds per text",
    )  # fmt: skip
    rows = [
        (
            f"{facts['n_texts']:,}",
            "yes" if facts["is_stored"] else "no",
            f"{facts['output_mb']:,.1f}",
            f"{facts['beyond_mb']:,.1f}",
            f"{facts['beyond_bytes_per_text']:,}",
            f"{facts['us_per_text']:,.0f}",
        )
        for facts in results["cases"].values()
        if "absent" not in facts
    ]
    failed = {c: f["absent"] for c, f in results["cases"].items() if "absent" in f}
    return "\n\n".join(
        part
        for part in (common.table(header, rows), "\n".join(common.absentees(failed)))
        if part
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--texts", type=int, nargs="+", default=[10**4, 10**5, 10**6])


def main() -> None:
    if common.is_worker():
        common.serve(prepare)
        return
    options = common.parse(__doc__, add_options, {"texts": [5000, 20_000]})
    keeper = common.Keeper("scale", options)
    for is_stored in (False, True):
        for n_texts in options.texts:
            case = f"{n_texts} texts, {'with' if is_stored else 'without'} a store"
            common.say(case)
            keeper.add(case, measure(n_texts, is_stored))
    print(report(keeper.results))


if __name__ == "__main__":
    main()
