"""Pre-training: recipes, corpora, targets, objective, loop. The package is callable as `pretrain.run.pretrain`."""

import sys

from carrara.core.catalogue import CallablePackage

CALL = "carrara.pretrain.run:pretrain"
sys.modules[__name__].__class__ = CallablePackage
