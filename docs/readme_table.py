"""Write the README's table of speed from the tables of docs/benchmarks.md, so that a number is stated once.

    python docs/readme_table.py

A test fails where the two differ.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NETWORKS = ("ResNet18, N = 3", "ResNet18, N = 10", "ResNet44", "CECNN")
HEAD = """\
| ONNX Runtime, 2 AVX-512 cores | exported as is | circular Conv3d: speed | `auto`: speed | peak memory |
|---|---|---|---|---|
"""
TABLE = re.compile(r"^\| ONNX Runtime, .*?\n(?!\|)", re.MULTILINE | re.DOTALL)


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table whose headings hold that text."""
    lines = text[text.index(heading) :].splitlines()
    table = lines[: lines.index("")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def readme_with_table(readme: str, benchmarks: str) -> str:
    """The README with the numbers of the other page."""
    speeds = rows(benchmarks, "| network | original as it is |")
    memory = rows(benchmarks, "| network | file: original")
    lines = []
    for network in NETWORKS:
        title, original, conv3d, _, _, auto, _ = next(row for row in speeds if row[0].startswith(network))
        before, after = next(row for row in memory if row[0] == network)[2].removesuffix(" MB").split(", ")
        lines.append(f"| {title} | {original} | {conv3d} | {auto} | {before} → {after} MB |\n")
    return TABLE.sub(lambda _: HEAD + "".join(lines), readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(readme_with_table(path.read_text(), (ROOT / "docs" / "benchmarks.md").read_text()))
