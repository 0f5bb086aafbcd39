"""Measure what weighting all layers costs, beside a logistic regression on one.

Protocol: the default model, frozen, mean pooling, labelled film reviews from a
directory (`--data`, or the environment variable SKLEARN_BERT_DATA); without them,
docstring summaries of two topics stand in. The features of all texts and layers are in
a store. Every contender reads what it needs from there and fits, in turns in one
process, by the process's own time. None of them loads an encoder, which is checked. The
first round is not counted. The last row has its features in memory and reads nothing.

Command: ``python benchmarks/bench_mix.py [--data DIR] [--texts N] [--rounds N]
[--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import common
import numpy as np

FILL = """
import json, sys
from sklearn_bert import BertVectorizer
BertVectorizer(pooling="mean", memory=sys.argv[1]).fit_transform(json.load(sys.stdin))
"""
MIX = 'BertProbeClassifier(layer="mix")'


def read(data: Path, n_texts: int) -> tuple[list[str], np.ndarray]:
    """Return texts and labels of two classes."""
    path = data / "mr" / "mr.csv.gz"
    if path.is_file():
        rows = common.read_rows(path)
        texts, labels = [r["text"] for r in rows], np.array([r["label"] for r in rows])
    else:
        from sklearn_bert.datasets import load_docstrings

        common.say("No labelled texts: docstring summaries stand in.")
        docs = load_docstrings(None, random_state=0)
        kept = [i for i, label in enumerate(docs.target) if label < 2]
        texts, labels = [docs.data[i] for i in kept], np.array(docs.target)[kept]
    order = np.random.default_rng(0).permutation(len(texts))[:n_texts]
    return [texts[i] for i in order], labels[order]


def compare(texts: list[str], labels: np.ndarray, memory: str, rounds: int) -> dict:
    """Return the seconds of each fit, from a store that holds everything."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from sklearn_bert import BertProbeClassifier, BertVectorizer

    given = {"pooling": "mean", "memory": memory}
    last = BertVectorizer(**given)
    features = last.fit_transform(texts)
    plain = LogisticRegression(max_iter=1000)
    fits = {
        MIX: lambda: BertProbeClassifier(layer="mix", **given).fit(texts, labels),
        "BertProbeClassifier(layer=-1)": lambda: BertProbeClassifier(**given).fit(
            texts, labels
        ),
        "BertVectorizer, LogisticRegression": lambda: make_pipeline(last, plain).fit(
            texts, labels
        ),
        "LogisticRegression, features in memory": lambda: plain.fit(features, labels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    for _ in range(rounds + 1):
        for name, fit in fits.items():
            started = time.process_time()
            fit()
            seconds[name].append(time.process_time() - started)
    if "torch" in sys.modules:
        raise RuntimeError("a fit on stored features loaded torch")
    own = seconds[MIX][1:]
    return {
        "n_texts": len(texts),
        "rounds": rounds,
        "rows": {
            name: {
                "seconds": common.rounded(values[1:]),
                "ratio": common.ratios(own, values[1:]),
            }
            for name, values in seconds.items()
        },
    }


def report(results: dict) -> str:
    """Return the table of results, in Markdown."""
    parts = []
    for facts in results["cases"].values():
        parts.append(f"{facts['n_texts']:,} texts, 7 layers, {facts['rounds']} rounds.")
        rows = [
            (name, f"{np.median(row['seconds']):.2f}", common.with_range(row["ratio"]))
            for name, row in facts["rows"].items()
        ]
        header = ("fit", "seconds", 'times as long takes "mix"')
        parts.append(common.table(header, rows))
    return "\n\n".join(parts)


def add_options(parser: argparse.ArgumentParser) -> None:
    data = os.environ.get("SKLEARN_BERT_DATA", "no-such-directory")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", type=Path, help="keep the features there")


def main() -> None:
    options = common.parse(__doc__, add_options, {"texts": 200, "rounds": 3})
    warnings.simplefilter("ignore")  # truncation
    texts, labels = read(options.data, options.texts)
    with tempfile.TemporaryDirectory() as place:
        memory = str(options.memory or place)
        # In a process of its own, so that this one has no torch.
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FILL, memory],
            input=json.dumps(texts), text=True, check=True,
        )  # fmt: skip
        facts = compare(texts, labels, memory, options.rounds)
    keeper = common.Keeper("mix", options)
    keeper.add("polarity", facts)
    print(report(keeper.results))


if __name__ == "__main__":
    main()
