"""MAEST as an encoder: sizes, tokens, windows, patchout, front end, against naive versions and Hugging Face's AST."""

import itertools

import numpy as np
import pytest
import torch

from carrara.core.errors import UsageError
from carrara.encoders._hub.load import build_encoder
from carrara.encoders.maest import MaestEncoder, MaestSettings

SIZES = {
    "maest-5s": (312, 85_903_904),
    "maest-10s": (625, 85_927_712),
    "maest-10s-fs": (625, 85_927_712),
    "maest-10s-dw": (625, 85_927_712),
    "maest-20s": (1250, 85_976_096),
    "maest-30s": (1875, 86_023_712),
    "maest-30s-ts": (1875, 86_023_712),
    "maest-30s-519": (1875, 86_206_734),
}
SMALL = {"dim": 24, "num_layers": 2, "num_heads": 2, "ffn_dim": 48, "classes": 7}
CHOICES = ("cls", "dist", "average", "stack", "frames")


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def small(**changes):
    """Return a network whose tokens differ enough for a mistake to show; equal weights whatever is changed."""
    return drawn(build_encoder("maest-tiny", 3, {**SMALL, **changes}).eval())


def drawn(encoder, spread=0.1):
    """Draw every parameter, norms around 1 and biases too, so that one in another's place shows."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in encoder.named_parameters():
        gain = parameter.ndim == 1 and name.endswith("weight")
        parameter.normal_(float(gain), 0.2 if parameter.ndim == 1 else spread, generator=generator)
    return encoder


def sound(seconds, seed=0):
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16000)) / 16000
    samples = 0.3 * np.sin(2 * np.pi * 330 * time * (1 + 0.1 * time)) + 0.05 * generator.standard_normal(len(time))
    return torch.from_numpy(samples.astype(np.float32))[None]


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_published_ones(name):
    with torch.device("meta"):
        encoder = build_encoder(name)
    frames, parameters = SIZES[name]
    assert encoder.card.parameters == sum(p.numel() for p in encoder.parameters()) == parameters
    assert encoder.settings.frames == frames
    assert (encoder.card.num_layers, encoder.card.dim, encoder.card.frame_rate) == (12, 2304, None)
    assert encoder.card.commercial_use is False


def naive(encoder, samples_1T):
    """Return the tokens of a clip that is shorter than the table, layer by layer, without any of the encoder's code."""
    settings = encoder.settings
    mel = encoder.mel(samples_1T)
    return encoder.vit((mel - settings.mean) / (2 * settings.std))


def chosen(tokens, x):
    """Return the features of a window from its tokens of one layer, `[frames, width]`."""
    average = x[2:].mean(0)
    return {
        "cls": x[:1],
        "dist": x[1:2],
        "average": average[None],
        "stack": torch.cat([x[0], x[1], average])[None],
        "frames": x[2:].reshape(9, -1, 24).mean(0),
    }[tokens]


@pytest.mark.parametrize("tokens", CHOICES)
def test_a_clips_features_are_the_chosen_tokens(tokens):
    encoder, clip = small(tokens=tokens), sound(4.1)
    expected = torch.stack([chosen(tokens, x[0]) for x in naive(encoder, clip)])
    actual = encoder(clip)[0]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert encoder.card.dim == actual.shape[-1]
    assert encoder.num_frames(clip.shape[1]) == actual.shape[1]
    assert encoder.card.frame_rate == (6.25 if tokens == "frames" else None)


@pytest.mark.parametrize(
    ("tokens", "framing"),
    [*((tokens, "essentia") for tokens in CHOICES), ("stack", "maest-torch"), ("frames", "maest-hf")],
)
@pytest.mark.parametrize("dropped", [0, 17])  # of 18, 1, 7, and 17 and 18 columns
def test_clips_of_unequal_length_have_the_same_features_as_alone(tokens, framing, dropped):
    encoder = small(tokens=tokens, framing=framing, drop_columns=tuple(range(dropped)))
    clips = [sound(seconds, seed)[0] for seed, seconds in enumerate((3.0, 0.1, 1.3, 5.7))]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    spoilt = torch.full_like(batch, 7.0)
    for row, clip in zip(spoilt, clips):
        row[: len(clip)] = clip
    together = encoder(spoilt, torch.tensor([len(clip) for clip in clips]))
    assert together.shape[2] == encoder.num_frames(batch.shape[1])
    for row, clip in zip(together, clips):
        frames = encoder.num_frames(len(clip))
        torch.testing.assert_close(row[:, :frames], encoder(clip[None])[0], atol=2e-5, rtol=1e-4)
        assert not row[:, frames:].any()


