"""Every command and every line of Python on the how-to pages runs, page by page, from top to bottom."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.support import FIXTURES

ROOT = FIXTURES.parent
PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))
BLOCK = re.compile(r"^```(sh|python)(?: title=\"([^\"\n]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHIM = f'#!/bin/sh\nexec {sys.executable} -m ceconv_convert "$@"\n'


@pytest.mark.docs
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_run(page, tmp_path):
    shutil.copy(FIXTURES / "color_digits.pt", tmp_path / "net.pt")
    shutil.copy(FIXTURES / "color_digits_test.npz", tmp_path / "digits.npz")
    shutil.copy(FIXTURES / "golden" / "checkpoints" / "lightning_resnet44.ckpt", tmp_path / "last.ckpt")
    for name, text in (("ceconv-convert", SHIM), ("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))}
    program = []
    for language, title, text in BLOCK.findall(page.read_text()):
        if title:
            (tmp_path / title).write_text(text)
        elif language == "python":
            program.append(text)  # blocks go on where the last one ended
        else:
            program.append(f"import subprocess\nsubprocess.run(['sh', '-ec', {text!r}], check=True)\n")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
