"""JSON of others: what Python's reader takes and JSON (or a finite float) does not is refused in one line."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrara.core import strict_json
from carrara.core.strict_json import parse_json, parse_json_object, read_json, read_json_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(VALUES)
def test_every_finite_value_is_read_as_by_the_json_module(value):
    text = json.dumps(value)
    assert parse_json(text) == json.loads(text) and parse_json(b"\xef\xbb\xbf" + text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "NaN is no finite number"),
        ("[-Infinity]", "-Infinity is no finite number"),
        ("1e400", "1e400 is no finite number"),
        ("1" + "0" * 400, "an integer of 401 digits"),
        ("9" * 6000, "an integer of 6000 digits"),
        ("[" * 101 + "]" * 101, "nested more than 100"),
        ("[" * 200_000, "nested more than 100"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested more than 100"),
        ("", "not JSON: Expecting value at line 1, column 1"),
        ('{"a": 1\n"b": 2}', "not JSON: .* at line 2"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8 at byte 7"),
    ],
)
def test_what_is_no_json_or_beyond_a_limit_is_a_value_error_of_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)


def test_numbers_that_are_not_finite_can_be_allowed():
    assert parse_json("[-Infinity, 1e999]", allow_nan=True) == [-float("inf"), float("inf")]
    with pytest.raises(ValueError, match="digits"):
        parse_json("9" * 6000, allow_nan=True)


def test_depth_up_to_the_limit_is_read():
    assert parse_json("[" * 100 + "]" * 100) is not None


@pytest.mark.parametrize("text", ["[]", "1", '"a"', "null"])
def test_another_value_in_the_place_of_an_object_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="not a JSON object"):
        parse_json_object(text)
    with pytest.raises(ValueError, match="not a JSON object"):
        read_json_object(tmp_path / "a.json")


def test_files_that_are_missing_too_large_or_no_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe"):
        with pytest.raises(ValueError, match="not a regular file"):
            read_json(tmp_path / name)
    monkeypatch.setattr(strict_json, "MAX_BYTES", 100)
    (tmp_path / "large.json").write_text("[" + " " * 100 + "]")
    with pytest.raises(ValueError, match="MB of JSON, more than"):
        read_json(tmp_path / "large.json")
    with pytest.raises(ValueError, match="MB of JSON, more than"):
        parse_json(" " * 101)
