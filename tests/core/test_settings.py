"""Settings: frozen, changed by path, unknown keys named with the nearest valid one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from carrara.core.errors import UsageError
from carrara.core.settings import Settings, assignments, parse_settings, replace


class Masking(Settings):
    span: int = Field(default=10, ge=1)
    probability: float = 0.8


class Recipe(Settings):
    name: str = "x"
    masking: Masking = Masking()


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Recipe().name = "y"


def test_replace_by_path_changes_that_value_only():
    changed = replace(Recipe(), {"masking.mask_length": 5})
    assert changed == Recipe(masking=Masking(span=5))
    assert Recipe().masking.mask_length == 10


@pytest.mark.parametrize("path", ["masking.spam", "maskin.span", "masking.mask_length.deep", "nmae"])
def test_an_unknown_path_is_named_with_the_nearest(path):
    with pytest.raises(UsageError, match=f"no setting '{path}'.*Did you mean"):
        replace(Recipe(), {path: 1})


def test_an_unknown_key_in_a_file_is_named_with_the_nearest():
    with pytest.raises(UsageError, match=r"config.json: unknown key 'masking.spann'.*'masking.mask_length'"):
        parse_settings(Recipe, {"masking": {"spann": 3}}, "config.json")


def test_a_value_that_does_not_fit_is_named():
    with pytest.raises(UsageError, match="masking.mask_length: .*given 0"):
        replace(Recipe(), {"masking.mask_length": 0})
    with pytest.raises(UsageError, match="masking.mask_length"):
        replace(Recipe(), {"masking.mask_length": "many"})


def test_assignments_without_equals_are_refused():
    with pytest.raises(UsageError, match="path=value"):
        assignments(["masking.mask_length"])


@given(st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False), st.lists(st.integers()), st.none()))
def test_assignments_read_json_values(value):
    assert assignments([f"a.b={json.dumps(value)}"]) == {"a.b": value}


@given(st.text(alphabet="abcxyz =/.", min_size=1))
def test_assignments_take_anything_else_as_text(text):
    assert assignments([f"key={text}"])["key"] == text
