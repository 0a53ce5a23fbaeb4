"""Jukebox's files: both of torch's kinds, damaged and whole; what is not needed of them never costs memory."""

import os
import re
from pathlib import Path

import pytest
import torch

from carrara.core.errors import WeightsError
from carrara.encoders import jukebox
from carrara.encoders._hub.load import load, save_pretrained
from carrara.encoders._hub.official import convert_official
from carrara.encoders._jukebox.files import CODEC_FILE, PRIOR_FILE, read_jukebox_tensors
from carrara.formats.safe_pickle import read_torch_checkpoint

NAME = "jukebox-5b"
MEGABYTE = 2**20
BLOCK_5 = "prior.transformer._attn_mods.5.mlp.c_fc.w"


@pytest.fixture
def small_registry(small, monkeypatch):
    """Register Jukebox with the small settings."""
    settings = small.settings.model_copy(update={"dtype": "float16"})
    card = jukebox.ENCODER.update_card(jukebox.ENCODER.variants[NAME][0], settings)
    monkeypatch.setitem(jukebox.ENCODER.variants, NAME, (card, settings))
    return settings


@pytest.fixture
def tables(small):
    return small.codec_table(), small.prior_table(6)


@pytest.fixture
def folder(small, tables, tmp_path):
    return small.write(tmp_path, *tables)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_every_spelling_gives_the_same_encoder(small, small_registry, tables, tmp_path, zipped, prefix):
    small.write(tmp_path, *tables, zipped, prefix)
    actual = [
        convert_official(NAME, path).state_dict() for path in (tmp_path, tmp_path / PRIOR_FILE, tmp_path / CODEC_FILE)
    ]
    matrix = tables[1]["prior.transformer._attn_mods.3.attn.c_attn.w"]
    for tensors in actual:
        assert tensors.keys() == actual[0].keys()
        assert torch.equal(tensors["prior.blocks.3.attention.query_key_value.weight_IO"], matrix)
        assert torch.equal(tensors["codec.codes_KD"], tables[0]["bottleneck.level_blocks.2.k"])
        assert not any(name.startswith("prior.blocks.4") for name in tensors)


def test_an_imported_encoder_loads_again(small_registry, folder, tmp_path):
    encoder = convert_official(NAME, folder).eval()
    save_pretrained(encoder, tmp_path / "saved")
    again = load(tmp_path / "saved")
    samples = torch.linspace(-1, 1, 5000)[None] ** 3
    assert again.settings == encoder.settings
    assert torch.equal(again(samples), encoder(samples))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_blocks_above_the_layer_cost_no_memory(small, tables, tmp_path, zipped):
    """Three matrices of 40 MB that no network of four layers has: they may not be read, however the file is made."""
    codec, prior = tables
    for name in (BLOCK_5, BLOCK_5.replace("c_fc", "c_proj"), "prior.x_out.weight"):
        prior[name] = torch.zeros(20 * MEGABYTE, dtype=torch.half)
    small.write(tmp_path, codec, prior, zipped)
    for name in [name for name in prior if prior[name].numel() > MEGABYTE]:
        del prior[name]
    read_jukebox_tensors(tmp_path, 1, torch.float16)  # what the first time costs is not the file's
    before = restarted_peak()
    tensors = read_jukebox_tensors(tmp_path, small.settings.layer, torch.float16)
    assert peak() - before < 10 * MEGABYTE
    # And they are copies, so that nothing of the file stays open.
    assert sum(tensor.untyped_storage().nbytes() for tensor in tensors.values()) < 3 * MEGABYTE


