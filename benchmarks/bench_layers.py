"""Measure what fewer layers save, and what all layers and poolings cost.

Protocol. As `bench_encode`: a process each, interleaved rounds, the same short texts,
float32, nothing stored. The reference is the mean of the last layer. Against it run the
layers at half and at a quarter of the depth, where the pass stops early, and one pass
that gives every layer under [CLS], mean and max pooling. BERT-base has random weights.

Command: ``python benchmarks/bench_layers.py [--models MiniLM BERT-base] [--texts N]
[--rounds N] [--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import common

POOLINGS = ["cls", "mean", "max"]


def prepare(model, texts, layer, pooling):
    from sklearn_bert import BertVectorizer

    given = json.loads(Path(texts).read_text(encoding="utf-8"))
    vectorizer = BertVectorizer(
        model, layer=layer, pooling=pooling, max_length=common.MAX_LENGTH
    ).fit([])
    vectorizer.transform(given[:32])

    def work():
        vectorizer.transform(given)
        return {}

    return work


def compare(model_name: str, n_texts: int, rounds: int, place: Path) -> dict:
    model = common.find_model(model_name, place)
    n_layers = common.shape_of(model)["n_layers"]
    texts = common.make_texts("short", n_texts)
    file = place / "texts.json"
    file.write_text(json.dumps(texts), encoding="utf-8")
    whole = f"layer {n_layers} of {n_layers}, mean"
    requests = {whole: (n_layers, "mean")}
    for layer in (n_layers // 2, n_layers // 4):
        requests[f"layer {layer} of {n_layers}, mean"] = (layer, "mean")
    requests[f"all {n_layers + 1} layers, [CLS], mean and max"] = ("all", POOLINGS)
    answers, absent = common.race(
        __file__,
        {
            name: {
                "model": model, "texts": str(file), "layer": layer, "pooling": pooling,
            }
            for name, (layer, pooling) in requests.items()
        },
        rounds,
    )  # fmt: skip
    seconds = {name: common.seconds_of(given) for name, given in answers.items()}
    return {
        "n_texts": n_texts,
        "tokens": common.spread(common.count_tokens(model, texts)),
        "rounds": rounds,
        "rows": {
            name: {
                "seconds": common.rounded(values),
                "texts_per_second": round(n_texts / statistics.median(values), 1),
                "ratio": common.ratios(seconds[whole], values),
            }
            for name, values in seconds.items()
        },
        "absent": absent,
    }


def report(results: dict) -> str:
    """Return the tables of results, in Markdown."""
    return common.report_cases(
        results,
        ("what is asked for", "times faster", "texts/s"),
        lambda case, facts: (
            f"**{case}**: {facts['n_texts']} texts (mean {facts['tokens']['mean']:.0f} "
            f"tokens), {facts['rounds']} rounds."
        ),
        lambda row: (f"{row['texts_per_second']:,.0f}",),
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    models = ["MiniLM", "BERT-base"]
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)


def main() -> None:
    if common.is_worker():
        common.serve(prepare)
        return
    short = {"texts": 64, "rounds": 3, "models": ["MiniLM"]}
    options = common.parse(__doc__, add_options, short)
    keeper = common.Keeper("layers", options)
    with tempfile.TemporaryDirectory() as name:
        for model in options.models:
            facts = compare(model, options.texts, options.rounds, Path(name))
            keeper.add(model, facts)
            print(report({"cases": {model: facts}}), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
