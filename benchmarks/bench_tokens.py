"""How well do frozen layers tag words, and at what cost? `BertTokenProbeClassifier`.

Protocol. The default model, frozen, on texts split into words from a directory
(`--data`, or the environment variable SKLEARN_BERT_DATA): UD English EWT with
universal parts of speech, and WNUT-17 with BIO tags of named entities. The published
training part trains (its first `--texts` texts) and the published test part scores.
Every row of a table is a `BertTokenProbeClassifier` with its defaults (mean of a word's
tokens, standardized features, linear head, C=0.01) and another `layer`; the baseline
gives each word its most frequent tag in the training part, and words not seen there the
most frequent tag of those seen once. Parts of speech are judged by the share of words
tagged right, entities by the F1 of spans (seqeval).

Training and test part are encoded once, every layer kept in a store: texts per second
and bytes are those of this pass. Then a fresh process reads all training texts back,
and its largest resident size is compared with the one before, less the output.

Command: ``python benchmarks/bench_tokens.py [--data DIR] [--texts N]
[--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import common
import numpy as np

TASKS = {
    "parts of speech": ("ud_ewt/ud_ewt.jsonl.gz", "upos"),
    "named entities": ("wnut17/wnut17.jsonl.gz", "ner_tags"),
}
Part = tuple[list[list[str]], list[list[str]]]


def read(file: Path, tags: str, split: str) -> Part:
    """Return words and tags of the texts of a split."""
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        rows = [row for row in map(json.loads, stream) if row["split"] == split]
    return [row["tokens"] for row in rows], [row[tags] for row in rows]


def most_frequent(train: Part, words: list[list[str]]) -> list[list[str]]:
    """Tag each word as it was tagged most often."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for text, tags in zip(*train, strict=True):
        for word, tag in zip(text, tags, strict=True):
            counts[word][tag] += 1
    once = Counter(tag for seen in counts.values() if seen.total() == 1 for tag in seen)
    unseen = once.most_common(1)[0][0]
    best = {word: seen.most_common(1)[0][0] for word, seen in counts.items()}
    return [[best.get(word, unseen) for word in text] for text in words]


def judge(task: str, true: list[list[str]], predicted: list[list[str]]) -> float:
    from sklearn_bert import span_f1

    if task == "named entities":
        return round(span_f1(true, predicted), 4)
    pairs = zip(np.concatenate(true), np.concatenate(predicted), strict=True)
    return round(float(np.mean([a == b for a, b in pairs])), 4)


def encode(parts: list[Part], memory: str) -> dict:
    """Encode all words once, every layer kept; say what it took."""
    from sklearn_bert import BertTokenVectorizer
    from sklearn_bert.features import WORK

    vectorizer = BertTokenVectorizer(memory=memory, store_layers="all").fit([])
    vectorizer.transform([["warm", "up"]])
    words = [text for texts, _ in parts for text in texts]
    before, started = WORK.copy(), time.perf_counter()
    for start in range(0, len(words), 2000):
        vectorizer.transform_flat(words[start : start + 2000])
    seconds, work = time.perf_counter() - started, WORK.since(before)
    n_bytes = sum(f.stat().st_size for f in Path(memory).rglob("*") if f.is_file())
    n_words = sum(map(len, {tuple(text) for text in words}))
    n_vectors = vectorizer.n_layers_ + 1
    return {
        "n_texts": len(words),
        "n_words": sum(map(len, words)),
        "texts_per_second": round(len(words) / seconds, 1),
        "bytes_per_word_and_layer": round(n_bytes / n_words / n_vectors),
        "bytes_per_token_and_layer": round(n_bytes / work.n_tokens / n_vectors),
        "store_mb": round(n_bytes / 1e6, 1),
    }


def tag(task: str, train: Part, test: Part, memory: str) -> dict[str, dict]:
    """Return the score of every row of the table."""
    from sklearn_bert import BertTokenProbeClassifier
    from sklearn_bert.checkpoint import DEFAULT_MODEL, find_checkpoint

    words, true = test
    rows = {
        "most frequent tag": {"score": judge(task, true, most_frequent(train, words))}
    }
    n_layers = find_checkpoint(DEFAULT_MODEL).n_layers
    layers = {f"layer {k}": k for k in range(n_layers + 1)}
    layers |= {"last four": [-4, -3, -2, -1], '"mix"': "mix"}
    for name, layer in layers.items():
        started = time.perf_counter()
        probe = BertTokenProbeClassifier(layer=layer, memory=memory, store_layers="all")
        predicted = probe.fit(*train).predict(words)
        rows[name] = {
            "score": judge(task, true, predicted),
            "seconds": round(time.perf_counter() - started, 1),
        }
        if layer == "mix":
            rows[name]["weights"] = [round(float(w), 3) for w in probe.layer_weights_]
        common.say(f"  {name}: {rows[name]['score']}")
    return rows


