"""The pages of a served leaderboard in a real browser: nothing that the policy forbids, hostile names stay text."""

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
