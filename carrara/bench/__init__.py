"""Benchmarking: tasks, task types, protocols, records, leaderboard. The package is callable as `bench.run.bench`."""

import sys

from carrara.core.catalogue import CallablePackage

CALL = "carrara.bench.run:bench"
sys.modules[__name__].__class__ = CallablePackage