def prepare(file, tags, memory):
    from sklearn_bert import BertTokenVectorizer

    words, _ = read(Path(file), tags, "train")
    vectorizer = BertTokenVectorizer(memory=memory).fit([])
    vectorizer.transform(words[:2])

    def work():
        before, started = common.peak_bytes(), time.perf_counter()
        values = vectorizer.transform_flat(words).values
        return {
            "seconds": time.perf_counter() - started,
            "output_bytes": values.nbytes,
            "beyond_bytes": common.peak_bytes() - before - values.nbytes,
        }

    return work


def read_back(file: Path, tags: str, memory: str) -> dict:
    """Read the last layer of all training texts in a fresh process."""
    arguments = {"file": str(file), "tags": tags, "memory": memory}
    answers, absent = common.race(__file__, {"ours": arguments}, 1)
    if absent:
        return {"absent": absent["ours"]}
    facts = answers["ours"][0]
    return {
        "read_seconds": round(facts["seconds"], 2),
        "output_mb": round(facts["output_bytes"] / 1e6, 1),
        "beyond_mb": round(facts["beyond_bytes"] / 1e6, 1),
    }


def report(results: dict) -> str:
    """Return the tables of results, in Markdown."""
    parts = []
    for task, facts in results["cases"].items():
        what = "span F1" if task == "named entities" else "accuracy"
        rows = [(name, f"{row['score']:.3f}") for name, row in facts["rows"].items()]
        scores = {
            k: row["score"] for k, row in facts["rows"].items() if k.startswith("layer")
        }
        best = max(scores, key=scores.__getitem__)
        weights = ", ".join(f"{w:.2f}" for w in facts["rows"]['"mix"']["weights"])
        parts += [
            f"**{task.capitalize()}**: {facts['n_train']:,} texts to train on, "
            f'{facts["n_test"]:,} to score. Best: {best}. Weights of "mix", from '
            f"layer 0: {weights}.",
            common.table(("features", what), rows),
            f"Encoding: {facts['texts_per_second']:,.0f} texts a second "
            f"({facts['n_words']:,} words in {facts['n_texts']:,} texts). Store: "
            f"{facts['bytes_per_word_and_layer']:,} bytes a word and layer, "
            f"{facts['bytes_per_token_and_layer']:,} a token and layer.",
        ]
        if "output_mb" in facts:
            parts[-1] += (
                f" Reading the training part back: {facts['read_seconds']:.1f} s for "
                f"{facts['output_mb']:,.0f} MB, and {facts['beyond_mb']:,.0f} MB of "
                "memory beyond them."
            )
    if not parts:
        return "Not measured: no texts that are split into words."
    return "\n\n".join(parts)


def add_options(parser: argparse.ArgumentParser) -> None:
    data = os.environ.get("SKLEARN_BERT_DATA", "no-such-directory")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--texts", type=int, default=12_544)


def main() -> None:
    if common.is_worker():
        common.serve(prepare)
        return
    short = {"texts": 300, "tasks": ["named entities"]}
    options = common.parse(__doc__, add_options, short)
    warnings.simplefilter("ignore")  # words without a token, the size of the store
    keeper = common.Keeper("tokens", options)
    for task in options.tasks:
        name, tags = TASKS[task]
        file = options.data / name
        if not file.is_file():
            common.say(f"{task}: no {name} in --data")
            continue
        train, test = (read(file, tags, split) for split in ("train", "test"))
        if options.short:
            train, test = (
                (words[: options.texts], true[: options.texts])
                for words, true in (train, test)
            )
        with tempfile.TemporaryDirectory() as memory:
            facts = encode([train, test], memory)
            common.say(f"{task}: {facts['texts_per_second']} texts a second")
            facts |= {} if options.short else read_back(file, tags, memory)
            train = train[0][: options.texts], train[1][: options.texts]
            facts |= {"n_train": len(train[0]), "n_test": len(test[0])}
            facts["rows"] = tag(task, train, test, memory)
        keeper.add(task, facts)
    print(report(keeper.results))


if __name__ == "__main__":
    main()
