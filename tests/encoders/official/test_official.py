"""Official files fetched or given, checked, converted: the encoder then loads by name; wrong files are named."""

import hashlib
import json

import pytest
import torch

from carrara.core.errors import UsageError, WeightsError
from carrara.core.paths import encoders_home
from carrara.encoders import REGISTRY
from carrara.encoders._hub.availability import UNPUBLISHED, check_availability, read_published_files
from carrara.encoders._hub.import_official import import_official
from carrara.encoders._hub.load import build_encoder, load, save_pretrained
from carrara.encoders._hub.official import read_heads
from carrara.encoders._hub.spec import select_variants
from carrara.formats.weights import save_tensors

TRAINED = [name for name in REGISTRY.names() if REGISTRY.get(name).has_weights]


def sound():
    return 0.1 * torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_fairseq_file_becomes_an_encoder_that_loads_by_its_name(tmp_path, tiny, write_fairseq):
    extra = {"final_proj.weight": torch.ones(2, 128)}
    path = write_fairseq(tmp_path / "mine.pt", tiny.state_dict(), layers=4, extra=extra, dictionaries=[[1, 0]])
    result = import_official("mert_tiny", path)
    assert result.folders == {"mert-tiny": encoders_home() / "mert-tiny"} and not result.failures
    encoder = load("mert-tiny")
    theirs = tiny(sound(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(encoder(sound()), torch.stack(theirs, 1), atol=1e-5, rtol=1e-5)
    assert encoder.card.name == "mert-tiny" and type(encoder.settings).__name__ == "MertSettings"
    for source in ("mert-tiny", path, str(encoders_home() / "mert-tiny")):
        assert read_heads(source).keys() == {"final_proj.weight", "dictionaries.0"}
    readme = (encoders_home() / "mert-tiny" / "README.md").read_text()
    assert "mine.pt" in readme and hashlib.sha256(path.read_bytes()).hexdigest() in readme
    assert load("mert-tiny:random").card.weights_sha256 != encoder.card.weights_sha256


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_a_hugging_face_folder_is_imported_with_its_own_standardising(tmp_path, tiny, rate):
    tiny.save_pretrained(tmp_path / "hf")
    processor = {"sampling_rate": rate, "do_normalize": True}
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(processor))
    for path in (tmp_path / "hf", tmp_path / "hf" / "model.safetensors"):
        if rate == 24_000:
            with pytest.raises(WeightsError, match="not mert-tiny: its sample_rate is 24000 where mert-tiny has 16000"):
                import_official("mert-tiny", path, tmp_path / "out")
            assert not (tmp_path / "out").exists()
            continue
        import_official("mert-tiny", path, tmp_path / "out")
        encoder = load(tmp_path / "out")
        assert encoder.settings.standardise and encoder.settings.layerdrop == 0.05
        assert read_heads(tmp_path / "out") == read_heads(path) == {}


def test_the_error_for_another_size_names_the_encoder_that_it_fits(tmp_path, tiny, write_fairseq):
    path = write_fairseq(tmp_path / "x.pt", tiny.state_dict(), layers=4)
    with pytest.raises(WeightsError, match="x.pt.*another shape.*would fit mert-tiny or musichubert-tiny") as caught:
        import_official("mert-v1-95m", path)
    assert "\n" not in str(caught.value) and not encoders_home().exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"Entry not found", "is text \\('Entry not found'\\)"),
        (b'{"error": "Repository not found"}', "is text"),
        (b"PK\x03\x04" + bytes(200), "cut short"),
    ],
)
def test_what_is_not_weights_is_named(tmp_path, content, message):
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(WeightsError, match=f"pytorch_model.bin: .*{message}") as caught:
        import_official("mert-v1-95m", tmp_path / "pytorch_model.bin")
    assert "\n" not in str(caught.value) and not encoders_home().exists()


def test_the_error_for_truncated_safetensors_states_their_size(tmp_path):
    path = tmp_path / "model.safetensors"
    save_tensors({"a": torch.zeros(500_000)}, path)
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(WeightsError, match="cut short, 1.0 MB of 2.0 MB"):
        import_official("mert-tiny", path)


