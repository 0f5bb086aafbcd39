"""Measure from how many labels on fine-tuning beats a frozen encoder.

Protocol: the default model on labelled texts from a directory (`--data`, or the
environment variable SKLEARN_BERT_DATA): polarity and subjectivity of film reviews, and
150 intents of CLINC150 without those out of scope. For each seed the texts are drawn
anew: 1,000 to score, of the published test part where there is one, and of the rest as
many to train on as there are labels, the classes alike, a larger set containing the
smaller ones. Every contender has its defaults, mean pooling and the same seed: the
features of the last layer, standardized, with `LogisticRegression` (C=0.01, the
probe's); all layers weighted by `BertProbeClassifier`; and `BertFineTuneClassifier`
with the top two blocks, all blocks gradually, and everything at once. Larger sets have
fewer seeds, and the largest fewer contenders: see PLAN.

Each fit has a process of its own. Reported are mean accuracy and its standard deviation
over seeds; the processor time of the fit, which other work on the machine changes
little; the highest memory of the process up to then, of which the imported libraries
are a part; and from how many labels on training was ahead by a point. Frozen features
are not kept, so each fit pays for its texts. Every fit is kept as it ends, and a run
that was stopped goes on from there if it is given the same file: first one seed of
everything, then the others.

Command: ``python benchmarks/bench_frozen_vs_finetuned.py [--data DIR] [--tasks ...]
[--labels N ...] [--seeds N] [--contenders ...] [--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import common
import numpy as np

TASKS = {
    "polarity": "mr/mr.csv.gz",
    "subjectivity": "subj/subj.csv.gz",
    "intents": "clinc150_small/clinc150_small.csv.gz",
}
FROZEN = ["frozen, logistic regression", "frozen, layers weighted"]
TRAINED = {
    "top two blocks": {"num_layers_to_freeze": -2},
    "all blocks, gradually": {"num_layers_to_freeze": 0, "unfreezing": "gradual"},
    "everything at once": {"num_layers_to_freeze": 0},
}
CONTENDERS = [*FROZEN, *TRAINED]
WHOLE = "everything at once"
# Labels, seeds and contenders of each task.
PLAN = {
    "polarity": [
        (50, 3, CONTENDERS), (200, 2, CONTENDERS), (800, 2, CONTENDERS),
        (2000, 2, CONTENDERS), (8000, 1, CONTENDERS),
    ],
    "subjectivity": [
        (50, 3, CONTENDERS), (200, 2, CONTENDERS), (800, 2, CONTENDERS),
        (2000, 2, CONTENDERS), (8000, 1, CONTENDERS),
    ],
    "intents": [
        (150, 2, CONTENDERS), (450, 2, CONTENDERS), (1500, 2, CONTENDERS),
        (4500, 2, CONTENDERS),
    ],
}  # fmt: skip
MARGIN = 0.01  # of accuracy: the seed alone may move it by that
_VERSIONS_OF = ("sklearn-bert", "torch", "transformers", "scikit-learn")
_NUMBERS = ("seeds", "scores", "cpu_seconds", "seconds", "peak_mb")


# Texts


def read(data: Path, task: str) -> list[dict[str, str]]:
    """Return rows with a text, a label and perhaps a part, or those that stand in."""
    path = data / TASKS[task]
    if path.is_file():
        rows = common.read_rows(path)
        return [row for row in rows if row.get("split") in (None, "train", "test")]
    from sklearn_bert.datasets import load_docstrings

    common.say(f"{task}: no labelled texts, docstring summaries stand in")
    docs = load_docstrings(None, random_state=0)
    pairs = zip(docs.data, docs.target, strict=True)
    return [{"text": text, "label": str(k)} for text, k in pairs if k < 2]


def draw(
    rows: list[dict[str, str]], n_scored: int, seed: int
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return texts to train on, any first n of which have classes alike, and to score.

    Those to score have at most a third of the texts.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    test = [i for i in order if rows[i].get("split", "test") == "test"]
    test = test[: min(n_scored, len(rows) // 3)]
    left = set(order.tolist()) - set(test)
    seen: dict[str, int] = {}
    ranked = []
    for i in order:
        if i in left and rows[i].get("split", "train") == "train":
            label = rows[i]["label"]
            seen[label] = seen.get(label, 0) + 1
            ranked.append((seen[label], i))
    ranked.sort(key=lambda pair: pair[0])
    return [rows[i] for _, i in ranked], [rows[i] for i in test]


# One fit


def make(contender: str, seed: int):
    """Return an estimator of texts."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from sklearn_bert import BertFineTuneClassifier, BertProbeClassifier, BertVectorizer

    mean = {"pooling": "mean"}
    if contender == "frozen, logistic regression":
        head = LogisticRegression(C=0.01, max_iter=1000)
        return make_pipeline(BertVectorizer(**mean), StandardScaler(), head)
    if contender == "frozen, layers weighted":
        return BertProbeClassifier(layer="mix", **mean)
    return BertFineTuneClassifier(random_state=seed, **mean, **TRAINED[contender])


