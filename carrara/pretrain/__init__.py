"""Teach an encoder: targets, objective, stream, loop, recipes. Callable: see `carrara.pretrain.run`."""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from carrara.pretrain.run import pretrain

        return pretrain(*arguments, **options)


sys.modules[__name__].__class__ = _Room
