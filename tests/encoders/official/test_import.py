"""What an import refuses and reports: torn files, another model of equal shapes; downloads that are kept or removed."""

import hashlib
import threading

import pytest
import torch

from carrara.core.errors import UsageError, WeightsError
from carrara.core.io import file_lock
from carrara.core.paths import encoders_home
from carrara.encoders import REGISTRY
from carrara.encoders._hub.import_official import import_official
from carrara.encoders._hub.load import load
from carrara.encoders._hub.official import read_heads
from carrara.encoders._hubert.huggingface import hubert_settings_from_files
from carrara.formats.weights import save_tensors
from carrara.pretrain.recipes import REGISTRY as RECIPES
from carrara.pretrain.recipes._base import resolve

DEFAULT = "mert-tiny: samples go into the network as they are, the default of mert-tiny; its files do not say"


def torn(path, part):
    """Write zeros over a part of a file, as a download does that never got it."""
    content = bytearray(path.read_bytes())
    content[part] = bytes(len(content[part]))
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_pickle_with_a_hole_is_refused(tmp_path, tiny, kind):
    path = tmp_path / "pytorch_model.bin"
    torch.save(tiny.state_dict(), path)
    half = path.stat().st_size // 2
    torn(path, slice(half, half + 1000))
    if kind == "folder":
        (tmp_path / "config.json").write_text(tiny.config.to_json_string())
    with pytest.raises(WeightsError, match="pytorch_model.bin: its record 'pytorch_model/data"):
        import_official("mert-tiny", tmp_path if kind == "folder" else path)
    assert not encoders_home().exists()


