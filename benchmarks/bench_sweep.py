"""Measure what the classifiers of a sweep cost beside the pass, and what it finds.

Protocol, cost. A process each, interleaved rounds as in `bench_encode`: the default
model, 1,000 docstring summaries, nothing stored. "the pass alone" encodes every layer
under [CLS], mean and max pooling. Against it runs `layer_sweep` with its defaults on
the same texts, that is the pass and 7 layers x 3 poolings x 5 folds, with two and with
ten classes, in one process and in two. When rounds begin, all have loaded the encoder
and the contender with two processes has started them. The ratio is seconds of the sweep
over seconds of the pass in the same round.

Protocol, findings. The default model on labelled texts from a directory (`--data`, or
the environment variable SKLEARN_BERT_DATA), 1,200 of each, drawn at random: polarity,
subjectivity and probing tasks made of UD English EWT. `layer_sweep` with three folds
and ``untrained=True``: the same architecture and tokenizer with random weights. The
difference of the best cell to the default one carries the 95 % interval of the
corrected resampled t-test, which two degrees of freedom make wide. Without the data,
only the cost is measured.

Protocol, words. The same of words: `--sentences` of the training sentences of UD
English EWT, drawn at random; universal and language-specific parts of speech, and the
relation of a word to its head. `layer_sweep` on texts that are split, three folds over
sentences, ``untrained=True``; beside the layers stands what the most frequent tag of
each word gives. Selectivity, by `probe_layers`, is accuracy minus that on control
labels drawn per word type.

Command: ``python benchmarks/bench_sweep.py [--parts cost tasks words] [--data DIR]
[--texts N] [--sentences N] [--rounds N] [--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import tempfile
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import common
import numpy as np

TASKS = {
    "polarity": "mr/mr.csv.gz",
    "subjectivity": "subj/subj.csv.gz",
    "sentence length": "probing_ud_ewt/sentence_length.csv.gz",
    "tree depth": "probing_ud_ewt/tree_depth.csv.gz",
    "tense": "probing_ud_ewt/past_present.csv.gz",
    "two words swapped": "probing_ud_ewt/bigram_shift.csv.gz",
    "number of the subject": "probing_ud_ewt/subj_number.csv.gz",
    "number of the object": "probing_ud_ewt/obj_number.csv.gz",
}
WORDS_FILE = "ud_ewt/ud_ewt.jsonl.gz"
WORD_TASKS = {
    "parts of speech": "upos",
    "fine parts of speech": "xpos",
    "relation to the head": "deprel",
}
SELECTIVE = "parts of speech"  # of which selectivity is measured too
N_TEXTS = 1200  # of a task
PASS = "the pass alone"
COST = "sweep beside pass"


def prepare(n_per_class, target, n_jobs):
    from sklearn_bert import BertVectorizer
    from sklearn_bert.datasets import load_docstrings
    from sklearn_bert.inspection import layer_sweep

    warnings.simplefilter("ignore")  # the same texts again and again, on purpose
    docs = load_docstrings(n_per_class)
    if target is None:
        poolings = ["cls", "mean", "max"]
        vectorizer = BertVectorizer(layer="all", pooling=poolings).fit([])
        vectorizer.transform(docs.data[:32])
        return lambda: {"n": len(vectorizer.transform(docs.data))}
    y = docs.kind == "class" if target == "two" else docs.target
    layer_sweep(docs.data[:40], [0, 1] * 20, cv=2, n_jobs=n_jobs)  # starts processes

    def work():
        sweep = layer_sweep(docs.data, y, n_jobs=n_jobs)
        return {"scoring": sweep.seconds_scoring}

    return work


def compare_cost(n_texts: int, rounds: int) -> dict:
    contenders = {PASS: (None, None)}
    for target in ("two", "ten"):
        contenders[f"sweep, {target} classes"] = (target, None)
        contenders[f"sweep, {target} classes, n_jobs=2"] = (target, 2)
    answers, absent = common.race(
        __file__,
        {
            name: {"n_per_class": n_texts // 10, "target": target, "n_jobs": n_jobs}
            for name, (target, n_jobs) in contenders.items()
        },
        rounds,
    )
    seconds = {name: common.seconds_of(given) for name, given in answers.items()}
    rows = {}
    for name, values in seconds.items():
        facts = {"seconds": common.rounded(values)}
        if name != PASS:
            facts["share"] = common.ratios(values, seconds[PASS])
            scoring = [answer["scoring"] for answer in answers[name]]
            facts["scoring"] = common.rounded(scoring)
        rows[name] = facts
    return {
        "n_texts": n_texts, "rounds": rounds, "rows": rows, "absent": absent,
    }  # fmt: skip


def read(path: Path) -> tuple[list[str], list[str]]:
    rows = common.read_rows(path)
    rng = np.random.default_rng(0)  # some files are sorted by label
    rows = [rows[i] for i in rng.permutation(len(rows))[:N_TEXTS]]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def find(texts: list[str], labels: list[str], memory: str) -> dict:
    from sklearn_bert.inspection import layer_sweep

    sweep = layer_sweep(texts, labels, cv=3, memory=memory, untrained=True)
    better = sweep.compare()
    counts = statistics.multimode(labels)
    return {
        "n_texts": len(texts),
        "n_classes": len(set(labels)),
        "most_frequent": round(labels.count(counts[0]) / len(labels), 4),
        "poolings": list(sweep.poolings),
        "means": sweep.means.round(4).tolist(),
        "spreads": sweep.spreads.round(4).tolist(),
        "untrained": sweep.untrained_means.round(4).tolist(),
        "best": [sweep.best["layer"], sweep.best["pooling"]],
        "difference": round(better.difference, 4),
        "interval": [round(end, 4) for end in better.interval],
        "p_value": round(better.p_value, 4),
        "seconds_scoring": round(sweep.seconds_scoring, 2),
    }


def read_words(path: Path, n_texts: int) -> tuple[list, dict[str, list]]:
    """Return the words of some sentences, and their tags by task."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = [row for row in map(json.loads, stream) if row["split"] == "train"]
    order = np.random.default_rng(0).permutation(len(rows))[:n_texts]
    rows = [rows[i] for i in order]
    tags = {task: [row[name] for row in rows] for task, name in WORD_TASKS.items()}
    return [row["tokens"] for row in rows], tags


