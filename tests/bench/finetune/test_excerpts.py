"""Windows for fine-tuning: which are drawn, their targets, and logits against the encoder called window by window."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional

from carrara.bench.finetune.excerpts import clip_logits, iter_batches, list_excerpts
from carrara.bench.finetune.model import FineTuneModel
from carrara.bench.finetune.settings import FineTuneSettings
from carrara.bench.probes.probe import ProbeShape
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.core.clip import Clip
from carrara.core.errors import UsageError
from carrara.core.task import Task
from carrara.encoders._base import Card, Encoder
from carrara.encoders._hubert.network import HubertEncoder, HubertSettings, hubert_card

RATE, STRIDE = 2000, 40
SECONDS = (1.0, 0.7, 2.1, 1.6, 0.9, 1.0)
TIMES = (0.3, 0.9, 1.1, 1.9)


def network():
    settings = HubertSettings(
        sample_rate=RATE,
        conv_channels=16,
        conv_kernels=(16, 4),
        conv_strides=(10, 4),
        dim=32,
        num_layers=3,
        num_heads=4,
        ffn_dim=32,
        position_kernel=8,
        position_groups=4,
    )
    return HubertEncoder(settings, hubert_card("small", settings, window_seconds=0.8), 3).eval()


def task(**changes):
    values = {
        "version": 1, "dataset": "d", "split_scheme": "s", "task_type": "multiclass",
        "label": "class", "labels": ("a", "b", "c"),
        "metrics": ("accuracy",), "monitor": "accuracy", "category": "score", "name": "d/class"
    }  # fmt: skip
    return Task(**values | changes)


def beats(**changes):
    scores = {"metrics": ("beat_f_70ms",), "monitor": "beat_f_70ms"}
    return task(task_type="", label="beats", labels=("beat",), **scores, **changes)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    clips = []
    for number, seconds in enumerate(SECONDS):
        noise = 0.1 * np.random.default_rng(number).standard_normal(round(seconds * RATE))
        soundfile.write(folder / f"{number}.wav", noise.astype(np.float32), RATE, subtype="FLOAT")
        labels = {"class": "abc"[number % 3], "beats": list(TIMES)}
        clips.append(Clip(str(number), folder / f"{number}.wav", labels=labels))
    return clips


def build_model(frames=False, outputs=3):
    return FineTuneModel(network(), ProbeShape(32, 16, outputs, 0.0, 4), frames, FineTuneSettings(), seed=1).eval()


def sound(clip):
    return torch.from_numpy(soundfile.read(clip.path, dtype="float32")[0])


def probe_logits(model, x_RLD):
    """Return the probe's logits written out: softmax-weighted sum, one hidden layer."""
    x_RD = (x_RLD * model.head.mix.softmax(0)[:, None]).sum(1)
    hidden = functional.relu(x_RD @ model.head.inner_weight.T + model.head.inner_bias)
    return hidden @ model.head.outer_weight.T + model.head.outer_bias


