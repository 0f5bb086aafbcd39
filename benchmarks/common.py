"""What the benchmarks share: texts, the machine, rounds in worker processes, tables.

A benchmark names *contenders*, each a name and the arguments of a function `prepare` in
its own file. `race` starts one process per contender, waits until each has loaded and
warmed up, and then runs rounds: in each round every contender does the same work once,
one after the other, and the one that begins moves on by one from round to round. Only
ratios within a round are compared, so a machine that slows down slows all alike. A
contender that is not installed or fails is reported by name with the reason.

No question is answered here, and nothing here imports torch or a contender at the top.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import gzip
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Set for this process and inherited by the workers.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

RESULTS = Path(__file__).resolve().parent / "results"
MAX_LENGTH = 512  # tokens, for every contender and every model

_PAUSE_SECONDS = 0.3  # OpenMP threads of the one before may spin for 0.2 s
_VERSIONS_OF = (
    "sklearn-bert", "torch", "transformers", "tokenizers", "scikit-learn", "numpy",
    "joblib", "sentence-transformers", "skrub", "embetter", "onnxruntime", "openvino",
    "ctranslate2",
)  # fmt: skip


# Texts


def summaries() -> list[str]:
    """Return every docstring summary of the installed packages."""
    from sklearn_bert.datasets import load_docstrings

    return load_docstrings(None).data


def make_texts(kind: str, n_texts: int, seed: int = 0) -> list[str]:
    """Join consecutive docstring summaries and cut them to drawn numbers of words.

    "short": log-normal with a median of 20 words and a mean of 29, at least 3, which
    are about 30 and 44 tokens. "long": uniform from 70 to 360 words, about 100 to 512
    tokens. "mixed": one long text to three short ones, in random order.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    short = np.exp(rng.normal(np.log(20), 0.87, size=n_texts)).astype(int).clip(3, 300)
    long = rng.integers(70, 361, size=n_texts)
    is_long = {
        "short": np.zeros(n_texts, dtype=bool),
        "long": np.ones(n_texts, dtype=bool),
        "mixed": rng.permutation(np.arange(n_texts) % 4 == 0),
    }[kind]
    words = " ".join(summaries()).split()
    texts, start = [], 0
    for n_words in np.where(is_long, long, short):
        if start + n_words > len(words):  # once round: begin at another word
            start = int(rng.integers(1000))
        texts.append(" ".join(words[start : start + n_words]))
        start += int(n_words)
    return texts


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a gzipped CSV file by the names in its first line."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# Models


def minilm() -> str:
    """Return the directory of the default model."""
    from sklearn_bert.checkpoint import DEFAULT_MODEL, find_checkpoint

    return str(find_checkpoint(DEFAULT_MODEL).directory)


def make_bert_base(directory: Path) -> str:
    """Write a BERT-base with random weights and the default model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(minilm())
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    # CTranslate2's converter asks for an attribute that transformers 5 has dropped.
    config = BertConfig(position_embedding_type="absolute")
    BertModel(config).save_pretrained(directory)
    return str(directory)


def find_model(name: str, place: Path) -> str:
    """Return the directory of "MiniLM" or "BERT-base", made in place if need be."""
    if name == "MiniLM":
        return minilm()
    directory = place / "bert-base"
    return str(directory) if directory.exists() else make_bert_base(directory)


def shape_of(model: str) -> dict[str, int]:
    """Return the sizes of a BERT checkpoint."""
    config = json.loads((Path(model) / "config.json").read_text())
    return {
        "n_layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
        "inner": config["intermediate_size"],
        "n_heads": config["num_attention_heads"],
    }


def count_tokens(model: str, texts: Sequence[str]) -> list[int]:
    """Return the tokens of every text, special ones included, cut to MAX_LENGTH."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    encoded = tokenizer(list(texts), truncation=True, max_length=MAX_LENGTH)
    return [len(ids) for ids in encoded["input_ids"]]


def spread(lengths: Sequence[int]) -> dict[str, float]:
    """Describe lengths in tokens."""
    return {
        "mean": round(statistics.mean(lengths), 1),
        "median": statistics.median(lengths),
        "lowest": min(lengths),
        "highest": max(lengths),
    }


# Work and rate


def useful_flops(model: str, lengths: Sequence[int]) -> float:
    """Count what a pass needs for these texts alone: no padding, no softmax or norm.

    Two operations per weight of the linear layers and token, and for attention
    4 x length^2 x width per text and layer.
    """
    shape = shape_of(model)
    width, inner = shape["width"], shape["inner"]
    per_token = 2 * (4 * width**2 + 2 * width * inner)
    attention = 4 * width * sum(n**2 for n in lengths)
    return float(shape["n_layers"] * (per_token * sum(lengths) + attention))


