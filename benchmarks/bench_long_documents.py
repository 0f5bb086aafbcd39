"""Cut long documents, or read them in windows? Accuracy and cost of each way.

Protocol. The default model, frozen, on film reviews of which the median has 697 words
(Pang and Lee's polarity data, 2,000 reviews, of which `--texts` are drawn), from a
directory (`--data`, or the environment variable SKLEARN_BERT_DATA). One pass encodes
them in windows of 256 tokens that share 32 and keeps every layer of every window; all
rows of the table read it. A row is a `BertProbeClassifier` with its defaults
(standardized features, linear head, C=0.01) and mean pooling within windows, at the
last layer and with all layers weighted ("mix"); it differs in what becomes of the
windows:

- the first window alone, which is what ``overflow="truncate"`` sees;
- first and last window side by side (`transform_chunks` and a logistic regression with
  the same scaling and C; last layer only);
- ``overflow="chunk"`` with its default, the mean of windows weighted by their tokens;
- with ``chunk_pooling="max"`` and ``chunk_pooling="learned_attention"``.

Accuracy is the mean over the ten published folds, with its standard deviation, and the
mean difference to the first row on the same fold with the standard deviation of that.
Cost: tokens run, and the seconds of encoding `--raced` reviews in windows over those of
encoding them cut, in the same round of interleaved ones (last layer, nothing kept).
Without the data, docstring summaries joined to long texts stand in.

The pass is nearly all of the time. With `--memory` its features are kept: a run that
was stopped goes on where it was.

Command: ``python benchmarks/bench_long_documents.py [--data DIR] [--memory DIR]
[--texts N] [--folds N] [--rounds N] [--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import common
import numpy as np

FILE = "movie_reviews/movie_reviews.csv.gz"
WINDOWS = {"max_length": 256, "overflow": "chunk", "stride": 32, "pooling": "mean"}
FIRST = "first window (truncate)"
BOTH = "first and last window"
ROWS = {
    FIRST: "first",
    BOTH: None,
    "windows, mean": "auto",
    "windows, max": "max",
    "windows, learned attention": "learned_attention",
}
LAYERS = {"last layer": -1, '"mix"': "mix"}


def read(data: Path, n_texts: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return texts, labels and folds; some of each fold where fewer are asked for."""
    path = data / FILE
    if not path.is_file():
        common.say("no film reviews: docstring summaries, joined, stand in")
        texts = common.make_texts("long", n_texts)
        folds = np.arange(n_texts) // 2 % 10
        return texts, np.array(["even", "odd"] * n_texts)[:n_texts], folds
    rows = common.read_rows(path)
    order = np.random.default_rng(0).permutation(len(rows))[:n_texts]
    rows = [rows[i] for i in order]
    folds = np.array([int(row["fold"]) for row in rows])
    return [r["text"] for r in rows], np.array([r["label"] for r in rows]), folds


def encode(texts: list[str], memory: str) -> dict:
    """Encode every window once; say what it took."""
    from sklearn_bert import BertVectorizer
    from sklearn_bert.checkpoint import find_checkpoint
    from sklearn_bert.tokenizer import Tokenizer

    vectorizer = BertVectorizer(memory=memory, chunk_pooling="mean", **WINDOWS)
    n_chunks = vectorizer.fit(texts).n_chunks(texts)
    vectorizer.transform(texts)
    tokenizer = Tokenizer(find_checkpoint(common.minilm()))
    lengths = tokenizer.count(texts)
    repeated = (n_chunks - 1) * (WINDOWS["stride"] + tokenizer.n_special)
    n_bytes = sum(f.stat().st_size for f in Path(memory).rglob("*") if f.is_file())
    return {
        "n_texts": len(texts),
        "n_words": statistics.median(len(text.split()) for text in texts),
        "n_chunks": round(float(n_chunks.mean()), 2),
        "n_cut": int((n_chunks > 1).sum()),
        "tokens_run": int((lengths + repeated).sum()),
        "tokens_if_cut": int(np.minimum(lengths, WINDOWS["max_length"]).sum()),
        "store_mb": round(n_bytes / 1e6, 1),
    }


def make(pooling: str, layer: object, memory: str):
    """Return an estimator of texts."""
    from sklearn_bert import BertProbeClassifier

    return BertProbeClassifier(
        layer=layer, chunk_pooling=pooling, memory=memory, **WINDOWS
    )


def first_and_last(texts: list[str], memory: str) -> np.ndarray:
    from sklearn_bert import BertVectorizer

    vectorizer = BertVectorizer(memory=memory, **WINDOWS).fit(texts)
    values, offsets = vectorizer.transform_chunks(texts)
    return np.hstack([values[offsets[:-1]], values[offsets[1:] - 1]])


