"""The marker `needs_fixtures`: tests of official annotations, which are not distributed with this repository."""

from pathlib import Path

import pytest
import torch

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


@pytest.fixture(autouse=True)
def same_threads():
    """A test that changes the number of threads, as `embed --threads` does, changes it for itself only."""
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def fixtures_dir():
    """The folder of official annotations; for tests with the marker `needs_fixtures`."""
    return FIXTURES
