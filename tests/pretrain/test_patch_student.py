"""MAEST's patch Transformer as the student of masked prediction: a frame is a column of patches."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import carrara
from carrara.core.errors import UsageError
from carrara.core.settings import replace
from carrara.encoders._hub.load import build_encoder, save_pretrained
from carrara.pretrain.masks import replace_by_noise
from carrara.pretrain.metrics_log import read_metrics
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain

CHANGES = {
    "network.frames": 312,
    "network.dim": 32,
    "network.num_layers": 2,
    "network.num_heads": 2,
    "network.ffn_dim": 64,
    "targets.codes.codebook_size": 8,
    "targets.codes.fraction": 1.0,
    "masking.mask_length": 2,
    "crop_seconds": 2.0,
    "batch": 4,
    "accumulation_steps": 2,
    "steps": 6,
    "checkpoint_every": 3,
    "log_every": 2,
}


@pytest.fixture(scope="module")
def student():
    return build_encoder("maest-tiny", 3, {"tokens": "frames", "classes": 0}).eval()


@pytest.fixture(scope="module")
def recipe():
    return resolve("mel-transformer-random", "tiny", CHANGES)


@pytest.fixture(scope="module")
def alone(recipe, corpus, tmp_path_factory):
    return pretrain(recipe, corpus, tmp_path_factory.mktemp("patches") / "alone", device="cpu")


def weights(folder):
    return load_file(folder / "training" / "last.safetensors")


def noise(batch, samples):
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(5))


def test_front_end_and_stack_give_the_means_of_the_columns_of_the_whole_network(student):
    samples = noise(2, 48_000)
    with torch.no_grad():
        tokens = student.vit((student.mel(samples) - student.settings.mean) / (2 * student.settings.std))
        layers = student.layer_outputs(student.conv_features(samples))
        features = student(samples)
    for index, (layer, expected) in enumerate(zip(layers, tokens, strict=True)):
        # After cls and dist the tokens are 9 rows of 18 columns.
        columns = expected[:, 2:].numpy().reshape(2, 9, 18, 128).mean(1)
        np.testing.assert_allclose(layer, columns, atol=1e-5)
        np.testing.assert_allclose(features[:, index], columns, atol=1e-5)


def test_a_shorter_clip_of_a_batch_gives_what_it_gives_alone(student):
    samples, lengths = noise(2, 48_000), torch.tensor([48_000, 32_000])
    with torch.no_grad():
        together = student.encode_frames(student.conv_features(samples, lengths), student.frame_lengths(lengths))
        alone = student.encode_frames(student.conv_features(samples[1:, :32_000]))
    count = alone.shape[2]
    torch.testing.assert_close(together[1, :, :count], alone[0], atol=1e-5, rtol=1e-4)
    assert not together[1, :, count:].any()


def test_columns_inside_a_masked_block_show_nothing_of_the_clip_and_distant_ones_all(student):
    columns = student.num_frames(48_000)
    masked = torch.zeros(1, columns, dtype=torch.bool)
    masked[0, 5:10] = True
    patches = []
    for clip in noise(2, 48_000):
        hidden = replace_by_noise(clip[None], masked, [(1, 2, 3)], student.grid, 0.1)
        patches.append(student.conv_features(hidden).detach()[0])
    equal = (patches[0] == patches[1]).all(1)
    # A column sees 3 mel frames of each neighbour's part, and the window half a frame more.
    assert equal[6:9].all() and not equal[:6].any() and not equal[9:].any()
    clean = student.conv_features(noise(2, 48_000)[1:]).detach()[0]
    assert torch.equal(patches[1][:4], clean[:4]) and torch.equal(patches[1][11:], clean[11:])


def test_the_largest_logit_is_that_of_the_attention(student):
    attention = student.vit.blocks[1].attn
    x = torch.randn(2, 7, 128, generator=torch.Generator().manual_seed(1))
    qkv = attention.qkv(x).detach().numpy()
    queries, keys = (qkv[..., first : first + 128].reshape(2, 7, 4, 32) for first in (0, 128))
    logits = np.einsum("bqhe,bkhe->bhqk", queries, keys) / 32**0.5
    assert float(attention.largest_logit(x)) == pytest.approx(np.abs(logits).max(), rel=1e-5)


@pytest.mark.slow
def test_every_weight_learns_and_the_folder_embeds_frames(recipe, alone, corpus):
    encoder = carrara.load(alone)
    assert encoder.card.frame_rate == 6.25 and encoder.tag_names == () and not encoder.card.license
    assert not encoder.card.trained_on or "Discogs20" not in encoder.card.trained_on
    initial = build_encoder(recipe.encoder, recipe.seed, recipe.network.model_dump())
    still = [name for name, value in encoder.named_parameters() if torch.equal(value, initial.get_parameter(name))]
    assert still == []
    line = read_metrics(alone / "metrics.jsonl")[-1]
    assert line["attention_logit"] > 0 and line["rank/cnn"] > 1 and line["accuracy/codes"] >= 0
    (path,) = sorted(corpus.rglob("*.flac"))[:1]
    table = carrara.embed([path], str(alone), per="frame")
    assert len(table) == encoder.num_frames(32_000) == 11 and len(table["embedding"][0]) == 32
    with pytest.raises(UsageError, match="has no head for tags"):
        encoder.predict_tags(noise(1, 32_000))


@pytest.mark.slow
def test_interrupted_it_resumes_bit_for_bit(recipe, corpus, alone, tmp_path, before_optimiser_steps):
    def interrupt(step):
        if step == 5:
            raise KeyboardInterrupt

    before_optimiser_steps(interrupt)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, corpus, tmp_path / "part", device="cpu")
    part = weights(pretrain(recipe, corpus, tmp_path / "part", resume=True, device="cpu"))
    assert all(torch.equal(tensor, part[name]) for name, tensor in weights(alone).items())


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"fsdp": True}])
def test_two_processes_give_the_weights_of_one(changes, start_ranks, wait_for, recipe, corpus, alone, tmp_path):
    codes, messages = wait_for(start_ranks(replace(recipe, changes), corpus, tmp_path / "two"))
    assert codes == [0, 0], messages
    two = weights(tmp_path / "two")
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_activation_checkpointing_changes_nothing_and_bfloat16_little(recipe, corpus, alone, tmp_path):
    checkpointed = pretrain(replace(recipe, {"activation_checkpointing": True}), corpus, tmp_path / "a", device="cpu")
    assert all(torch.equal(tensor, weights(checkpointed)[name]) for name, tensor in weights(alone).items())
    half = pretrain(replace(recipe, {"precision": "bfloat16"}), corpus, tmp_path / "b", device="cpu")
    losses = [read_metrics(folder / "metrics.jsonl")[-1]["loss"] for folder in (alone, half)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "targets",
    [
        {"rvq": {"target": "codes", "source": "mel-rvq", "num_codebooks": 2, "codebook_size": 8, "learning_steps": 20}},
        {"books": {"target": "codes", "num_codebooks": 2, "codebook_size": 8, "fraction": 1.0}},
        {"k": {"target": "clusters", "feature": "mfcc-39", "k": 8, "fraction": 1.0}},
        {"cqt": {"target": "cqt"}},
    ],
    ids=lambda targets: next(iter(targets)),
)
def test_every_target_of_frames_trains_on_columns(targets, recipe, corpus, tmp_path):
    values = recipe.model_dump() | {"targets": targets, "steps": 2}
    folder = pretrain(type(recipe).model_validate(values), corpus, tmp_path / "run", device="cpu")
    line = read_metrics(folder / "metrics.jsonl")[-1]
    assert np.isfinite(line["loss"]) and any(key.startswith(("loss/", "mse/")) for key in line)


@pytest.mark.slow
def test_a_run_starts_from_a_tagger_without_its_heads_and_a_tagger_from_a_run(recipe, corpus, alone, tmp_path):
    tagger = build_encoder("maest-tiny", 5, {**recipe.network.model_dump(), "classes": 6, "tokens": "stack"})
    save_pretrained(tagger, tmp_path / "tagger")
    folder = pretrain(replace(recipe, {"steps": 1, "optimiser.learning_rate": 1e-12}), corpus, tmp_path / "run",
                      start=str(tmp_path / "tagger"), device="cpu")  # fmt: skip
    started = carrara.load(folder)
    for name, value in started.named_parameters():
        torch.testing.assert_close(value, tagger.get_parameter(name), rtol=0, atol=1e-8, msg=name)
    # The other way round: the trained student is the initial network of a tagger.
    rows = ["path,split,tags[]"]
    for index, path in enumerate(sorted(corpus.rglob("*.flac"))):
        rows.append(f"{path.relative_to(corpus)},{'valid' if index > 7 else 'train'},{'even' if index % 2 else 'odd'}")
    tagged = shutil.copytree(corpus, tmp_path / "tagged")
    (tagged / "labels.csv").write_text("\n".join(rows) + "\n")
    sizes = {path: value for path, value in CHANGES.items() if path.startswith("network.")}
    changes = {**sizes, "crop_seconds": 2.0, "patchout": 3, "epoch_clips": 4, "batch": 4, "epochs": 1,
               "optimiser.learning_rate": 1e-12}  # fmt: skip
    folder = pretrain("maest-5s", tagged, tmp_path / "tags", scale="tiny", changes=changes, start=str(alone),
                      device="cpu")  # fmt: skip
    finetuned, student = carrara.load(folder), carrara.load(alone)
    assert sorted(finetuned.tag_names) == ["even", "odd"]
    for name, value in student.named_parameters():
        torch.testing.assert_close(finetuned.get_parameter(name), value, rtol=0, atol=1e-8, msg=name)


@pytest.mark.slow
def test_a_moving_average_as_teacher_is_refused_for_patches(recipe, corpus, tmp_path):
    values = recipe.model_dump() | {"targets": {"teacher": {"target": "teacher", "top_layers": 1}}}
    with pytest.raises(UsageError, match="on patches `carrara pretrain m2d`"):
        pretrain(type(recipe).model_validate(values), corpus, tmp_path / "run", device="cpu")
    assert not list(tmp_path.iterdir())