def restarted_peak():
    """Forget the most memory that this process had, and return what it has."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("only Linux says how much memory was needed")
    return peak()


def peak():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


class TestOtherFiles:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda table: table.pop("y_emb.artist_emb.emb.weight"), "1 missing (prior.artists.weight)"),
            (lambda table: table.pop("prior.transformer._attn_mods.2.ln_0.bias"), "prior.blocks.2.attention_norm.bias"),
            (lambda table: table.update({"prime_prior.x": torch.ones(1)}), "1 unknown (prime_prior.x)"),
            (
                lambda table: table.update({"prior.transformer._attn_mods.1.attn.c_enc_kv.w": torch.ones(1)}),
                "1 unknown (prior.transformer._attn_mods.1.attn.c_enc_kv.w)",
            ),
            (lambda table: table.update({"prior.x_emb.weight": torch.ones(3, 4)}), "prior.tokens.weight: (3, 4) where"),
        ],
    )
    def test_a_prior_that_does_not_fit_is_refused(self, small, small_registry, tables, tmp_path, change, message):
        change(tables[1])
        with pytest.raises(WeightsError, match=re.escape(message)):
            convert_official(NAME, small.write(tmp_path, *tables))

    def test_a_codec_that_does_not_fit_is_refused(self, small, small_registry, tables, tmp_path):
        tables[0]["encoders.2.level_blocks.0.model.9.bias"] = torch.ones(1)
        with pytest.raises(WeightsError, match=r"codec\.levels\.0\.9\.bias"):
            convert_official(NAME, small.write(tmp_path, *tables))

    def test_a_prior_with_too_few_blocks_is_refused(self, small, small_registry, tmp_path):
        with pytest.raises(WeightsError, match=r"12 missing \(prior\.blocks\.3\."):
            convert_official(NAME, small.write(tmp_path, small.codec_table(), small.prior_table(3)))

    @pytest.mark.parametrize("gone", [CODEC_FILE, PRIOR_FILE])
    def test_a_prior_without_the_codec_or_the_reverse_is_refused(self, small_registry, folder, gone):
        (folder / gone).unlink()
        with pytest.raises(WeightsError, match=f"{gone} is not there"):
            convert_official(NAME, folder)

    def test_swapped_prior_and_codec_are_refused(self, small, small_registry, tables, tmp_path):
        small.write(tmp_path, tables[1], tables[1])
        with pytest.raises(WeightsError, match=f"is not Jukebox's VQ-VAE; give {CODEC_FILE}"):
            convert_official(NAME, tmp_path)
        small.write(tmp_path, tables[0], tables[0])
        with pytest.raises(WeightsError, match=f"is not Jukebox's prior; give {PRIOR_FILE}"):
            convert_official(NAME, tmp_path)

    def test_a_checkpoint_of_another_model_is_refused(self, small_registry, folder):
        torch.save({"state_dict": {}}, folder / PRIOR_FILE)
        with pytest.raises(WeightsError, match="has no table 'model'"):
            convert_official(NAME, folder)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"<!doctype html><title>404</title>", "is a web page"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
            (b"\x80\x02K\x07.", "is a pickle, but no torch file"),
            (bytes(600), "is no torch checkpoint"),
        ],
    )
    def test_a_file_that_is_no_checkpoint_is_refused(self, small_registry, folder, content, message):
        (folder / PRIOR_FILE).write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            convert_official(NAME, folder)

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
    @pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
    def test_a_checkpoint_cut_short_is_refused(self, small, small_registry, tables, tmp_path, zipped, kept):
        path = small.write(tmp_path, *tables, zipped) / PRIOR_FILE
        path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
        with pytest.raises(WeightsError, match="cut short|not whole") as caught:
            convert_official(NAME, tmp_path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


class Trap:
    """What would make a folder if its pickle were simply read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestOlderKind:
    def save(self, content, path):
        torch.save(content, path, _use_new_zipfile_serialization=False)
        return read_torch_checkpoint(path, memory_map=True)

    def test_tensors_are_those_that_torch_reads(self, tmp_path):
        base = torch.arange(24, dtype=torch.float32).view(4, 6)
        kinds = (torch.half, torch.bfloat16, torch.double, torch.uint8, torch.int8, torch.int16, torch.int32)
        content = {str(kind): base.to(kind) for kind in (*kinds, torch.int64, torch.bool)}
        content |= {"turned": base.T, "part": base[1:, 2:4], "one": torch.tensor(7), "none": torch.empty(0)}
        actual = self.save({"model": content}, tmp_path / "file.pt")["model"]
        expected = torch.load(tmp_path / "file.pt", weights_only=True)["model"]
        assert actual.keys() == expected.keys()
        for name, tensor in expected.items():
            assert actual[name].dtype == tensor.dtype
            assert torch.equal(actual[name].clone(), tensor), name

    def test_nothing_in_it_is_run(self, tmp_path):
        actual = self.save({"model": {"a": torch.ones(2)}, "opt": Trap(tmp_path / "made")}, tmp_path / "file.pt")
        assert actual["model"]["a"].sum() == 2
        assert not (tmp_path / "made").exists()

    def test_an_unknown_dtype_is_refused(self, tmp_path):
        with pytest.raises(WeightsError, match="QInt8Storage"):
            self.save({"model": {"a": torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)}}, tmp_path / "x.pt")
