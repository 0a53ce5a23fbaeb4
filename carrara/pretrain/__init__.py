"""Pre-training: recipes, corpora, targets, objective, loop. The package is callable as `pretrain.run.pretrain`."""

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from carrara.pretrain.run import pretrain

        return pretrain(*arguments, **options)


sys.modules[__name__].__class__ = _CallableModule
