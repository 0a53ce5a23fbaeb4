"""The contract of every registered encoder; a new file is tested by existing.

Cards are checked on networks without memory (torch's meta device). For all else networks have random weights, and the
large ones are the same code with fewer and narrower layers; only a new kind of large network needs a line in SHRUNK.
"""

import ctypes
import gc
import os
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import soundfile
import torch

import carrara
from carrara.encoders import REGISTRY
from carrara.encoders._hub.load import build_encoder
from carrara.features.embed import embed_files
from carrara.features.embed_config import EmbedConfig

SMALL = 5_000_000
MEMORY = 700e6  # bytes, above what the process had: 1 GB is the goal, and the libraries take 0.3
NAMES = REGISTRY.names()
TRANSFORMER = {"num_layers": 2, "num_heads": 2, "ffn_dim": 48}
SHRUNK = {
    "HubertSettings": {**TRANSFORMER, "conv_channels": 16, "dim": 48},
    "MaestSettings": {**TRANSFORMER, "dim": 24},
    "MelPatchSettings": {**TRANSFORMER, "dim": 24},
    "MulanSettings": {
        **TRANSFORMER,
        "channels": 4,
        "dim": 128,
        "text_dim": 16,
        "text_layers": 1,
        "text_heads": 2,
        "text_ffn_dim": 32,
        "vocabulary": 100,
        "top_layers": 1,
    },
    "CqtMelSettings": {"num_layers": 2, "num_heads": 2, "hidden": 16, "dim": 24},
    "ConformerSettings": {**TRANSFORMER, "channels": 4, "dim": 128},
    "MelConformerSettings": {**TRANSFORMER, "conv_channels": (8, 16, 48), "conv_depths": (1, 1, 1), "dim": 48},
    "Clamp3Settings": {
        "mert.num_layers": 1,
        "mert.num_heads": 2,
        "mert.ffn_dim": 48,
        "mert.conv_channels": 16,
        "mert.dim": 48,
        "num_layers": 2,
        "num_heads": 2,
        "ffn_dim": 48,
        "text_dim": 16,
        "text_layers": 1,
        "text_heads": 2,
        "text_ffn_dim": 32,
        "vocabulary": 100,
    },
    "DashengSettings": {**TRANSFORMER, "dim": 24},
    "MusicnnSettings": {"dense_dim": 20},
    "ClapSettings": {
        "dim": 8,
        "depths": (1, 2, 2, 1),
        "heads": (1, 2, 2, 4),
        "text_dim": 16,
        "text_layers": 1,
        "text_heads": 2,
        "text_ffn_dim": 32,
        "vocabulary": 100,
    },
    "JukeboxSettings": {
        "layer": 2,
        "dtype": "float32",
        "dim": 32,
        "num_heads": 2,
        "context": 1024,
        "row_length": 16,
        "codebook_size": 64,
        "code_dim": 8,
        "codec_channels": 4,
        "codec_depth": 1,
        "num_artists": 5,
        "num_genres": 3,
    },
    "MuleSettings": {
        "blocks": (1, 2, 2),
        "slow_stem": (4, 4, 8, 16),
        "fast_stem": (2, 2, 4, 8),
        "slow_group": 8,
        "slow_channels": (16, 32, 32),
        "fast_channels": (16, 32, 24),
        "fast_group": 4,
        "lateral_channels": (8, 8, 16),
        "lateral_outputs": (8, 16, 32),
    },
}


def meta(name):
    with torch.device("meta"):
        return build_encoder(name)


def smallest_of_each_network():
    """Return a registered name for each kind of network in each file."""
    kinds = {}
    for name in sorted(NAMES, key=lambda name: REGISTRY.get(name).variants[name][0].parameters):
        settings = REGISTRY.get(name).variants[name][1]
        kinds.setdefault((REGISTRY.get_entry(name).module, getattr(settings, "network", "")), name)
    return sorted(kinds.values())


@cache
def runnable(name):
    encoder = meta(name)
    if encoder.card.parameters <= SMALL:
        return build_encoder(name).eval()
    kinds = [kind.__name__ for kind in type(encoder.settings).mro()]
    changes = [SHRUNK[kind] for kind in kinds if kind in SHRUNK]
    assert changes, f"{name} is large: give {kinds[0]} a line in SHRUNK"
    return build_encoder(name, changes=changes[0]).eval()


@pytest.fixture
def inference():
    with torch.inference_mode():
        yield


