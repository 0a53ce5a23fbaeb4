"""The explorer in a real browser: map, keys, sound, neighbours, search by a dropped file, labels, probe, widths."""

import threading
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
import uvicorn

from carrara.features.embedding_map import MapPoints
from carrara.web.explorer.app import QueryEncoder, create_explorer
from carrara.web.explorer.collection import Collection
from carrara.web.listen import bind_socket, format_url

pytestmark = [pytest.mark.web, pytest.mark.slow]
RATE = 8000


@contextmanager
def served(points, queries=None):
    """Serve an explorer in a thread; yield its address."""
    listener = bind_socket("127.0.0.1", 0)
    app = create_explorer(Collection(points), "music", queries)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield format_url(listener)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("music"), np.random.default_rng(0)
    names = [str(folder / f"song {row}.wav") for row in range(20)]
    for name in names[:-1]:
        soundfile.write(name, 0.1 * rng.standard_normal(2 * RATE), RATE)
    layers = {name: rng.standard_normal((20, 5)).astype(np.float32) for name in ("0", "1")}
    points = MapPoints(names, layers, {"genre": ["rock", "<b>jazz</b>"] * 10}, [None] * 20)
    queries = QueryEncoder(lambda path, layer: layers[layer][19 if path.read_bytes() == b"moved" else 3])
    with served(points, queries) as address:
        yield address


@pytest.fixture
def open_page(browser, address):
    """Open the page; the test fails if a script does, or if anything is loaded from elsewhere."""
    problems, pages = [], []

    def opened(width=1400, scheme="light", base=address):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda each: each.url.startswith((base, "blob:", "data:")) or problems.append(each.url))
        page.goto(base)
        page.wait_for_function("document.getElementById('state').textContent === ''")
        return page

    yield opened
    for page in pages:
        page.close()
    assert not problems


def test_keys_choose_play_and_list_neighbours(open_page):
    page = open_page()
    assert "20 recordings" in page.inner_text("h1") and "<b>jazz</b> (10)" in page.inner_text("#legend")
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#list button")
    assert page.locator("#list button").count() == 12
    page.wait_for_function("document.getElementById('play').textContent === 'Pause'")  # it plays
    first = page.inner_text("#name")
    page.click("#list button >> nth=0")
    page.wait_for_function("(name) => document.getElementById('name').textContent !== name", arg=first)
    page.fill("#layer", "0")
    page.wait_for_function("document.getElementById('layer-name').textContent === '0'")
    page.click("#path-start")
    page.click("#list button >> nth=3")
    page.wait_for_function("document.getElementById('list-title').textContent.startsWith('Path')")


def test_a_dropped_file_is_looked_for_and_moved_audio_is_said(open_page, tmp_path):
    page = open_page()
    page.set_input_files("#file", {"name": "query.wav", "mimeType": "audio/wav", "buffer": b"RIFF"})
    page.wait_for_function("document.querySelector('#list small')?.textContent === '1.000'")
    assert page.inner_text("#list button >> nth=0").startswith("song 3")
    page.set_input_files("#file", {"name": "moved.wav", "mimeType": "audio/wav", "buffer": b"moved"})
    page.wait_for_function("document.querySelector('#list span')?.textContent === 'song 19'")
    page.click("#list button >> nth=0")
    page.wait_for_selector("#moved:not([hidden])")
    assert "--audio FOLDER" in page.inner_text("#moved") and page.locator("#play").is_disabled()


def test_select_label_train_and_save(open_page):
    page = open_page()
    for count, label in ((3, "calm"), (3, "loud")):
        for _ in range(count):
            page.focus("#map")
            page.keyboard.press("ArrowRight" if label == "calm" else "ArrowLeft")
            page.keyboard.press("Enter")
            page.wait_for_selector("#select-chosen:enabled")
            page.click("#select-chosen")
            page.wait_for_selector("#apply:enabled")
            page.fill("#label", label)
            page.keyboard.press("Enter")
    page.click("#train")
    page.wait_for_function("document.getElementById('probe-state').textContent.startsWith('Logistic')")
    assert page.locator("#probe button").count() > 0
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.path().read_text().startswith("path,label\n/")


# The sum of all layout shifts since the page was opened.
SHIFTS = """() => new Promise((done) => {
  let sum = 0;
  const add = (list) => { for (const each of list.getEntries()) sum += each.value; };
  new PerformanceObserver(add).observe({ type: "layout-shift", buffered: true });
  setTimeout(() => done(sum), 200);
})"""


