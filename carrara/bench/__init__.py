"""Question an encoder: tasks, answers, metrics, protocols, records, the board. Callable: see `carrara.bench.run`."""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from carrara.bench.run import bench

        return bench(*arguments, **options)


sys.modules[__name__].__class__ = _Room
