"""A tagger learns tones' tags; stopped or killed anywhere, it goes on bit for bit; what cannot be is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from carrara.core.errors import StoreError, UsageError
from carrara.encoders._hub.load import build, load, save_pretrained
from carrara.pretrain.metrics_log import events, read
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain
from carrara.pretrain.tagging import train
from carrara.pretrain.tagging.network import answers, heard, made
from carrara.pretrain.tagging.teacher import told

TAGS = ("high", "low", "pulsed", "steady")


def plain(folder):
    """Return the journal's lines without what the clock decides."""
    clock = {"seconds", "audio_seconds_per_second"}
    return [{key: value for key, value in line.items() if key not in clock} for line in read(folder / "journal.jsonl")]


def same(one, other, inside=""):
    ours, theirs = (load(folder / inside).state_dict() for folder in (one, other))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def uninterrupted(labelled, micro, tmp_path_factory):
    return pretrain(micro(), labelled, tmp_path_factory.mktemp("whole"), device="cpu")


def test_tones_tags_are_learnt(labelled, micro, tmp_path):
    recipe = micro(
        epochs=30, epoch_clips=16, batch=8, optimiser__learning_rate=3e-3, optimiser__hold_until=30,
        masks__time_masks=2, masks__band_masks=1, mixup=0.0, averaging__first=20, validate_every=30,
    )  # fmt: skip
    folder = pretrain(recipe, labelled, tmp_path / "run", device="cpu")
    last = read(folder / "journal.jsonl")[-1]
    # Every tag is on half of the clips, so chance is .5 for both.
    assert min(last["valid/average_precision"], last["averaged/average_precision"]) > 0.85
    encoder = load(folder)
    assert encoder.settings.labels == TAGS
    assert encoder.card.trained_on == ("folder",)
    assert encoder(torch.zeros(1, 24_576)).shape == (1, 3, 1, 3 * 32)


def test_the_average_is_of_the_epochs_that_count(labelled, micro, tmp_path, uninterrupted):
    steps = 3  # an epoch
    ends = [pretrain(micro(), labelled, tmp_path / f"{n}", steps=n * steps, device="cpu") for n in (2, 3, 4)]
    networks = [load(end / "unaveraged").state_dict() for end in ends]
    for name, ours in load(uninterrupted).state_dict().items():
        if ours.is_floating_point():
            torch.testing.assert_close(ours, torch.stack([network[name] for network in networks]).mean(0))
    assert same(uninterrupted, ends[2], "unaveraged")


