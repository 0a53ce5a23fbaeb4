"""Adapters for MTEB, X-ARES and HEAR: their documented interfaces, embeddings against the encoder's own output.

MTEB's real package is used (extra `test`). X-ARES and HEAR are not installable beside a CPU torch, so their checks are
written out here.
"""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import soxr
import torch

from carrara import adapters
from carrara.core.errors import UsageError
from carrara.encoders._base import Card, Encoder

RATE = 24_000


class Averages(Encoder):
    """Means and roots of mean squares of 20 ms in layer 1, twice these in layer 0."""

    def __init__(self, window_seconds=None, frame_rate=50.0):
        super().__init__()
        self.card = Card(
            name="averages", sample_rate=RATE, frame_rate=frame_rate, num_layers=1, dim=2, window_seconds=window_seconds
        )
        self.gain = torch.nn.Parameter(torch.ones(()))

    def num_frames(self, samples):
        return max(1, samples // 480) if self.card.frame_rate else 1

    def forward(self, samples_BT, lengths_B=None):
        frames = samples_BT[:, : samples_BT.shape[1] // 480 * 480].unflatten(1, (-1, 480))
        features = self.gain * torch.stack([frames.mean(-1), frames.square().mean(-1).sqrt()], -1)
        if lengths_B is not None:
            for row, length in enumerate(lengths_B.tolist()):
                features[row, int(length) // 480 :] = 0
        if self.card.frame_rate is None:
            features = features.mean(1, keepdim=True)
        return torch.stack([2 * features, features], 1)


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def frames_by_hand(samples_T):
    frames = samples_T[: len(samples_T) // 480 * 480].reshape(-1, 480).astype(np.float64)
    return np.stack([frames.mean(1), np.sqrt((frames**2).mean(1))], 1)


def check_as_xares_does(encoder):
    """The conditions of X-ARES 0.1.3's check_audio_encoder."""
    assert type(encoder).__name__.endswith("Encoder") and isinstance(encoder, torch.nn.Module)
    assert all(hasattr(encoder, name) for name in ("output_dim", "sampling_rate", "hop_size_in_ms"))
    encoded = encoder(torch.randn(2, 50_000))
    assert isinstance(encoded, torch.Tensor) and encoded.ndim == 3
    assert encoded.shape[0] == 2 and encoded.shape[2] == encoder.output_dim
    return encoded


def test_xares_gets_frames_of_a_layer():
    encoder = adapters.xares(Averages())
    encoded = check_as_xares_does(encoder)
    assert (encoder.sampling_rate, encoder.hop_size_in_ms) == (RATE, 20.0)
    assert encoded.shape == (2, 50_000 // 480, 2)
    audio = noise(3, 48_000)
    for row, own in zip(encoder(audio), audio.numpy()):
        np.testing.assert_allclose(row.numpy(), frames_by_hand(own), atol=1e-6)
    np.testing.assert_allclose(adapters.xares(Averages(), layer=0)(audio), 2 * encoder(audio), atol=1e-6)


def test_a_long_clip_is_encoded_in_windows():
    audio = noise(1, 5 * RATE)
    whole = adapters.xares(Averages())(audio)
    torch.testing.assert_close(adapters.xares(Averages(window_seconds=2.0))(audio), whole, rtol=0, atol=1e-6)


def check_as_hear_does(module):
    """The conditions of hearvalidator 2021.0.2 on PyTorch models."""
    model = module.load_model()
    assert isinstance(model, torch.nn.Module) and model.sample_rate in (16_000, 22_050, 44_100, 48_000)
    assert isinstance(model.scene_embedding_size, int) and isinstance(model.timestamp_embedding_size, int)
    embeddings, times = module.get_timestamp_embeddings(noise(16, 2 * model.sample_rate), model)
    assert embeddings.dtype == torch.float32 and len(embeddings) == 16 and embeddings.shape[:2] == times.shape
    assert embeddings.shape[2] == model.timestamp_embedding_size
    steps = torch.diff(times)
    assert (steps - steps.mean()).abs().max() < 1e-3 and steps.mean() <= 50
    scenes = module.get_scene_embeddings(noise(8, int(3.74 * model.sample_rate)), model)
    assert scenes.dtype == torch.float32 and scenes.shape == (8, model.scene_embedding_size)
    return model


def test_hear_gets_scenes_and_times_at_a_rate_that_it_has(tmp_path):
    module = adapters.hear(Averages())
    model = check_as_hear_does(module)
    assert model.sample_rate == 44_100, "24 kHz is none of HEAR's rates"
    audio = noise(2, 3 * 44_100)
    own = [frames_by_hand(soxr.resample(clip, 44_100, RATE, quality="HQ")) for clip in audio.numpy()]
    frames, times = module.get_timestamp_embeddings(audio, model)
    np.testing.assert_allclose(frames.numpy(), np.stack(own), atol=1e-6)
    np.testing.assert_allclose(times[0, :3].numpy(), [10, 30, 50], atol=1e-4)
    scenes = module.get_scene_embeddings(audio, model)
    np.testing.assert_allclose(scenes.numpy(), np.stack([each.mean(0) for each in own]), atol=1e-6)
    other = module.load_model("mert-tiny:random")
    assert other.scene_embedding_size != 2 and other.encoder.card.name == "mert-tiny:random"


def test_what_has_no_frames_or_layer_is_refused():
    vectors = Averages(frame_rate=None)
    with pytest.raises(UsageError, match="averages has no frames.*X-ARES"):
        adapters.xares(vectors)
    module = adapters.hear(vectors)
    model = module.load_model()
    assert module.get_scene_embeddings(noise(2, 44_100), model).shape == (2, 2)
    with pytest.raises(UsageError, match="no frames"):
        module.get_timestamp_embeddings(noise(2, 44_100), model)
    with pytest.raises(UsageError, match="layers 0 to 1"):
        adapters.hear(Averages(), layer=2).load_model()
    with pytest.raises(UsageError, match="layers 0 to 1"):
        adapters.xares(Averages(), layer=-1)
    with pytest.raises(UsageError, match="no samples"):
        adapters.encode_arrays(Averages(), [np.zeros(0, np.float32)], 0, "mean")


def test_without_mteb_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(UsageError, match=r"carrara\[mteb\]"):
        adapters.mteb(Averages())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mteb") is None, reason="mteb is not installed: pip install carrara[mteb]")
class TestMteb:
    """With the real package."""

    def test_embeddings_are_the_means_of_the_frames(self):
        import mteb
        from torch.utils.data import DataLoader

        model = adapters.mteb(Averages())
        assert isinstance(model, mteb.EncoderProtocol)
        meta = model.mteb_model_meta
        assert (meta.name, meta.modalities, meta.embed_dim) == ("carrara/averages", ["audio"], 2)
        clips = [noise(RATE * (2 + number), seed=number).numpy() for number in range(3)]
        rows = [{"audio": {"array": clip, "sampling_rate": RATE}} for clip in clips]
        stereo = np.stack([clips[0], -clips[0]])
        rows.append({"audio": {"array": stereo, "sampling_rate": RATE}})
        encoded = model.encode(DataLoader(rows, batch_size=2), task_metadata=None, hf_split="test", hf_subset="default")
        expected = [frames_by_hand(clip).mean(0) for clip in clips] + [np.zeros(2)]
        np.testing.assert_allclose(encoded, np.stack(expected), atol=1e-6)
        assert float(model.similarity(encoded[:1], encoded[:1])) == pytest.approx(1)

    def test_a_task_of_mteb_runs_from_its_own_evaluate(self, tmp_path):
        import mteb
        from datasets import Dataset, DatasetDict
        from mteb.abstasks import AbsTaskClassification
        from mteb.abstasks.task_metadata import TaskMetadata

        class Loudness(AbsTaskClassification):
            metadata = TaskMetadata(
                name="CarraraLoudness", description="Loud or soft noise.", dataset={"path": "none", "revision": "1"},
                type="AudioClassification", category="a2c", modalities=["audio"], eval_splits=["test"],
                eval_langs=["zxx-Zxxx"], main_score="accuracy", date=None, domains=None, task_subtypes=None,
                license=None, annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation="",
                reference=None,
            )  # fmt: skip
            input_column_name = "audio"

            def load_data(self, **options):
                def split(seed):
                    rows = {"audio": [], "label": []}
                    for number in range(24):
                        loud = number % 2
                        clip = (0.1 + 0.8 * loud) * noise(RATE // 2, seed=seed + number).numpy()
                        rows["audio"].append({"array": clip.tolist(), "sampling_rate": RATE})
                        rows["label"].append(loud)
                    return Dataset.from_dict(rows)

                self.dataset = DatasetDict({"train": split(0), "test": split(100)})
                self.data_loaded = True

        result = mteb.evaluate(adapters.mteb(Averages()), tasks=[Loudness()], cache=None)
        assert result.task_results[0].get_score() == 1.0
        assert result.model_name == "carrara/averages"
