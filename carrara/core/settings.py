"""Settings: frozen, typed, changed by dotted path; unknown keys are refused with similar names.

`replace(recipe, {"masking.mask_length": 5})` and `--set masking.mask_length=5` do the same. The resolved settings are
saved beside the results, and their canonical JSON is hashed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from carrara.core.errors import UsageError, did_you_mean
from carrara.core.strict_json import parse_json

MAX_LISTED = 12  # settings in a message about an unknown one


class Settings(BaseModel):
    """Base class of all settings: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())


S = TypeVar("S", bound=Settings)


def parse_settings(kind: type[S], values: Mapping[str, Any], source: str) -> S:
    """Return `values` as settings of the class `kind`.

    Raises:
        UsageError: a key is unknown or a value invalid; the message names `source`, the key and the cure.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as problem:
        raise UsageError(f"{source}: {_explain(problem, _skeleton(kind))}") from None


def replace(settings: S, changes: Mapping[str, Any], source: str = "--set") -> S:
    """Return the settings with the values at the given dotted paths changed.

    Raises:
        UsageError: a path does not exist (the message suggests similar ones) or a value is invalid.
    """
    tree = settings.model_dump()
    change_tree(tree, changes, source)
    return parse_settings(type(settings), tree, source)


def change_tree(tree: dict[str, Any], changes: Mapping[str, Any], source: str = "--set") -> None:
    """Change settings by dotted path in their tree, in place; the values are not looked at.

    Raises:
        UsageError: a path does not exist; the message suggests similar ones.
    """
    known = list(iter_paths(tree))
    for path, value in changes.items():
        *branch, leaf = path.split(".")
        node: Any = tree
        for key in branch:
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            hint = did_you_mean(path, known)
            if not hint and known and len(known) <= MAX_LISTED:
                hint = f" The settings: {', '.join(known)}."
            raise UsageError(f"{source}: there is no setting {path!r}.{hint}")
        node[leaf] = value


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Return `["a.b=1", "c=x"]` as `{"a.b": 1, "c": "x"}`; a value that is not JSON is a string.

    Raises:
        UsageError: an assignment has no `=`.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text!r}: write it as path=value, for example --set masking.mask_length=5")
        try:
            changes[path.strip()] = parse_json(value, allow_nan=True)
        except ValueError:
            changes[path.strip()] = value
    return changes


def iter_paths(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every value in a nested mapping, branches first."""
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from iter_paths(value, f"{prefix}{key}.")


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
        return f"unknown key {path!r}.{did_you_mean(path, iter_paths(skeleton))}"
    is_own = first["type"] == "value_error"  # with a message of this package
    message = str(first["msg"]).removeprefix("Value error, ") if is_own else str(first["msg"]).lower()
    # A validator of several settings has no path of its own; its message names them.
    if not path:
        return message
    given = repr(first.get("input"))
    return f"{path}: {message}" + (f" (given {given})" if len(given) < 60 and given not in message else "")