@torch.no_grad()
@pytest.mark.parametrize("aggregate", ["embedding", "logit"])
def test_logits_of_a_clip_equal_those_of_its_windows_encoded_one_by_one(clips, aggregate):
    model = build_model()
    own_task = task(window_seconds=0.5, aggregate=aggregate)
    split, logits_RK = clip_logits(model, clips, own_task, "cpu")
    for clip, rows in zip(clips, split.rows_U):
        # Windows of half a second; what is left over is one more if it is a quarter of a second or longer.
        parts = [part for part in sound(clip).split(RATE // 2) if len(part) >= RATE // 4]
        means_WLD = torch.stack([model.encoder(part[None])[0].mean(1) for part in parts])
        inputs = means_WLD.mean(0, keepdim=True) if aggregate == "embedding" else means_WLD
        expected = probe_logits(model, inputs)
        assert torch.allclose(logits_RK[rows], expected, atol=1e-5), clip.id


def test_an_epoch_has_every_window_or_one_of_each_clip(clips):
    encoder, task_type = network(), TASK_TYPES.get("multiclass")
    each = list_excerpts(encoder, task(window_seconds=0.5, aggregate="logit"), task_type, None, clips)
    one_per_clip = list_excerpts(encoder, task(window_seconds=0.5), task_type, None, clips)
    assert len(one_per_clip) == len(clips) and [len(windows) for windows in one_per_clip] == [2, 1, 4, 3, 2, 2]
    assert sorted(own for windows in one_per_clip for own in positions(windows)) == sorted(
        own for windows in each for own in positions(windows)
    )
    drawn: dict[float, set[bytes]] = {}
    for epoch in range(12):
        batches = list(iter_batches(one_per_clip, FineTuneSettings(batch=4), 7, epoch, RATE))
        assert [len(batch.targets) for batch in batches] == [4, 2] and all(
            batch.first and batch.last for batch in batches
        )
        for batch in batches:
            for samples_T, length, target in zip(batch.samples_BT, batch.lengths_B, batch.targets):
                assert not samples_T[length:].any()
                drawn.setdefault(int(target), set()).add(samples_T[:length].numpy().tobytes())
    every_window = {
        soundfile.read(own.path, dtype="float32")[0][round(own.start * RATE) :][: RATE // 2].tobytes()
        for windows in each
        for own in windows
    }
    assert set().union(*drawn.values()) <= every_window
    assert len(set().union(*drawn.values())) > len(every_window) / 2


def positions(windows):
    return [(str(own.path), own.start, own.duration) for own in windows]


def test_targets_of_excerpts_are_at_the_beats(clips):
    encoder, task_type = network(), TASK_TYPES.get("beat_tracking")
    examples = list_excerpts(encoder, beats(window_seconds=0.5), task_type, None, clips[2:3])
    assert len(examples) == 4
    for (own,) in examples:
        assert round(own.start * RATE) % STRIDE == 0
        for frame, target in enumerate(own.target[:, 0]):
            time = own.start + frame * STRIDE / RATE
            near = min(abs(time - beat) for beat in TIMES)
            assert target == (near <= 1.5 * STRIDE / RATE), time


@torch.no_grad()
def test_frames_of_a_clip_are_on_one_grid_and_are_the_encoders_own(clips):
    model = build_model(frames=True, outputs=1)
    split, logits_RK = clip_logits(model, clips, beats(window_seconds=0.5), "cpu")
    for clip, seconds, rows in zip(clips, SECONDS, split.rows_U):
        assert len(rows) == model.encoder.num_frames(round(seconds * RATE))
        if seconds <= 0.8:
            assert torch.allclose(
                logits_RK[rows], probe_logits(model, model.encoder(sound(clip)[None])[0].mT.permute(2, 0, 1))
            )


class Filters(Encoder):
    """A convolution and nothing else: neither attention nor a stack of layers."""

    def __init__(self):
        super().__init__()
        self.card = Card(name="filters", sample_rate=RATE, frame_rate=RATE / STRIDE, num_layers=0, dim=8)
        self.conv = torch.nn.Conv1d(1, 8, STRIDE, STRIDE)

    def num_frames(self, samples):
        return max(samples // STRIDE, 1)

    def forward(self, samples_BT, lengths_B=None):
        x_BDF = self.conv(functional.pad(samples_BT, (0, max(STRIDE - samples_BT.shape[1], 0)))[:, None])
        if lengths_B is not None:
            own_BF = torch.arange(x_BDF.shape[2]) < (lengths_B // STRIDE).clamp(min=1)[:, None]
            x_BDF = x_BDF * own_BF[:, None]
        return x_BDF.mT[:, None]


def test_an_encoder_without_layers_is_trained_whole_or_refused(clips):
    shape = ProbeShape(8, 16, 3, 0.0, 0)
    model = FineTuneModel(Filters(), shape, False, FineTuneSettings(), 1)
    assert {group["rate"] for group in model.param_groups(FineTuneSettings())} == {1e-4, 2e-5}
    assert clip_logits(model, clips, task(), "cpu")[1].shape == (len(clips), 3)
    with pytest.raises(UsageError, match="filters: has no attention to adapt; use --set mode=full"):
        FineTuneModel(Filters(), shape, False, FineTuneSettings(mode="lora"), 1)
    with pytest.raises(UsageError, match="filters: has no stack of layers; use --set activation_checkpointing=false"):
        FineTuneModel(Filters(), shape, False, FineTuneSettings(activation_checkpointing=True), 1)
