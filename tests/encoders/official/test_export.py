"""What is written for others: transformers' own classes give the same layers, onnxruntime too, Carrara the bits."""

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, Data2VecAudioModel, HubertModel

from carrara.core.errors import UsageError
from carrara.encoders._hub.export import export_encoder
from carrara.encoders._hub.load import build_encoder, load, save_pretrained
from carrara.encoders._hub.official import read_heads
from carrara.formats.weights import hash_tensors, save_tensors

KINDS = {"post": "mert-tiny", "pre": "mert-tiny", "layer": "musichubert-tiny", "data2vec": "music2vec-tiny"}


def sound(clips=2, samples=5000):
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def encoder(changes):
    def make(kind="post", **more):
        network = build_encoder(KINDS[kind], seed=1, changes={**changes(kind), **more}).eval()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return network

    return make


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_it_with_every_layer_equal(tmp_path, encoder, kind):
    ours = encoder(kind, standardise=False)
    export_encoder(ours, "transformers", tmp_path)
    model = Data2VecAudioModel if kind == "data2vec" else HubertModel
    theirs, info = model.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    given = theirs.eval()(sound(), output_hidden_states=True)
    rows = list(given.hidden_states)
    if kind == "pre":
        rows[-1] = given.last_hidden_state
        assert "hidden_states[-1]" in (tmp_path / "README.md").read_text()
    for i, row in enumerate(ours(sound()).unbind(1)):
        torch.testing.assert_close(row, rows[i], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_final_norm_is_a_choice(tmp_path, encoder):
    ours = encoder("pre", standardise=False, final_norm=False)
    export_encoder(ours, "transformers", tmp_path)
    given = HubertModel.from_pretrained(tmp_path).eval()(sound(), output_hidden_states=True)
    torch.testing.assert_close(ours(sound())[:, -1], given.hidden_states[-1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(load(tmp_path)(sound())[:, -1], given.last_hidden_state, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_its_feature_extractor_standardises_as_the_encoder_does(tmp_path, encoder):
    ours = encoder(standardise=True)
    export_encoder(ours, "transformers", tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    clips = [clip.numpy() + np.float32(0.3) for clip in sound()]
    given = extractor(clips, sampling_rate=16_000, return_tensors="pt").input_values
    theirs = HubertModel.from_pretrained(tmp_path).eval()(given, output_hidden_states=True).hidden_states
    torch.testing.assert_close(ours(sound() + 0.3), torch.stack(theirs, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_exported_and_reread_weights_are_bit_equal(tmp_path, encoder, kind):
    ours = encoder(kind)
    for form in ("transformers", "carrara"):
        export_encoder(ours, form, tmp_path / form)
        back = load(tmp_path / form)
        assert back.card.weights_sha256 == hash_tensors(ours.state_dict())
        again = export_encoder(back, "carrara", tmp_path / "again")
        assert load(again).card.weights_sha256 == back.card.weights_sha256
        same = {
            name: getattr(back.settings, name) for name in ("num_layers", "num_heads", "norm_placement", "standardise")
        }
        assert same == {name: getattr(ours.settings, name) for name in same}
    assert load(tmp_path / "carrara").settings == ours.settings


def test_heads_are_exported_to_carraras_own_format(tmp_path, encoder):
    save_pretrained(encoder(), tmp_path / "mine")
    save_tensors({"final_proj.bias": torch.ones(3)}, tmp_path / "mine" / "heads.safetensors")
    export_encoder(load(tmp_path / "mine"), "carrara", tmp_path / "given", source=tmp_path / "mine")
    assert read_heads(tmp_path / "given")["final_proj.bias"].tolist() == [1, 1, 1]


def test_heads_of_a_previous_encoder_are_removed(tmp_path, encoder):
    for form in ("carrara", "transformers"):
        save_pretrained(encoder(), tmp_path, heads={"final_proj.bias": torch.ones(3)})
        assert read_heads(tmp_path)["final_proj.bias"].tolist() == [1, 1, 1]
        export_encoder(encoder(), form, tmp_path)
        assert read_heads(tmp_path) == {} and not (tmp_path / "heads.safetensors").exists()


def test_an_export_onto_itself_keeps_the_heads(tmp_path, encoder):
    save_pretrained(encoder(), tmp_path, heads={"final_proj.bias": torch.ones(3)})
    export_encoder(load(tmp_path), "carrara", tmp_path, source=tmp_path)
    assert read_heads(tmp_path)["final_proj.bias"].tolist() == [1, 1, 1]


@pytest.mark.slow
@torch.no_grad()
def test_onnxruntime_gives_the_same_layers_at_any_size(tmp_path, encoder):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    ours = encoder("pre", num_layers=1, standardise=True, conv_kernels=(20, 16), conv_strides=(20, 16))
    export_encoder(ours, "onnx", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "README.md"}
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for clips, samples in ((1, 1600), (3, 9011), (2, 40_000)):
        samples_BT = sound(clips, samples)
        (layers,) = session.run(None, {"samples": samples_BT.numpy()})
        torch.testing.assert_close(torch.from_numpy(layers), ours(samples_BT), atol=1e-4, rtol=1e-4)


SMALL = {"num_layers": 1, "dim": 32, "num_heads": 2, "ffn_dim": 64, "channels": 8}
SMALL_DASHENG = {"num_layers": 1, "dim": 32, "num_heads": 2, "ffn_dim": 64}
SMALL_CLAP = {
    "dim": 8, "depths": (1, 2), "heads": (1, 2), "joint_dim": 8, "text_dim": 8, "text_layers": 1, "text_heads": 1,
    "text_ffn_dim": 8, "vocabulary": 20,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("musicnn-mtt", {}),
        ("effnet-discogs", {}),
        ("clmr", {}),
        ("mel-conformer-tiny", {"num_layers": 1}),
        ("musicfm-tiny", {"num_layers": 1}),
        ("muq", SMALL),
        ("maest-tiny", {"num_layers": 1}),
        ("mel-patch-tiny", {"num_layers": 1}),
        ("choi", {}),
        ("dasheng-base", SMALL_DASHENG),
        ("laion-clap-general", SMALL_CLAP),
        ("cqt-mel-tiny", {"num_layers": 1}),
    ],
)
@torch.no_grad()
def test_onnx_files_hold_spectrograms_and_windows(tmp_path, name, changed):
    """The reference is the encoder itself, with FFTs and loops over clips and windows, which the file has not."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    ours = build_encoder(name, seed=1, changes=changed).eval()
    generator = torch.Generator().manual_seed(3)
    for buffer_name, buffer in ours.named_buffers():
        if buffer_name.endswith("running_mean"):  # of an untrained network they are 0, and an error would not show
            buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))
    export_encoder(ours, "onnx", tmp_path)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    shortest = getattr(ours, "min_samples", 1600)
    for clips, samples in ((1, shortest), (3, 2 * shortest + 7), (2, 70_001), (2, 211_003)):
        samples_BT = sound(clips, samples)
        (layers,) = session.run(None, {"samples": samples_BT.numpy()})
        torch.testing.assert_close(torch.from_numpy(layers), ours(samples_BT), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        *(("maest-tiny", {"tokens": tokens}) for tokens in ("cls", "dist", "average", "stack", "frames")),
        *(("mel-patch-tiny", {"frequency": frequency}) for frequency in ("concatenate", "mean")),
    ],
)
@torch.no_grad()
def test_equal_windows_as_tensors_are_those_of_the_loop(name, changed):
    """The loop of `forward` is the reference; the last lengths have two, three and four windows of unequal columns."""
    ours = build_encoder(name, seed=1, changes=changed).eval()
    for clips, samples in ((1, 4096), (3, 9011), (2, 79_000), (1, 110_007), (2, 170_001), (1, 300_003)):
        samples_BT = sound(clips, samples)
        layers = ours(samples_BT)
        assert len(layers) == clips and layers.std() > 0.01
        torch.testing.assert_close(ours.forward_traceable(samples_BT), layers, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "changed"), [("choi", {}), ("dasheng-base", SMALL_DASHENG), ("laion-clap-general", SMALL_CLAP)]
)
@torch.no_grad()
def test_other_windows_as_tensors_are_those_of_the_loop(name, changed):
    """Clips shorter than a window, which are repeated or filled up, and of more than one."""
    ours = build_encoder(name, seed=1, changes=changed).eval()
    rate = ours.card.sample_rate
    for clips, samples in ((1, rate // 10), (2, 3 * rate + 5), (1, 23 * rate + 7)):
        samples_BT = sound(clips, samples)
        torch.testing.assert_close(ours.forward_traceable(samples_BT), ours(samples_BT), atol=1e-5, rtol=1e-5)


def test_patchout_is_reported_before_a_maest_becomes_onnx(tmp_path):
    ours = build_encoder("maest-tiny", changes={"every_column": 2})
    with pytest.raises(UsageError, match="maest-tiny: .*every_column=1$"):
        export_encoder(ours, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"deepnorm": True}, "DeepNorm"), ({"positions": "data2vec", "position_kernel": 7}, "data2vec's positions")],
)
def test_what_transformers_has_no_network_for_is_reported(tmp_path, encoder, changed, message):
    with pytest.raises(UsageError, match=message):
        export_encoder(encoder(**changed), "transformers", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["chroma", "noise"])
def test_what_onnx_does_not_hold_is_reported_before_anything_is_written(tmp_path, name):
    with pytest.raises(UsageError, match=f"^{name}: --format onnx holds networks over frames") as caught:
        export_encoder(build_encoder(name), "onnx", tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["torch.onnx.export", "onnxruntime.InferenceSession"])
def test_errors_of_the_onnx_exporter_and_runtime_become_one_line(tmp_path, monkeypatch, capfd, caplog, stage):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    def failing(*given, **options):
        print("[torch.onnx] Translate the graph into ONNX... ❌")
        print("a log of ten pages", file=sys.stderr)
        logging.getLogger("torch.onnx._internal").error("and more of it")
        raise ValueError("aten.stft:\n  no conversion\n\n  Traceback of 200 lines")

    if stage.startswith("onnxruntime"):
        program = SimpleNamespace(save=lambda path, external_data: Path(path).write_bytes(b"graph"))
        monkeypatch.setattr("torch.onnx.export", lambda *given, **options: program)
    monkeypatch.setattr(stage, failing)
    with pytest.raises(UsageError, match=r"^mert-tiny: .* ONNX \(aten.stft: no conversion Traceback") as caught:
        export_encoder(build_encoder("mert-tiny"), "onnx", tmp_path)
    message = capfd.readouterr()
    assert "\n" not in str(caught.value) and (message.out, message.err) == ("", "") and not caplog.records
    assert list(tmp_path.iterdir()) == [] and not logging.root.manager.disable


def test_other_encoders_and_formats_are_reported(tmp_path):
    with pytest.raises(UsageError, match="noise: --format transformers holds networks of HuBERT"):
        export_encoder(build_encoder("noise"), "transformers", tmp_path)
    with pytest.raises(UsageError, match="'transformers'"):
        export_encoder(build_encoder("noise"), "transformer", tmp_path)


def test_the_folder_names_no_code_to_run(tmp_path, encoder):
    export_encoder(encoder(), "transformers", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["HubertModel"] and "auto_map" not in config
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".md"}
