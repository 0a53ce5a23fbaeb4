"""The explorer in headless Chromium: frames while zooming and moving a large map, and the delay of sound.

    python benchmarks/explorer.py --rows 100000 -o docs/explorer.json

The map is made up: rows of 64 dimensions in ten groups. A frame is the time between two calls of
requestAnimationFrame while wheel or mouse are moved as fast as the page takes them. The delay of sound is the time from
the pointer's event to the event `playing` of the page's audio element, for recordings of --length in each format,
each measured on several files that the browser has not loaded before.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import uvicorn

from carrara.features.embedding_map import MapPoints
from carrara.web.explorer.app import create_explorer
from carrara.web.explorer.collection import Collection
from carrara.web.listen import bind_socket, format_url

GROUPS, DIM = 10, 64
RATE = 44100
FLAGS = ["--no-sandbox", "--enable-unsafe-swiftshader"]
FRAMES = """() => {
  window.frames_ms = [];
  let last = performance.now();
  const next = (now) => { window.frames_ms.push(now - last); last = now; window.frame = requestAnimationFrame(next); };
  window.frame = requestAnimationFrame((now) => { last = now; window.frame = requestAnimationFrame(next); });
}"""
# The time of the last pointer event over the map, and from it to `playing` of any of the page's sounds.
SOUND = """
  window.sounds = [];
  const Plain = window.Audio;
  window.Audio = function () {
    const sound = new Plain();
    sound.addEventListener("playing", () => { window.delay ??= performance.now() - window.pointed; });
    window.sounds.push(sound);
    return sound;
  };
  for (const kind of ["mousemove", "mousedown"])
    addEventListener(kind, (event) => { if (window.delay === null) window.pointed = event.timeStamp; }, true);
"""


@contextmanager
def served(points: MapPoints) -> Iterator[str]:
    """Serve an explorer in a thread; yield its address."""
    listener = bind_socket("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_explorer(Collection(points), "made up"), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield format_url(listener)
    finally:
        server.should_exit = True
        thread.join()


def measure_frames(browser: Any, rows: int, seconds: float) -> dict[str, Any]:
    """Return milliseconds from opening to the drawn map, and of the frames of each gesture."""
    rng = np.random.default_rng(0)
    group_N = rng.integers(0, GROUPS, rows)
    vectors_ND = rng.standard_normal((rows, DIM)) + 3 * rng.standard_normal((GROUPS, DIM))[group_N]
    names = [f"/nowhere/{row}.wav" for row in range(rows)]
    points = MapPoints(names, {"0": vectors_ND.astype(np.float32)}, {"group": [f"g{each}" for each in group_N]})
    with served(points) as address:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        begin = time.perf_counter()
        page.goto(address)
        page.wait_for_function("document.getElementById('state').textContent === ''", timeout=120_000)
        page.wait_for_timeout(100)
        result: dict[str, Any] = {"rows": rows, "drawn_ms": round(1000 * (time.perf_counter() - begin))}
        page.wait_for_timeout(3000)
        box = page.locator("#map").bounding_box()
        middle, scale = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2), box["height"] / 2
        places_N2 = Collection(points).positions("0", "pca")
        for gesture in ("point", "zoom", "drag", "lasso"):
            page.mouse.move(*middle)
            if gesture == "lasso":
                page.click("#lasso")
                page.mouse.move(*middle)
            if gesture in ("drag", "lasso"):
                page.mouse.down()
            page.evaluate(FRAMES)
            end, step = time.perf_counter() + seconds, 0
            while time.perf_counter() < end:
                step += 1
                if gesture == "point":
                    x, y = places_N2[step % rows].tolist()
                    page.mouse.move(middle[0] + scale * x, middle[1] - scale * y)
                elif gesture == "zoom":
                    page.mouse.wheel(0, -40 if step % 40 < 20 else 40)
                else:
                    page.mouse.move(middle[0] + 2 * (step % 100), middle[1] + step % 50)
            frames = page.evaluate("() => { cancelAnimationFrame(window.frame); return window.frames_ms; }")
            page.mouse.up()
            result[gesture] = describe(frames)
            page.wait_for_timeout(1500)
        page.close()
    return result


def measure_sound(browser: Any, folder: Path, files: int, length: float) -> dict[str, Any]:
    """Return milliseconds from the pointer's event to `playing`, by format, of pointing and of clicking."""
    noise_T2 = 0.05 * np.random.default_rng(0).standard_normal((round(length * RATE), 2))
    names = []
    for form in ("wav", "flac", "mp3"):
        soundfile.write(folder / f"0.{form}", noise_T2, RATE)
        names += [shutil.copy(folder / f"0.{form}", folder / f"{index}.{form}") for index in range(1, 1 + 2 * files)]
    angle_N = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    around_N2 = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1).astype(np.float32)
    points = MapPoints([str(name) for name in names], {"0": around_N2})
    result: dict[str, Any] = {"seconds": length}
    with served(points) as address:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.add_init_script(SOUND)
        page.goto(address)
        page.wait_for_function("document.getElementById('state').textContent === ''", timeout=120_000)
        page.click("#hover-sound", click_count=2)  # a browser plays nothing before the first click
        box = page.locator("#map").bounding_box()
        places_N2 = Collection(points).positions("0", "pca")
        for gesture in ("point", "click"):
            delays: dict[str, list[float]] = {}
            for index in range(files):
                for number, form in enumerate(("wav", "flac", "mp3")):
                    x, y = places_N2[number * 2 * files + index + (files if gesture == "click" else 0)].tolist()
                    x, y = box["x"] + box["width"] / 2 + box["height"] / 2 * x, box["y"] + box["height"] / 2 * (1 - y)
                    page.evaluate("() => { for (const each of window.sounds) each.pause(); window.delay = null; }")
                    page.mouse.move(x, y)
                    if gesture == "click":
                        page.mouse.click(x, y)
                    page.wait_for_function("window.delay !== null")
                    delays.setdefault(form, []).append(page.evaluate("window.delay"))
                    page.mouse.move(box["x"] + 3, box["y"] + 3)
                    page.wait_for_timeout(200 if gesture == "point" else 3000)  # until the waveform is there
            result[gesture] = {form: describe(each) for form, each in delays.items()}
        page.close()
    return result


def describe(values_ms: list[float]) -> dict[str, float]:
    """Return how many values there are, their median, their 95th percentile and the largest, in milliseconds."""
    p95 = float(np.percentile(values_ms, 95))
    return {
        "count": len(values_ms),
        "median_ms": round(statistics.median(values_ms), 1),
        "p95_ms": round(p95, 1),
        "max_ms": round(max(values_ms), 1),
    }


def main() -> None:
    """Measure and write JSON."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each gesture")
    parser.add_argument("--files", type=int, default=5, help="of each format and gesture")
    parser.add_argument("--length", type=float, default=240, help="of the recordings, in seconds (default 240)")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        facts = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "load": round(os.getloadavg()[0], 1),
            "browser": f"Chromium {browser.version}, SwiftShader",
        }
        result = {**facts, "frames": [measure_frames(browser, rows, options.seconds) for rows in options.rows]}
        with tempfile.TemporaryDirectory() as folder:
            result["sound"] = measure_sound(browser, Path(folder), options.files, options.length)
        browser.close()
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
