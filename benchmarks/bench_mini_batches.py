"""Measure mini-batches beside full passes, where layers or tokens are weighted.

Protocol: the features of labelled film reviews by all layers of the default model, mean
pooling, from a directory (`--data`, or the environment variable SKLEARN_BERT_DATA);
without them, docstring summaries of two topics stand in. Where more texts are asked for
than there are, they repeat, each time with other noise of a tenth of their spread. Both
minimisers learn the same mix from the same array in memory, in turns in one process, by
the process's own time; the first round is not counted. Reported are the ratio of times,
in how many steps L-BFGS was done, and by how much the weights of the layers differ, the
largest difference. The same for "learned_attention" jointly with the weights of all
layers, on token states of two tasks, texts not repeated: there it is half the sum of
differences of a text's token weights, in the mean, and what was learned is also judged
by the accuracy of a logistic regression on a fifth of the texts that was not seen.

Command: ``python benchmarks/bench_mini_batches.py [--data DIR] [--sizes N ...]
[--tokens N ...] [--rounds N] [--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path

import bench_probe
import common
import numpy as np
from bench_mix import read

TASKS = ("polarity", "tense")  # where tokens are weighted
FULL, PARTS = "L-BFGS on all texts", "mini-batches"


def features_of(texts: list[str], memory: str) -> np.ndarray:
    """Return the features of all layers, (n_texts, 1, n_layers, width)."""
    from sklearn_bert import BertVectorizer

    vectorizer = BertVectorizer(pooling="mean", layer="all", memory=memory)
    values = vectorizer.fit_transform(texts)
    return values.reshape(len(texts), 1, -1, vectorizer.width_)


def repeated(values: np.ndarray, n_texts: int) -> np.ndarray:
    """Return as many texts as asked for; repeats differ by noise."""
    random = np.random.default_rng(0)
    block = np.empty((n_texts, *values.shape[1:]), dtype=np.float32)
    spread = 0.1 * values.std(axis=0)
    for start in range(0, n_texts, len(values)):
        part = block[start : start + len(values)]
        part[:] = values[: len(part)]
        if start:
            part += spread * random.standard_normal(part.shape, dtype=np.float32)
    return block


def tokens_of(texts: list[str], memory: str):
    """Return token states of all layers, of any number of rows per text."""
    from sklearn_bert import BertVectorizer

    vectorizer = BertVectorizer(
        layer="all", layer_combination="scalar_mix", pooling="learned_attention",
        token_dtype="float16", memory=memory,
    )  # fmt: skip
    vectorizer._settle()
    return vectorizer._frozen(texts)


def race(fit, rounds: int) -> dict:
    """Return what both minimisers took; `fit` is given what each step is told to."""
    from sklearn_bert import objective

    seconds: dict[str, list[float]] = {FULL: [], PARTS: []}
    found, n_steps = {}, 0
    for _ in range(rounds + 1):
        for name, limit in ((FULL, np.inf), (PARTS, 0)):
            steps: list[object] = []
            objective._FULL_BYTES = limit
            started = time.process_time()
            found[name] = fit(steps.append)  # None is returned, which ends nothing
            seconds[name].append(time.process_time() - started)
            if name == FULL:
                n_steps = len(steps)
    return {
        "rounds": rounds,
        "n_steps": n_steps,
        "seconds": {name: common.rounded(v[1:]) for name, v in seconds.items()},
        "ratio": common.ratios(seconds[FULL][1:], seconds[PARTS][1:]),
        "found": found,
    }


def compare(block: np.ndarray, labels: np.ndarray, rounds: int) -> dict:
    from sklearn_bert.learning import fit_scalar_mix

    facts = race(lambda told: fit_scalar_mix(block, labels, on_step=told), rounds)
    full, parts = (facts["found"][name].weights for name in (FULL, PARTS))
    del facts["found"]
    return {
        "what": "layers",
        "n_texts": len(block),
        "gigabytes": round(block.nbytes / 1e9, 2),
        **facts,
        "difference": round(float(np.abs(full - parts).max()), 3),
    }


def compare_tokens(rows, labels, others, labels_of_others, rounds: int) -> dict:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from sklearn_bert.layers import coefficients
    from sklearn_bert.learning import attend, fit_token_attention

    facts = race(
        lambda told: fit_token_attention(
            rows, labels, learns_layers=True, on_step=told
        ),
        rounds,
    )
    accuracies, weights = [], []
    for name in (FULL, PARTS):
        query, mix = facts["found"][name]
        factors = coefficients("scalar_mix", 1, len(mix.weights), mix)[0]
        vectors, of_tokens = attend(rows, query, factors)
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
        head.fit(vectors, labels)
        vectors, _ = attend(others, query, factors)
        accuracies.append(head.score(vectors, labels_of_others))
        weights.append(of_tokens.values)
    del facts["found"]
    full, parts = weights
    return {
        "what": "tokens and layers",
        "n_texts": len(rows),
        "gigabytes": round(rows.values.nbytes / 1e9, 2),
        **facts,
        "difference": round(float(np.abs(full - parts).sum() / 2 / len(rows)), 3),
        "accuracies": common.rounded(accuracies),
    }


def compare_task(task: str, texts, labels, options, keeper) -> None:
    order = np.random.default_rng(0).permutation(len(texts))
    texts, labels = [texts[i] for i in order], labels[order]
    n_others = len(texts) // 5  # the last ones
    n_some = min(len(texts) - n_others, max(options.tokens))
    with tempfile.TemporaryDirectory() as place:
        states = tokens_of(texts[:n_some], str(options.memory or place))
        others = tokens_of(texts[-n_others:], str(options.memory or place))
    for n_texts in [n_texts for n_texts in options.tokens if n_texts <= n_some]:
        facts = compare_tokens(
            states[np.arange(n_texts)], labels[:n_texts],
            others, labels[-n_others:], options.rounds,
        )  # fmt: skip
        keeper.add(f"tokens of {n_texts} texts, {task}", {**facts, "task": task})


def report(results: dict) -> str:
    """Return the table of results, in Markdown."""
    rows = [
        (
            ", ".join([facts["what"], *([facts["task"]] if "task" in facts else [])]),
            f"{facts['n_texts']:,}",
            f"{facts['gigabytes']:.1f} GB",
            facts["n_steps"],
            *(f"{np.median(facts['seconds'][name]):.1f}" for name in (FULL, PARTS)),
            common.with_range(facts["ratio"]),
            f"{facts['difference']:.3f}",
            ", ".join(f"{accuracy:.3f}" for accuracy in facts.get("accuracies", ())),
        )
        for facts in results["cases"].values()
    ]
    header = (
        "weights of", "texts", "features", "steps", f"{FULL}, seconds",
        f"{PARTS}, seconds", "ratio", "difference of weights",
        "accuracy of both",
    )  # fmt: skip
    return common.table(header, rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    data = os.environ.get("SKLEARN_BERT_DATA", "no-such-directory")
    parser.add_argument("--data", type=Path, default=Path(data))
    sizes = [10_000, 30_000, 100_000, 300_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes)
    parser.add_argument("--tokens", type=int, nargs="+", default=[700, 2000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=Path, help="keep the features there")


def main() -> None:
    short = {"sizes": [200, 1000], "tokens": [100], "rounds": 1}
    options = common.parse(__doc__, add_options, short)
    warnings.simplefilter("ignore")  # truncation
    texts, labels = read(options.data, min(10_000, max(options.sizes)))
    with tempfile.TemporaryDirectory() as place:
        values = features_of(texts, str(options.memory or place))
    keeper = common.Keeper("mini_batches", options)
    for n_texts in options.sizes:
        block = repeated(values, n_texts)
        facts = compare(
            block, np.resize(labels[: len(values)], n_texts), options.rounds
        )
        keeper.add(f"{n_texts} texts", facts)
        del block
    tasks = bench_probe.read(options.data)
    for task in [task for task in TASKS if task in tasks] or tasks:
        compare_task(task, *tasks[task], options, keeper)
    print(report(keeper.results))


if __name__ == "__main__":
    main()