@pytest.mark.parametrize("width, scheme", [(380, "light"), (1400, "dark")])
def test_nothing_shifts_or_scrolls_sideways(open_page, width, scheme):
    page = open_page(width, scheme)
    assert page.evaluate(SHIFTS) < 0.01
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#text-control").is_hidden()


def test_points_have_the_colours_of_the_legend(open_page):
    page = open_page()
    colours = page.evaluate(
        "() => { const canvas = document.getElementById('points'), copy = document.createElement('canvas');"
        " [copy.width, copy.height] = [canvas.width, canvas.height];"
        " const context = copy.getContext('2d'); context.drawImage(canvas, 0, 0);"
        " const data = context.getImageData(0, 0, copy.width, copy.height).data, seen = new Set();"
        " for (let at = 0; at < data.length; at += 4)"
        "   if (data[at + 3] > 220) seen.add([...data.slice(at, at + 3)].map((each) => Math.round(each / 16)).join());"
        " return [...seen]; }"
    )
    blue, orange = ([0x00, 0x72, 0xB2], [0xE6, 0x9F, 0x00])
    for colour in (blue, orange):
        assert any(
            all(abs(16 * int(part) - value) <= 24 for part, value in zip(each.split(","), colour)) for each in colours
        ), colours


def test_an_error_while_the_page_opens_is_said(browser, address):
    page = browser.new_page()
    page.route("**/api/info", lambda each: each.fulfill(status=500, json={"error": "the table is gone"}))
    page.goto(address)
    page.wait_for_function("document.getElementById('opening').textContent === 'the table is gone'")
    assert page.locator("#content").is_hidden()
    page.close()


def test_a_drawn_selection_and_the_sound_under_the_pointer(open_page):
    page = open_page()
    box = page.locator("#map").bounding_box()
    page.click("#lasso")
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    for x, y in ((0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.03)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=12)
    page.mouse.up()
    page.wait_for_function("document.getElementById('selection').textContent.startsWith('20 selected')")
    page.wait_for_selector("#lasso[aria-pressed=false]")
    page.mouse.move(box["x"] + 1, box["y"] + 1)
    x, y = page.evaluate(
        "async () => [...new Float32Array(await (await fetch('/api/points?layer=1')).arrayBuffer())].slice(14, 16)"
    )
    scale = box["height"] / 2  # of ±1, around the middle
    with page.expect_request("**/audio/7"):
        page.mouse.move(box["x"] + box["width"] / 2 + scale * x, box["y"] + scale * (1 - y))
    page.wait_for_function("document.getElementById('hovered').textContent.startsWith('song 7')")


PICTURE = "document.getElementById('points').toDataURL()"


def test_points_drawn_in_parts_give_the_picture_of_all(open_page):
    rng, count = np.random.default_rng(1), 30_000  # more than the first part of a frame
    names = [f"/nowhere/{row}.wav" for row in range(count)]
    vectors_ND = rng.standard_normal((count, 2)).astype(np.float32)
    with served(MapPoints(names, {"0": vectors_ND}, {"group": [str(row % 3) for row in range(count)]})) as base:
        page = open_page(base=base)
        box = page.locator("#map").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        before = page.evaluate(PICTURE)
        page.mouse.wheel(0, -300)
        page.wait_for_function(
            "(before) => document.getElementById('points').dataset.drawn === '30000' && " + PICTURE + " !== before",
            arg=before,
        )
        in_parts = page.evaluate(PICTURE)
        page.select_option("#colour", "")  # draws all in one frame, in the same view
        page.wait_for_function("(before) => " + PICTURE + " !== before", arg=in_parts)
        page.select_option("#colour", "group")
        page.wait_for_function("(before) => " + PICTURE + " === before", arg=in_parts)
        page.close()


@pytest.mark.parametrize("form", ["wav", "flac", "mp3"])
def test_sound_begins_before_the_file_is_loaded(open_page, tmp_path, form):
    path, held = tmp_path / f"0.{form}", []
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((20 * 44100, 2)), 44100)
    with served(MapPoints([str(path)] * 3, {"0": np.eye(3, dtype=np.float32)})) as base:
        page = open_page(base=base)
        # The waveform needs the whole file and gets none of it; what plays asks for ranges.
        page.route(
            "**/audio/*", lambda each: held.append(each) if each.request.resource_type == "fetch" else each.continue_()
        )
        with page.expect_request(lambda each: each.resource_type == "fetch" and "/audio/" in each.url):
            with page.expect_response(lambda each: "/audio/" in each.url) as response:
                page.focus("#map")
                page.keyboard.press("Enter")
            assert response.value.status == 206
        assert page.inner_text("#play") == "Pause"
        page.close()
    assert held
