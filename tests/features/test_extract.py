"""Extraction against a loop that encodes one window at a time; keys, sharing, broken files, the grid of frames."""

import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pydantic import ValidationError

from carrara.audio.decode import load_audio
from carrara.audio.windows import window_spans
from carrara.core.clip import Clip
from carrara.core.errors import DataError, StoreError
from carrara.encoders._hub.load import build_encoder, load
from carrara.features import encode
from carrara.features.encode import EncodePlan, encode_recordings
from carrara.features.extract import extract
from carrara.features.windows import WindowSpec, window_grid

RATE = 8000


def encode_alone(encoder, path, spec, start=0.0, duration=None):
    """Return every layer's rows of one clip, each window encoded by itself without a batch."""
    samples_T = load_audio(path, RATE, start, duration)
    window = RATE * (spec.window_seconds or 1000)
    rows = []
    for begin, length in window_spans(len(samples_T), int(window), None, RATE):
        layers_LFD = encoder(torch.from_numpy(samples_T[begin : begin + length])[None])[0]
        mean_LRD = layers_LFD.mean(dim=1, keepdim=True)
        deviation_LRD = layers_LFD.std(dim=1, correction=0, keepdim=True)
        pooled = {"mean": mean_LRD, "mean-std": torch.cat([mean_LRD, deviation_LRD], -1), "frames": layers_LFD}
        rows.append(pooled[spec.pool])
    return torch.cat(rows, dim=1).numpy()


@pytest.mark.parametrize(
    "spec",
    [
        WindowSpec(),
        WindowSpec(window_seconds=2),
        WindowSpec(pool="frames"),
        WindowSpec(cnn=True),
        WindowSpec(pool="mean-std"),
        WindowSpec(pool="mean-std", window_seconds=2),
    ],
)
def test_a_window_has_the_same_features_in_a_batch_as_alone(tmp_path, plain, clips, spec):
    sounds = clips(3.0, 0.05, 5.7, 2.0, 1.01, 0.3, 4.0, 2.9)
    features = extract(plain(), sounds, spec, home=tmp_path)
    assert features.layers == ("0", "1", "2", *(["cnn"] if spec.cnn else []))
    assert features.missing == {}
    assert features.frame_rate == 100
    for clip, rows in zip(sounds, features.rows):
        truth_LRD = encode_alone(plain(), clip.path, spec)
        for layer in range(3):
            stored_RD = features.layer(str(layer))[rows]
            assert stored_RD.dtype == np.float16
            np.testing.assert_allclose(stored_RD, truth_LRD[layer], rtol=1e-3, atol=1e-4)
        if spec.cnn:
            np.testing.assert_allclose(features.layer("cnn")[rows], 10 * truth_LRD[0, :, :1], rtol=1e-3, atol=1e-4)
    assert features.store.dims["0"] == (4 if spec.pool == "mean-std" else 2)


def test_frames_of_a_long_clip_are_on_one_grid(tmp_path, plain, clips):
    (clip,) = clips(13.37)
    whole = extract(plain(), [clip], WindowSpec(pool="frames"), home=tmp_path)
    pieces = extract(plain(window_seconds=3.0), [clip], WindowSpec(pool="frames"), home=tmp_path)
    assert whole.store.folder != pieces.store.folder
    np.testing.assert_array_equal(whole.layer("1")[whole.rows[0]], pieces.layer("1")[pieces.rows[0]])
    assert whole.rows[0].stop == 1337


def test_stored_clips_are_not_encoded_again_and_content_not_path_identifies_them(tmp_path, plain, clips):
    sounds = clips(1.0, 2.0)
    first = plain()
    extract(first, sounds, WindowSpec(), home=tmp_path)
    assert first.batch_shapes
    again = plain()
    copy = tmp_path / "copy.wav"
    copy.write_bytes(sounds[0].path.read_bytes())
    features = extract(again, [*sounds, Clip("copy", copy)], WindowSpec(), home=tmp_path)
    assert again.batch_shapes == []
    assert features.rows[2] == features.rows[0]
    soundfile.write(sounds[0].path, np.full(RATE, 0.25), RATE, subtype="FLOAT")
    changed = extract(again, sounds, WindowSpec(), home=tmp_path)
    np.testing.assert_allclose(changed.layer("0")[changed.rows[0]], [[0.25, 0.25]])