def prepare_gemm(model: str, dtype: str, rows: int = 2048) -> Callable[[], dict]:
    """Return a function that measures the GEMM rate at the shapes of a model.

    One layer's six matrix products on 2,048 tokens, repeated for half a second; with
    torch's plain linear and with weights laid out by oneDNN beforehand. The faster of
    the two counts, in floating-point operations per second.
    """
    import torch

    torch.set_grad_enabled(False)
    shape = shape_of(model)
    width, inner = shape["width"], shape["inner"]
    kind = getattr(torch, dtype)
    layers = []
    for n_in, n_out in [(width, width)] * 4 + [(width, inner), (inner, width)]:
        weight = torch.randn(n_out, n_in, dtype=kind)
        layers.append((torch.randn(rows, n_in, dtype=kind), weight, torch.zeros(n_out)))
    flops = sum(2 * rows * weight.numel() for _, weight, _ in layers)
    runs = {
        "plain": lambda: [
            torch.nn.functional.linear(x, w, b.to(kind)) for x, w, b in layers
        ]
    }
    with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError):
        packed = [
            (x, torch.ops.mkldnn._reorder_linear_weight(w, rows), b.to(kind))
            for x, w, b in layers
        ]
        linear = torch.ops.mkldnn._linear_pointwise
        linear(*packed[0], "none", [], "")
        runs["prepacked"] = lambda: [linear(*p, "none", [], "") for p in packed]

    def measure() -> dict:
        rates = {}
        for name, run in runs.items():
            run()
            n_runs, started = 0, time.perf_counter()
            while (seconds := time.perf_counter() - started) < 0.5:
                run()
                n_runs += 1
            rates[name] = n_runs * flops / seconds
        return {"rates": rates}

    return measure


# Worker processes


def serve(prepare: Callable[..., Callable[[], Any]]) -> None:
    """Be a worker: prepare, then do the work once for every line that comes in.

    `prepare` gets the arguments of the contender and returns a function. Where that
    returns a dict, its entries go into the answer; anything else is an array of
    features, which the worker saves where the line says.
    """
    import warnings

    import numpy as np

    warnings.simplefilter("ignore")
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers

    def reply(**facts: Any) -> None:
        print(json.dumps(facts), file=answer, flush=True)

    try:
        work = prepare(**json.loads(sys.argv[2]))
    except Exception as error:
        reply(absent=_in_a_line(error))
        return
    reply()
    for line in sys.stdin:
        try:
            started = time.perf_counter()
            result = work()
            seconds = time.perf_counter() - started
        except Exception as error:
            reply(absent=_in_a_line(error))
            return
        facts = result if isinstance(result, dict) else {}
        if not isinstance(result, dict) and line.strip():
            np.save(line.strip(), np.asarray(result, dtype=np.float32))
        reply(**{"seconds": seconds, **facts})


def _in_a_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


class Worker:
    """A process that does a contender's work when it is told to."""

    def __init__(self, script: str, arguments: Mapping[str, Any]) -> None:
        self.said = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, script, "--worker", json.dumps(arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True,
        )  # fmt: skip

    def answer(self) -> dict[str, Any]:
        """Return the next answer; a process that died says how it ended."""
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.said.seek(0)
        said = self.said.read().strip().splitlines()
        return {"absent": f"ended with status {code}: {(said or [''])[-1]}"[:200]}

    def work(self, save_to: Path | None = None) -> dict[str, Any]:
        """Have the work done once."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{save_to or ''}\n")
            self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """Let the process end."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.said.close()


def race(
    script: str,
    contenders: Mapping[str, Mapping[str, Any]],
    rounds: int,
    place: Path | None = None,
) -> tuple[dict[str, list[dict]], dict[str, str]]:
    """Run interleaved rounds; return the answers by contender, and who is absent why.

    With `place`, features of the first round are saved there as ``<index>.npy``, the
    index being the contender's in `contenders`.
    """
    workers: dict[str, Worker] = {}
    absent: dict[str, str] = {}
    answers: dict[str, list[dict]] = {}
    try:
        names = list(contenders)
        size = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
        for start in range(0, len(names), size):  # loading takes most of a short run
            for name in names[start : start + size]:
                workers[name] = Worker(script, contenders[name])
            for name in names[start : start + size]:
                ready = workers[name].answer()
                if "absent" in ready:
                    absent[name] = ready["absent"]
                    workers.pop(name).close()
                    say(f"  {name}: not here, {absent[name]}")
        answers = {name: [] for name in workers}
        numbers = {name: i for i, name in enumerate(contenders)}
        for r in range(rounds):
            names = list(workers)
            start = r % max(1, len(names))
            for name in names[start:] + names[:start]:
                time.sleep(_PAUSE_SECONDS)
                file = place / f"{numbers[name]}.npy" if place and r == 0 else None
                given = workers[name].work(file)
                if "absent" in given:
                    absent[name] = given["absent"]
                    workers.pop(name).close()
                    answers.pop(name)
                    say(f"  {name}: failed in round {r + 1}, {absent[name]}")
                else:
                    answers[name].append(given)
            say(f"  round {r + 1} of {rounds} done")
    finally:
        for worker in workers.values():
            worker.close()
    return answers, absent


