"""Measure whether a million rows go through `encode` in flat memory and survive kills.

Protocol. N rows are paragraphs of a corpus (`--data`, a text a line, also ``.gz``) or
joined docstrings, each varied by its number so that no two are alike, in a plain text
file. ``sklearn-bert encode`` runs in a process of its own with a tiny random encoder:
left alone on N/10, N/3 and N rows, where its peak resident size (VmHWM) is read; and on
N rows killed by SIGKILL at five drawn places and given again each time. The files of
both are compared byte by byte. Reported are megabytes, seconds, and the rows that each
kill lost, which are encoded twice.

Command: ``python benchmarks/bench_export.py [--rows N] [--kills K] [--data FILE]
[--format npy|parquet] [--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import filecmp
import gzip
import itertools
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import bench_scale
import common


def paragraphs(data: Path | None) -> Iterator[str]:
    """Yield texts for ever: those of a corpus, or docstrings, over and over."""
    if data is None:
        texts = common.make_texts("mixed", 2000)
        yield from itertools.cycle(texts)
        return
    opened = gzip.open if data.suffix == ".gz" else open
    while True:
        with opened(data, "rt", encoding="utf-8") as file:
            yield from filter(str.strip, file)


def write_rows(path: Path, n_rows: int, data: Path | None) -> None:
    with path.open("w", encoding="utf-8") as file:
        for i, text in enumerate(itertools.islice(paragraphs(data), n_rows)):
            words = text.split()
            turn = i % len(words)  # the same paragraph never twice
            file.write(" ".join([*words[turn:], str(i), *words[:turn]]) + "\n")


def start(encoder: str, rows: Path, out: Path, part_rows: int) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable, "-m", "sklearn_bert", "encode", str(rows), "--quiet",
            "--out", str(out), "--model", encoder, "--part-rows", str(part_rows),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def run_alone(encoder: str, rows: Path, out: Path, part_rows: int) -> dict:
    started, peak = time.perf_counter(), 0
    process = start(encoder, rows, out, part_rows)
    while process.poll() is None:
        peak = max(peak, common.high_water(process.pid) or 0)
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"encode ended with status {process.returncode}")
    return {
        "peak_mb": round(peak / 1e6, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


def finished_rows(out: Path) -> int:
    journal = out.with_name(f"{out.name}.partial") / "journal.jsonl"
    if not journal.exists():
        return 0
    return sum(map(int, re.findall(rb'"n_rows": (\d+)', journal.read_bytes())))


def run_killed(
    encoder: str, rows: Path, out: Path, part_rows: int, n_rows: int, n_kills: int
) -> dict:
    """Kill at drawn numbers of finished rows, a drawn moment later, and go on."""
    rng = random.Random(0)
    step = n_rows / (n_kills + 1)
    places = [int(step * (k + rng.uniform(0.3, 1.0))) for k in range(n_kills)]
    kept = []
    for place in places:
        process = start(encoder, rows, out, part_rows)
        while process.poll() is None and finished_rows(out) < place:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        process.communicate()
        kept.append(finished_rows(out))
        common.say(f"killed with {kept[-1]:,} rows finished")
    process = start(encoder, rows, out, part_rows)
    said = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"encode ended with status {process.returncode}")
    encoded_last = int(re.search(r"encoded now: ([\d,]+)", said)[1].replace(",", ""))
    return {"finished_at_kills": kept, "encoded_last": encoded_last}


def report(results: dict) -> str:
    """Return the tables of results, in Markdown."""
    parts = []
    for case, facts in results["cases"].items():
        rows = [
            (f"{n:,}", f"{run['peak_mb']:,.1f}", f"{run['seconds']:,.1f}",
             f"{n / run['seconds']:,.0f}")
            for n, run in zip(facts["n_rows"], facts["alone"], strict=True)
        ]  # fmt: skip
        same = "the same, byte for byte" if facts["is_identical"] else "NOT the same"
        kills = ", ".join(f"{n:,}" for n in facts["killed"]["finished_at_kills"])
        parts += [
            f"**{case}**: {facts['input_mb']:,.1f} MB of text, "
            f"{facts['output_mb']:,.1f} MB of features.",
            common.table(("rows", "peak, MB", "seconds", "rows per second"), rows),
            f"Killed with {kills} rows finished, and given again each time; the last "
            f"run encoded the {facts['killed']['encoded_last']:,} that were left. The "
            f"output is {same}.",
        ]
    return "\n\n".join(parts)


def measure(options: argparse.Namespace) -> dict:
    sizes = [options.rows // 10, options.rows // 3, options.rows]
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        encoder = bench_scale.make_tiny(str(place / "encoder"))
        rows, ending = place / "rows.txt", options.format
        alone = []
        for n in sizes:
            common.say(f"{n:,} rows, left alone")
            write_rows(rows, n, options.data)
            whole = place / f"whole-{n}.{ending}"
            alone.append(run_alone(encoder, rows, whole, options.part_rows))
        again = place / f"killed.{ending}"
        killed = run_killed(
            encoder, rows, again, options.part_rows, options.rows, options.kills
        )
        manifests = (Path(f"{path}.manifest.json") for path in (whole, again))
        return {
            "n_rows": sizes,
            "input_mb": round(rows.stat().st_size / 1e6, 1),
            "output_mb": round(whole.stat().st_size / 1e6, 1),
            "alone": alone,
            "killed": killed,
            "is_identical": filecmp.cmp(whole, again, shallow=False)
            and filecmp.cmp(*manifests, shallow=False),
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--part-rows", type=int, default=8192)
    parser.add_argument("--format", choices=["npy", "parquet"], default="npy")
    parser.add_argument("--data", type=Path, help="a corpus, a text a line")


def main() -> None:
    short = {"rows": 6000, "kills": 2, "part_rows": 500}
    options = common.parse(__doc__, add_options, short)
    keeper = common.Keeper("export", options)
    keeper.add(f"{options.rows:,} rows to .{options.format}", measure(options))
    print(report(keeper.results))


if __name__ == "__main__":
    main()
