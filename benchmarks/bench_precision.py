"""Measure how far each precision is from float64, and what a classifier notices.

Protocol. The reference is a plain transformers loop in float64, one text at a time,
with the default model. Each precision of `BertVectorizer` encodes the same texts.
Reported are the lowest cosine to the reference, the largest absolute difference between
unit vectors, and the accuracy of a logistic regression in five stratified folds, beside
the one on the reference's features. Data: mr, subj and the first ten intents of
clinc150, from the directory given by ``--data`` or ``SKLEARN_BERT_DATA``; where it is
not there, docstring summaries. Speed is not measured here: a processor without
arithmetic for half precisions emulates them.

Command: ``python benchmarks/bench_precision.py [--data DIRECTORY] [--texts N]
[--precisions NAME ...] [--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections import defaultdict
from pathlib import Path

import common
import numpy as np

PRECISIONS = ["float32", "bfloat16", "float16"]
DATA_SETS = ("mr/mr.csv.gz", "subj/subj.csv.gz", "clinc150_small/clinc150_small.csv.gz")
_MAX_CLASSES = 10


def read_labelled(file: Path, n_texts: int) -> tuple[list[str], list[str]]:
    """Return texts of at most ten classes, at least five of each, in random order."""
    by_label = defaultdict(list)
    for row in common.read_rows(file):
        by_label[row["label"]].append(row["text"])
    rng = np.random.default_rng(0)
    labels = sorted(by_label)[:_MAX_CLASSES]
    rows = [
        (by_label[label][i], label)
        for label in labels
        for i in rng.permutation(len(by_label[label]))[: max(5, n_texts // len(labels))]
    ]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    return [text for text, _ in rows], [label for _, label in rows]


def read_data(directory: Path | None, n_texts: int) -> dict:
    """Return texts and labels by name of the data set."""
    from sklearn_bert.datasets import load_docstrings

    found = {}
    for name in DATA_SETS:
        if directory is not None and (directory / name).is_file():
            found[Path(name).parent.name] = read_labelled(directory / name, n_texts)
        else:
            common.say(f"{name} is not in {directory}: left out")
    if not found:
        docs = load_docstrings(max(5, n_texts // 10))
        found["docstrings"] = docs.data, docs.target
    return found


def encode_in_float64(model: str, texts: list[str]) -> np.ndarray:
    """Return unit vectors: the mean of the last layer's tokens, text by text."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModel.from_pretrained(model, dtype=torch.float64).eval()
    rows = []
    for text in texts:
        inputs = tokenizer(
            text, truncation=True, max_length=common.MAX_LENGTH, return_tensors="pt"
        )
        with torch.no_grad():
            states = network(**inputs).last_hidden_state[0]
        rows.append(states.mean(0).numpy())
    return _unit(np.stack(rows))


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def accuracy(X: np.ndarray, y) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(
        cross_val_score(LogisticRegression(max_iter=1000), X, y, cv=folds).mean()
    )


def compare(texts, labels, precisions: list[str]) -> dict:
    from sklearn_bert import BertVectorizer

    model = common.minilm()
    reference = encode_in_float64(model, texts)
    at_best = accuracy(reference, labels)
    facts = {
        "n_texts": len(texts),
        "n_classes": len(set(labels)),
        "accuracy_float64": round(at_best, 5),
        "rows": {},
        "absent": {},
    }
    for dtype in precisions:
        common.say(f"  {dtype}")
        vectorizer = BertVectorizer(
            model, pooling="mean", dtype=dtype, max_length=common.MAX_LENGTH
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a half precision is slow here
                vectors = _unit(vectorizer.fit_transform(texts))
        except (ValueError, RuntimeError) as error:
            facts["absent"][dtype] = f"{type(error).__name__}: {error}"[:200]
            continue
        scored = accuracy(vectors, labels)
        facts["rows"][dtype] = {
            # A float64 value, as 1 - 1e-13 would otherwise be rounded to one.
            "lowest_cosine": float((vectors * reference).sum(axis=1).min()),
            "largest_difference": float(f"{abs(vectors - reference).max():.3g}"),
            "accuracy": round(scored, 5),
            "points": round(100 * (scored - at_best), 3),
        }
    return facts


def report(results: dict) -> str:
    """Return the tables of results, in Markdown."""
    header = (
        "data", "texts", "classes", "precision", "lowest cosine",
        "largest difference", "accuracy", "points from float64",
    )  # fmt: skip
    rows, absent = [], {}
    for case, facts in results["cases"].items():
        rows += [
            (
                case,
                facts["n_texts"],
                facts["n_classes"],
                dtype,
                f"{row['lowest_cosine']:.6f}",
                f"{row['largest_difference']:.1e}",
                f"{row['accuracy']:.3f}",
                f"{row['points']:+.2f}",
            )
            for dtype, row in facts["rows"].items()
        ]
        absent.update({f"{d}, {case}": why for d, why in facts["absent"].items()})
    parts = [common.table(header, rows), "\n".join(common.absentees(absent))]
    return "\n\n".join(part for part in parts if part)


def add_options(parser: argparse.ArgumentParser) -> None:
    given = os.environ.get("SKLEARN_BERT_DATA")
    parser.add_argument("--data", type=Path, default=Path(given) if given else None)
    parser.add_argument("--texts", type=int, default=300, help="of each data set")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS
    )


def main() -> None:
    options = common.parse(__doc__, add_options, {"texts": 50})
    keeper = common.Keeper("precision", options)
    for name, (texts, labels) in read_data(options.data, options.texts).items():
        common.say(name)
        keeper.add(name, compare(texts, labels, options.precisions))
    print(report(keeper.results))


if __name__ == "__main__":
    main()
