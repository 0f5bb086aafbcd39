"""Measure how fast texts are encoded, side by side with what people use today.

Protocol. Every contender runs in a process of its own, loads the model and encodes 32
texts to warm up. Then rounds begin: in each, every contender encodes the same texts
once, one after the other. Reported are: the median over rounds of the ratio to
sentence-transformers with its default batch of 32 in the same round, with the lowest
and the highest; texts per second; useful floating-point operations as a share of the
GEMM rate at the model's own shapes, measured in the same rounds (useful tokens only:
padding does not count as work); and the lowest cosine to the reference's vectors. Every
contender cuts at 512 tokens, though MiniLM declares 256. Texts are docstrings of the
installed packages, see `common.make_texts`. BERT-base has random weights.

Command: ``python benchmarks/bench_encode.py [--cases MiniLM-short ...]
[--contenders NAME ...] [--texts N] [--rounds N] [--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import common
import contenders

CASES = [
    f"{m}-{kind}"
    for m in ("MiniLM", "BERT-base")
    for kind in ("short", "mixed", "long")
]
# A long text takes about ten times as long as a short one, and BERT-base eight times as
# long as MiniLM.
_TEXTS = {"short": 1.0, "mixed": 0.5, "long": 0.25, "MiniLM": 1.0, "BERT-base": 0.25}


def prepare(**arguments):
    if "contender" in arguments:
        return contenders.prepare(**arguments)
    return common.prepare_gemm(**arguments)


def compare(
    case: str, chosen: list[str], n_texts: int, rounds: int, place: Path
) -> dict:
    model_name, kind = case.rsplit("-", 1)
    n_texts = max(32, round(n_texts * _TEXTS[kind] * _TEXTS[model_name]))
    model = common.find_model(model_name, place)
    texts = common.make_texts(kind, n_texts)
    lengths = common.count_tokens(model, texts)
    file = place / f"{case}.json"
    file.write_text(json.dumps(texts), encoding="utf-8")
    arguments = {
        name: {
            "contender": name, "model": model, "texts": str(file),
            "place": str(place / f"{model_name}-converted"),
        }
        for name in chosen
    }  # fmt: skip
    gemms = {"GEMM float32": {"model": model, "dtype": "float32"}}
    if common.has_bfloat16():
        gemms["GEMM bfloat16"] = {"model": model, "dtype": "bfloat16"}
    answers, absent = common.race(__file__, {**arguments, **gemms}, rounds, place)
    rates = {}
    for name in gemms.keys() & answers.keys():
        rounds_of = [answer["rates"] for answer in answers.pop(name)]
        rates[name.split()[1]] = {
            way: statistics.median(r[way] for r in rounds_of) for way in rounds_of[0]
        }
    rows = _rows(answers, list(arguments), rates, model, lengths, place)
    return {
        "n_texts": n_texts,
        "tokens": common.spread(lengths),
        "rounds": rounds,
        "gemm_gflops": {
            dtype: {way: round(rate / 1e9, 1) for way, rate in ways.items()}
            for dtype, ways in rates.items()
        },
        "rows": rows,
        "absent": absent,
    }


def _rows(answers, names, rates, model, lengths, place):
    import numpy as np

    flops = common.useful_flops(model, lengths)
    vectors = {
        name: np.load(place / f"{i}.npy").astype(np.float64)
        for i, name in enumerate(names)
        if name in answers
    }
    reference = contenders.REFERENCE
    rows = {}
    for name, given in vectors.items():
        seconds = common.seconds_of(answers[name])
        median = statistics.median(seconds)
        dtype = contenders.CONTENDERS[name][3]
        row = {
            "seconds": common.rounded(seconds),
            "texts_per_second": round(len(lengths) / median, 1),
            "useful_gflops": round(flops / median / 1e9, 1),
        }
        if dtype in rates:
            row["share_of_gemm"] = round(flops / median / max(rates[dtype].values()), 3)
        if reference in vectors:
            row["ratio"] = common.ratios(common.seconds_of(answers[reference]), seconds)
            product = (given * vectors[reference]).sum(axis=1)
            norms = np.linalg.norm(given, axis=1) * np.linalg.norm(
                vectors[reference], axis=1
            )
            row["lowest_cosine"] = round(float((product / norms).min()), 6)
        rows[name] = row
    return rows


def report(results: dict) -> str:
    """Return the tables of results, in Markdown."""
    header = (
        "contender", "times faster", "texts/s", "useful GFLOP/s", "of GEMM",
        "lowest cosine",
    )  # fmt: skip
    return common.report_cases(results, header, _title, _cells)


def _title(case: str, facts: dict) -> str:
    model_name, kind = case.rsplit("-", 1)
    tokens = facts["tokens"]
    rates = ", ".join(
        f"{max(ways.values()):.0f} GFLOP/s in {dtype}"
        for dtype, ways in facts["gemm_gflops"].items()
    )
    return (
        f"**{model_name}, {kind} texts**: {facts['n_texts']} texts of "
        f"{tokens['lowest']} to {tokens['highest']} tokens (mean {tokens['mean']:.0f}, "
        f"median {tokens['median']:.0f}), {facts['rounds']} rounds. GEMM rate: "
        f"{rates or 'not measured'}."
    )


def _cells(row: dict) -> tuple[str, ...]:
    return (
        f"{row['texts_per_second']:,.0f}",
        f"{row['useful_gflops']:.0f}",
        f"{row['share_of_gemm']:.0%}" if "share_of_gemm" in row else "",
        f"{row['lowest_cosine']:.4f}" if "lowest_cosine" in row else "",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    names = list(contenders.CONTENDERS)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument(
        "--contenders", nargs="+", choices=names, default=names, metavar="NAME",
        help=f"of: {'; '.join(names)}",
    )  # fmt: skip
    parser.add_argument("--texts", type=int, default=600, help="short ones for MiniLM")
    parser.add_argument("--rounds", type=int, default=7)


def main() -> None:
    if common.is_worker():
        common.serve(prepare)
        return
    short = {
        "texts": 96, "rounds": 2, "cases": CASES[:1],
        "contenders": [
            contenders.REFERENCE, "ONNX Runtime float32", "OpenVINO float32",
            "CTranslate2 float32", "sklearn_bert float32", "sklearn_bert bfloat16",
        ],
    }  # fmt: skip
    options = common.parse(__doc__, add_options, short)
    keeper = common.Keeper("encode", options)
    with tempfile.TemporaryDirectory() as name:
        for case in options.cases:
            common.say(case)
            facts = compare(
                case, options.contenders, options.texts, options.rounds, Path(name)
            )
            keeper.add(case, facts)
            print(report({"cases": {case: facts}}), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
