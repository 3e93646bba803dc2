"""The notebook runs from top to bottom, and says what it said when it was written down."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "tutorial.ipynb"


def judged(notebook):
    """Verdicts by cell, and how many pictures there are."""
    outputs = [(cell.id, output) for cell in notebook.cells for output in cell.get("outputs", [])]
    verdicts = [(cell, re.findall(r"PASS|FAIL", output.get("text", ""))) for cell, output in outputs]
    pictures = sum("image/png" in output.get("data", {}) for _, output in outputs)
    return [found for found in verdicts if found[1]], pictures


@pytest.mark.docs
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_and_says_what_it_said():
    written = nbformat.read(NOTEBOOK, as_version=4)
    said = judged(written)
    NotebookClient(written, timeout=300, resources={"metadata": {"path": NOTEBOOK.parent}}).execute()
    assert judged(written) == said
    assert said[1] == 6
    assert [cell for cell, found in said[0] if found == ["FAIL"]] == ["cell-11"]