def find_of_words(words: list, tags: list, memory: str, *, is_selective: bool) -> dict:
    from sklearn.model_selection import KFold

    from sklearn_bert.inspection import layer_sweep, probe_layers

    given = {"cv": 3, "memory": memory, "store_layers": "all"}
    sweep = layer_sweep(words, tags, untrained=True, **given)
    better = sweep.compare()
    of_words = [
        _most_frequent(words, tags, *fold) for fold in KFold(given["cv"]).split(words)
    ]
    facts = {
        "n_texts": sweep.n_texts,
        "n_words": sweep.n_words,
        "n_classes": len({tag for row in tags for tag in row}),
        "most_frequent_of_word": round(float(np.mean(of_words)), 4),
        "means": sweep.means[0].round(4).tolist(),
        "spreads": sweep.spreads[0].round(4).tolist(),
        "untrained": sweep.untrained_means[0].round(4).tolist(),
        "best": sweep.best["layer"],
        "difference": round(better.difference, 4),
        "interval": [round(end, 4) for end in better.interval],
        "seconds_scoring": round(sweep.seconds_scoring, 2),
    }
    if is_selective:
        probes = probe_layers(words, tags, metrics="selectivity", **given)
        each = probes.selectivities
        facts["selectivity"] = [round(s.selectivity, 4) for s in each]
        facts["control"] = [round(s.control_accuracy, 4) for s in each]
    return facts


def _most_frequent(words: list, tags: list, train, test) -> float:
    """Return the share of words that their most frequent tag in training is right of.

    Words that training has not seen get the most frequent tag of all.
    """
    counts: dict[str, Counter] = defaultdict(Counter)
    for i in train:
        for word, tag in zip(words[i], tags[i], strict=True):
            counts[word.lower()][tag] += 1
    total: Counter = Counter()
    for seen in counts.values():
        total += seen
    other = total.most_common(1)[0][0]
    best = {word: seen.most_common(1)[0][0] for word, seen in counts.items()}
    pairs = [pair for i in test for pair in zip(words[i], tags[i], strict=True)]
    return float(np.mean([best.get(w.lower(), other) == tag for w, tag in pairs]))


def report(results: dict) -> str:
    """Return the tables of results, in Markdown."""
    cases = dict(results["cases"])
    parts = []
    if COST in cases:
        parts.append(_cost_table(cases.pop(COST)))
    of_words = {name: cases.pop(name) for name in WORD_TASKS if name in cases}
    if cases:
        parts += [_best_table(cases), _layer_table(cases)]
    if of_words:
        parts += _word_tables(of_words)
    return "\n\n".join(parts)


