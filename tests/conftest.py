"""The marker `needs_fixtures`: tests of official annotations, which are not distributed with this repository."""

from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"


def pytest_collection_modifyitems(items):
    """Skip the tests that need the official annotations where these are absent."""
    if FIXTURES.is_dir():
        return
    skip = pytest.mark.skip(reason=f"needs official annotations, which are not in {FIXTURES}")
    for item in items:
        if item.get_closest_marker("needs_fixtures"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def any_width(monkeypatch):
    """Output of commands is as wide as it likes, whatever terminal the tests run in."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def fixtures_dir():
    """The folder of official annotations; for tests with the marker `needs_fixtures`."""
    return FIXTURES
