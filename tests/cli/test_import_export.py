"""`carrara import`, `carrara export`, and what `ls` and `show` print of encoders that are not on this machine."""

import json
import os
import re
import shutil

import pytest
import torch
from transformers import HubertModel
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.core.errors import DataError
from carrara.core.io import DRAFT_PREFIX
from carrara.encoders import maest, mert
from carrara.encoders._hub.load import build_encoder, load
from carrara.formats.weights import save_tensors


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))


def carrara(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path):
    save_tensors(build_encoder("mert-tiny", seed=7).state_dict(), tmp_path / "official.safetensors")
    return tmp_path / "official.safetensors"


def row(name):
    return next(row for row in json.loads(carrara("ls", "encoders", "--json").stdout) if row["name"] == name)


@pytest.mark.parametrize("option", ["--file", "--wheel", "--checkpoint"])
def test_an_imported_encoder_is_ready(file, tmp_path, option):
    assert row("mert-tiny")["status"] == "train" and "pretrain" in row("mert-tiny")["needs"]
    done = carrara("import", "mert-tiny", option, file)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"mert-tiny\t{tmp_path / 'home' / 'encoders' / 'mert-tiny'}\n"
    assert row("mert-tiny") | {"summary": ""} == {"name": "mert-tiny", "summary": "", "status": "ready", "needs": ""}
    assert load("mert-tiny").card.weights_sha256 == load("mert-tiny:random-7").card.weights_sha256


def test_ls_and_show_print_what_an_encoder_needs(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: None)
    lines = {line.split()[0]: line.split()[1] for line in carrara("ls", "encoders").stdout.splitlines()}
    assert (lines["noise"], lines["mert-v0"], lines["mert-tiny"]) == ("ready", "import", "train")
    shown = json.loads(carrara("show", "mert-v0", "--json").stdout)
    assert shown["status"] == "import" and "m-a-p/MERT-v0/pytorch_model.bin" in shown["needs"]
    text = carrara("show", "jukebox-5b").stdout
    assert re.search(r"needs +`carrara import jukebox-5b` fetches https://.*prior_level_2.pth.tar\n", text)
    assert re.search(r"\n    https://.*/vqvae.pth.tar\n    SHA-256 not known\n", text)


def test_import_with_a_folder_and_export_of_it(file, tmp_path):
    done = carrara("import", "mert-tiny", "--file", file, "-o", tmp_path / "mine", "--json")
    assert json.loads(done.stdout) == {"mert-tiny": str(tmp_path / "mine")}
    done = carrara("export", tmp_path / "mine", "--format", "transformers", "-o", tmp_path / "hf", "--json")
    assert json.loads(done.stdout)["weights_sha256"] == load(tmp_path / "mine").card.weights_sha256
    model = HubertModel.from_pretrained(tmp_path / "hf")
    assert torch.equal(model.masked_spec_embed, load(tmp_path / "mine").masked_spec_embed)


def test_import_interpolates_a_maest_of_another_length(tmp_path, monkeypatch):
    card, settings = maest.ENCODER.variants["maest-tiny"]
    small = {"dim": 24, "num_layers": 2, "num_heads": 2, "ffn_dim": 48, "classes": 5}
    for name, frames in (("maest-5s", 312), ("maest-10s", 625)):
        monkeypatch.setitem(
            maest.ENCODER.variants, name, (card, settings.model_copy(update=small | {"frames": frames}))
        )
    weights = {name.removeprefix("vit."): tensor for name, tensor in build_encoder("maest-5s", 3).state_dict().items()}
    torch.save(weights, tmp_path / "five.ckpt")
    done = carrara("import", "maest-10s", "--file", tmp_path / "five.ckpt", "-o", tmp_path / "ten")
    assert done.exit_code == 1 and "where 10 s (62) are " in done.stderr
    done = carrara("import", "maest-10s", "--file", tmp_path / "five.ckpt", "-o", tmp_path / "ten", "--interpolate")
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "ten").vit.time_new_pos_embed.shape[-1] == 62


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["import", "mert-v0", "--file", "{file}"], 1, "carrara import: .*would fit mert-tiny"),
        (["import", "mert-v0"], 2, "carrara import: mert-v0: its weights are not on this machine"),
        (["import", "mert-tiny", "--file", "{file}", "--interpolate"], 2, "mert-tiny has no positions to interpolate"),
        (["export", "{file}", "-f", "carrara", "-o", "{out}"], 2, "carrara export: .*carrara import NAME --file"),
        (["export", "noise", "-f", "transformers", "-o", "{out}"], 2, "carrara export: noise: "),
    ],
)
def test_errors_are_one_line(file, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = carrara(*(part.format(file=file, out=tmp_path / "out") for part in arguments))
    assert done.exit_code == code and done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr), done.stderr