def test_the_journal_tells_scores_and_the_published_schedule(uninterrupted):
    lines = read(uninterrupted / "journal.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert all(line["skipped"] == line["missing"] == 0 for line in lines)
    assert {line["step"] for line in lines if "valid/roc_auc" in line} == {6, 12}
    # Epochs of three steps: the last step of each line lies in epoch 0, 1, 1, 2, 3, 3.
    soft = np.exp(-5 * 0.5**2)
    wanted = 1e-3 * np.array([soft, 1, 1, 1, 0.505, 0.505])
    assert [line["learning_rate"] for line in lines] == pytest.approx(list(wanted))


def test_stopped_by_ctrl_c_it_goes_on_bit_for_bit(uninterrupted, labelled, micro, tmp_path, monkeypatch):
    step, taken = train._step, []

    def press(*arguments):
        taken.append(1)
        if len(taken) == 7:
            signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(train, "_step", press)
    with pytest.raises(KeyboardInterrupt):
        pretrain(micro(), labelled, tmp_path / "run", device="cpu")
    assert len(taken) == 7
    assert load(tmp_path / "run").settings.labels == TAGS
    torch.manual_seed(99)
    pretrain(micro(), labelled, tmp_path / "run", resume=True, device="cpu")
    assert len(taken) == 12
    assert same(tmp_path / "run", uninterrupted)
    assert same(tmp_path / "run", uninterrupted, "unaveraged")
    assert plain(tmp_path / "run")[-2:] == plain(uninterrupted)[-2:]


def test_killed_it_goes_on_bit_for_bit(uninterrupted, labelled, micro, tmp_path):
    folder, recipe = tmp_path / "run", tmp_path / "recipe.json"
    recipe.write_text(micro().model_dump_json())
    code = (
        "import sys, time\nfrom carrara.pretrain.run import pretrain\nfrom carrara.pretrain.tagging import train\n"
        "from carrara.pretrain.tagging.settings import TaggingRecipe\nstep = train._step\n"
        "def slow(run, *rest):\n    time.sleep(600 if run.step == 6 else 0)\n    return step(run, *rest)\n"
        "train._step = slow\nrecipe = TaggingRecipe.model_validate_json(open(sys.argv[1]).read())\n"
        "pretrain(recipe, sys.argv[2], sys.argv[3], device='cpu')"
    )
    arguments = [sys.executable, "-c", code, str(recipe), str(labelled), str(folder)]
    with subprocess.Popen(arguments, cwd=Path(__file__).parents[3], env={**os.environ, "OMP_NUM_THREADS": "1"}) as run:
        until = time.monotonic() + 300
        # Its sixth step is in the journal, its fourth in the last checkpoint.
        while len(read(folder / "journal.jsonl")) < 3 and time.monotonic() < until and run.poll() is None:
            time.sleep(0.1)
        run.kill()
    assert run.returncode == -signal.SIGKILL
    assert [line["step"] for line in read(folder / "journal.jsonl")] == [2, 4, 6]
    pretrain(micro(), labelled, folder, resume=True, device="cpu")
    assert same(folder, uninterrupted)
    assert same(folder, uninterrupted, "unaveraged")
    assert plain(folder) == plain(uninterrupted)


def test_only_the_same_run_is_gone_on_with(uninterrupted, labelled, micro, tmp_path):
    before = (uninterrupted / "training" / "last.safetensors").stat().st_mtime_ns
    assert pretrain(micro(), labelled, uninterrupted, resume=True, device="cpu") == uninterrupted
    assert (uninterrupted / "training" / "last.safetensors").stat().st_mtime_ns == before
    with pytest.raises(StoreError, match="holds a run already; go on with --resume"):
        pretrain(micro(), labelled, uninterrupted, device="cpu")
    with pytest.raises(StoreError, match="another recipe: mixup was 0.3, now 0.1"):
        pretrain(micro(mixup=0.1), labelled, uninterrupted, resume=True, device="cpu")
    text = (labelled / "labels.csv").read_text().replace("pulsed", "tremolo")
    for path in labelled.glob("*.wav"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=r"1 only in the corpus \(tremolo\); 1 only there \(pulsed\)"):
        pretrain(micro(), tmp_path, uninterrupted, resume=True, device="cpu")


def test_impossible_recipes_are_refused_before_anything_is_written(labelled, micro, tmp_path):
    def refused(match, **changes):
        with pytest.raises(UsageError, match=match):
            pretrain(micro(**changes), labelled, tmp_path / "run", device="cpu")
        assert not (tmp_path / "run").exists()

    refused("patchout 9 would drop every one of the 9 columns", patchout=9)
    refused("crop_seconds 3 gives 18 columns .* places for 1 to 9; set network.frames to 187", crop_seconds=3.0)
    refused("kind passt come from a file", initial__kind="passt")
    refused("learns from a teacher: --set teacher.weights=FOLDER", network__distilled="separated")
    refused("crop_seconds 0.1 is shorter than a patch; give at least 0.3", crop_seconds=0.1)
    with pytest.raises(UsageError, match="encoder 'noise' cannot be taught tags"):
        made(micro().model_copy(update={"encoder": "noise", "network": build("noise").settings}), TAGS, "x", "y")


def test_many_clips_shorter_than_a_crop_are_told(labelled, micro, tmp_path):
    with pytest.warns(
        UserWarning, match="50% of the clips are shorter than a crop of 2.5 s and are followed by silence"
    ):
        pretrain(micro(crop_seconds=2.5, network__frames=156), labelled, tmp_path / "run", steps=1, device="cpu")


def test_the_loss_is_bce_on_what_is_left_of_the_mixed_crops(labelled, micro, tmp_path, monkeypatch):
    seen = {}
    loss, forward = train._losses, train.answers

    def keep(run, batch):
        seen.update(run=run, batch=batch, found=loss(run, batch))
        return seen["found"]

    def note(encoder, mel_BFM, patchout, draw):
        seen.update(mel=mel_BFM, logits=forward(encoder, mel_BFM, patchout, draw))
        return seen["logits"]

    monkeypatch.setattr(train, "_losses", keep)
    monkeypatch.setattr(train, "answers", note)
    pretrain(micro(mixup=0.0), labelled, tmp_path / "run", steps=1, device="cpu")
    tags = torch.from_numpy(seen["run"].crops.tagged.tags_NC[list(seen["batch"].items)]).float()
    probability = seen["logits"][0].detach().double().sigmoid()
    wanted = -(tags * probability.log() + (1 - tags) * (1 - probability).log()).mean()
    assert float(seen["found"]["tags"].detach()) == pytest.approx(float(wanted), abs=1e-6)
    # What is not masked is the encoder's own normalised spectrogram.
    clean = heard(seen["run"].encoder, seen["batch"].samples_BT)
    kept = seen["mel"] != 0
    assert 0.2 < float(kept.float().mean()) < 0.9
    assert torch.equal(seen["mel"][kept], clean[kept])


def test_a_teacher_is_learnt_by_the_second_head(labelled, micro, tmp_path, uninterrupted):
    recipe = micro(teacher__weights=str(uninterrupted), mixup=0.0)
    folder = pretrain(recipe, labelled, tmp_path / "run", device="cpu")
    lines = read(folder / "journal.jsonl")
    assert all(line["loss"] == pytest.approx((line["loss/tags"] + line["loss/teacher"]) / 2) for line in lines)
    student = load(folder)
    assert student.settings.distilled == "separated"
    assert not torch.equal(student.head_dist.weight, made(recipe, TAGS, "x", "y").head_dist.weight)
    mel = heard(student, torch.randn(2, 24_576) / 10)
    tokens = student.vit(mel)[-1]
    normed = torch.nn.functional.layer_norm(tokens, (32,), student.vit.norm.weight, student.vit.norm.bias, 1e-6)
    ours = answers(student, mel)
    torch.testing.assert_close(ours[0], student.head(normed[:, 0]))
    torch.testing.assert_close(ours[1], student.head_dist(normed[:, 1]))
    other = build(
        "maest-tiny", 0, {**made(recipe, TAGS, "x", "y").settings.model_dump(), "labels": ("a", "b", "c", "d")}
    )
    save_pretrained(other, tmp_path / "other")
    with pytest.raises(UsageError, match="the teacher .* has other labels: 4 only in the corpus"):
        pretrain(micro(teacher__weights=str(tmp_path / "other")), labelled, tmp_path / "not", device="cpu")


class Sure:
    """A teacher that answers as it was told."""

    def __init__(self, *rows):
        self.rows = torch.tensor(rows)

    def tags(self, samples_BT):
        return self.rows


def test_a_teacher_s_targets_are_thresholded_and_never_empty():
    answered = told(Sure([0.9, 0.46, 0.44], [0.1, 0.3, 0.2], [0.44, 0.1, 0.45]), torch.zeros(3, 1), 0.45)
    assert answered.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_the_convolutional_baseline_learns_by_the_same_recipe(labelled, tmp_path):
    changes = {"network.dim": 0.25, "crop_seconds": 2.05, "batch": 4, "steps": 2, "epoch_clips": 4}
    recipe = resolve("effnet-tagger", "tiny", changes)
    folder = pretrain(recipe, labelled, tmp_path / "run", device="cpu")
    encoder = load(folder)
    assert json.loads((folder / "labels.json").read_text()) == list(TAGS)
    assert encoder.tags(torch.zeros(1, 40_000)).shape == (1, 4)
    # The mean of the logits of patches side by side.
    samples = torch.randn(1, 4 * 128 * 256) / 10
    mel = heard(encoder, samples)
    apart = [encoder.classifier(encoder.network(part)[1]) for part in mel.split(128, 1)]
    torch.testing.assert_close(answers(encoder, mel)[0], torch.stack(apart).mean(0), atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match="no patches to leave out"):
        pretrain(resolve("effnet-tagger", "tiny", {**changes, "patchout": 3}), labelled, tmp_path / "b", device="cpu")


def test_a_gradient_that_is_not_finite_is_skipped_and_told(labelled, micro, tmp_path, monkeypatch):
    loss = train._losses

    def poison(run, batch):
        return {name: part * (float("nan") if run.step == 1 else 1) for name, part in loss(run, batch).items()}

    monkeypatch.setattr(train, "_losses", poison)
    folder = pretrain(micro(), labelled, tmp_path / "run", steps=3, device="cpu")
    lines = read(folder / "journal.jsonl")
    assert [line["skipped"] for line in lines] == [1, 0]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert torch.isfinite(load(folder).head[1].weight).all()
    assert events(folder / "journal.jsonl") == [{"step": 2, "event": "skipped", "why": "the gradient is not finite"}]
