"""`carrara explore FOLDER` as a process: embeds, continues, and searches by text, here with a small LAION-CLAP."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
import soundfile

import carrara
from carrara.encoders._hub.load import load

pytestmark = pytest.mark.slow
RATE = 48_000


@pytest.fixture
def music(tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    for index, name in enumerate(("a", "b", "c", "d")):
        time = np.arange(3 * RATE) / RATE
        tone = 0.2 * np.sin(2 * np.pi * 200 * 2**index * time) * np.exp(-time * index)
        noise = 0.02 * index * np.random.default_rng(index).standard_normal(len(time))
        soundfile.write(folder / f"{name}.wav", tone + noise, RATE)
    (folder / "broken.mp3").write_bytes(b"no audio")
    return folder


@contextmanager
def exploring(tmp_path, *words):
    """Run the command; yield its address and the lines before it. Ends it as Ctrl-C does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "carrara", "explore", *map(str, words), "--port", "0", "--no-browser"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CARRARA_HOME": str(tmp_path / "home"), "CARRARA_PROGRESS": "0"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if match := re.search(r"recordings at (http://\S+);", line):
            break
    try:
        assert match, "".join(lines)
        yield match[1], "".join(lines)
    finally:
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=300)
    assert (process.returncode, rest) == (130, "carrara explore: stopped\n")


def test_a_folder_is_embedded_and_later_only_what_changed(music, tmp_path):
    with exploring(tmp_path, music) as (address, said):
        assert "embedding 5 recordings with chroma-mfcc" in said and "broken.mp3" in said
        assert "4 embedded, 0 as before, 1 failed" in said
        info = httpx.get(f"{address}/api/info", trust_env=False).json()
        assert (info["title"], info["count"], info["files"], info["text"]) == ("music", 4, True, False)
        assert httpx.get(f"{address}/audio/0", trust_env=False).status_code == 200
    (music / "a.wav").unlink()
    soundfile.write(music / "e.wav", 0.1 * np.random.default_rng(9).standard_normal(RATE), RATE)
    with exploring(tmp_path, music) as (address, said):
        assert "1 embedded, 3 as before, 1 failed" in said
        rows = range(httpx.get(f"{address}/api/info", trust_env=False).json()["count"])
        names = {httpx.get(f"{address}/api/recording/{row}", trust_env=False).json()["name"] for row in rows}
        assert names == {"b", "c", "d", "e"}


@pytest.mark.web
def test_texts_are_looked_for_in_the_page(browser, clap, music, tmp_path):
    names = sorted(str(path) for path in music.glob("*.wav"))
    vectors_ND = np.stack(carrara.embed(names, str(clap), layer="joint")["embedding"].to_numpy())
    text = "slow piano"
    text_D = load(str(clap)).encode_text([text])[0].detach().numpy()
    cosine_N = vectors_ND @ text_D / np.linalg.norm(vectors_ND, axis=1) / np.linalg.norm(text_D)
    with exploring(tmp_path, music, "-e", clap) as (address, _):
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("document.getElementById('state').textContent === ''")
        page.fill("#text", text)
        page.keyboard.press("Enter")
        page.wait_for_function("document.querySelectorAll('#list small').length === 4", timeout=300_000)
        assert page.inner_text("#list-title") == f"Nearest to “{text}”"
        order = [names[row].rsplit("/", 1)[1].removesuffix(".wav") for row in np.argsort(-cosine_N)]
        assert page.locator("#list span").all_inner_texts() == order
        values = [float(each) for each in page.locator("#list small").all_inner_texts()]
        np.testing.assert_allclose(values, np.sort(cosine_N)[::-1], atol=1e-3)
        page.close()