def test_excerpts_of_one_file_are_separate_items(tmp_path, plain, clips):
    (clip,) = clips(6.0)
    parts = [Clip(f"part-{start}", clip.path, start, 1.5) for start in (0.0, 1.0, 3.5)]
    features = extract(plain(), parts, WindowSpec(), home=tmp_path)
    for part, rows in zip(parts, features.rows):
        truth = encode_alone(plain(), clip.path, WindowSpec(), part.start, part.duration)
        np.testing.assert_allclose(features.layer("0")[rows], truth[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "other",
    [{"scale": 3.0}, {"name": "other"}, {"weights_sha256": "others"}, {"output_version": 2}, {"num_layers": 1}],
    ids=lambda other: next(iter(other)),
)
def test_two_encoders_never_share_a_store(tmp_path, plain, clips, other):
    sounds = clips(1.0)
    one = extract(plain(), sounds, WindowSpec(), home=tmp_path)
    two = extract(plain(**other), sounds, WindowSpec(), home=tmp_path)
    assert one.store.folder != two.store.folder
    truth = encode_alone(plain(**other), sounds[0].path, WindowSpec())
    np.testing.assert_allclose(two.layer("0")[two.rows[0]], truth[0], rtol=1e-3, atol=1e-4)
    assert len(one.layer("0")) == len(two.layer("0")) == 1


def test_weights_are_identified_by_their_values_and_not_by_the_card(tmp_path, plain, clips):
    one, two = plain(weights_sha256="stated"), plain(weights_sha256="stated")
    assert one.hash_weights() == two.hash_weights() == "stated"
    one.gain, two.gain = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    assert one.hash_weights() == two.hash_weights() != "stated"
    sounds = clips(1.0)
    before = extract(two, sounds, WindowSpec(), home=tmp_path).store.folder
    two.gain.data[1] = 2
    assert one.hash_weights() != two.hash_weights()
    assert extract(two, sounds, WindowSpec(), home=tmp_path).store.folder != before
    assert extract(one, sounds, WindowSpec(), home=tmp_path).store.folder == before


def test_an_encoder_without_tensors_and_hash_is_identified_by_what_it_returns(plain):
    one, same, other = (plain(weights_sha256="", scale=scale) for scale in (2.0, 2.0, 3.0))
    assert one.hash_weights() == same.hash_weights() != other.hash_weights()


def test_broken_files_are_reported_and_the_rest_go_on(tmp_path, plain, clips):
    sounds = clips(1.0, 1.0, 1.0)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.mp3").write_text("no sound " * 500)
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    broken = [Clip(name, tmp_path / name) for name in ("empty.wav", "text.mp3", "nan.wav", "none.wav")]
    mixed = [broken[0], sounds[0], broken[1], broken[2], sounds[1], broken[3], sounds[2]]
    features = extract(plain(), mixed, WindowSpec(), home=tmp_path)
    assert set(features.missing) == {clip.id for clip in broken}
    assert "empty" in features.missing["empty.wav"]
    assert "no such file" in features.missing["none.wav"]
    assert "NaN" in features.missing["nan.wav"]
    assert [rows.stop - rows.start for rows in features.rows] == [0, 1, 0, 0, 1, 0, 1]
    assert len(features.layer("0")) == 3


def test_features_that_are_not_finite_are_not_stored(tmp_path, plain, clips):
    sounds = clips(1.0, 1.0)
    for factor in (torch.nan, torch.inf):

        class Broken(plain):
            def forward(self, samples_BT, lengths_B=None, factor=factor):
                return super().forward(samples_BT, lengths_B) * factor

        with pytest.raises(DataError, match=rf"wav: its features by broken-{factor} are not finite"):
            extract(Broken(name=f"broken-{factor}"), sounds, WindowSpec(), home=tmp_path)
    loud = extract(plain(scale=1e6), sounds, WindowSpec(), home=tmp_path)
    assert np.isfinite(loud.layer("2")).all()
    assert loud.layer("2").max() == np.finfo(np.float16).max


def test_batches_on_a_cpu_are_bounded_by_the_features_of_all_layers(plain):
    """128 MiB of features: of 3 layers × 2 ** 16 numbers × 100 frames × 4 bytes a second that is one window of 1 s."""
    windows = [(RATE * start, np.full(RATE, start / 10, np.float32)) for start in range(4)]
    rows_of = {}
    for dim, plan, shapes in [
        (2, EncodePlan(), [(4, RATE)]),
        (2**16, EncodePlan(), [(1, RATE)] * 4),
        (2**16, EncodePlan(batch_size=4), [(4, RATE)]),
    ]:
        encoder = plain(dim=dim)
        with closing(encode_recordings(encoder, [lambda: [*windows, (4 * RATE, None)]], plan)) as recordings:
            rows_of[dim, plan] = [rows["2"].tolist() for _, pairs in recordings for _, rows in pairs if rows]
        assert encoder.batch_shapes == shapes
    first, *others = rows_of.values()
    assert len(first) == 4 and all(rows == first for rows in others)


def test_windows_of_frames_must_overlap(plain):
    with pytest.raises(ValidationError, match="must overlap"):
        WindowSpec(pool="frames", window_seconds=5, hop_seconds=5)
    assert WindowSpec(pool="mean", window_seconds=5, hop_seconds=5).hop_seconds == 5
    grid = window_grid(plain(window_seconds=5.0), WindowSpec(pool="frames"))
    assert grid.window == 5 * RATE
    assert 0 < grid.hop < grid.window
    assert grid.hop % 80 == 0


def test_an_unwritable_home_is_an_error(tmp_path, plain, clips):
    sounds = clips(0.5)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        extract(plain(), sounds, WindowSpec(), home=tmp_path / "file")


@pytest.mark.parametrize("pool", ["mean", "mean-std", "frames"])
def test_cnn_comes_out_of_the_same_pass_as_the_layers(tmp_path, clips, pool):
    sounds = clips(1.0, 0.4, 2.3, rate=16_000)
    encoder = build_encoder("mert-tiny")
    calls = []
    encoder.feature_extractor.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    layers = extract(encoder, sounds, WindowSpec(pool=pool), home=tmp_path / "layers")
    passes = len(calls)
    both = extract(encoder, sounds, WindowSpec(pool=pool, cnn=True), home=tmp_path / "both")
    assert len(calls) == 2 * passes
    for name in layers.layers:
        np.testing.assert_array_equal(both.layer(name), layers.layer(name))
    # The longest clip comes first and the shortest has a batch of its own, so nothing but one clip is in each pass.
    for clip, rows in zip(sounds, both.rows):
        samples_BT = torch.from_numpy(load_audio(clip.path, 16_000))[None]
        with torch.inference_mode():
            cnn_FC = encoder.feature_extractor(samples_BT, None, encoder.settings.padding)[0]
        mean_RC, deviation_RC = cnn_FC.mean(0, keepdim=True), cnn_FC.std(0, correction=0, keepdim=True)
        expected_RC = {"mean": mean_RC, "mean-std": torch.cat([mean_RC, deviation_RC], -1), "frames": cnn_FC}[
            pool
        ].numpy()
        np.testing.assert_allclose(both.layer("cnn")[rows], expected_RC, rtol=2e-3, atol=2e-3)


def test_both_outputs_of_one_pass_equal_two_passes_bit_for_bit():
    encoder = build_encoder("mert-tiny").eval()
    samples_BT = torch.randn(3, 9000, generator=torch.Generator().manual_seed(0))
    lengths_B = torch.tensor([9000, 4000, 400])
    with torch.inference_mode():
        layers_BLFD, cnn_BFC = encoder.forward_with_cnn(samples_BT, lengths_B)
        assert torch.equal(layers_BLFD, encoder(samples_BT, lengths_B))
        assert torch.equal(cnn_BFC, encoder.feature_extractor(samples_BT, lengths_B, encoder.settings.padding))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not say which pages are in memory")
@pytest.mark.parametrize("name", ["mert-tiny", "musicfm-tiny", "mel-conformer-tiny", "maest-tiny"])
def test_blocks_of_mapped_weights_are_given_back_after_they_have_run(tmp_path, monkeypatch, clips, name):
    spec, sounds, layers, resident = WindowSpec(window_seconds=2), clips(3.0, 5.7), [], []
    for folder, largest in (("kept", encode.WEIGHTS_BYTES), ("released", 0)):
        build_encoder(name).save_pretrained(tmp_path / folder)
        weights = tmp_path / folder / "model.safetensors"
        monkeypatch.setattr(encode, "WEIGHTS_BYTES", largest)
        encoder = load(str(tmp_path / folder))
        features = extract(encoder, sounds, spec, home=tmp_path / f"features of {folder}")
        layers.append([features.layer(layer) for layer in features.layers])
        resident.append(resident_bytes(weights) / weights.stat().st_size)
        assert not any(module._forward_hooks for module in encoder.modules())
    assert resident[0] > 0.9 and resident[1] < 0.5
    assert all(map(np.array_equal, *layers))


def resident_bytes(file):
    """Return how many bytes of the mappings of a file are in memory."""
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    own = [mapping for mapping in mappings if mapping.partition("\n")[0].endswith(str(file))]
    return sum(1024 * int(re.search(r"^Rss: +(\d+) kB", mapping, re.MULTILINE)[1]) for mapping in own)
