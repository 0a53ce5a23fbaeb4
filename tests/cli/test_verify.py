"""`carrara verify`: official files that are right, damaged, absent; reference outputs; datasets; the report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from carrara import verify
from carrara.cli._main import app
from carrara.core.errors import UsageError
from carrara.encoders._hub.load import load, save_pretrained


def run(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CARRARA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_what_is_not_here_is_one_line_and_exit_1():
    result = run("mert-v1-95m")
    assert result.exit_code == 1 and "Traceback" not in result.output
    versions, line = result.stdout.strip().split("\n")
    assert versions.startswith("carrara verify: carrara") and line.startswith("mert-v1-95m: not at hand (")
    assert run("choi", "--no-download").exit_code == 1
    assert run("gtzan").stdout.strip().split("\n")[1].startswith("gtzan: not at hand (")
    everything = run("all")
    assert everything.exit_code == 1 and "Traceback" not in everything.output
    assert all(": not at hand (" in line for line in everything.stdout.strip().split("\n")[1:])


def test_wrong_names_and_files_are_misuse(tmp_path):
    assert run("mert-v1").exit_code == 2 and "mert-v1-95m" in run("mert-v1").stderr
    assert "does not exist" in run("choi", "--file", tmp_path / "no.hdf5").stderr
    (tmp_path / "a").touch()
    assert "belongs to one encoder" in run("gtzan", "--file", tmp_path / "a").stderr


def test_a_damaged_file_fails_with_the_reason(tmp_path):
    file = tmp_path / "weights_layer4_theano.hdf5"
    file.write_bytes(b"not weights")
    result = run("choi", "--file", file, "--json")
    assert result.exit_code == 1
    (choi,) = json.loads(result.stdout)["verified"]
    assert choi["status"] == "failed" and choi["checks"][0]["check"] == "SHA-256 of weights_layer4_theano.hdf5"
    assert [check["status"] for check in choi["checks"]] == ["failed", "failed"]


@pytest.mark.slow
def test_a_dataset_is_checked_by_its_annotations(tiny_pebble, tmp_path):
    shutil.copytree(tiny_pebble, tmp_path / "data/pebble/demo")
    result = run("pebble", "--json")
    (pebble,) = json.loads(result.stdout)["verified"]
    statuses = {check["check"]: check["status"] for check in pebble["checks"]}
    assert statuses["clips"] == statuses["missing"] == statuses["unreadable"] == "passed"
    assert statuses["count differs"] == "failed" and result.exit_code == 1
    songs = next(check for check in pebble["checks"] if check["check"] == "clips of songs")
    assert songs["detail"] == "train 36, valid 12, test 24"


def test_the_fixed_sound_is_a_closed_form():
    sound, other = verify.fixed_sound(16_000), verify.fixed_sound(32_000)
    assert sound.dtype == np.float32 and len(sound) == 64_000 and 0.2 < np.abs(sound).max() < 1
    np.testing.assert_allclose(other[::2], sound, atol=1e-6)
    assert np.isfinite(sound).all() and sound.std() > 0.05


def test_outputs_are_means_over_frames_and_differ_where_weights_do():
    encoder, other = load("mert-tiny:random"), load("mert-tiny:random-1")
    outputs = verify.reference_outputs(encoder)
    layers = encoder(verify.fixed_sound(16_000))[0].double().mean(1).numpy()
    assert outputs["shape"] == [5, encoder.num_frames(64_000), 128]
    for own, layer in zip(outputs["layers"], layers):
        np.testing.assert_allclose(own["mean"], layer[outputs["dims"]], rtol=1e-6, atol=1e-9)
        assert own["norm"] == pytest.approx(np.linalg.norm(layer), rel=1e-6)
    assert verify.compare_outputs(outputs, outputs) == 0
    assert verify.compare_outputs(outputs, verify.reference_outputs(other)) > 0.01
    assert verify.compare_outputs(outputs, verify.reference_outputs(load("noise"))) == np.inf
    slightly = json.loads(json.dumps(outputs))
    slightly["layers"][2]["mean"][0] += 1e-3 * max(map(abs, slightly["layers"][2]["mean"]))
    assert verify.compare_outputs(slightly, outputs) == pytest.approx(1e-3, rel=1e-6)


def test_an_imported_encoder_is_compared_with_its_reference(tmp_path):
    encoder = load("choi:random")
    save_pretrained(encoder, tmp_path / "home/encoders/choi")
    result = run("choi")
    assert result.exit_code == 1, "random weights do not give the outputs of the real ones"
    assert "failed   outputs" in result.stdout and "recorded files" in result.stdout


def test_an_encoder_without_weights_states_its_outputs():
    result = run("mfcc")
    assert result.exit_code == 0 and "no reference yet" in result.stdout
    assert verify.verify("mfcc")[0].outputs["shape"] == [1, 1, 120]


def test_references_belong_to_files_of_known_hash():
    from carrara.encoders import REGISTRY

    references = list(verify.REFERENCES.glob("*.json"))
    assert {path.stem for path in references} >= {"choi", "musicnn-msd", "musicnn-mtt"}
    for path in references:
        card = REGISTRY.get(path.stem).variants[path.stem][0]
        values = json.loads(path.read_text())
        assert values["sha256"] in card.files.values()
        assert values["shape"][2] == card.dim and len(values["layers"]) == card.num_layers + 1
    with pytest.raises(UsageError):
        verify.verify("no-such-encoder")


@pytest.mark.slow
def test_the_wheel_of_musicnn_gives_the_recorded_outputs(tmp_path):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "musicnn==0.1.0", "-d", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the wheel musicnn 0.1.0 cannot be fetched")
    (wheel,) = tmp_path.glob("*.whl")
    for name in ("musicnn-mtt", "musicnn-msd", "musicnn-mtt-vgg", "musicnn-msd-vgg"):
        result = run(name, "--file", wheel)
        assert result.exit_code == 0, result.output
        assert result.stdout.count("  passed ") == 4
