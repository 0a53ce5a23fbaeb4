"""What every file of every shelf keeps: it imports, defines its one name, and says what it is."""

import pytest

from carrara.bench.suites import SUITES
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.bench.task_types._base import TaskType
from carrara.bench.tasks import REGISTRY as TASKS
from carrara.bench.tasks import task
from carrara.cli._registries import REGISTRIES
from carrara.core.task import Task
from carrara.data import REGISTRY as DATA
from carrara.data._base import Dataset

EVERY = [(word, name) for word, shelf in REGISTRIES.items() for name in shelf.names()]


@pytest.mark.parametrize(("word", "name"), EVERY)
def test_it_imports_and_says_what_it_is(word, name):
    entry = REGISTRIES[word].entry(name)
    assert REGISTRIES[word].get(name) is not None
    assert 10 <= len(entry.summary) <= 110
    assert len(entry.text.splitlines()) >= 3 or word == "protocols"


def test_no_shelf_is_empty():
    assert {word for word, _ in EVERY} == set(REGISTRIES)


@pytest.mark.parametrize("name", TASKS.names())
def test_a_task_names_things_that_exist(name):
    row = task(name)
    assert isinstance(row, Task)
    assert row.name == name
    assert row.dataset in DATA.names()
    assert row.task_type in TASK_TYPES.names()
    assert len(set(row.labels)) == len(row.labels) >= 1
    assert not set(row.metrics) & set(row.extra_metrics)


@pytest.mark.parametrize("name", TASK_TYPES.names())
def test_an_answer_is_an_answer(name):
    assert isinstance(TASK_TYPES.get(name), TaskType)


@pytest.mark.parametrize("name", DATA.names())
def test_a_dataset_states_licence_source_and_citation(name):
    dataset = DATA.get(name)
    assert isinstance(dataset, Dataset)
    assert dataset.name == name
    assert dataset.license
    assert dataset.source
    assert dataset.citation


@pytest.mark.parametrize("name", list(SUITES))
def test_a_suite_lists_tasks_that_exist(name):
    assert set(SUITES[name].tasks) <= set(TASKS.names())
    assert len(set(SUITES[name].tasks)) == len(SUITES[name].tasks)
