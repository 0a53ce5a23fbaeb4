"""The scripts of benchmarks/ as modules."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def script(request):
    """Return the script of benchmarks/ that a test module names in SCRIPT."""
    name = request.module.SCRIPT
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / f"benchmarks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
