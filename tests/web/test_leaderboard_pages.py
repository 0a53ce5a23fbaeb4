"""The pages of a served leaderboard in a real browser: nothing that the policy forbids, hostile names stay text."""

import json
import shutil

import pytest

from carrara.web.leaderboard.database import add_token, open_database
from carrara.web.leaderboard.submit import submit_records

HOSTILE = '<img src=x onerror="window.broken=1">'


@pytest.mark.web
@pytest.mark.slow
def test_submitted_records_appear_and_no_page_breaks_the_policy(serve, write_genre_record, tmp_path, browser):
    url = f"sqlite:///{tmp_path}/l.db"
    token = add_token(open_database(url), "ada", "submit")
    names = ("good", "fair", HOSTILE)
    paths = [write_genre_record(tmp_path, name, skill) for name, skill in zip(names, (0.9, 0.5, 0.2))]
    messages = []
    with serve(url) as (address, _):
        page = browser.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        assert all(result.outcome == "accepted" for result in submit_records(paths, address, token))
        for _ in range(60):
            page.goto(f"{address}/")
            if page.locator("tbody tr").count() == len(paths):
                break
            page.wait_for_timeout(500)
        assert page.locator("tbody tr").count() == len(paths)
        assert page.get_by_role("link", name=HOSTILE).count() == 1
        messages.clear()  # of pages that were replaced while they loaded
        for fragment in ("", "system/good", "task/pebble%2Fgenre", "compare", "cost"):
            page.goto("about:blank")
            page.goto(f"{address}/#/{fragment}")
            page.wait_for_selector("main h1")
        assert page.evaluate("window.broken") is None
        page.close()
    assert messages == []


@pytest.mark.web
@pytest.mark.slow
def test_records_are_submitted_in_the_page(serve, write_genre_record, tmp_path, browser):
    url = f"sqlite:///{tmp_path}/l.db"
    token = add_token(open_database(url), "ada", "submit")
    paths = [write_genre_record(tmp_path, name, skill) for name, skill in (("good", 0.9), (HOSTILE, 0.5))]
    changed = json.loads(paths[1].read_text())
    score = next(iter(changed["scores"].values()))
    score["value"] = score["value"] / 2
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(changed))
    shutil.copy(paths[1].with_suffix(".predictions.parquet"), wrong.with_suffix(".predictions.parquet"))
    alone = tmp_path / "alone.json"
    shutil.copy(paths[0], alone)
    errors = []
    with serve(url) as (address, _):
        page = browser.new_page(viewport={"width": 380, "height": 800})
        page.on("pageerror", lambda error: errors.append(str(error)))
        for _ in range(60):
            if page.goto(f"{address}/").status == 200:
                break
            page.wait_for_timeout(500)
        page.get_by_role("link", name="Submit").click()
        page.wait_for_selector("h1:has-text('Submit records')")
        status = page.locator("#status")

        def submit(with_token, *files):
            page.locator("#token").fill(with_token)
            page.locator("#files").set_input_files([str(file) for file in files])
            page.get_by_role("button", name="Submit").click()
            page.locator("#submit:not([disabled])").wait_for()
            return page.locator("#outcomes tbody tr").all_inner_texts()

        both = [paths[0], paths[0].with_suffix(".predictions.parquet")]
        assert submit("carrara_wrong", *both) == []
        assert "not one of this leaderboard" in status.inner_text()
        assert submit("kein Token", *both) == []
        assert "no token" in status.inner_text()
        assert submit(token) == []
        assert "Choose records" in status.inner_text()
        (accepted,) = submit(token, *both)
        assert "accepted" in accepted
        (again,) = submit(token, *both)
        assert "duplicate" in again
        lines = submit(token, alone, wrong, wrong.with_suffix(".predictions.parquet"))
        assert "left out" in lines[0]
        assert "refused: scores:" in lines[1]
        assert status.inner_text() == "1 left out, 1 refused."
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for _ in range(60):
            page.goto(f"{address}/")
            if page.locator("tbody tr").count() == 1:
                break
            page.wait_for_timeout(500)
        assert page.locator("tbody tr").count() == 1
        page.close()
    assert errors == []
