"""The page of docs/web_demo, driven in a browser without a window; ``make web`` installs what it needs."""

import functools
import html
import json
import re
import runpy
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / ".web" / "node_modules" / "onnxruntime-web" / "dist"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"

pytestmark = [
    pytest.mark.slow,  # a browser starts three times
    pytest.mark.skipif(BROWSER is None or not RUNTIME.is_dir(), reason="needs chromium and make web"),
]


class Quiet(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    runpy.run_path(str(ROOT / "docs" / "web_demo" / "make_demo.py"))["main"](folder)
    (folder / "ort").symlink_to(RUNTIME)
    with ThreadingHTTPServer(("localhost", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/index.html"
        server.shutdown()


def results(address, hue, profile):
    """Logits ``[10]`` and features ``[12, 3]`` that the page shows with its slider at a hue."""
    options = [*OPTIONS.split(), f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom"]
    command = [BROWSER, *options, f"{address}#digit=5&hue={hue}"]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = json.loads(html.unescape(re.search('data-result="(.*?)"', page)[1]))
    return np.array(found["logits"]), np.array(found["features"]).reshape(12, 3)


def test_logits_stay_and_features_roll(address, tmp_path):
    logits, features = results(address, 0, tmp_path / "0")
    turned_logits, turned_features = results(address, 120, tmp_path / "120")
    between, _ = results(address, 60, tmp_path / "60")
    assert np.abs(turned_logits - logits).max() < 1e-5 * np.abs(logits).max()
    assert np.abs(turned_features - np.roll(features, 1, 1)).max() < 1e-5 * features.max()
    assert np.abs(turned_features - features).max() > 0.1 * features.max()
    assert np.abs(between - logits).max() > 1e-3 * np.abs(logits).max()