def test_a_failed_variant_does_not_stop_the_other_imports(file, tmp_path, monkeypatch):
    card, settings = mert.ENCODER.variants["mert-tiny"]
    for name in ("mert-v0-public", "mert-v1-95m"):
        theirs = card.model_copy(update={"files": mert.ENCODER.variants[name][0].files})
        monkeypatch.setitem(mert.ENCODER.variants, name, (theirs, settings))
    source = {"mert-v0-public": file, "mert-v1-95m": file}

    def fetch(name):
        if name not in source:
            raise DataError(f"{name}: 404")
        return source[name]

    monkeypatch.setattr("carrara.encoders._hub.import_official.fetch_official", fetch)
    done = carrara("import", "mert")
    home = tmp_path / "home" / "encoders"
    assert done.exit_code == 1
    assert done.stdout == f"mert-v0-public\t{home / 'mert-v0-public'}\nmert-v1-95m\t{home / 'mert-v1-95m'}\n"
    *remarks, first, last = done.stderr.splitlines()
    assert (first, last) == ("carrara import: mert-v0: 404", "carrara import: mert-v1-330m: 404")
    assert [remark.partition(":")[0] for remark in remarks] == ["mert-v0-public", "mert-v1-95m"]
    assert load(home / "mert-v1-95m").card.weights_sha256 == load("mert-tiny:random-7").card.weights_sha256
    source.clear()
    assert carrara("import", "mert").stderr.count("\n") == 4


def test_a_remark_is_one_line(file, tmp_path):
    done = carrara("import", "mert-tiny", "--file", file)
    normalisation, shapes, last = done.stderr.splitlines()
    assert normalisation.startswith("mert-tiny: samples go into the network as they are, the default of mert-tiny")
    assert "its shapes alone were checked" in shapes and "checked and converted" in last
    carrara("export", tmp_path / "home" / "encoders" / "mert-tiny", "-f", "transformers", "-o", tmp_path / "hf")
    processor = tmp_path / "hf" / "preprocessor_config.json"
    assert (
        carrara("import", "mert-tiny", "--file", tmp_path / "hf")
        .stderr.splitlines()[0]
        .endswith("as its preprocessor_config.json says")
    )
    processor.write_text(processor.read_text().replace('"do_normalize": false', '"do_normalize": true'))
    done = carrara("import", "mert-tiny", "--file", tmp_path / "hf")
    assert "says do_normalize true, where mert-tiny alone has false" in done.stderr.splitlines()[0]
    assert load("mert-tiny").settings.standardise


@pytest.mark.parametrize("output", ["afile", "afile/inside"])
def test_an_output_that_is_a_file_is_refused(file, tmp_path, output):
    (tmp_path / "afile").write_text("mine")
    done = carrara("import", "mert-tiny", "--file", file, "-o", tmp_path / output)
    assert done.exit_code == 1 and done.stderr.count("\n") == 1 and "afile" in done.stderr
    assert isinstance(done.exception, SystemExit) and (tmp_path / "afile").read_text() == "mine"


def test_killed_at_any_rename_of_an_import_it_is_not_ready_and_imports_again(file, tmp_path, monkeypatch):
    home, kills, replace = tmp_path / "home", tmp_path / "kills", os.replace

    def copied(source, target):
        # What SIGKILL leaves is what is on the disk.
        shutil.copytree(home, kills / str(len(list(kills.iterdir()))))
        replace(source, target)

    kills.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", copied)
        assert carrara("import", "mert-tiny", "--file", file).exit_code == 0
    truth = load("mert-tiny").state_dict()
    assert len(list(kills.iterdir())) > 2
    for kill in kills.iterdir():
        monkeypatch.setenv("CARRARA_HOME", str(kill))
        assert row("mert-tiny")["status"] != "ready"
        assert carrara("import", "mert-tiny", "--file", file).exit_code == 0
        again = load("mert-tiny").state_dict()
        assert all(torch.equal(again[name], truth[name]) for name in truth)
        assert not list(kill.rglob(f"{DRAFT_PREFIX}*"))
