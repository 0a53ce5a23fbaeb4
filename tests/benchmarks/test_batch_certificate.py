"""The batch certificate: padding changes nothing in any small network, and a network that leaks is reported."""

from pathlib import Path

import pytest

from carrara.encoders import REGISTRY
from carrara.encoders._hub.load import build_encoder

SMALL = 5_000_000  # parameters; tests/contracts does the same for the large ones, made smaller
NAMES = [name for name in REGISTRY.names() if REGISTRY.get(name).variants[name][0].parameters <= SMALL]


@pytest.fixture
def certificate(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import batch_certificate

    return batch_certificate


@pytest.mark.parametrize("name", NAMES)
def test_clips_in_a_batch_are_those_alone(certificate, name):
    result = certificate.certify(build_encoder(name), (1.0, 0.35, 0.8))
    assert result.difference < 1e-5
    assert result.cosine > 1 - 1e-9
    assert result.tail == 0


def test_padding_that_leaks_is_reported(certificate):
    leaking = build_encoder("mert-tiny", changes={"padding": "original"})
    result = certificate.certify(leaking, (1.0, 0.35, 0.8))
    assert result.difference > 0.01
    assert result.cosine < 0.999
    assert certificate.certify(leaking, (1.0, 1.0)).difference < 1e-5


def test_the_table_has_a_line_for_every_encoder_that_is_named(certificate, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["batch_certificate.py", "mert-tiny", "mert-tiny:random", "noise", "jukebox-5b", "no-such"]
    )
    certificate.main()
    printed, errors = capsys.readouterr()
    lines = [line.split("|") for line in printed.splitlines()[2:]]
    assert [line[1].strip() for line in lines] == ["`mert-tiny`", "`mert-tiny:random`", "`noise`", "`jukebox-5b`"]
    assert [line[3].strip() for line in lines] == ["random", "random", "–", "random, smaller"]
    assert all(float(line[4]) < 1e-5 and line[6].strip() == "zero" for line in lines)
    assert "no-such" in errors


def test_the_page_has_the_line_of_every_encoder():
    page = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()
    table = page.split("| encoder | parameters | weights | difference |")[1].split("\n\n")[0]
    lines = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()[2:]]
    assert [line[1].strip("`") for line in lines] == sorted(REGISTRY.names())
    assert all(float(line[4]) < 1e-5 and float(line[5]) < 1e-10 and line[6] == "zero" for line in lines)
