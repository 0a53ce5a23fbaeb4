"""An address of fsspec stays what it was, and braces stand for numbers."""

from pathlib import Path

import pytest

from carrara.core.errors import UsageError
from carrara.pretrain.corpus.storage import address, expanded


def test_braces_stand_for_their_numbers():
    assert expanded("a/{08..11}-{0..1}.tar") == [f"a/{n}-{m}.tar" for n in ("08", "09", "10", "11") for m in (0, 1)]
    assert expanded("a/{9..10}.tar") == ["a/9.tar", "a/10.tar"]
    assert expanded("a/{x}.tar") == ["a/{x}.tar"]
    with pytest.raises(UsageError, match="runs backwards"):
        expanded("{3..1}.tar")


def test_an_address_survives_being_a_path(tmp_path):
    for given in ("s3://bucket/a", "simplecache::s3://bucket/a", "memory://x"):
        assert address(Path(given)) == given == address(given)
    assert address(tmp_path) == str(tmp_path)
