"""Every registered file imports, defines its object and documents it."""

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

ENTRIES = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_it_imports_and_is_documented(kind, name):
    entry = REGISTRIES[kind].get_entry(name)
    assert REGISTRIES[kind].get(name) is not None
    assert 10 <= len(entry.summary) <= 120
    assert len(entry.text.splitlines()) >= 3 or kind == "protocols"


def test_no_registry_is_empty():
    assert {kind for kind, _ in ENTRIES} == set(REGISTRIES)


@pytest.mark.parametrize("name", TASKS.names())
def test_a_task_names_things_that_exist(name):
    resolved = task(name)
    assert isinstance(resolved, Task)
    assert resolved.name == name
    assert resolved.dataset in DATA.names()
    assert TASK_TYPES.get_entry(resolved.task_type)
    assert len(set(resolved.labels)) == len(resolved.labels) >= 1
    assert not set(resolved.metrics) & set(resolved.extra_metrics)


@pytest.mark.parametrize("name", TASK_TYPES.names())
def test_a_task_type_is_registered_as_one(name):
    assert isinstance(TASK_TYPES.get(name), TaskType)


@pytest.mark.parametrize("name", DATA.names())
def test_a_dataset_has_a_licence_source_and_citation(name):
    dataset = DATA.get(name)
    assert isinstance(dataset, Dataset)
    assert dataset.name == name
    assert dataset.license
    assert dataset.source
    assert dataset.citation
    assert "no clips" in dataset.comparability("x", 0, 0) or "partial (0 of" in dataset.comparability("x", 0, 0)


@pytest.mark.parametrize("name", list(SUITES))
def test_a_suite_lists_tasks_that_exist(name):
    assert set(SUITES[name].tasks) <= set(TASKS.names())
    assert len(set(SUITES[name].tasks)) == len(SUITES[name].tasks)


def test_tasks_of_one_name_have_one_category_on_all_datasets():
    categories = {}
    for name in TASKS.names():
        categories.setdefault(name.split("/")[1].split("-v")[0], set()).add(task(name).category)
    assert {name: each for name, each in categories.items() if len(each) > 1} == {}