def run(contender, seed, train, test, memory) -> dict[str, float]:
    """Fit in this process and score; called in a process that did nothing else.

    What is frozen finds the texts to score in a store: they are no part of the fit.
    """
    warnings.simplefilter("ignore")  # truncation, and classes of one text
    texts, labels = [r["text"] for r in train], np.array([r["label"] for r in train])
    started, cpu = time.perf_counter(), sum(os.times()[:4])
    estimator = make(contender, seed).fit(texts, labels)
    facts = {
        "cpu_seconds": sum(os.times()[:4]) - cpu,
        "seconds": time.perf_counter() - started,
        "peak_mb": common.peak_bytes() / 1e6,
    }
    for name in estimator.get_params():
        if name.endswith("memory"):
            estimator.set_params(**{name: memory})
    answers = estimator.predict([r["text"] for r in test])
    score = np.mean(answers == np.array([r["label"] for r in test]))
    return facts | {"scores": float(score)}


def pool() -> ProcessPoolExecutor:
    """Return what runs each fit in a new process, the libraries imported before."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context(
        "forkserver" if "forkserver" in methods else "spawn"
    )
    if "forkserver" in methods:
        context.set_forkserver_preload(
            [
                "sklearn_bert.encoder", "sklearn_bert.finetune", "sklearn_bert.probe",
                "sklearn_bert.training", "transformers.models.bert.modeling_bert",
            ]
        )  # fmt: skip
    return ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1)


# All fits


def plan(options: argparse.Namespace) -> list[tuple[int, int, str, int, list[str]]]:
    """Return (seed, rank of size, task, labels, contenders) in the order to run."""
    runs = []
    for task in options.tasks:
        sizes = PLAN[task]
        if options.labels:
            sizes = [(n, options.seeds, CONTENDERS) for n in sorted(options.labels)]
        for rank, (n_labels, seeds, names) in enumerate(sizes):
            chosen = [name for name in names if name in options.contenders]
            for seed in range(min(seeds, options.seeds)):
                runs.append((seed, rank, task, n_labels, chosen))
    # The largest come after all else, as they take a third of the time.
    return sorted(runs, key=lambda r: (r[1] > 3, r[0], r[1], list(TASKS).index(r[2])))


def decisive(results: dict) -> dict:
    """Return what must be alike in all parts of a run."""
    machine = results["machine"]
    return {
        "processor": machine["processor"],
        "threads": machine["threads"],
        "--scored": results["options"]["scored"],
        **{name: machine["versions"].get(name) for name in _VERSIONS_OF},
    }


def go_on(keeper: common.Keeper) -> None:
    """Take over what a run that was stopped has kept."""
    if keeper.out is None or not keeper.out.is_file():
        return
    kept, new = json.loads(keeper.out.read_text(encoding="utf-8")), keeper.results
    theirs, own = decisive(kept), decisive(new)
    other = [f"{k} {theirs[k]}, now {own[k]}" for k in own if theirs[k] != own[k]]
    if other:
        raise SystemExit(
            f"{keeper.out} holds another run: {'; '.join(other)}. Delete it to start "
            "again, or pass another --out."
        )
    new["cases"] = kept["cases"]


def enter(case: dict, contender: str, seed: int, facts: dict[str, float]) -> None:
    """Add the numbers of a fit to those of other seeds."""
    row = case["rows"].setdefault(contender, {name: [] for name in _NUMBERS})
    row["seeds"].append(seed)
    row["scores"].append(round(facts["scores"], 4))
    for name in ("cpu_seconds", "seconds", "peak_mb"):
        row[name].append(common.rounded([facts[name]])[0])
    case["rows"] = {n: case["rows"][n] for n in CONTENDERS if n in case["rows"]}


def main() -> None:
    short = {"tasks": ["polarity"], "labels": [30, 60], "scored": 60, "seeds": 1}
    options = common.parse(__doc__, add_options, short)
    keeper = common.Keeper("frozen_vs_finetuned", options)
    go_on(keeper)
    rows = {task: read(options.data, task) for task in options.tasks}
    with tempfile.TemporaryDirectory() as memory, pool() as processes:
        for seed, _, task, n_labels, names in plan(options):
            train, test = draw(rows[task], options.scored, seed)
            if n_labels > len(train):
                common.say(f"{task}: there are {len(train)} labels, not {n_labels}")
                continue
            name = f"{task}, {n_labels} labels"
            case = keeper.results["cases"].get(name)
            case = case or {"n_labels": n_labels, "n_scored": len(test), "rows": {}}
            for contender in names:
                if seed in case["rows"].get(contender, {}).get("seeds", ()):
                    continue
                facts = processes.submit(
                    run, contender, seed, train[:n_labels], test, memory
                ).result()
                enter(case, contender, seed, facts)
                keeper.add(name, case)
                common.say(
                    f"{name}, seed {seed}, {contender}: {facts['scores']:.3f}, "
                    f"{facts['cpu_seconds']:.0f} s of processor time"
                )
    print(report(keeper.results))


# What was found


def mean_of(case: dict, contender: str, seeds: list[int]) -> float:
    """Return the mean accuracy over some seeds."""
    row = case["rows"][contender]
    scores = dict(zip(row["seeds"], row["scores"], strict=True))
    return float(np.mean([scores[seed] for seed in seeds]))


def lead(case: dict, contender: str) -> float:
    """Return by how much a contender is ahead of the better frozen one, same seeds."""
    seeds = case["rows"][contender]["seeds"]
    best = max(
        mean_of(case, name, seeds)
        for name in FROZEN
        if set(seeds) <= set(case["rows"].get(name, {}).get("seeds", ()))
    )
    return mean_of(case, contender, seeds) - best


def crossovers(results: dict) -> dict[str, dict[str, tuple[int | None, int]]]:
    """Return from how many labels on what is trained was ahead, by task and contender.

    Ahead by MARGIN there and with every larger number, None where it was not with the
    largest, which comes second.
    """
    found: dict[str, dict[str, tuple[int | None, int]]] = {}
    for task, cases in by_task(results).items():
        for contender in TRAINED:
            first, most = None, 0
            for case in cases:
                if contender in case["rows"] and any(n in case["rows"] for n in FROZEN):
                    most = case["n_labels"]
                    is_ahead = lead(case, contender) >= MARGIN
                    first = (first or most) if is_ahead else None
            if most:
                found.setdefault(task, {})[contender] = first, most
    return found


def measured(results: dict, *others: dict) -> dict[str, dict[str, float | int | None]]:
    """Return what `sklearn_bert.inspection.recommend` says of each task.

    Accuracies are those of all machines, times those of the first.
    """
    cases = {
        name: case
        for part in (results, *others)
        for name, case in part["cases"].items()
    }
    found = {}
    for task, of in crossovers({"cases": cases}).items():
        rows = [case["rows"] for case in by_task(results)[task]]
        costs = [
            [np.mean(row[name]["cpu_seconds"]) for name in (WHOLE, FROZEN[-1])]
            for row in rows
            if {WHOLE, FROZEN[-1]} <= row.keys()
        ]
        found[task] = {
            "n_labels": of[WHOLE][0],
            "of_top": of["top two blocks"][0],
            "most": of[WHOLE][1],
            "times": round(float(np.divide(*costs[-1])), 1),
        }
    return found


# Tables


def by_task(results: dict) -> dict[str, list[dict]]:
    """Return the cases of each task, by number of labels."""
    tasks: dict[str, list[dict]] = {task: [] for task in TASKS}
    for case, facts in results["cases"].items():
        tasks[case.rpartition(", ")[0]].append(facts)
    return {
        task: sorted(cases, key=lambda facts: facts["n_labels"])
        for task, cases in tasks.items()
        if cases
    }


def report(results: dict) -> str:
    """Return a table of accuracies and one of costs for each task, in Markdown."""
    parts = []
    for task, cases in by_task(results).items():
        names = list(cases[0]["rows"])
        accuracies, costs = [], []
        for facts in cases:
            rows = [facts["rows"].get(name) for name in names]
            n_labels = f"{facts['n_labels']:,}"
            accuracies.append((n_labels, *map(_accuracy, rows)))
            costs.append((n_labels, *map(_cost, rows)))
        parts += [
            f"**{task}**: accuracy on {cases[0]['n_scored']:,} texts",
            common.table(("labels", *names), accuracies),
            f"**{task}**: processor seconds of a fit, and its highest memory",
            common.table(("labels", *names), costs),
        ]
    found = crossovers(results)
    if not found:
        return "\n\n".join(parts)
    parts += [
        f"Labels from which on it is ahead of the better frozen one by "
        f"{100 * MARGIN:.0f} point or more, there and with every larger number",
        common.table(
            ("task", *TRAINED),
            [(task, *(_first(found[task].get(n)) for n in TRAINED)) for task in found],
        ),
    ]
    return "\n\n".join(parts)


def _first(found: tuple[int | None, int] | None) -> str:
    if found is None:
        return ""
    first, most = found
    return f"{first:,}" if first else f"none up to {most:,}"


def _accuracy(row: dict | None) -> str:
    if row is None:
        return ""
    spread = f" ± {np.std(row['scores'], ddof=1):.3f}" if len(row["seeds"]) > 1 else ""
    return f"{np.mean(row['scores']):.3f}{spread}"


def _cost(row: dict | None) -> str:
    if row is None:
        return ""
    return f"{np.mean(row['cpu_seconds']):,.0f} s, {np.mean(row['peak_mb']):,.0f} MB"


def add_options(parser: argparse.ArgumentParser) -> None:
    data = os.environ.get("SKLEARN_BERT_DATA", "no-such-directory")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument(
        "--labels", nargs="+", type=int, default=None,
        help="instead of those of the plan",
    )  # fmt: skip
    parser.add_argument("--scored", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3, help="at most so many")
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS,
        metavar="NAME", help=f"of: {'; '.join(CONTENDERS)}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
