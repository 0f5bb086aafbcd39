"""Is it worth choosing or weighting layers? Accuracy of `BertProbeClassifier`.

Protocol: the default model, frozen, mean pooling, on labelled texts from a directory
(`--data`, or the environment variable SKLEARN_BERT_DATA): movie-review polarity,
subjectivity, intents of CLINC150 and six probing tasks on UD English EWT. From each,
1,200 texts drawn at random; five stratified splits into two thirds to train on and a
third to score.
Every row is a `BertProbeClassifier` with its defaults (standardized features, linear
head, C=0.01) and another `layer`, under mean pooling or learned attention (token states
in float16). Reported are the mean accuracy over the splits, the
mean difference to the last layer on the same split with its standard deviation over
splits, and how often each layer was chosen by "cv" or weighted most by "mix". All rows
read the features of one pass from one store. Without the data, docstring summaries of
two packages stand in, so that the script can be tried anywhere.

Command: ``python benchmarks/bench_probe.py [--data DIR] [--texts N] [--splits N]``
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


def read(data: Path, n_texts: int) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return texts and labels of every task that is there."""
    tasks = {}
    for task, name in TASKS.items():
        path = data / name
        files = [path] if path.is_file() else sorted(path.parent.glob("*.csv.gz"))
        if not path.parent.is_dir() or len(files) != 1:
            continue
        rows = common.read_rows(files[0])
        rng = np.random.default_rng(0)  # some files are sorted by label
        rows = [rows[i] for i in rng.permutation(len(rows))[:n_texts]]
        tasks[task] = [r["text"] for r in rows], np.array([r["label"] for r in rows])
    if not tasks:
        from sklearn_bert.datasets import load_docstrings

        print("No labelled texts: docstring summaries stand in.")
        docs = load_docstrings(None, random_state=0)
        texts, labels = docs.data[:n_texts], np.array(docs.target[:n_texts])
        tasks["package of a docstring"] = texts, labels
    return tasks


def compare(
    texts: list[str], labels: np.ndarray, n_splits: int, memory: str
) -> dict[str, object]:
    from sklearn.model_selection import StratifiedShuffleSplit

    from sklearn_bert import BertProbeClassifier

    counts = Counter(labels.tolist())
    kept = [i for i, label in enumerate(labels) if counts[label] >= 3]
    texts, labels = [texts[i] for i in kept], labels[kept]
    splits = StratifiedShuffleSplit(n_splits, test_size=1 / 3, random_state=0)
    scores: dict[str, list[float]] = {name: [] for name in PROBES}
    layers: dict[str, list[int]] = {name: [] for name in PROBES}
    for train, test in splits.split(texts, labels):
        for name, params in PROBES.items():
            probe = BertProbeClassifier(
                **{"pooling": "mean", **params}, normalize=False, memory=memory
            )
            probe.fit([texts[i] for i in train], labels[train])
            score = probe.score([texts[i] for i in test], labels[test])
            scores[name].append(round(float(score), 4))
            if name.startswith('"mix"'):
                layers[name].append(int(probe.layer_weights_.argmax()))
            elif name == 'best by "cv"':
                layers[name].append(probe.layers_[0])
    last = np.array(scores["last layer"])
    return {
        "n_texts": len(texts),
        "n_classes": len(counts),
        "n_splits": n_splits,
        "rows": {
            name: {
                "accuracy": round(float(np.mean(values)), 4),
                "difference": round(float(np.mean(np.array(values) - last)), 4),
                "spread": round(float(np.std(np.array(values) - last, ddof=1)), 4),
                "scores": values,
                "layers": layers[name],
            }
            for name, values in scores.items()
        },
    }


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
    parser.add_argument("--texts", type=int, default=1200)
    parser.add_argument("--splits", type=int, default=5)


def main() -> None:
    short = {"texts": 200, "splits": 2, "tasks": ["polarity", "tense"]}
    options = common.parse(__doc__, add_options, short)
    warnings.simplefilter("ignore")  # truncation, rare classes
    keeper = common.Keeper("probe", options)
    for task, (texts, labels) in read(options.data, options.texts).items():
        if task in options.tasks or task not in TASKS:
            with tempfile.TemporaryDirectory() as memory:  # states take gigabytes
                keeper.add(task, compare(texts, labels, options.splits, memory))
            common.say(f"{task}: done")
    print(report(keeper.results))


if __name__ == "__main__":
    main()
