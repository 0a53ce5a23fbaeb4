"""From a name to an encoder and back: registered names, folders, random weights, and errors."""

import json

import pytest
import torch

import carrara
from carrara.core.errors import StoreError, UsageError, WeightsError
from carrara.core.paths import encoders_home
from carrara.encoders._hub.availability import Availability, check_availability, needs_import
from carrara.encoders._hub.load import build_encoder, load, save_pretrained, with_settings
from carrara.encoders._hubert.network import HubertEncoder, HubertSettings
from carrara.formats.weights import hash_tensors, read_tensors, save_tensors

CHANGES = {"num_layers": 2, "dim": 32, "ffn_dim": 32, "conv_channels": 16}


@pytest.fixture
def saved(tmp_path):
    encoder = build_encoder("mert-tiny", seed=5, changes=CHANGES).eval()
    save_pretrained(encoder, tmp_path / "my-mert")
    return encoder, tmp_path / "my-mert"


def samples():
    return 0.1 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mert-tiny", "musichubert-tiny", "music2vec-tiny"])
def test_a_saved_encoder_loads_with_equal_features(tmp_path, name):
    encoder = build_encoder(name, seed=1, changes=CHANGES).eval()
    save_pretrained(encoder, tmp_path / "mine")
    back = load(tmp_path / "mine")
    assert not back.training and type(back.settings) is type(encoder.settings)
    assert back.settings == encoder.settings
    assert back.card == encoder.card.model_copy(update={"name": "mine"})
    assert torch.equal(back(samples()), encoder(samples()))
    assert all(parameter.requires_grad for parameter in back.parameters())


def test_the_folder_holds_config_weights_and_readme(saved):
    encoder, folder = saved
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    config = json.loads((folder / "config.json").read_text())
    assert config["carrara"] == 1 and config["encoder"] == "mert"
    assert config["settings"]["num_layers"] == 2
    assert config["card"]["weights_sha256"] == hash_tensors(read_tensors(folder / "model.safetensors"))
    assert config["card"]["parameters"] == sum(p.numel() for p in encoder.parameters())
    assert (folder / "README.md").read_text().startswith("---\n")
    save_pretrained(encoder, folder, readme="# Mine\n")
    assert (folder / "README.md").read_text() == "# Mine\n"


def test_a_card_without_a_benchmark_setup_still_loads(tmp_path):
    encoder = build_encoder("musicnn-mtt-vgg")
    assert encoder.card.benchmark_setup
    save_pretrained(encoder, tmp_path)
    assert load(tmp_path).card.benchmark_setup == encoder.card.benchmark_setup
    assert encoder.card.benchmark_setup in (tmp_path / "README.md").read_text()
    rewrite(tmp_path, lambda config: config["card"].pop("benchmark_setup"))
    assert load(tmp_path).card.benchmark_setup == ""


def test_heads_are_saved_beside_the_weights_and_removed_by_an_encoder_without_heads(saved):
    encoder, folder = saved
    save_pretrained(encoder, folder, heads={"final_proj.weight": torch.eye(3)})
    assert torch.equal(read_tensors(folder / "heads.safetensors")["final_proj.weight"], torch.eye(3))
    save_pretrained(encoder, folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_saving_changed_weights_updates_the_hash(saved):
    encoder, folder = saved
    with torch.no_grad():
        encoder.masked_spec_embed.add_(1)
    save_pretrained(encoder, folder)
    assert load(folder).card.weights_sha256 != encoder.card.weights_sha256


def test_random_weights_follow_the_seed():
    first, same, other = (load(f"mert-tiny:random{suffix}") for suffix in ("", "-0", "-7"))
    assert first.card.name == "mert-tiny:random" and other.card.name == "mert-tiny:random-7"
    assert first.card.weights_sha256 == same.card.weights_sha256 == hash_tensors(first.state_dict())
    assert first.card.weights_sha256 != other.card.weights_sha256
    assert not first.training


@pytest.mark.parametrize("name", ["mert-v0", "musicnn-msd"])
def test_random_weights_were_trained_on_nothing(name):
    published = carrara.encoders[name]
    card = load(f"{name}:random").card
    assert published.trained_on and not card.trained_on
    assert card.training_hours is card.context_seconds is None and not card.pretraining_task
    assert card.input == published.input and card.sample_rate == published.sample_rate


def test_random_weights_of_a_folder_have_its_shape_and_other_weights(saved):
    encoder, folder = saved
    random = load(f"{folder}:random-5")
    assert random.settings == encoder.settings and random.card.name == "my-mert:random-5"
    assert random.card.weights_sha256 == encoder.card.weights_sha256
    assert load(f"{folder}:random").card.weights_sha256 != encoder.card.weights_sha256


def test_a_trained_encoder_without_weights_names_the_alternatives(monkeypatch, tmp_path, no_hub):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="mert-v1-95m:random") as caught:
        load("mert-v1-95m")
    assert "\n" not in str(caught.value) and "folder" in str(caught.value)


