"""The JavaScript example of docs/encoders.md in a real browser: its features are the encoder's.

Needs onnxruntime-web, which is no Python package: `npm install onnxruntime-web`, and CARRARA_ONNXRUNTIME_WEB names its
folder `node_modules/onnxruntime-web/dist`.
"""

import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from carrara.encoders._hub.export import export_encoder
from carrara.encoders._hub.load import build_encoder

pytestmark = pytest.mark.web
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DOCS = Path(__file__).parents[2] / "docs" / "encoders.md"
PAGE = """<!doctype html><script type="importmap">{"imports": {"onnxruntime-web": "/ort/ort.wasm.min.mjs"}}</script>
<script type="module">
import { embed } from "/example.js";
window.embedded = fetch("/sound.wav").then(reply => reply.blob()).then(embed).then(values => Array.from(values));
</script>"""


@pytest.fixture
def page(tmp_path):
    runtime = os.environ.get("CARRARA_ONNXRUNTIME_WEB")
    sync_api = pytest.importorskip("playwright.sync_api")
    if BROWSER is None or not runtime:
        pytest.skip("needs a Chromium, and onnxruntime-web in CARRARA_ONNXRUNTIME_WEB")
    (tmp_path / "ort").symlink_to(runtime)
    (tmp_path / "example.js").write_text(re.search(r"```js\n(.*?)```", DOCS.read_text(), re.DOTALL)[1])
    (tmp_path / "index.html").write_text(PAGE)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    problems: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(request.url))

        def embed():
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.wait_for_function("window.embedded")
            return page.evaluate("window.embedded")

        yield embed
        assert not problems
        browser.close()
    server.shutdown()


@torch.no_grad()
def test_the_example_gives_the_features_of_the_encoder(page, tmp_path):
    ours = build_encoder("musicnn-mtt", seed=1).eval()
    export_encoder(ours, "onnx", tmp_path / "musicnn-onnx")
    stereo = np.random.default_rng(0).uniform(-0.5, 0.5, (5 * 16_000, 2)).round(3)
    soundfile.write(tmp_path / "sound.wav", stereo, 16_000, subtype="FLOAT")
    values = page()
    expected = ours(torch.tensor(stereo.mean(1), dtype=torch.float32))[0, -1, -1]
    torch.testing.assert_close(torch.tensor(values), expected, atol=1e-3, rtol=1e-3)
