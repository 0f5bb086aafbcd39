"""Figures of the last long run: noted by tests, kept in a file, shown on a page.

Run as a script, it writes them into the page.
"""

import json
import re
from pathlib import Path

FILE = Path(__file__).with_name("long_run.json")
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guide" / "rely.md"
TABLE = re.compile(r"(<!-- figures -->\n).*?(<!-- end -->)", re.DOTALL)


def load():
    """Return figures by test."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {}


def note(node, counts):
    """Keep what a test counted."""
    name = f"{node.path.stem}::{node.originalname}"
    if node.name != node.originalname:
        name += node.name.removeprefix(node.originalname)
    content = {**load(), name: counts}
    FILE.write_text(json.dumps(dict(sorted(content.items())), indent=1) + "\n")


def table():
    """Return the figures as the page shows them."""
    lines = ["\n| test | counted |\n|---|---|\n"]
    for name, counts in load().items():
        test = name.partition("::")[2]
        shown = ", ".join(
            f"{value:,} {what.replace('_', ' ')}" for what, value in counts.items()
        )
        lines.append(f"| {test.removeprefix('test_').replace('_', ' ')} | {shown} |\n")
    return "".join(lines) + "\n"


def page_with_figures(text):
    """Return the page with the table of today."""
    return TABLE.sub(lambda match: match[1] + table() + match[2], text)


if __name__ == "__main__":
    PAGE.write_text(page_with_figures(PAGE.read_text(encoding="utf-8")))