def seconds_of(answers: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the seconds of every round."""
    return [answer["seconds"] for answer in answers]


def high_water(process: int | str = "self") -> int | None:
    """Return the largest resident size of a process so far, while it runs, on Linux."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            return 1024 * int(found[1])
    return None


def peak_bytes() -> int:
    """Return the largest resident size of this process so far."""
    found = high_water()  # getrusage counts what it was forked from
    if found is not None:
        return found
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Return the median, lowest and highest of the ratios within rounds."""
    values = [a / b for a, b in zip(above, below, strict=True)]
    return {
        "median": round(statistics.median(values), 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
    }


def rounded(values: Sequence[float]) -> list[float]:
    """Return seconds as they are kept: four significant digits."""
    return [float(f"{value:.4g}") for value in values]


# Machine, results, tables


def machine() -> dict[str, Any]:
    """Describe the machine and the versions on it."""
    import torch

    versions = {}
    for name in _VERSIONS_OF:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"model name\s*:\s*(.+)", cpu):
            name = found[1]
    return {
        "processor": name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "has_bfloat16": has_bfloat16(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": versions,
    }


def has_bfloat16() -> bool:
    """Tell whether the processor computes in bfloat16 itself."""
    import torch

    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


class Keeper:
    """Prints a benchmark's results and, where asked to, keeps them in a file.

    The file is written after every part, so that a long run that is stopped has kept
    what it measured.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.out = options.out
        if options.keep:
            self.out = RESULTS / f"{name}.json"
        given = {  # places are the machine's own business
            k: v
            for k, v in vars(options).items()
            if k != "keep" and not isinstance(v, Path) and v is not None
        }
        self.results: dict[str, Any] = {
            "benchmark": name,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "options": given,
            "cases": {},
        }

    def add(self, case: str, facts: Mapping[str, Any]) -> None:
        """Enter the results of a part, and write all of them."""
        self.results["cases"][case] = facts
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.results, indent=1, ensure_ascii=False)
            # One line per list of numbers.
            text = re.sub(
                r"\[\s+([-\d.,e+\s]+?)\s+\]",
                lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]",
                text,
            )
            self.out.write_text(text + "\n", encoding="utf-8")


def parse(
    document: str, add: Callable[[argparse.ArgumentParser], None], short: dict[str, Any]
) -> argparse.Namespace:
    """Read the command line; `short` holds what ``--short`` sets by default."""
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add(parser)
    parser.add_argument("--short", action="store_true", help="a small run, for a look")
    parser.add_argument(
        "--keep", action="store_true", help=f"write the results into {RESULTS.name}/"
    )
    parser.add_argument("--out", type=Path, default=None, help="write them elsewhere")
    if "--short" in sys.argv:
        parser.set_defaults(**short)
    return parser.parse_args()


def is_worker() -> bool:
    """Tell whether this process was started by `race`."""
    return sys.argv[1:2] == ["--worker"]


def say(line: str) -> None:
    """Tell how far a run is, on standard error."""
    print(line, file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table with aligned columns, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [
        max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))
    ]

    def line(values: Sequence[str]) -> str:
        first = values[0].ljust(widths[0])
        rest = [v.rjust(w) for v, w in zip(values[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *rest]) + " |"

    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([line(header), "| " + " | ".join(rule) + " |", *map(line, cells)])


def with_range(ratio: Mapping[str, float], digits: int = 2) -> str:
    """Write a ratio with the lowest and the highest of its rounds."""
    return (
        f"{ratio['median']:.{digits}f} "
        f"({ratio['lowest']:.{digits}f}-{ratio['highest']:.{digits}f})"
    )


def absentees(absent: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each contender that was not measured."""
    for name, why in absent.items():
        yield f"- {name}: not measured, {why}"


def report_cases(
    results: Mapping[str, Any],
    header: Sequence[str],
    title: Callable[[str, Mapping[str, Any]], str],
    cells: Callable[[Mapping[str, Any]], Sequence[str]],
) -> str:
    """Return title, table and absentees of every case, in Markdown.

    A row is the name of a contender, how many times faster it is, where that is known,
    and the `cells` of its facts.
    """
    parts = []
    for case, facts in results["cases"].items():
        rows = [
            (name, with_range(row["ratio"]) if "ratio" in row else "", *cells(row))
            for name, row in facts["rows"].items()
        ]
        parts += [
            title(case, facts),
            table(header, rows),
            "\n".join(absentees(facts["absent"])),
        ]
    return "\n\n".join(part for part in parts if part)


def machine_line(results: Mapping[str, Any]) -> str:
    """Say in a sentence or two where and when results were measured."""
    m = results["machine"]
    gpu = f", {m['gpu']}" if m["gpu"] else ""
    versions = ", ".join(f"{name} {v}" for name, v in m["versions"].items())
    return (
        f"{m['processor']} ({m['instructions']}), {m['cores']} cores, {m['threads']} "
        f"threads{gpu}, {results['date']}; Python {m['python']}, {versions}."
    )