def noise(seconds, rate, seed=0):
    return 0.1 * torch.randn(1, int(seconds * rate), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_right(name):
    encoder = meta(name)
    card = encoder.card
    assert card.name == name
    assert card.parameters == sum(parameter.numel() for parameter in encoder.parameters())
    assert REGISTRY.get_entry(name).summary
    assert card.license or not REGISTRY.get(name).has_weights
    has_text_tower = card.joint_dim is not None
    assert hasattr(encoder, "encode_text") == hasattr(encoder, "encode_audio_joint") == has_text_tower


@pytest.mark.parametrize("name", NAMES)
def test_the_card_of_published_weights_describes_how_benchmarks_ran_them(name):
    card = REGISTRY.get(name).variants[name][0]
    if card.files:
        benchmark, _, setup = card.benchmark_setup.partition(": ")
        assert benchmark and "\n" not in setup
        windows, pooling, *normalisation = setup.split("; ")
        assert "window" in windows and "mean" in pooling and normalisation


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_the_network_is_and_what_it_was_trained_to_do(name):
    card = REGISTRY.get(name).variants[name][0]
    assert card.input and card.network
    assert bool(card.pretraining_task) == bool(card.files or not REGISTRY.get(name).has_weights)
    assert not card.files or card.context_seconds
    assert card.training_hours is None or 0 < card.training_hours[0] <= card.training_hours[1]


# [yuan2023thesis table 6.1]: million parameters, input, stride and context in seconds, thousands of hours. Where the
# published network is another than the table's, the second value is the network's.
TABLE_6_1 = {
    "musicnn-msd-big": (8, "log-mel", 3, 3, (10, 20)),
    "clmr": (2.5, "waveform", 2.69, 2.69, (1.7, 1.7)),
    "mule": (62.4, "log-mel", 2, 3, (117.5, 117.5)),
    "jukebox-5b": (2561, "waveform", 23.78, 23.78, (60, 120)),  # 5B with all 72 layers, of which 36 are computed
    "music2vec-v1": (95, "waveform", 0.02, 30, (1, 1)),
    "mert-v0": (95, "waveform", 0.02, 5, (1, 1)),
    "mert-v0-public": (95, "waveform", 0.02, 5, (0.9, 0.91)),
    "mert-v1-95m": (95, "waveform", 0.0133, 5, (17, 17)),
    "mert-v1-330m": (330, "waveform", 0.0133, 5.12, (160, 160)),
}


@pytest.mark.parametrize("name", TABLE_6_1)
def test_cards_of_the_thesis_agree_with_its_table(name):
    card = REGISTRY.get(name).variants[name][0]
    parameters, kind, stride, context, hours = TABLE_6_1[name]
    assert card.parameters / 1e6 == pytest.approx(parameters, rel=0.06)
    assert card.input == kind
    assert (card.stride_seconds or 1 / card.frame_rate) == pytest.approx(stride, rel=0.01)
    assert card.context_seconds == pytest.approx(context, rel=0.01)
    low, high = card.training_hours
    # Sources differ on the hours of MERT-v1-95M, and CLMR was trained on another corpus too.
    assert low / 1000 <= hours[1] and high / 1000 >= hours[0]


@pytest.mark.parametrize("name", NAMES)
def test_variants_are_those_the_file_names(name):
    family = REGISTRY.get(name)
    assert set(family.variants) == {
        entry.name for entry in REGISTRY.entries.values() if entry.module == REGISTRY.get_entry(name).module
    }


@pytest.mark.usefixtures("inference")
@pytest.mark.parametrize("name", smallest_of_each_network())
def test_no_network_needs_transformers(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    encoder = runnable.__wrapped__(name)  # not one built before
    assert encoder(noise(0.5, encoder.card.sample_rate)).isfinite().all()


def test_nothing_imports_transformers_with_the_package():
    """Encoders are imported before the test above hides it, so no module may have it at its top."""
    top = re.compile(r"^(import|from) transformers\b", re.MULTILINE)
    assert not [path for path in Path(carrara.__file__).parent.rglob("*.py") if top.search(path.read_text("utf-8"))]


@pytest.mark.usefixtures("inference")
@pytest.mark.parametrize("name", NAMES)
class TestOutput:
    def test_shape_and_frame_rate_are_as_declared(self, name):
        encoder, card = runnable(name), runnable(name).card
        layers = encoder(noise(2, card.sample_rate))
        samples = 2 * card.sample_rate
        assert layers.shape == (1, card.num_layers + 1, encoder.num_frames(samples), card.dim)
        assert torch.isfinite(layers).all()
        if card.frame_rate:
            assert abs(encoder.num_frames(samples) - 2 * card.frame_rate) <= 2
        else:
            assert encoder.num_frames(samples) == 1

    def test_the_same_input_gives_the_same_output(self, name):
        samples = noise(1, runnable(name).card.sample_rate)
        assert torch.equal(runnable(name)(samples), runnable(name)(samples))

    def test_clips_of_unequal_length_have_the_same_features_as_alone(self, name):
        encoder, rate = runnable(name), runnable(name).card.sample_rate
        seconds = (1.0, 2.0, 0.35)
        clips = [noise(length, rate, seed)[0] for seed, length in enumerate(seconds)]
        batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        together = encoder(batch, torch.tensor([len(clip) for clip in clips]))
        for row, clip in zip(together, clips):
            alone = encoder(clip[None])[0]
            frames = encoder.num_frames(len(clip))
            torch.testing.assert_close(row[:, :frames], alone, atol=2e-5, rtol=1e-4)
            assert not row[:, frames:].any()

    def test_the_vectors_in_the_space_of_a_text_tower_are_those_alone(self, name):
        encoder, rate = runnable(name), runnable(name).card.sample_rate
        if encoder.card.joint_dim is None:
            return
        clips = [noise(length, rate, seed)[0] for seed, length in enumerate((1.0, 2.0, 0.35))]
        batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        together = encoder.encode_audio_joint(batch, torch.tensor([len(clip) for clip in clips]))
        assert together.shape == (3, encoder.card.joint_dim)
        torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
        alone = torch.cat([encoder.encode_audio_joint(clip[None]) for clip in clips])
        torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)

    @pytest.mark.parametrize("kind", ["silence", "constant", "one sample", "loud"])
    def test_odd_input_stays_finite(self, name, kind):
        rate = runnable(name).card.sample_rate
        samples = {
            "silence": torch.zeros(1, rate),
            "constant": torch.full((1, rate), 0.5),
            "one sample": torch.full((1, 1), 0.5),
            "loud": 1000 * noise(1, rate),
        }[kind]
        layers = runnable(name)(samples)
        assert torch.isfinite(layers).all()
        assert layers.shape[2] == runnable(name).num_frames(samples.shape[1]) >= 1

    def test_bfloat16_is_near_float32(self, name):
        samples = noise(1, runnable(name).card.sample_rate)
        exact = runnable(name)(samples)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            approximate = runnable(name)(samples).float()
        assert torch.nn.functional.cosine_similarity(exact.flatten(), approximate.flatten(), dim=0) > 0.99

    def test_the_extra_cnn_is_as_declared(self, name):
        encoder, card = runnable(name), runnable(name).card
        samples = noise(1, card.sample_rate)
        if card.cnn_dim is None:
            with pytest.raises(NotImplementedError):
                encoder.forward_with_cnn(samples)
        else:
            layers, cnn = encoder.forward_with_cnn(samples)
            assert cnn.shape == (1, encoder.num_frames(card.sample_rate), card.cnn_dim)
            assert torch.equal(layers, encoder(samples))


def current_and_peak_memory():
    """Return the process's resident bytes, and the most since `reset_peak_memory`."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return [1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM")]


def reset_peak_memory():
    """Let the kernel count the most memory of this process from now on, without what earlier tests have freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel does not count the peak anew")
@pytest.mark.parametrize("name", smallest_of_each_network())
def test_ten_minutes_are_encoded_within_a_bound_of_memory(tmp_path, name):
    encoder = runnable(name)
    rate, seconds = encoder.card.sample_rate, 600
    with soundfile.SoundFile(tmp_path / "long.wav", "w", rate, 1) as file:
        for second in range(seconds):
            file.write(noise(1, rate, second)[0].numpy())
    reset_peak_memory()
    before, _ = current_and_peak_memory()
    tables = [piece.table for piece in embed_files(encoder, [tmp_path / "long.wav"], EmbedConfig(layer="all"))]
    assert tables[0].num_rows == encoder.card.num_layers + 1
    assert tables[0]["duration"].to_pylist() == [seconds] * tables[0].num_rows
    assert all(torch.isfinite(torch.tensor(row)).all() for row in tables[0]["embedding"].to_pylist())
    _, peak = current_and_peak_memory()
    assert peak - before < MEMORY
