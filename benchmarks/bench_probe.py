"""Is it worth choosing or weighting layers? Accuracy of `BertProbeClassifier`.

Protocol: the default model, frozen, mean pooling, on labelled texts from a directory
(`--data`, or the environment variable SKLEARN_BERT_DATA): movie-review polarity,
subjectivity, intents of CLINC150 and six probing tasks on UD English EWT. From each,
five times 800 texts to train on and up to 2,000 others to score, drawn anew each time
and stratified.
Every row is a `BertProbeClassifier` with its defaults (standardized features, linear
head, C=0.01) and another `layer`, under mean pooling or learned attention (token states
in float16). Reported are the mean accuracy over the samples, the mean difference to the
last layer on the same sample with its standard deviation over samples, and how often
each layer was chosen by "cv" or weighted most by "mix". All rows read the features of
one pass over a sample from one store. Without the data, docstring summaries of two
packages stand in, so that the script can be tried anywhere.

Command: ``python benchmarks/bench_probe.py [--data DIR] [--texts N] [--scored N]
[--samples N]``
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import common
import numpy as np

TASKS = {
    "polarity": "mr/mr.csv.gz",
    "subjectivity": "subj/subj.csv.gz",
    "intents": "clinc150_small/clinc150_small.csv.gz",
    "sentence length": "probing_ud_ewt/sentence_length.csv.gz",
    "tree depth": "probing_ud_ewt/tree_depth.csv.gz",
    "tense": "probing_ud_ewt/past_present.csv.gz",
    "two words swapped": "probing_ud_ewt/bigram_shift.csv.gz",
    "number of the subject": "probing_ud_ewt/subj_number.csv.gz",
    "number of the object": "probing_ud_ewt/obj_number.csv.gz",
}
ATTENTION = {"pooling": "learned_attention", "token_dtype": "float16"}
# The one with the states of all layers comes first, so that the others find theirs.
PROBES = {
    '"mix", learned attention': {"layer": "mix", **ATTENTION},
    "last layer, learned attention": {"layer": -1, **ATTENTION},
    "last layer": {"layer": -1},
    'best by "cv"': {"layer": "cv"},
    "concat of last four": {"layer": [-4, -3, -2, -1]},
    '"mix"': {"layer": "mix"},
}
SHOWN = [*list(PROBES)[2:], *list(PROBES)[1::-1]]


def read(data: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return texts and labels of every task that is there."""
    tasks = {}
    for task, name in TASKS.items():
        path = data / name
        files = [path] if path.is_file() else sorted(path.parent.glob("*.csv.gz"))
        if path.parent.is_dir() and len(files) == 1:
            rows = common.read_rows(files[0])
            labels = np.array([row["label"] for row in rows])
            tasks[task] = [row["text"] for row in rows], labels
    if not tasks:
        from sklearn_bert.datasets import load_docstrings

        print("No labelled texts: docstring summaries stand in.")
        docs = load_docstrings(None, random_state=0)
        tasks["package of a docstring"] = docs.data, np.array(docs.target)
    return tasks


def compare(
    texts: list[str], labels: np.ndarray, sizes: tuple[int, int], n_samples: int
) -> dict[str, object]:
    samples = [draw(labels, sizes, seed) for seed in range(n_samples)]
    runs = [score(texts, labels, *rows) for rows in samples]
    last = np.array([run["last layer"]["score"] for run in runs])
    rows = {}
    for name in PROBES:
        scores = [round(float(run[name]["score"]), 4) for run in runs]
        differences = np.array(scores) - last
        rows[name] = {
            "accuracy": round(float(np.mean(scores)), 4),
            "difference": round(float(differences.mean()), 4),
            "spread": round(float(differences.std(ddof=1)), 4),
            "scores": scores,
            "layers": [run[name]["layer"] for run in runs if "layer" in run[name]],
        }
    return {
        "n_texts": len(samples[0][0]),
        "n_scored": len(samples[0][1]),
        "n_classes": len(set(labels.tolist())),
        "n_samples": n_samples,
        "rows": rows,
    }


def draw(
    labels: np.ndarray, sizes: tuple[int, int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and to score; classes of one or two are left out."""
    from sklearn.model_selection import train_test_split

    counts = Counter(labels.tolist())
    rows = np.array([i for i, label in enumerate(labels) if counts[label] > 2])
    n_texts = min(sizes[0], 2 * len(rows) // 3)
    train, test = train_test_split(
        rows, train_size=n_texts, test_size=min(sizes[1], len(rows) - n_texts),
        stratify=labels[rows], random_state=seed,
    )  # fmt: skip
    return train, test


def score(
    texts: list[str], labels: np.ndarray, train: np.ndarray, test: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return every probe's accuracy on one sample, and the layer that it is for."""
    from sklearn_bert import BertProbeClassifier

    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as memory:  # states take gigabytes
        for name, params in PROBES.items():
            probe = BertProbeClassifier(
                **{"pooling": "mean", **params}, normalize=False, memory=memory
            )
            probe.fit([texts[i] for i in train], labels[train])
            accuracy = probe.score([texts[i] for i in test], labels[test])
            found[name] = {"score": accuracy}
            if name.startswith('"mix"'):
                found[name]["layer"] = int(probe.layer_weights_.argmax())
            elif name == 'best by "cv"':
                found[name]["layer"] = probe.layers_[0]
    return found


def report(results: dict) -> str:
    """Return the table of results, in Markdown."""
    cases = results["cases"]
    shown = [n for n in SHOWN if all(n in facts["rows"] for facts in cases.values())]
    rows = []
    for task, facts in cases.items():
        cells = [task, f"{facts['rows']['last layer']['accuracy']:.3f}"]
        for name in shown[1:]:
            row = facts["rows"][name]
            cells.append(
                f"{row['accuracy']:.3f} ({row['difference']:+.3f} ± "
                f"{row['spread']:.3f})"
            )
        chosen = Counter(facts["rows"]['best by "cv"']["layers"])
        cells.append(", ".join(f"{k} ({n}x)" for k, n in chosen.most_common()))
        rows.append(cells)
    return common.table(("task", *shown, 'chosen by "cv"'), rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    data = os.environ.get("SKLEARN_BERT_DATA", "no-such-directory")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--texts", type=int, default=800)
    parser.add_argument("--scored", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=5)


def main() -> None:
    short = {"texts": 130, "scored": 70, "samples": 2, "tasks": ["polarity", "tense"]}
    options = common.parse(__doc__, add_options, short)
    warnings.simplefilter("ignore")  # truncation, rare classes
    keeper = common.Keeper("probe", options)
    for task, (texts, labels) in read(options.data).items():
        if task in options.tasks or task not in TASKS:
            sizes = options.texts, options.scored
            facts = compare(texts, labels, sizes, options.samples)
            keeper.add(task, facts)
            common.say(f"{task}: done")
    print(report(keeper.results))


if __name__ == "__main__":
    main()