def test_long_audio_is_encoded_in_equal_windows_of_one_spectrogram():
    aligned, stacked, clip = small(tokens="frames"), small(), sound(12.0)
    mel = aligned.normalize(aligned.mel(clip))
    columns = (mel.shape[1] - 16) // 10 + 1
    assert columns == 74
    ends = [0, 24, 49, 74]  # three windows, since the table has 31 columns
    rows, parts = [], []
    for first, after in itertools.pairwise(ends):
        last = aligned.vit(mel[:, first * 10 : (after - 1) * 10 + 16])[-1][0]
        rows.append(chosen("frames", last))
        parts.append(chosen("stack", last) * (after - first))
    torch.testing.assert_close(aligned(clip)[0, -1], torch.cat(rows), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(stacked(clip)[0, -1], sum(parts) / columns, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "minutes", "most"),
    [
        ({}, 10, 2048 // (2 + 9 * 31)),
        ({"every_column": 2}, 10, 2048 // (2 + 9 * 16)),  # as many windows more as there are tokens fewer
        ({"every_row": 3}, 10, 2048 // (2 + 3 * 31)),
        ({"every_row": 9, "every_column": 31}, 25, 8 * 8192 // (9 * 31)),  # every patch goes through the convolution
    ],
)
def test_long_audio_is_encoded_in_blocks(changes, minutes, most):
    """At most 2,048 tokens at once on a CPU."""
    encoder = small(tokens="frames", num_layers=1, **changes)
    seen = []
    encoder.vit.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    clip = torch.zeros(1, minutes * 60 * 16000)
    assert encoder(clip).shape == (1, 2, encoder.num_frames(clip.shape[1]), 24)
    assert max(seen) == most
    assert len(seen) > 1


def test_patchout_at_inference_drops_then_thins():
    clip = sound(4.1)
    columns = (256 - 16) // 10 + 1
    encoder = small(tokens="average", drop_rows=(0, 4), every_row=3, drop_columns=(1, 2), every_column=4)
    rows_left = [1, 2, 3, 5, 6, 7, 8][::3]
    columns_left = [place for place in range(columns) if place not in (1, 2)][::4]
    mel = encoder.normalize(encoder.mel(clip))
    expected = encoder.vit(mel, None, torch.tensor(columns_left), 0, torch.tensor(rows_left))
    assert expected[0].shape[1] == 2 + len(rows_left) * len(columns_left)
    for row, x in zip(encoder(clip)[0], expected):
        torch.testing.assert_close(row[0], x[0, 2:].mean(0), atol=1e-5, rtol=1e-5)


def test_where_columns_are_dropped_a_frame_repeats_the_one_before():
    frames = small(tokens="frames", every_column=3)(sound(4.1))[0, -1]
    assert len(frames) == 25
    for place in range(25):
        assert torch.equal(frames[place], frames[place - place % 3])
    assert not torch.equal(frames[0], frames[3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop_columns": list(range(30))}, "drop_columns would drop all 30"),
        ({"drop_columns": list(range(31))}, "drop_columns would drop all 30"),
        ({"drop_rows": list(range(9))}, "drop_rows would drop all 9"),
        ({"drop_rows": [1, 9]}, "drop_rows: there is no 9, only 0 to 8"),
        ({"drop_columns": [31]}, "drop_columns: there is no 31, only 0 to 30"),
        ({"drop_columns": [-1]}, "drop_columns: there is no -1, only 0 to 30"),
        ({"labels": ["a", "a", "b", "c", "d", "e", "f"]}, "7 different names"),
        ({"labels": ["a", "b"]}, "7 different names"),
        ({"distilled": "separated", "distillation_head": False}, "distillation_head"),
        ({"tokens": "clz"}, "tokens"),
        ({"dim": 25}, "divisible"),
    ],
)
def test_invalid_settings_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        build_encoder("maest-tiny", 0, {**SMALL, **changes})


@pytest.mark.parametrize("tokens", CHOICES)
def test_a_window_of_which_patchout_leaves_nothing_keeps_its_last_column(tokens):
    encoder = small(tokens=tokens, drop_columns=(*range(24), 24, 24))
    # 98 columns, encoded in windows of 24, 25, 24 and 25.
    clip = sound((10 * 97 + 16) * 256 / 16000)
    mel = encoder.normalize(encoder.mel(clip))
    rows, probabilities = [], []
    for first, after in itertools.pairwise([0, 24, 49, 73, 98]):
        columns = after - first
        window = mel[:, first * 10 : (after - 1) * 10 + 16]
        last = encoder.vit(window, None, torch.tensor([columns - 1]))[-1]
        rows.append(chosen(tokens, last[0]).expand(columns, -1))
        probabilities.append(encoder.logits(last).sigmoid()[0] * columns)
    expected = torch.cat(rows) if tokens == "frames" else torch.cat(rows).mean(0, keepdim=True)
    torch.testing.assert_close(encoder(clip)[0, -1], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.predict_tags(clip)[0], sum(probabilities) / 98, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("answer", ["forward", "predict_tags"])
@pytest.mark.parametrize(
    ("shape", "lengths", "message"),
    [
        ((0, 16000), None, r"samples of shape \[0, 16000\]; give \[clips, samples\], one clip at least"),
        ((1, 2, 16000), None, r"samples of shape \[1, 2, 16000\]; .* mono"),
        ((16000,), None, r"samples of shape \[16000\]"),
        ((2, 0), None, "a clip of no samples has no features"),
        ((2, 16000), torch.tensor([16000, 0]), "a clip of no samples has no features"),
    ],
)
def test_empty_or_misshapen_audio_is_refused(answer, shape, lengths, message):
    with pytest.raises(UsageError, match=message):
        getattr(small(), answer)(torch.zeros(shape), lengths)


def hugging_faces(encoder, frames):
    """Return Hugging Face's AST for so many frames, with an encoder's weights."""
    transformers = pytest.importorskip("transformers")
    from carrara.encoders._maest.keys import to_ast

    settings = encoder.settings
    config = transformers.ASTConfig(
        hidden_size=settings.dim,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        intermediate_size=settings.ffn_dim,
        num_mel_bins=96,
        max_length=frames,
        layer_norm_eps=1e-6,
        num_labels=settings.classes,
    )
    kind, tensors = transformers.ASTForAudioClassification, to_ast(encoder.state_dict())
    theirs, actual = kind.from_pretrained(None, config=config, state_dict=tensors, output_loading_info=True)
    assert not any(actual.values())  # nothing missing, nothing left over
    return theirs.eval()


@pytest.mark.slow
def test_at_its_published_size_every_layer_equals_hugging_faces():
    encoder = drawn(build_encoder("maest-30s", 3).eval(), spread=0.02)
    frames = 10 * (encoder.settings.shape.columns - 1) + 16
    mel = torch.randn(1, frames, 96, generator=torch.Generator().manual_seed(0))
    given = hugging_faces(encoder, frames)(mel, output_hidden_states=True)
    own = encoder.vit(mel)
    assert len(own) == 13
    for one, other in zip(own, given.hidden_states, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.logits(own[-1]), given.logits, atol=1e-5, rtol=1e-5)


def test_styles_equal_hugging_faces_and_windows_are_averaged():
    encoder = small()
    theirs = hugging_faces(encoder, 316)
    # Only 316 frames fit there: two windows of that many, on the encoder's own spectrogram of 62 columns.
    clip = sound((10 * 61 + 16) * 256 / 16000)
    mel = encoder.normalize(encoder.mel(clip))
    assert mel.shape[1] == 626
    first, second = (theirs(mel[:, start : start + 316]).logits for start in (0, 310))
    torch.testing.assert_close(encoder.logits(encoder.vit(mel[:, :316])[-1]), first, atol=1e-4, rtol=1e-4)
    expected = (first.sigmoid() + second.sigmoid()) / 2
    torch.testing.assert_close(encoder.predict_tags(clip), expected, atol=1e-5, rtol=1e-4)


def test_separated_heads_predict_from_cls_alone():
    mean, separated, clip = small(), small(distilled="separated"), sound(3.0)
    tokens = naive(mean, clip)[-1]
    normed = torch.nn.functional.layer_norm(tokens, (24,), mean.vit.norm.weight, mean.vit.norm.bias, 1e-6)
    torch.testing.assert_close(separated.logits(tokens), mean.head(normed[:, 0]))
    torch.testing.assert_close(mean.logits(tokens), mean.head((normed[:, 0] + normed[:, 1]) / 2))


def test_the_spectrogram_is_the_specified_one():
    librosa = pytest.importorskip("librosa")
    clip = sound(2.0)
    encoder = small(framing="maest-hf")
    power = librosa.feature.melspectrogram(
        y=clip[0].numpy(), sr=16000, n_fft=512, hop_length=256, n_mels=96, fmax=8000, pad_mode="constant"
    )
    expected = (np.log10(1 + 10000 * power.T) - 2.06755686098554) / (2 * 1.268292820667291)
    np.testing.assert_allclose(encoder.normalize(encoder.mel(clip))[0].numpy(), expected, atol=1e-4)


def test_random_weights_follow_the_seed():
    one, same, other = (MaestEncoder(MaestSettings(frames=312, **SMALL), small().card, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters()))
    assert not torch.equal(one.vit.cls_token, other.vit.cls_token)
    assert not torch.equal(one.head[1].weight, other.head[1].weight)
