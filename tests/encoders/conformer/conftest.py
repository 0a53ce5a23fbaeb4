"""A small network of MusicFM and MuQ by the authors' own names, and what it gives, from other libraries' parts.

The mel bands are librosa's, the convolutions torch's functions, the conformer transformers'. Names and shapes are those
of modules/conv.py and model/musicfm_25hz.py of minzwon/musicfm and of MuQ's model, which has them too.
"""

import types

import librosa
import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder

# 64 features a head, as published, so that the positions of a small file are those of a large one.
SMALL = {"channels": 4, "dim": 128, "num_layers": 2, "num_heads": 2, "ffn_dim": 48}
STATISTICS = {"melspec_2048_mean": 5.5, "melspec_2048_std": 17.25}


def conformer(dim, num_layers, num_heads, ffn_dim, **others):
    """Return transformers' conformer of a size, with the published kernel."""
    config = Wav2Vec2ConformerConfig(
        hidden_size=dim,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=ffn_dim,
        conv_depthwise_kernel_size=31,
        hidden_act="swish",
        position_embeddings_type="rotary",
    )
    return Wav2Vec2ConformerEncoder(config).eval()


def norm_shapes(name, size):
    return {f"{name}.{end}": (size,) for end in ("weight", "bias", "running_mean", "running_var")}


def front_shapes(channels, dim):
    """Return the names and shapes of the front end as modules/conv.py of minzwon/musicfm builds them."""
    shapes = {"conv.linear.weight": (dim, channels * 32), "conv.linear.bias": (dim,)}
    for block, given in ((0, 1), (1, channels)):
        stem = f"conv.conv.{block}."
        for number, inputs in ((1, given), (2, channels), (3, given)):
            shapes |= {f"{stem}conv{number}.weight": (channels, inputs, 3, 3), f"{stem}conv{number}.bias": (channels,)}
            shapes |= norm_shapes(f"{stem}bn{number}", channels) | {f"{stem}bn{number}.num_batches_tracked": ()}
    return shapes


def table():
    """Return the network's tensors by the authors' names, without prefix; counters are floats, as in MusicFM's file."""
    generator = torch.Generator().manual_seed(5)
    shapes = front_shapes(SMALL["channels"], SMALL["dim"])
    shapes |= {f"conformer.{name}": tuple(tensor.shape) for name, tensor in conformer(**SMALL).state_dict().items()}
    made = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("inv_freq"):
            made[name] = torch.tensor([10_000.0 ** (-2 * pair / 64) for pair in range(32)])
        elif name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(95_489.0)
        elif name.endswith("running_var"):
            made[name] = noise.abs() + 0.5
        else:
            made[name] = 0.15 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return made


def librosa_mel(samples_T):
    power_MF = librosa.feature.melspectrogram(
        y=samples_T.numpy(), sr=24_000, n_fft=2048, hop_length=240, n_mels=128, htk=True, norm=None, pad_mode="reflect"
    )
    return 10 * np.log10(np.maximum(power_MF, 1e-10))[:, :-1]


def reference_rows(table, samples_BT):
    """Return layers + 1 rows from the authors' description, each step by another library's means."""

    def normed(x, name):
        return functional.batch_norm(
            x, *(table[f"{name}.{end}"] for end in ("running_mean", "running_var", "weight", "bias"))
        )

    def convolved(x, name, number, stride):
        weight, bias = table[f"{name}conv{number}.weight"], table[f"{name}conv{number}.bias"]
        return normed(functional.conv2d(x, weight, bias, stride, padding=1), f"{name}bn{number}")

    mel_BMF = torch.stack([torch.from_numpy(librosa_mel(samples_T)) for samples_T in samples_BT])
    x = ((mel_BMF - STATISTICS["melspec_2048_mean"]) / STATISTICS["melspec_2048_std"])[:, None].float()
    for stem in ("conv.conv.0.", "conv.conv.1."):
        hidden = functional.relu(convolved(x, stem, 1, 2))
        x = functional.relu(convolved(hidden, stem, 2, 1) + convolved(x, stem, 3, 2))
    x_BGD = functional.linear(x.permute(0, 3, 1, 2).flatten(2), table["conv.linear.weight"], table["conv.linear.bias"])
    theirs = conformer(**SMALL)
    theirs.load_state_dict(
        {name.removeprefix("conformer."): tensor for name, tensor in table.items() if name.startswith("conformer.")}
    )
    rows = [x_BGD]
    for layer in theirs.layers:
        layer.register_forward_hook(lambda module, given, out: rows.append(out))
    last = theirs(x_BGD).last_hidden_state
    return [*rows[:-1], last]


@pytest.fixture(scope="session")
def twin():
    """Return the small network's settings, statistics and tensors, and how to know what it gives."""
    return types.SimpleNamespace(
        settings=SMALL,
        statistics=STATISTICS,
        table=table(),
        conformer=conformer,
        front_shapes=front_shapes,
        mel=librosa_mel,
        rows=reference_rows,
    )


@pytest.fixture
def noise():
    """Return white noise of some seconds at 24 kHz, `[1, samples]`."""

    def make(seconds, seed=0):
        return 0.1 * torch.randn(1, int(seconds * 24_000), generator=torch.Generator().manual_seed(seed))

    return make
