"""fsspec addresses survive being a `Path`, and braces expand to numbers."""

from pathlib import Path

import pytest

from carrara.core.errors import UsageError
from carrara.core.storage import expand_braces, normalize


def test_braces_expand_to_their_numbers():
    assert expand_braces("a/{08..11}-{0..1}.tar") == [
        f"a/{n}-{m}.tar" for n in ("08", "09", "10", "11") for m in (0, 1)
    ]
    assert expand_braces("a/{9..10}.tar") == ["a/9.tar", "a/10.tar"]
    assert expand_braces("a/{x}.tar") == ["a/{x}.tar"]
    with pytest.raises(UsageError, match="runs backwards"):
        expand_braces("{3..1}.tar")


def test_an_address_survives_being_a_path(tmp_path):
    for given in ("s3://bucket/a", "simplecache::s3://bucket/a", "memory://x"):
        assert normalize(Path(given)) == given == normalize(given)
    assert normalize(tmp_path) == str(tmp_path)
