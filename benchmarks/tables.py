"""Render the tables of docs/benchmarks.md from the result files.

Between ``<!-- results: NAME -->`` and ``<!-- end -->`` the page holds what the
benchmark NAME reports of ``results/NAME.json`` and every ``results/NAME-*.json``, each
with the machine on which it was measured. So no table of the page carries a number that
is not in a file.

Command: ``python benchmarks/tables.py [--check]``. With ``--check``, nothing is
written, and the status is 1 if the page differs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from pathlib import Path

import common

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
PART = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(name: str) -> str:
    """Return the tables of every result file of a benchmark."""
    benchmark = importlib.import_module(f"bench_{name}")
    files = sorted(common.RESULTS.glob(f"{name}.json"))
    files += sorted(common.RESULTS.glob(f"{name}-*.json"))
    if not files:
        return "Not measured yet: there is no result file."
    parts = []
    for file in files:
        results = json.loads(file.read_text(encoding="utf-8"))
        parts += [common.machine_line(results), benchmark.report(results)]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    new = PART.sub(lambda m: f"{m[1]}\n{render(m[2])}\n\n{m[3]}", page)
    if not options.check:
        PAGE.write_text(new, encoding="utf-8")
    elif new != page:
        sys.exit(f"{PAGE} differs from the result files: run benchmarks/tables.py")


if __name__ == "__main__":
    main()
