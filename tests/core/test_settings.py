"""Settings are frozen, changed by path, and refuse unknown keys with similar names."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator, model_validator

from carrara.core.errors import UsageError
from carrara.core.settings import Settings, parse_assignments, parse_settings, replace


class Masking(Settings):
    mask_length: int = Field(default=10, ge=1)
    mask_prob: float = 0.8


class Recipe(Settings):
    name: str = "x"
    masking: Masking = Masking()


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Recipe().name = "y"


def test_replace_by_path_changes_that_value_only():
    changed = replace(Recipe(), {"masking.mask_length": 5})
    assert changed == Recipe(masking=Masking(mask_length=5))
    assert Recipe().masking.mask_length == 10


@pytest.mark.parametrize("path", ["masking.mask_lenght", "maskin.mask_length", "masking.mask_length.deep", "nmae"])
def test_an_unknown_path_is_refused_with_a_similar_one(path):
    with pytest.raises(UsageError, match=f"no setting '{path}'.*Did you mean"):
        replace(Recipe(), {path: 1})


def test_an_unknown_key_in_a_file_is_refused_with_a_similar_one():
    with pytest.raises(UsageError, match=r"config.json: unknown key 'masking.mask_lengthh'.*'masking.mask_length'"):
        parse_settings(Recipe, {"masking": {"mask_lengthh": 3}}, "config.json")


def test_an_invalid_value_is_refused():
    with pytest.raises(UsageError, match="masking.mask_length: .*given 0"):
        replace(Recipe(), {"masking.mask_length": 0})
    with pytest.raises(UsageError, match="masking.mask_length"):
        replace(Recipe(), {"masking.mask_length": "many"})


def test_assignments_without_equals_are_refused():
    with pytest.raises(UsageError, match="path=value"):
        parse_assignments(["masking.mask_length"])


@given(st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False), st.lists(st.integers()), st.none()))
def test_assignments_read_json_values(value):
    assert parse_assignments([f"a.b={json.dumps(value)}"]) == {"a.b": value}


@given(st.text(alphabet="abcxyz =/.", min_size=1))
def test_assignments_take_anything_else_as_a_string(text):
    assert parse_assignments([f"key={text}"])["key"] == text


class Checked(Settings):
    mode: str = "C:maj"
    low: int = 0
    high: int = 1

    @field_validator("mode")
    @classmethod
    def check_mode(cls, text):
        if text != "C:maj":
            raise ValueError(f"{text!r} is not C:maj")
        return text

    @model_validator(mode="after")
    def check_range(self):
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")
        return self


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "Am"}, "x: mode: 'Am' is not C:maj"),
        ({"low": 3}, "x: low=3 is above high=1"),
        ({"low": "a"}, "x: low: input should be a valid integer, unable to parse string as an integer (given 'a')"),
    ],
)
def test_a_message_is_the_validators_own_words(values, message):
    with pytest.raises(UsageError) as problem:
        parse_settings(Checked, values, "x")
    assert str(problem.value) == message