def test_changed_settings_are_checked():
    with pytest.raises(UsageError, match="'num_layer'.*'num_layers'"):
        build_encoder("mert-tiny", changes={"num_layer": 3})
    with pytest.raises(UsageError, match="mert-tiny"):
        build_encoder("mert-tiny", changes={"dim": 30})


@pytest.mark.parametrize(
    ("spec", "message"),
    [("mert-tinny", "'mert-tiny'"), ("./nowhere", "no such folder"), ("mert-tinny:random", "'mert-tiny'")],
)
def test_an_unknown_name_is_reported_with_similar_ones(spec, message):
    with pytest.raises(UsageError, match=message):
        load(spec)


def test_a_hub_id_without_the_hub_is_reported_in_one_line(no_hub):
    with pytest.raises(UsageError, match="org/nothing.*hub") as caught:
        load("org/nothing")
    assert "\n" not in str(caught.value)


def test_a_hub_id_fetches_only_data_files(monkeypatch, saved):
    folder = saved[1]
    requests = {}

    def snapshot(repository, allow_patterns):
        requests[repository] = allow_patterns
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load("org/model").card.name == "org/model"
    assert requests == {"org/model": ["*.json", "*.safetensors", "pytorch_model*.bin", "README.md"]}


def rewrite(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["settings"].update(dmi=3), "'settings.dmi'|'dmi'.*'dim'"),
        (lambda config: config["settings"].update(dim="wide"), "dim"),
        (lambda config: config.update(cart=1), "'cart'.*'card'"),
        (lambda config: config.update(encoder="mart"), "'mart'.*'mert'"),
        (lambda config: config.update(carrara=99), "99"),
        (lambda config: config.pop("card"), "card: field required"),
    ],
)
def test_a_config_that_does_not_fit_is_reported(saved, change, message):
    rewrite(saved[1], change)
    with pytest.raises(UsageError, match=message) as caught:
        load(saved[1])
    assert "config.json" in str(caught.value) and "\n" not in str(caught.value)


def test_weights_cut_short_swapped_or_of_another_network_are_reported(saved):
    encoder, folder = saved
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="model.safetensors"):
        load(folder)
    save_tensors({name: tensor + 1 for name, tensor in encoder.state_dict().items()}, path)
    with pytest.raises(WeightsError, match="not the weights that config.json"):
        load(folder)
    save_tensors(build_encoder("mert-tiny").state_dict(), path)
    with pytest.raises(WeightsError, match="another shape"):
        load(folder)
    path.unlink()
    with pytest.raises(WeightsError, match="cannot be read|is not there"):
        load(folder)


def test_an_imported_encoder_whose_weights_are_not_whole_is_not_ready(monkeypatch, tmp_path):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path))
    assert check_availability("mert-tiny").status == "train"
    save_pretrained(build_encoder("mert-tiny", changes=CHANGES), encoders_home() / "mert-tiny")
    assert check_availability("mert-tiny") == Availability("ready")
    path = encoders_home() / "mert-tiny" / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for torn in (
        whole[:-1],
        whole[:header],
        whole[: header - 1],
        whole[:8],
        b"",
        b"<html>no such file</html>",
        b"\xff" * 99,
    ):
        path.write_bytes(torn)
        availability = check_availability("mert-tiny")
        assert availability.status == "import"
        assert availability.needs == f"{path} is incomplete; run `carrara import mert-tiny` again"
        with pytest.raises(WeightsError):
            load("mert-tiny")
    path.unlink()
    assert check_availability("mert-tiny").status == "import"


