"""Settings: frozen, typed, with one place for defaults; changed by dotted path; unknown keys refused by name.

`replace(recipe, {"masking.mask_length": 5})` and `--set masking.mask_length=5` do the same thing. The resolved settings are saved
beside what they made, and their canonical JSON is what gets hashed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from carrara.core.errors import UsageError, did_you_mean


class Settings(BaseModel):
    """Base of everything that can be set: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())


S = TypeVar("S", bound=Settings)


def parse_settings(kind: type[S], values: Mapping[str, Any], source: str) -> S:
    """Return `values` as settings of the given kind.

    Raises:
        UsageError: a key is unknown or a value does not fit; the message names `source`, the key and the cure.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as problem:
        raise UsageError(f"{source}: {_explain(problem, _skeleton(kind))}") from None


def replace(settings: S, changes: Mapping[str, Any], source: str = "--set") -> S:
    """Return the settings with the values at the given dotted paths changed.

    Raises:
        UsageError: a path that does not exist (the near ones are offered) or a value that does not fit.
    """
    tree = settings.model_dump()
    known = list(paths(tree))
    for path, value in changes.items():
        *branch, leaf = path.split(".")
        node: Any = tree
        for key in branch:
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            raise UsageError(f"{source}: there is no setting {path!r}.{did_you_mean(path, known)}")
        node[leaf] = value
    return parse_settings(type(settings), tree, source)


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Return `["a.b=1", "c=x"]` as `{"a.b": 1, "c": "x"}`; a value that is not JSON is taken as text.

    Raises:
        UsageError: a text without `=`.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text!r}: write it as path=value, for example --set masking.mask_length=5")
        try:
            changes[path.strip()] = json.loads(value)
        except json.JSONDecodeError:
            changes[path.strip()] = value
    return changes


def paths(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every value in a nested mapping, branches first."""
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from paths(value, f"{prefix}{key}.")


def _skeleton(kind: type[BaseModel]) -> dict[str, Any]:
    fields = kind.model_fields
    return {
        name: _skeleton(field.annotation)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        else None
        for name, field in fields.items()
    }


def _explain(problem: ValidationError, skeleton: dict[str, Any]) -> str:
    first = problem.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {path!r}.{did_you_mean(path, paths(skeleton))}"
    # A rule over several settings has no path of its own, and says itself which they are.
    if not path:
        return str(first["msg"]).removeprefix("Value error, ")
    given = repr(first.get("input"))
    return f"{path}: {first['msg'].lower()}" + (f" (given {given})" if len(given) < 60 else "")
