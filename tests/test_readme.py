"""The README says what the pages of docs say."""

import re
import runpy

from tests.support import FIXTURES

ROOT = FIXTURES.parent
README = (ROOT / "README.md").read_text()


def test_its_table_is_the_one_of_the_benchmarks():
    script = runpy.run_path(str(ROOT / "docs" / "readme_table.py"))
    benchmarks = (ROOT / "docs" / "benchmarks.md").read_text()
    assert script["readme_with_table"](README, benchmarks) == README
    other = script["readme_with_table"](README, benchmarks.replace("69.5 ms", "69.6 ms"))
    assert "| 69.6 ms |" in other


def test_its_sentences_have_the_numbers_of_the_pages():
    precision = (ROOT / "docs" / "precision.md").read_text()
    sentence = re.search(r"the same ResNet18 is (.*?)in OpenVINO", README, re.DOTALL)[1]
    ranges = re.findall(r"([\d.]+) to\s+([\d.]+)", sentence)
    assert len(ranges) == 2
    assert all(f"**{first} to {last}×**" in precision for first, last in ranges)
