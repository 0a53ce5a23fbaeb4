"""Windows for fine-tuning: which are heard, what is wanted of them, and logits against the encoder asked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional

from carrara.bench.finetune.excerpts import Draw, batches, excerpts, logits
from carrara.bench.finetune.model import Tunable
from carrara.bench.finetune.settings import FinetuneSettings
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
    found = []
    for number, seconds in enumerate(SECONDS):
        noise = 0.1 * np.random.default_rng(number).standard_normal(round(seconds * RATE))
        soundfile.write(folder / f"{number}.wav", noise.astype(np.float32), RATE, subtype="FLOAT")
        labels = {"class": "abc"[number % 3], "beats": list(TIMES)}
        found.append(Clip(str(number), folder / f"{number}.wav", labels=labels))
    return found


def model(frames=False, outputs=3):
    return Tunable(network(), ProbeShape(32, 16, outputs, 0.0, 4), frames, FinetuneSettings(), seed=1).eval()


def sound(clip):
    return torch.from_numpy(soundfile.read(clip.path, dtype="float32")[0])


def answered(one, heard_RLD):
    """Return the probe's answer written out: softmax-weighted sum, one hidden layer."""
    x_RD = (heard_RLD * one.head.mix.softmax(0)[:, None]).sum(1)
    hidden = functional.relu(x_RD @ one.head.inner_weight.T + one.head.inner_bias)
    return hidden @ one.head.outer_weight.T + one.head.outer_bias


@torch.no_grad()
@pytest.mark.parametrize("aggregate", ["embedding", "logit"])
def test_logits_of_a_clip_are_those_of_its_windows_heard_one_by_one(clips, aggregate):
    one = model()
    row = task(window_seconds=0.5, aggregate=aggregate)
    found_RK, rows_U = logits(one, clips, row, "cpu")
    for clip, rows in zip(clips, rows_U):
        # Windows of half a second; what is left over is one more if it is a quarter of a second or longer.
        parts = [part for part in sound(clip).split(RATE // 2) if len(part) >= RATE // 4]
        means_WLD = torch.stack([one.encoder(part[None])[0].mean(1) for part in parts])
        heard = means_WLD.mean(0, keepdim=True) if aggregate == "embedding" else means_WLD
        wanted = answered(one, heard)
        assert torch.allclose(found_RK[rows], wanted, atol=1e-5), clip.id


def test_every_window_is_heard_once_an_epoch_or_one_of_each_clip(clips):
    encoder, answer = network(), TASK_TYPES.get("multiclass")
    each = excerpts(encoder, task(window_seconds=0.5, aggregate="logit"), answer, None, clips)
    one_a_clip = excerpts(encoder, task(window_seconds=0.5), answer, None, clips)
    assert len(one_a_clip) == len(clips) and [len(windows) for windows in one_a_clip] == [2, 1, 4, 3, 2, 2]
    assert sorted(own for windows in one_a_clip for own in windows_of(windows)) == sorted(
        own for windows in each for own in windows_of(windows)
    )
    heard: dict[float, set[bytes]] = {}
    for epoch in range(12):
        got = list(batches(one_a_clip, Draw(4, 1, 7), epoch, RATE))
        assert [len(batch.targets) for batch in got] == [4, 2] and all(batch.first and batch.last for batch in got)
        for batch in got:
            for samples_T, length, target in zip(batch.samples_BT, batch.lengths_B, batch.targets):
                assert not samples_T[length:].any()
                heard.setdefault(int(target), set()).add(samples_T[:length].numpy().tobytes())
    everything = {
        soundfile.read(own.path, dtype="float32")[0][round(own.start * RATE) :][: RATE // 2].tobytes()
        for windows in each
        for own in windows
    }
    assert set().union(*heard.values()) <= everything
    assert len(set().union(*heard.values())) > len(everything) / 2


def windows_of(windows):
    return [(str(own.path), own.start, own.duration) for own in windows]


def test_targets_of_excerpts_lie_where_the_beats_are(clips):
    encoder, answer = network(), TASK_TYPES.get("beat_tracking")
    examples = excerpts(encoder, beats(window_seconds=0.5), answer, None, clips[2:3])
    assert len(examples) == 4
    for (own,) in examples:
        assert round(own.start * RATE) % STRIDE == 0
        for frame, wanted in enumerate(own.target[:, 0]):
            time = own.start + frame * STRIDE / RATE
            near = min(abs(time - beat) for beat in TIMES)
            assert wanted == (near <= 1.5 * STRIDE / RATE), time


@torch.no_grad()
def test_frames_of_a_clip_stand_on_one_grid_and_are_the_encoders_own(clips):
    one = model(frames=True, outputs=1)
    found_RK, rows_U = logits(one, clips, beats(window_seconds=0.5), "cpu")
    for clip, seconds, rows in zip(clips, SECONDS, rows_U):
        assert len(rows) == one.encoder.num_frames(round(seconds * RATE))
        if seconds <= 0.8:
            assert torch.allclose(found_RK[rows], answered(one, one.encoder(sound(clip)[None])[0].mT.permute(2, 0, 1)))


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


def test_an_encoder_of_one_row_without_layers_learns_whole_or_says_why_not(clips):
    shape = ProbeShape(8, 16, 3, 0.0, 0)
    one = Tunable(Filters(), shape, False, FinetuneSettings(), 1)
    assert {group["rate"] for group in one.groups(FinetuneSettings())} == {1e-4, 2e-5}
    assert logits(one, clips, task(), "cpu")[0].shape == (len(clips), 3)
    with pytest.raises(UsageError, match="filters: has no attention to adapt; use --set mode=full"):
        Tunable(Filters(), shape, False, FinetuneSettings(mode="lora"), 1)
    with pytest.raises(UsageError, match="filters: has no stack of layers; use --set checkpointing=false"):
        Tunable(Filters(), shape, False, FinetuneSettings(activation_checkpointing=True), 1)
