"""Benchmarking: tasks, task types, protocols, records, leaderboard. The package is callable as `bench.run.bench`."""

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from carrara.bench.run import bench

        return bench(*arguments, **options)


sys.modules[__name__].__class__ = _CallableModule
