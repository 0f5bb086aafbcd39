"""Measure from how many labels on fine-tuning beats a frozen encoder.

Protocol: the default model on labelled texts from a directory (`--data`, or the
environment variable SKLEARN_BERT_DATA): movie-review polarity and subjectivity. For
each seed the texts are shuffled; the last 2,000 are scored, and training takes the
first 50, 200, ..., 8,000 of the rest, so that a larger set contains the smaller ones.
Every contender has its defaults, mean pooling and the same seed: the features of the
last layer, standardized, with `LogisticRegression` (C=0.01, the probe's); all layers
weighted by `BertProbeClassifier`; and `BertFineTuneClassifier` with the top two blocks,
all blocks gradually, and everything at once. Reported are mean accuracy, its standard
deviation over seeds and the mean seconds of a fit; frozen features are not kept, so
each fit pays for its texts. Without the data, docstring summaries of two topics stand
in.

Command: ``python benchmarks/bench_frozen_vs_finetuned.py [--data DIR] [--tasks ...]
[--labels N ...] [--seeds N] [--contenders ...] [--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import time
import warnings
from pathlib import Path

import common
import numpy as np

TASKS = {"polarity": "mr/mr.csv.gz", "subjectivity": "subj/subj.csv.gz"}
LABELS = [50, 200, 500, 1000, 2000, 4000, 8000]
CONTENDERS = [
    "frozen, logistic regression", "frozen, layers weighted", "top two blocks",
    "all blocks, gradually", "everything at once",
]  # fmt: skip


def read(data: Path, task: str) -> tuple[list[str], np.ndarray]:
    """Return texts and labels of a task, or those that stand in."""
    path = data / TASKS[task]
    if path.is_file():
        with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return [r["text"] for r in rows], np.array([r["label"] for r in rows])
    from sklearn_bert.datasets import load_docstrings

    common.say(f"{task}: no labelled texts, docstring summaries stand in")
    docs = load_docstrings(None, random_state=0)
    kept = [i for i, label in enumerate(docs.target) if label < 2]
    return [docs.data[i] for i in kept], np.array(docs.target)[kept]


def make(contender: str, seed: int):
    """Return an estimator of texts."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from sklearn_bert import BertProbeClassifier, BertVectorizer
    from sklearn_bert.finetune import BertFineTuneClassifier

    mean = {"pooling": "mean"}
    if contender == "frozen, logistic regression":
        head = LogisticRegression(C=0.01, max_iter=1000)
        return make_pipeline(BertVectorizer(**mean), StandardScaler(), head)
    if contender == "frozen, layers weighted":
        return BertProbeClassifier(layer="mix", **mean)
    trained = {
        "top two blocks": {"num_layers_to_freeze": -2},
        "all blocks, gradually": {"num_layers_to_freeze": 0, "unfreezing": "gradual"},
        "everything at once": {"num_layers_to_freeze": 0},
    }[contender]
    return BertFineTuneClassifier(random_state=seed, **mean, **trained)


def compare(
    texts: list[str],
    labels: np.ndarray,
    n_labels: int,
    n_scored: int,
    seeds: int,
    contenders: list[str],
) -> dict:
    scores: dict[str, list[float]] = {name: [] for name in contenders}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(texts))
        test, rows = order[-n_scored:], order[:-n_scored][:n_labels]
        for name in contenders:
            started = time.perf_counter()
            estimator = make(name, seed).fit([texts[i] for i in rows], labels[rows])
            seconds[name].append(time.perf_counter() - started)
            score = estimator.score([texts[i] for i in test], labels[test])
            scores[name].append(round(float(score), 4))
            common.say(f"  seed {seed}, {name}: {score:.3f}, {seconds[name][-1]:.0f} s")
    return {
        "n_labels": n_labels,
        "n_scored": n_scored,
        "rows": {
            name: {
                "accuracy": round(float(np.mean(scores[name])), 4),
                "spread": round(float(np.std(scores[name], ddof=int(seeds > 1))), 4),
                "scores": scores[name],
                "seconds": common.rounded(seconds[name]),
            }
            for name in contenders
        },
    }


def report(results: dict) -> str:
    """Return a table of each task, in Markdown."""
    tasks: dict[str, list[dict]] = {}
    for case, facts in results["cases"].items():
        tasks.setdefault(case.rpartition(", ")[0], []).append(facts)
    parts = []
    for task, cases in tasks.items():
        names = list(cases[0]["rows"])
        rows = [
            (
                f"{facts['n_labels']:,}",
                *(
                    f"{row['accuracy']:.3f} ± {row['spread']:.3f} "
                    f"({np.mean(row['seconds']):.0f} s)"
                    for row in facts["rows"].values()
                ),
            )
            for facts in cases
        ]
        parts += [f"**{task}**", common.table(("labels", *names), rows)]
    return "\n\n".join(parts)


def add_options(parser: argparse.ArgumentParser) -> None:
    data = os.environ.get("SKLEARN_BERT_DATA", "no-such-directory")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--labels", nargs="+", type=int, default=LABELS)
    parser.add_argument("--scored", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS,
        metavar="NAME", help=f"of: {'; '.join(CONTENDERS)}",
    )  # fmt: skip


def main() -> None:
    short = {"tasks": ["polarity"], "labels": [50, 100], "scored": 100, "seeds": 1}
    options = common.parse(__doc__, add_options, short)
    warnings.simplefilter("ignore")  # truncation
    keeper = common.Keeper("frozen_vs_finetuned", options)
    for task in options.tasks:
        texts, labels = read(options.data, task)
        n_scored = min(options.scored, len(texts) // 3)
        for n_labels in options.labels:
            if n_labels > len(texts) - n_scored:
                continue
            case = f"{task}, {n_labels} labels"
            common.say(case)
            facts = compare(
                texts, labels, n_labels, n_scored, options.seeds, options.contenders
            )
            keeper.add(case, facts)
    print(report(keeper.results))


if __name__ == "__main__":
    main()