@pytest.mark.parametrize(
    ("name", "needs", "summary"),
    [
        ("choi", "` fetches https://github.com/keunwoochoi/", "weights_layer4_theano.hdf5"),
        ("clmr-native", "` fetches https://github.com/Spijkervet/", "clmr_magnatagatune_mlp.zip"),
        ("mule", "` fetches https://github.com/PandoraMedia/", "model.keras"),
        ("effnet-discogs", "` fetches https://essentia.upf.edu/", "discogs-effnet-bsdynamic-1.onnx"),
        ("musicnn-msd-vgg", "` fetches https://files.pythonhosted.org/", "musicnn-0.1.0-py3-none-any.whl"),
        ("musicnn-msd-big", "` fetches https://github.com/jordipons/", "2 files from github.com"),
        ("jukebox-5b", "` fetches https://openaipublic.azureedge.net/", "2 files from openaipublic.azureedge.net"),
        ("muq", "` fetches OpenMuQ/MuQ-large-msd-iter/model.safetensors, ", "2 files from huggingface.co"),
        ("mert-v0", "` fetches m-a-p/MERT-v0/pytorch_model.bin", "pytorch_model.bin"),
    ],
)
def test_an_encoder_without_its_files_names_them(monkeypatch, tmp_path, name, needs, summary):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: None)
    availability = check_availability(name)
    assert availability.status == "import" and availability.summary == summary
    assert availability.needs.startswith(f"`carrara import {name}{needs}")


def test_files_on_several_hosts_must_be_given():
    availability = needs_import("clmr", ["org/repository/one.pt", "https://host/two.json"])
    assert availability.needs == "`carrara import clmr --file …` takes org/repository/one.pt, https://host/two.json"
    assert availability.summary == "2 files from host and huggingface.co"


def test_a_folder_without_a_config_and_a_file_are_reported(tmp_path):
    with pytest.raises(UsageError, match="holds no config.json"):
        load(tmp_path)
    (tmp_path / "w.safetensors").touch()
    with pytest.raises(UsageError, match="give the folder"):
        load(tmp_path / "w.safetensors")


def test_a_folder_without_its_weights_or_with_a_file_of_another_name_is_reported(tmp_path):
    folder = tmp_path / "own"
    save_pretrained(build_encoder("mert-tiny", 0), folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"model\.safetensors: is not there; .* save the encoder again"):
        load(folder)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        save_pretrained(build_encoder("mert-tiny", changes=CHANGES), tmp_path / "file" / "mine")


def test_an_encoder_of_no_family_cannot_be_saved(tmp_path):
    tiny = build_encoder("mert-tiny", changes=CHANGES)
    settings = HubertSettings(**tiny.settings.model_dump())
    with pytest.raises(UsageError, match="HubertSettings"):
        save_pretrained(HubertEncoder(settings, tiny.card), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_the_card_follows_changed_settings():
    changes = {"num_layers": 2, "dim": 64, "num_heads": 4, "ffn_dim": 96, "conv_channels": 16, "sample_rate": 8000}
    card = build_encoder("mert-tiny", 0, changes).card
    assert (card.num_layers, card.dim, card.cnn_dim, card.sample_rate, card.frame_rate) == (2, 64, 16, 8000, 25.0)
    layers = build_encoder("mert-tiny", 0, changes).eval()(torch.zeros(1, 8000))
    assert layers.shape[1:] == (3, 24, 64)


def test_int8_is_said_in_the_name_and_is_close_to_float32():
    exact, rounded = load("mert-tiny:random"), load("mert-tiny:random:int8")
    assert rounded.card.name == "mert-tiny:random:int8"
    assert rounded.hash_weights() == exact.hash_weights()
    samples = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    expected, actual = exact(samples), rounded(samples)
    assert 1e-6 < (actual - expected).norm() / expected.norm() < 0.05
    lengths = torch.tensor([16_000, 9_000])
    alone = rounded(samples[1:, :9_000])[0]
    torch.testing.assert_close(rounded(samples, lengths)[1, :, : alone.shape[1]], alone, atol=2e-2, rtol=0)
    changed = with_settings(rounded, {"padding": "original"})
    assert changed.card.name == rounded.card.name and torch.equal(changed(samples), actual)


def test_int8_without_linear_layers_is_refused():
    with pytest.raises(UsageError, match="chroma-mfcc: has no linear layers"):
        load("chroma-mfcc:int8")