def test_a_file_with_the_official_name_but_another_hash_is_refused(tmp_path, tiny, official):
    tiny.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    official(**{"org/tiny/model.safetensors": "0" * 64})
    with pytest.raises(WeightsError, match="not the official file of mert-tiny: its SHA-256"):
        import_official("mert-tiny", path)
    official(**{"org/tiny/model.safetensors": "0" * 16})
    with pytest.raises(WeightsError, match="not the official file of mert-tiny: its SHA-256"):
        import_official("mert-tiny", path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for known in (sha256, sha256[:16]):
        official(**{"org/tiny/model.safetensors": known})
        assert import_official("mert-tiny", path).folders


def test_hub_files_are_fetched_by_name_into_the_hubs_cache(tmp_path, tiny, official, monkeypatch):
    tiny.save_pretrained(tmp_path)
    requests = []

    def snapshot(repository, allow_patterns):
        requests.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    official(**{"org/tiny/model.safetensors": ""})
    first = load("mert-tiny").card.weights_sha256
    import_official("mert-tiny")
    assert requests == [("org/tiny", ["model.safetensors", "config.json", "preprocessor_config.json"])] * 2
    assert load("mert-tiny").card.weights_sha256 == first and len(requests) == 2
    official(**{"org/tiny/model.safetensors": "0" * 64})
    with pytest.raises(WeightsError, match="SHA-256"):
        import_official("mert-tiny")
    official(**{"org/tiny/gone.bin": ""})
    with pytest.raises(UsageError, match="no gone.bin any more"):
        import_official("mert-tiny")


def test_files_elsewhere_are_downloaded_on_import_only_and_removed_afterwards(tiny, official, monkeypatch):
    requests = []

    def download(remote, root):
        requests.append((remote.url, remote.path, remote.sha256))
        save_tensors(tiny.state_dict(), root / remote.path)
        return root / remote.path

    monkeypatch.setattr("carrara.encoders._hub.official.download", download)
    official(**{"https://host/x/tiny.safetensors?download=1": "ab"})
    with pytest.raises(UsageError, match="`carrara import mert-tiny` fetches"):
        load("mert-tiny")
    assert requests == []
    import_official("mert-tiny")
    assert requests == [("https://host/x/tiny.safetensors?download=1", "tiny.safetensors", "ab")]
    assert [path.name for path in encoders_home().iterdir() if path.name != ".downloads"] == ["mert-tiny"]
    assert not list((encoders_home() / ".downloads").iterdir())


def test_a_family_means_its_published_members_or_those_in_one_file(tmp_path):
    assert select_variants("mert", None) == ["mert-v0", "mert-v0-public", "mert-v1-330m", "mert-v1-95m"]
    assert select_variants("mert-v0", tmp_path / "x") == ["mert-v0"]
    for file in ("pytorch_model.bin", "mert.pt"):
        with pytest.raises(UsageError, match="could be of several.*mert-v1-330m"):
            select_variants("mert", tmp_path / file)
    assert select_variants("musichubert", tmp_path / "any.pt") == ["hubert-base"]
    wheel = select_variants("musicnn", tmp_path / "musicnn-0.1.0-py3-none-any.whl")
    assert len(wheel) > 1 and "musicnn-mtt" in wheel and "musicnn-msd-big" not in wheel
    with pytest.raises(UsageError, match="-o: mert is several"):
        import_official("mert", None, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mert-v9", "Did you mean.*'mert-v0'"),
        ("noise", "noise: has no weights"),
        ("mert-tiny", "no weights of it are published"),
    ],
)
def test_what_cannot_be_imported_is_reported(name, message):
    with pytest.raises(UsageError, match=message):
        import_official(name)


def test_a_family_without_official_files_and_a_file_that_is_not_there_are_reported(tmp_path):
    torch.save({}, tmp_path / "x.pt")
    with pytest.raises(UsageError, match="no official files"):
        import_official("noise", tmp_path / "x.pt")
    with pytest.raises(UsageError, match="y.pt: does not exist"):
        import_official("mert-v0", tmp_path / "y.pt")


def test_heads_of_what_has_none_are_empty(tmp_path):
    save_pretrained(build_encoder("mert-tiny"), tmp_path / "mine")
    assert read_heads(tmp_path / "mine") == read_heads("mert-v1-95m") == read_heads("noise") == {}


@pytest.mark.parametrize("name", TRAINED)
def test_files_and_status_read_from_source_equal_the_cards(name):
    card = REGISTRY.get(name).variants[name][0]
    entry = REGISTRY.get_entry(name)
    assert any(phrase in entry.summary for phrase in UNPUBLISHED) == (not card.files)
    has_weights, files = read_published_files(entry.module)
    assert has_weights and files.get(name, card.files) == card.files


def test_ready_means_no_weights_imported_or_in_the_hubs_cache(tmp_path, monkeypatch):
    assert check_availability("noise").status == "ready" and check_availability("mert-tiny").status == "train"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: None)
    availability = check_availability("mert-v1-95m")
    assert availability.status == "import" and "`carrara import mert-v1-95m`" in availability.needs
    seen = []
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *what: seen.append(what) or "/a/file")
    assert check_availability("mert-v1-95m").status == "ready"
    assert seen == [("m-a-p/MERT-v1-95M", "pytorch_model.bin")]
    save_pretrained(build_encoder("mert-tiny"), encoders_home() / "mert-tiny")
    assert check_availability("mert-tiny").status == "ready"
