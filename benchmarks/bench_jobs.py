"""Measure when processes help, and when threads.

Protocol. MiniLM encodes distinct short texts, nothing stored, as one process with all
threads (``n_jobs=1``) and as two worker processes of joblib's loky (``n_jobs=2``), to
which joblib gives half of the threads each. In every round each way starts afresh and
transforms the same texts twice. The first call includes the start of the workers and
the loading of the model in each of them; the second finds them ready. Reported are the
seconds of both, and the ratios of one process to two within rounds.

Command: ``python benchmarks/bench_jobs.py [--texts N ...] [--rounds N] [--jobs N]
[--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import statistics
import time

import common


def prepare(n_texts, n_jobs):
    from sklearn_bert import BertVectorizer

    texts = [
        f"{text} {i}" for i, text in enumerate(common.make_texts("short", n_texts))
    ]
    vectorizer = BertVectorizer(n_jobs=n_jobs, max_length=common.MAX_LENGTH).fit([])

    def work():
        started = time.perf_counter()
        vectorizer.transform(texts)
        return {"seconds": time.perf_counter() - started}

    return work


def compare(n_texts: int, n_jobs: int, rounds: int) -> dict:
    names = {1: "one process", n_jobs: f"{n_jobs} processes"}
    calls = {jobs: {"first": [], "later": []} for jobs in names}
    for _ in range(rounds):
        for jobs, name in names.items():
            answers, absent = common.race(
                __file__, {name: {"n_texts": n_texts, "n_jobs": jobs}}, 2
            )
            if absent:
                raise RuntimeError(f"it failed: {absent}")
            first, later = common.seconds_of(answers[name])
            calls[jobs]["first"].append(first)
            calls[jobs]["later"].append(later)
    return {
        "n_texts": n_texts,
        "rounds": rounds,
        "rows": {
            names[jobs]: {
                call: {
                    "seconds": common.rounded(calls[jobs][call]),
                    "texts_per_second": round(
                        n_texts / statistics.median(calls[jobs][call])
                    ),
                    "ratio": common.ratios(calls[1][call], calls[jobs][call]),
                }
                for call in ("first", "later")
            }
            for jobs in names
        },
    }


def report(results: dict) -> str:
    """Return the tables of results, in Markdown."""
    header = (
        "texts", "encoded by", "first call: texts/s", "times faster",
        "later call: texts/s", "times faster",
    )  # fmt: skip
    rows = [
        (
            f"{facts['n_texts']:,}",
            name,
            f"{row['first']['texts_per_second']:,}",
            common.with_range(row["first"]["ratio"]),
            f"{row['later']['texts_per_second']:,}",
            common.with_range(row["later"]["ratio"]),
        )
        for facts in results["cases"].values()
        for name, row in facts["rows"].items()
    ]
    return common.table(header, rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--texts", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)


def main() -> None:
    if common.is_worker():
        common.serve(prepare)
        return
    # A window holds 512 texts: fewer than two windows are never split.
    options = common.parse(__doc__, add_options, {"texts": [1100], "rounds": 1})
    keeper = common.Keeper("jobs", options)
    for n_texts in options.texts:
        common.say(f"{n_texts:,} texts")
        keeper.add(f"{n_texts} texts", compare(n_texts, options.jobs, options.rounds))
    print(report(keeper.results))


if __name__ == "__main__":
    main()
