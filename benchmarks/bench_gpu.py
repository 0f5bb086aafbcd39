"""Measure encoding on a GPU, against sentence-transformers at its best.

Protocol. In each precision, sentence-transformers encodes the texts with batches of 32,
64, 128, 256 and 512, and `BertVectorizer` with its defaults. Each has a process of its
own and encodes 512 texts to warm up; rounds are interleaved as in `bench_encode`, and
vectors come back to the host in both. The reference is the batch whose median time is
the lowest. Peak memory is what torch allocated on the device, weights included. Without
a CUDA device it says so and ends.

Command: ``python benchmarks/bench_gpu.py [--models MiniLM BERT-base] [--kinds short
long] [--dtypes float32 bfloat16 float16] [--texts N] [--rounds N] [--keep | --out FILE]
[--short]``
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import common
import contenders

BATCHES = (32, 64, 128, 256, 512)
OURS = "sklearn_bert"


def prepare(model, texts, dtype, batch_size):
    import torch

    given = json.loads(Path(texts).read_text(encoding="utf-8"))
    if batch_size is None:
        encode = contenders.ours(model, dtype=dtype, device="cuda")
    else:
        encode = contenders.sentence_transformers(
            model, batch_size=batch_size, dtype=dtype, device="cuda"
        )
    encode(given[:512])
    torch.cuda.synchronize()

    def work():
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        encode(given)
        torch.cuda.synchronize()
        return {
            "seconds": time.perf_counter() - started,
            "peak_bytes": torch.cuda.max_memory_allocated(),
        }

    return work


def compare(model: str, kind: str, dtype: str, n_texts: int, rounds: int, place: Path):
    texts = common.make_texts(kind, n_texts)
    file = place / "texts.json"
    file.write_text(json.dumps(texts), encoding="utf-8")
    batches = {f"sentence-transformers, batch {n}": n for n in BATCHES} | {OURS: None}
    answers, absent = common.race(
        __file__,
        {
            name: {
                "model": model, "texts": str(file), "dtype": dtype, "batch_size": size,
            }
            for name, size in batches.items()
        },
        rounds,
    )  # fmt: skip
    seconds = {name: common.seconds_of(given) for name, given in answers.items()}
    medians = {name: statistics.median(given) for name, given in seconds.items()}
    best = min(medians.keys() - {OURS}, key=lambda name: medians[name], default=None)
    return {
        "n_texts": n_texts,
        "tokens": common.spread(common.count_tokens(model, texts)),
        "rounds": rounds,
        "reference": best,
        "rows": {
            name: {
                "seconds": common.rounded(given),
                "texts_per_second": round(n_texts / medians[name]),
                "peak_mb": round(max(a["peak_bytes"] for a in answers[name]) / 1e6),
                **({"ratio": common.ratios(seconds[best], given)} if best else {}),
            }
            for name, given in seconds.items()
        },
        "absent": absent,
    }


def report(results: dict) -> str:
    """Return the tables of results, in Markdown."""
    return common.report_cases(
        results,
        ("contender", "times faster", "texts/s", "peak MB"),
        lambda case, facts: (
            f"**{case}**: {facts['n_texts']:,} texts (mean "
            f"{facts['tokens']['mean']:.0f} tokens), {facts['rounds']} rounds; the "
            f"reference is {facts['reference']}."
        ),
        lambda row: (f"{row['texts_per_second']:,}", f"{row['peak_mb']:,}"),
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    models, kinds = ["MiniLM", "BERT-base"], ["short", "mixed", "long"]
    dtypes = ["float32", "bfloat16", "float16"]
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=["short", "long"])
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, default=dtypes)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)


def main() -> None:
    if common.is_worker():
        common.serve(prepare)
        return
    short = {"texts": 2000, "rounds": 2, "models": ["MiniLM"], "kinds": ["short"]}
    options = common.parse(__doc__, add_options, short)
    import torch

    if not torch.cuda.is_available():
        print("No CUDA device here: nothing was measured.")
        return
    keeper = common.Keeper("gpu", options)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for model_name in options.models:
            model = common.find_model(model_name, place)
            for kind in options.kinds:
                for dtype in options.dtypes:
                    case = f"{model_name}, {kind} texts, {dtype}"
                    common.say(case)
                    facts = compare(
                        model, kind, dtype, options.texts, options.rounds, place
                    )
                    keeper.add(case, facts)
                    print(report({"cases": {case: facts}}), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
