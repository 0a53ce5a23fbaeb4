"""Kinds of answer: one public file = one kind, which defines `ANSWER`."""

from carrara.core.registry import Shelf

SHELF = Shelf("kind of answer", "carrara.bench.answers", "ANSWER")
