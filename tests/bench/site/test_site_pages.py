"""The site in a real browser, opened from a folder and from a server: sort, filter, search, columns, pages, widths."""

import functools
import re
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from carrara.bench.site.write import write_site
from carrara.core.record import read_records

pytestmark = [pytest.mark.web, pytest.mark.slow]
BOARD = "?board=pebble-constrained"
PAGES = tuple(f"#/{page}{BOARD}" for page in ("", "system/good", "task/pebble%2Fkey", "compare", "cost"))
PEBBLE = f"#/{BOARD}"
HOSTILE = '<img src=x onerror="window.broken=1">\u202e'
# Relative luminance and contrast as WCAG 2 defines them.
CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((each) => each / 255)
    .map((each) => (each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
  const luminance = (text) => { const [r, g, b] = channels(text); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const background = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (!/rgba\\(.*, 0\\)|transparent/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return Math.min(...[...document.querySelectorAll("main p, main a, main td, main th, main small, main label, nav a")]
    .filter((node) => node.textContent.trim() && node.offsetParent).map((node) => {
      const [low, high] = [luminance(getComputedStyle(node).color), luminance(background(node))].sort((a, b) => a - b);
      return (high + 0.05) / (low + 0.05);
    }));
}"""

# The sum of all layout shifts since the page was opened.
SHIFTS = """() => new Promise((done) => {
  let sum = 0;
  const add = (list) => { for (const each of list.getEntries()) sum += each.value; };
  new PerformanceObserver(add).observe({ type: "layout-shift", buffered: true });
  setTimeout(() => done(sum), 200);
})"""


@pytest.fixture(scope="module")
def site(site_results, write_record_of, tmp_path_factory):
    results = tmp_path_factory.mktemp("copy") / "results"
    shutil.copytree(site_results[0], results)
    write_record_of(results, HOSTILE, "pebble/key", 0.2)
    folder = tmp_path_factory.mktemp("site")
    write_site(folder, list(read_records(results)), results)
    return folder


@pytest.fixture
def open_page(browser, site):
    """Open an address of the site; the test fails if the page raises an error or loads anything from elsewhere."""
    problems, contexts = [], []

    def opened(fragment="", width=1400, scheme="light", base=None):
        base = base or f"file://{site}/"
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request", lambda request: request.url.startswith((base, "file:", "data:")) or problems.append(request.url)
        )
        page.goto(f"{base}index.html{fragment}")
        page.wait_for_selector("main h1")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems


def system_names(page):
    return [text.split(" not rerun")[0] for text in page.locator("tbody th.name").all_inner_texts()]


def test_sort_by_a_column_and_back(open_page):
    page = open_page(PEBBLE)
    assert system_names(page)[:3] == ["good", "fair", "poor"]
    header = page.locator('[data-sort="pebble/key"]')
    header.click()
    assert "sort=pebble%2Fkey" in page.url
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    header.press("Enter")
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    assert system_names(page)[1:] == ["poor", "fair", "good"]
    page.reload()
    assert system_names(page)[1:] == ["poor", "fair", "good"]


def test_search_and_filters_and_the_empty_state(open_page):
    page = open_page(PEBBLE)
    page.locator("#search").fill("NC-4")
    assert system_names(page) == ["fair"] and "q=NC-4" in page.url
    page.locator("#search").fill("no such system")
    assert "No system passes" in page.locator("main").inner_text()
    page.get_by_role("button", name="Clear").click()
    page.wait_for_selector("tbody tr")
    page.locator("#license").select_option("MIT")
    assert system_names(page) == ["good", "poor"]
    page.locator("#size").select_option("10000000")
    assert system_names(page) == ["good"]
    page.locator("#license").select_option("")
    page.locator("#size").select_option("")
    page.locator("#speed").select_option("1")
    assert system_names(page) == ["poor"] and "speed=1" in page.url
    page.locator("#speed").select_option("100")
    assert "No system passes" in page.locator("main").inner_text()
    page.locator("#speed").select_option("")
    page.locator("#data").select_option("none")
    assert "good" not in system_names(page) and "fair" in system_names(page)
    assert page.locator("#count").inner_text().startswith("3 of 4")


def test_columns_are_kept_in_the_address(open_page):
    page = open_page(PEBBLE)
    page.locator("#columns summary").click()
    page.locator('[data-column="pebble/key"]').uncheck()
    page.locator('[data-column="parameters"]').check()
    url = page.url
    page.goto("about:blank")
    page.goto(url)
    page.wait_for_selector("tbody tr")
    columns = page.locator("[data-sort]").evaluate_all("nodes => nodes.map((node) => node.dataset.sort)")
    assert "pebble/key" not in columns and "parameters" in columns and "pebble/genre" in columns
    assert "90 M" in page.locator("tbody tr", has_text="fair").inner_text()


def test_published_systems_are_marked_and_can_be_hidden(open_page):
    page = open_page("#/?board=marble-14-constrained")
    row = page.locator("tbody tr", has_text="MERT-v1-330M")
    assert "not rerun" in row.inner_text() and "‡" in row.inner_text()
    page.locator("#published").uncheck()
    assert system_names(page) == ["fair"]


def test_a_cell_opens_its_record(open_page, site):
    page = open_page(PEBBLE)
    link = page.locator("tbody tr", has_text="good").locator('a[title*="pebble/key"]')
    assert "in-domain" in link.get_attribute("title")
    target = link.evaluate("node => decodeURIComponent(node.href)")
    assert (site / target.removeprefix(f"file://{site}/")).is_file()


def test_system_and_task_pages(open_page):
    page = open_page(PEBBLE)
    page.get_by_role("link", name="good", exact=True).click()
    page.get_by_role("heading", name="Layer by layer").wait_for()
    text = page.locator("main").inner_text()
    assert "5.0 M" in text and "noise:20db" in text and "(-20.0)" in text and "60.0 s" in text
    assert page.locator('svg[aria-label*="Layers of good on pebble/key"] polyline').count() == 1
    page.go_back()
    page.get_by_role("link", name="page of pebble/key").click()
    page.get_by_role("heading", name="pebble/key").wait_for()
    page.get_by_role("region", name="Scores by class").wait_for()
    assert page.get_by_role("region", name="Scores by class").locator("tbody tr").count() == 3
    assert page.get_by_role("region", name="Best layer by system").locator("tbody tr").count() == 4
    hardest = page.get_by_role("region", name="Hardest clips").locator("tbody tr")
    assert hardest.count() == 10 and "clip-" in hardest.first.inner_text()


def test_compare_turns_round(open_page):
    page = open_page("#/compare?board=pebble-constrained&a=good&b=poor")
    page.wait_for_selector("#verdict")
    assert "good is better on 4" in page.locator("#verdict").inner_text()
    page.locator("#first").select_option("poor")
    page.wait_for_function("document.querySelector('h1').textContent === 'poor against good'")
    page.wait_for_selector("#verdict")
    assert "poor is better on 0, worse on 4" in page.locator("#verdict").inner_text()
    assert page.locator("td", has_text=re.compile("^worse$")).count() == 4


def test_cost_by_keyboard(open_page):
    page = open_page("#/cost?board=pebble-constrained")
    assert page.locator("svg a").count() == 3
    page.locator("#task").focus()
    page.keyboard.press("Tab")
    assert "good" in page.locator("#tip").inner_text()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Card").wait_for()


def test_names_from_files_are_text(open_page):
    page = open_page(PEBBLE)
    assert "\\u202e" in page.locator("tbody").inner_text() and "\u202e" not in page.content()
    page.get_by_role("link", name="<img src").click()
    page.get_by_role("heading", name="Card").wait_for()
    assert page.locator("h1").inner_text().startswith("<img src=x onerror")
    assert page.evaluate("window.broken") is None and page.locator("main img").count() == 0


@pytest.mark.parametrize("width, scheme", [(380, "dark"), (1400, "light")])
def test_pages_fit_the_width_and_have_contrast(open_page, width, scheme):
    page = open_page("", width, scheme)
    for fragment in PAGES:
        page.evaluate("fragment => { location.hash = fragment; }", fragment)
        page.wait_for_function("!document.querySelector('.state')")
        excess = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert excess <= 0, fragment
        assert page.evaluate(CONTRAST) >= 4.5, fragment
    page.set_viewport_size({"width": 800, "height": 600})
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@pytest.mark.parametrize("width", [380, 1400])
def test_the_layout_does_not_shift(open_page, width):
    for fragment in PAGES:
        page = open_page(fragment, width)
        page.wait_for_function("!document.querySelector('.state')")
        assert page.evaluate(SHIFTS) < 0.01, fragment


def test_missing_data_and_unknown_addresses_are_said(open_page, site, browser, tmp_path):
    page = open_page("#/system/good")
    page.evaluate("location.hash = '#/system/nobody'")
    page.get_by_role("alert").wait_for()
    assert "There is no system nobody" in page.get_by_role("alert").inner_text()
    copy = tmp_path / "copy"
    shutil.copytree(site, copy, ignore=shutil.ignore_patterns("systems"))
    page.goto(f"file://{copy}/index.html#/system/good")
    page.get_by_role("alert").wait_for()
    assert "missing or damaged" in page.get_by_role("alert").inner_text()
    (copy / "data" / "leaderboard.js").unlink()
    page.reload()
    page.get_by_role("alert").wait_for()
    assert "carrara leaderboard results --site" in page.get_by_role("alert").inner_text()


def test_the_same_from_a_server(open_page, site):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = open_page("#/task/pebble%2Fkey", base=f"http://127.0.0.1:{server.server_port}/")
        page.get_by_role("region", name="Scores by class").wait_for()
    finally:
        server.shutdown()
