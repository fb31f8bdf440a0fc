"""
Runs the conformance kit with each library, and writes the tables of docs/explanation/compared.md.

    python -m benchmarks.compared           print the tables
    python -m benchmarks.compared --page    write them into the page
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from benchmarks.compared.report import found_by_all, tables

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "compared.md"
MARKS = re.compile(r"(<!-- begin: made by .*? -->\n).*(<!-- end -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compared")
    parser.add_argument("--page", action="store_true", help=f"write them into {PAGE.name}")
    arguments = parser.parse_args()
    made = tables(found_by_all())
    if not arguments.page:
        sys.stdout.write(made)
        return
    text = PAGE.read_text("utf-8")
    PAGE.write_text(MARKS.sub(lambda found: f"{found[1]}\n{made}\n{found[2]}", text), "utf-8")


if __name__ == "__main__":
    main()