def _word_tables(cases: dict) -> list[str]:
    first = next(iter(cases.values()))
    rows = []
    for task, facts in cases.items():
        low, high = facts["interval"]
        ends = (
            f"{facts['most_frequent_of_word']:.3f}",
            f"{facts['difference']:+.3f} ({low:+.3f} to {high:+.3f})",
        )
        name = f"{task} ({facts['n_classes']} classes)"
        rows.append((name, *_marked(facts["means"]), *ends))
        rows.append(("... untrained", *_marked(facts["untrained"]), "", ""))
        if "selectivity" in facts:
            cells = [f"{value:+.3f}" for value in facts["selectivity"]]
            rows.append(("... selectivity", *cells, "", ""))
    layers = [f"layer {i}" for i in range(len(first["means"]))]
    header = ("words", *layers, "most frequent tag of the word", "best minus last")
    title = (
        f"**Words**: {first['n_words']:,} words of {first['n_texts']:,} sentences, "
        "three folds over sentences."
    )
    return [title, common.table(header, rows)]


def _marked(values: list[float]) -> list[str]:
    """Write accuracies, the highest in bold."""
    return [f"**{v:.3f}**" if v == max(values) else f"{v:.3f}" for v in values]


def _cost_table(facts: dict) -> str:
    rows = []
    for name, row in facts["rows"].items():
        median = statistics.median
        rows.append(
            (
                name,
                f"{median(row['seconds']):.2f}",
                f"{median(row['scoring']):.2f}" if "scoring" in row else "",
                common.with_range(row["share"]) if "share" in row else "",
            )
        )
    header = ("what is done", "seconds", "of them classifiers", "times the pass")
    title = f"**{COST}**: {facts['n_texts']:,} texts, {facts['rounds']} rounds."
    absent = "\n".join(common.absentees(facts["absent"]))
    return "\n\n".join(filter(None, (title, common.table(header, rows), absent)))


def _best_table(cases: dict) -> str:
    rows = []
    for task, facts in cases.items():
        means = dict(zip(facts["poolings"], facts["means"], strict=True))
        layer, pooling = facts["best"]
        low, high = facts["interval"]
        rows.append(
            (
                task,
                f"{means['mean'][0]:.3f}",
                f"{means[pooling][layer]:.3f} (layer {layer}, {pooling})",
                f"{means['mean'][-1]:.3f}",
                f"{means['cls'][-1]:.3f}",
                f"{facts['difference']:+.3f} ({low:+.3f} to {high:+.3f})",
            )
        )
    header = (
        "task", "layer 0, mean", "best cell", "last layer, mean", "last layer, cls",
        "best minus last, mean",
    )  # fmt: skip
    return common.table(header, rows)


def _layer_table(cases: dict) -> str:
    first = next(iter(cases.values()))
    mean = first["poolings"].index("mean")
    rows = []
    for task, facts in cases.items():
        trained, untrained = facts["means"][mean], facts["untrained"][mean]
        cells = _marked(trained)
        cells.append(f"{max(untrained):.3f} ({int(np.argmax(untrained))})")
        rows.append((task, *cells, f"{facts['most_frequent']:.3f}"))
    layers = [f"layer {i}" for i in range(len(first["means"][mean]))]
    header = ("mean pooling", *layers, "untrained, best layer", "most frequent class")
    return common.table(header, rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    data = os.environ.get("SKLEARN_BERT_DATA", "no-such-directory")
    parts = ["cost", "tasks", "words"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--texts", type=int, default=1000, help="of the cost")
    parser.add_argument("--sentences", type=int, default=1000, help="of the words")
    parser.add_argument("--rounds", type=int, default=7)


def main() -> None:
    if common.is_worker():
        common.serve(prepare)
        return
    short = {
        "texts": 200, "rounds": 1, "parts": ["cost", "tasks"], "tasks": ["tense"],
    }  # fmt: skip
    options = common.parse(__doc__, add_options, short)
    warnings.simplefilter("ignore")  # truncation
    keeper = common.Keeper("sweep", options)
    if "cost" in options.parts:
        keeper.add(COST, compare_cost(options.texts, options.rounds))
    with tempfile.TemporaryDirectory() as memory:
        for task in options.tasks if "tasks" in options.parts else ():
            path = options.data / TASKS[task]
            if path.is_file():
                keeper.add(task, find(*read(path), memory))
                common.say(f"{task}: done")
        path = options.data / WORDS_FILE
        if "words" in options.parts and path.is_file():
            words, tags_of = read_words(path, options.sentences)
            for task, tags in tags_of.items():
                is_selective = task == SELECTIVE
                facts = find_of_words(words, tags, memory, is_selective=is_selective)
                keeper.add(task, facts)
                common.say(f"{task}: done")
    print(report(keeper.results))


if __name__ == "__main__":
    main()