def test_safetensors_with_a_hole_are_refused_by_the_tensors_name(tmp_path, tiny):
    path = tmp_path / "model.safetensors"
    save_tensors(tiny.state_dict(), path)
    torn(path, slice(path.stat().st_size // 2, None))
    with pytest.raises(WeightsError, match=r"model.safetensors: its \S+weight holds zeros alone, so"):
        import_official("mert-tiny", path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_and_a_bias_of_zeros_is_not(tmp_path, tiny, value):
    path = tmp_path / "model.safetensors"
    tensors = tiny.state_dict()
    tensors["encoder.layers.2.final_layer_norm.bias"].zero_()
    save_tensors(tensors, path)
    import_official("mert-tiny", path)
    tensors["encoder.layers.2.final_layer_norm.bias"][5] = value
    save_tensors(tensors, path)
    with pytest.raises(WeightsError, match="encoder.layers.2.final_layer_norm.bias holds numbers that are not finite"):
        import_official("mert-tiny", path)


def test_heads_are_replaced_together_with_their_weights(tmp_path, tiny, write_fairseq):
    extra = {"final_proj.weight": torch.ones(2, 128)}
    path = write_fairseq(tmp_path / "mine.pt", tiny.state_dict(), layers=4, extra=extra)
    import_official("mert-tiny", path)
    folder = encoders_home() / "mert-tiny"
    assert (folder / "heads.safetensors").stat().st_mtime_ns <= (folder / "config.json").stat().st_mtime_ns
    with pytest.raises(WeightsError):
        import_official("mert-v1-95m", path, folder)
    assert read_heads("mert-tiny").keys() == {"final_proj.weight"}
    tiny.save_pretrained(tmp_path / "hf")
    import_official("mert-tiny", tmp_path / "hf")
    assert read_heads("mert-tiny") == {} and load("mert-tiny")


@pytest.fixture
def downloaded(tiny, official, monkeypatch):
    """Return the function that gives mert-tiny a file at an address, whose download has this content or fails."""

    def make(content=None, sha256="", beside=()):
        def download(remote, root):
            requests.append(remote.url)
            root.mkdir(parents=True, exist_ok=True)
            for name in beside:
                (root / name).write_bytes(b"another's")
            if content is None:
                save_tensors(tiny.state_dict(), root / remote.path)
            else:
                (root / remote.path).write_bytes(content)
            return root / remote.path

        requests = []
        monkeypatch.setattr("carrara.encoders._hub.official.download", download)
        official(**{"https://host/tiny.safetensors": sha256})
        return requests

    return make


def test_a_download_that_cannot_be_converted_is_removed_and_a_file_that_was_given_is_not(downloaded, tmp_path):
    path = encoders_home() / ".downloads" / "mert" / "tiny.safetensors"
    downloaded(b"<html>")
    with pytest.raises(WeightsError, match=f"web page.*{path}: removed, so that `carrara import mert-tiny` fetches"):
        import_official("mert-tiny")
    assert not path.exists() and list(path.parent.parent.iterdir()) == []
    assert downloaded() == [] and import_official("mert-tiny").folders
    (tmp_path / "tiny.safetensors").write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="web page"):
        import_official("mert-tiny", tmp_path / "tiny.safetensors")
    assert (tmp_path / "tiny.safetensors").exists()


def test_a_download_of_a_known_hash_is_verified_and_kept(downloaded):
    content = b"\x80 no weights"
    downloaded(content, hashlib.sha256(content).hexdigest())
    with pytest.raises(WeightsError) as caught:
        import_official("mert-tiny")
    assert "removed" not in str(caught.value)
    assert (encoders_home() / ".downloads" / "mert" / "tiny.safetensors").read_bytes() == content


def test_only_converted_downloads_are_removed(downloaded):
    downloaded(beside=["other.bin", ".other.bin.part"])
    folder = encoders_home() / ".downloads" / "mert"
    import_official("mert-tiny")
    assert sorted(path.name for path in folder.iterdir()) == [".other.bin.part", "other.bin"]


def test_a_second_import_of_a_family_waits_for_the_first(downloaded):
    downloaded()
    second = threading.Thread(target=import_official, args=("mert-tiny",))
    with file_lock(encoders_home() / ".downloads" / "mert" / ".lock"):
        second.start()
        second.join(0.5)
        assert second.is_alive() and not (encoders_home() / "mert-tiny").exists()
    second.join(30)
    assert (encoders_home() / "mert-tiny" / "config.json").is_file()


RUN = {"sample_rate": 16_000, "normalize": False}
MODEL = {"layer_norm_first": False, "activation_fn": "gelu"}


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        ({"sample_rate": 24_000}, {}, "not mert-tiny: its run's sample_rate is 24000, and 16000 of mert-tiny"),
        ({}, {"layer_norm_first": True}, "layer_norm_first is True"),
        ({}, {"activation_fn": "relu"}, "activation_fn is relu"),
    ],
)
def test_the_checkpoint_of_another_run_of_equal_shapes_is_refused(tmp_path, tiny, write_fairseq, task, model, message):
    path = tmp_path / "x.pt"
    right = {"cfg": {"task": RUN, "model": MODEL}}
    write_fairseq(path, tiny.state_dict(), layers=4, **right)
    assert import_official("mert-tiny", path).remarks == [DEFAULT]
    for wrong in ({"cfg": {"task": RUN | task, "model": MODEL | model}}, {"args": RUN | MODEL | task | model}):
        write_fairseq(path, tiny.state_dict(), layers=4, **wrong)
        with pytest.raises(WeightsError, match=message):
            import_official("mert-tiny", path)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("mert-v1-95m", 8224, ""),
        ("mert-v1-95m", 508, "its label_embs_concat has 508 rows, not 8224$"),
        ("hubert-base", 504, ""),
        ("hubert-base", 8224, "8224 rows, not 504; mert-v1-330m and mert-v1-95m has so many"),
        ("mert-v0", 508, ""),
        ("mert-v0", 504, "not mert-v0: its label_embs_concat has 504 rows; hubert-base has so many"),
    ],
)
def test_label_embeddings_distinguish_models_of_equal_shapes(tmp_path, name, rows, message):
    torch.save({"model": {"label_embs_concat": torch.ones(rows, 1)}}, tmp_path / "x.pt")
    settings = REGISTRY.get(name).variants[name][1]
    if message:
        with pytest.raises(WeightsError, match=message):
            hubert_settings_from_files(name, settings, tmp_path / "x.pt")
    else:
        assert hubert_settings_from_files(name, settings, tmp_path / "x.pt") == settings


def test_the_published_merts_standardise_as_marble_does_and_no_recipe_does():
    variants = REGISTRY.get("mert-v0").variants
    standardise = {name: settings.standardise for name, (_, settings) in variants.items() if name != "mert-tiny"}
    assert standardise == {"mert-v0": True, "mert-v0-public": True, "mert-v1-95m": True, "mert-v1-330m": False}
    for name in RECIPES.names():
        if name.startswith("mert"):
            assert all(not resolve(name, scale).network.standardise for scale in RECIPES.get(name).scales), name


@pytest.mark.parametrize("named", ["null", '"yes"', "1"])
def test_a_do_normalize_that_is_neither_true_nor_false_is_reported(tmp_path, tiny, named):
    tiny.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(f'{{"do_normalize": {named}}}')
    with pytest.raises(UsageError, match=f"preprocessor_config.json: do_normalize is {named}; write true or false"):
        import_official("mert-tiny", tmp_path)