def score(
    row: str, layer: object, texts: list[str], train, test, y: np.ndarray, memory: str
) -> float:
    """Return the accuracy of a row on one fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if row == BOTH:
        Z = first_and_last(texts, memory)
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
        return head.fit(Z[train], y[train]).score(Z[test], y[test])
    probe = make(ROWS[row], layer, memory).fit([texts[i] for i in train], y[train])
    return probe.score([texts[i] for i in test], y[test])


def compare(
    texts: list[str], y: np.ndarray, folds: np.ndarray, n_folds: int, memory: str
) -> dict:
    """Return scores, fold by fold, of every row under every choice of layers."""
    cells: dict[str, dict[str, list[float]]] = {row: {} for row in ROWS}
    for row in ROWS:
        for name, layer in LAYERS.items():
            if row == BOTH and layer != -1:
                continue
            started, scores = time.perf_counter(), []
            for fold in range(n_folds):
                test, train = (
                    np.flatnonzero(folds == fold),
                    np.flatnonzero(folds != fold),
                )
                given = score(row, layer, texts, train, test, y, memory)
                scores.append(round(float(given), 4))
            cells[row][name] = scores
            seconds = time.perf_counter() - started
            common.say(f"  {row}, {name}: {np.mean(scores):.3f}, {seconds:.0f} s")
    return {"n_folds": n_folds, "rows": cells}


def prepare(overflow, texts):
    from sklearn_bert import BertVectorizer

    warnings.simplefilter("ignore")  # truncation, the same texts again and again
    texts = json.loads(Path(texts).read_text(encoding="utf-8"))
    vectorizer = BertVectorizer(**{**WINDOWS, "overflow": overflow}).fit(texts)
    vectorizer.transform(texts[:2])
    return lambda: {"n": len(vectorizer.transform(texts))}


def race(texts: list[str], rounds: int) -> dict:
    """Return seconds of encoding in windows, over those of encoding what is cut."""
    with tempfile.TemporaryDirectory() as place:  # too long for a command line
        path = Path(place, "texts.json")
        path.write_text(json.dumps(texts), encoding="utf-8")
        ways = ("truncate", "chunk")
        contenders = {way: {"overflow": way, "texts": str(path)} for way in ways}
        answers, absent = common.race(__file__, contenders, rounds)
    if absent:
        return {"absent": absent}
    seconds = {name: common.seconds_of(given) for name, given in answers.items()}
    return {
        "n_raced": len(texts),
        "rounds": rounds,
        "times": common.ratios(seconds["chunk"], seconds["truncate"]),
    }


def report(results: dict) -> str:
    """Return the table of results, in Markdown."""
    parts = []
    for case, facts in results["cases"].items():
        cost = ""
        if "times" in facts:
            cost = f", in {common.with_range(facts['times'])} times the seconds"
        ratio = facts["tokens_run"] / facts["tokens_if_cut"]
        parts.append(
            f"**{case}**: {facts['n_texts']:,} texts, median {facts['n_words']:,.0f} "
            f"words; {facts['n_cut']:,} have several windows, {facts['n_chunks']:.1f} "
            f"on average. Windows run {ratio:.1f} times the tokens of texts that are "
            f"cut{cost}; {facts['store_mb']:,.0f} MB in the store."
        )
        rows = []
        for row, cells in facts["rows"].items():
            line = [row]
            for name in LAYERS:
                if name not in cells:
                    line += ["", ""]
                    continue
                scores = np.array(cells[name])
                apart = scores - np.array(facts["rows"][FIRST][name])
                line.append(f"{scores.mean():.3f} ± {_spread(scores):.3f}")
                shown = f"{apart.mean():+.3f} ± {_spread(apart):.3f}"
                line.append("" if row == FIRST else shown)
            rows.append(line)
        header = ["accuracy of"]
        for name in LAYERS:
            header += [name, "against first"]
        parts.append(common.table(header, rows))
    return "\n\n".join(parts)


def _spread(values: np.ndarray) -> float:
    return float(values.std(ddof=int(len(values) > 1)))


def add_options(parser: argparse.ArgumentParser) -> None:
    data = os.environ.get("SKLEARN_BERT_DATA", "no-such-directory")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--memory", type=Path, help="keep the features there")
    parser.add_argument("--texts", type=int, default=1200)
    parser.add_argument("--folds", type=int, choices=range(1, 11), default=10)
    parser.add_argument("--raced", type=int, default=30, help="texts of the cost")
    parser.add_argument("--rounds", type=int, default=3)


def main() -> None:
    if common.is_worker():
        common.serve(prepare)
        return
    short = {"texts": 60, "folds": 2, "raced": 4, "rounds": 1}
    options = common.parse(__doc__, add_options, short)
    warnings.simplefilter("ignore")  # the size of the store
    keeper = common.Keeper("long_documents", options)
    texts, y, folds = read(options.data, options.texts)
    with tempfile.TemporaryDirectory() as place:
        memory = str(options.memory or place)
        facts = encode(texts, memory)
        common.say(f"encoded: {facts['tokens_run']:,} tokens")
        facts |= compare(texts, y, folds, options.folds, memory)
    facts |= race(texts[: options.raced], options.rounds)
    keeper.add("film reviews", facts)
    print(report(keeper.results))


if __name__ == "__main__":
    main()
