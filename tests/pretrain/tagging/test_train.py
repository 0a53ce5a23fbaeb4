"""A tagger learns the tags of tones; interrupted or killed, it resumes bit for bit; impossible settings are refused."""

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
from sklearn.metrics import average_precision_score, roc_auc_score

from carrara.core.errors import StoreError, UsageError
from carrara.encoders._hub.load import build_encoder, load, save_pretrained
from carrara.pretrain.distributed import Dist
from carrara.pretrain.metrics_log import read_events, read_metrics
from carrara.pretrain.objectives.tagging import validation_scores
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import build_run, pretrain
from carrara.pretrain.tagging.network import build_tagger, input_mel, tag_logits, teacher_targets
from carrara.pretrain.train import compute_gradient, train

TAGS = ("high", "low", "pulsed", "steady")


def plain(folder):
    """Return the lines of the log without what depends on the clock."""
    clock = {"seconds", "audio_hours_per_hour", "flops_per_second", "data_wait_fraction", "eta_seconds"}
    return [
        {key: value for key, value in line.items() if key not in clock}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


def same(one, other, inside=""):
    ours, theirs = (load(folder / inside).state_dict() for folder in (one, other))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def uninterrupted(labelled, micro, tmp_path_factory):
    return pretrain(micro(), labelled, tmp_path_factory.mktemp("whole"), device="cpu")


@pytest.mark.slow
def test_tones_tags_are_learnt(labelled, micro, tmp_path):
    recipe = micro(
        epochs=30, epoch_clips=16, batch=8, optimiser__learning_rate=3e-3, optimiser__hold_until=30,
        spec_augment__time_masks=2, spec_augment__band_masks=1, mixup=0.0, swa__first=20, validate_every=30,
    )  # fmt: skip
    folder = pretrain(recipe, labelled, tmp_path / "run", device="cpu")
    last = read_metrics(folder / "metrics.jsonl")[-1]
    # Every tag is on half of the clips, so chance is .5 for both.
    assert min(last["valid/average_precision"], last["swa/average_precision"]) > 0.85
    encoder = load(folder)
    assert encoder.settings.labels == TAGS
    assert encoder.card.trained_on == ("folder",)
    assert encoder(torch.zeros(1, 24_576)).shape == (1, 3, 1, 3 * 32)


@pytest.mark.slow
def test_the_average_is_of_the_epochs_that_count(labelled, micro, tmp_path, uninterrupted):
    steps = 3  # an epoch
    ends = [pretrain(micro(), labelled, tmp_path / f"{n}", steps=n * steps, device="cpu") for n in (2, 3, 4)]
    networks = [load(end / "last").state_dict() for end in ends]
    for name, ours in load(uninterrupted).state_dict().items():
        if ours.is_floating_point():
            torch.testing.assert_close(ours, torch.stack([network[name] for network in networks]).mean(0))
    assert same(uninterrupted, ends[2], "last")


def test_the_log_holds_scores_and_the_published_schedule(uninterrupted):
    lines = read_metrics(uninterrupted / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert all(line["skipped"] == line["missing"] == 0 for line in lines)
    assert {line["step"] for line in lines if "valid/roc_auc" in line} == {6, 12}
    # Epochs of three steps: the last step of each line lies in epoch 0, 1, 1, 2, 3, 3.
    soft = np.exp(-5 * 0.5**2)
    expected = 1e-3 * np.array([soft, 1, 1, 1, 0.505, 0.505])
    assert [line["learning_rate"] for line in lines] == pytest.approx(list(expected))


def test_interrupted_it_resumes_bit_for_bit(uninterrupted, labelled, micro, tmp_path):
    run, training_steps = build_run(micro(), [labelled], tmp_path / "run", False, Dist()), []

    def press(module, inputs, output):
        if torch.is_grad_enabled():
            training_steps.append(run.step)
            if len(training_steps) == 7:
                signal.raise_signal(signal.SIGINT)

    run.objective.encoder.vit.register_forward_hook(press)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    assert run.step == len(training_steps) == 7
    assert load(tmp_path / "run").settings.labels == TAGS
    torch.manual_seed(99)
    pretrain(micro(), labelled, tmp_path / "run", resume=True, device="cpu")
    assert same(tmp_path / "run", uninterrupted)
    assert same(tmp_path / "run", uninterrupted, "last")
    assert plain(tmp_path / "run")[-2:] == plain(uninterrupted)[-2:]


@pytest.mark.slow
def test_killed_it_resumes_bit_for_bit(uninterrupted, labelled, micro, tmp_path):
    folder, recipe = tmp_path / "run", tmp_path / "recipe.json"
    recipe.write_text(micro().model_dump_json())
    code = """if True:
        import sys, time, torch
        from pathlib import Path
        from carrara.pretrain.tagging.settings import TaggingRecipe
        from carrara.pretrain.distributed import Dist
        from carrara.pretrain.run import build_run
        from carrara.pretrain.train import train
        recipe = TaggingRecipe.model_validate_json(open(sys.argv[1]).read())
        run = build_run(recipe, [sys.argv[2]], Path(sys.argv[3]), False, Dist())
        sleep_in_step_7 = lambda *_: time.sleep(600 if run.step == 6 and torch.is_grad_enabled() else 0)
        run.objective.encoder.vit.register_forward_hook(sleep_in_step_7)
        train(run)"""
    arguments = [sys.executable, "-c", code, str(recipe), str(labelled), str(folder)]
    with subprocess.Popen(arguments, cwd=Path(__file__).parents[3], env={**os.environ, "OMP_NUM_THREADS": "1"}) as run:
        until = time.monotonic() + 300
        # Its sixth step is in the log, its fourth in the last checkpoint.
        while len(read_metrics(folder / "metrics.jsonl")) < 3 and time.monotonic() < until and run.poll() is None:
            time.sleep(0.1)
        run.kill()
    assert run.returncode == -signal.SIGKILL
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == [2, 4, 6]
    pretrain(micro(), labelled, folder, resume=True, device="cpu")
    assert same(folder, uninterrupted)
    assert same(folder, uninterrupted, "last")
    assert plain(folder) == plain(uninterrupted)


def test_only_the_same_run_is_resumed(uninterrupted, labelled, micro, tmp_path):
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
    refused("crop_seconds 3 gives 18 columns .* positions for 1 to 9; give --set network.frames=187", crop_seconds=3.0)
    refused("kind passt come from a file", initial__kind="passt")
    refused("learns from a teacher: --set teacher.weights=FOLDER", network__distilled="separated")
    refused("crop_seconds 0.1 is shorter than a patch; give --set crop_seconds=0.3", crop_seconds=0.1)
    with pytest.raises(UsageError, match="encoder 'noise' cannot be trained on tags"):
        build_tagger(
            micro().model_copy(update={"encoder": "noise", "network": build_encoder("noise").settings}), TAGS, "x", "y"
        )


def test_many_clips_shorter_than_a_crop_give_a_warning(labelled, micro, tmp_path):
    with pytest.warns(UserWarning, match="50% of the clips are shorter than a crop of 2.5 s and are zero-padded"):
        pretrain(micro(crop_seconds=2.5, network__frames=156), labelled, tmp_path / "run", steps=1, device="cpu")


def test_the_loss_is_bce_on_the_masked_crops(labelled, micro, tmp_path):
    run = build_run(micro(mixup=0.0), [labelled], tmp_path / "run", False, Dist())
    mels, logits = [], []
    run.objective.encoder.vit.register_forward_hook(lambda module, inputs, output: mels.append(inputs[0]))
    run.objective.encoder.head.register_forward_hook(lambda module, inputs, output: logits.append(output))
    batch = run.objective.stream.read_batch(0)
    result = compute_gradient(run, batch)
    tags = torch.from_numpy(run.objective.corpus.tags_NC[list(batch.item_indices)]).float()
    probability = logits[0].detach().double().sigmoid()
    expected = -(tags * probability.log() + (1 - tags) * (1 - probability).log()).mean()
    assert result.loss == pytest.approx(float(expected), abs=1e-6)
    # What is not masked is the encoder's own normalised spectrogram.
    clean, unmasked = input_mel(run.objective.encoder, batch.samples_BT), mels[0] != 0
    assert 0.2 < float(unmasked.float().mean()) < 0.9
    assert torch.equal(mels[0][unmasked], clean[unmasked])


def test_a_teacher_is_learnt_by_the_second_head(labelled, micro, tmp_path, uninterrupted):
    recipe = micro(teacher__weights=str(uninterrupted), mixup=0.0)
    folder = pretrain(recipe, labelled, tmp_path / "run", device="cpu")
    lines = read_metrics(folder / "metrics.jsonl")
    assert all(line["loss"] == pytest.approx((line["loss/tags"] + line["loss/teacher"]) / 2) for line in lines)
    student = load(folder)
    assert student.settings.distilled == "separated"
    assert not torch.equal(student.head_dist.weight, build_tagger(recipe, TAGS, "x", "y").head_dist.weight)
    mel = input_mel(student, torch.randn(2, 24_576) / 10)
    tokens = student.vit(mel)[-1]
    normed = torch.nn.functional.layer_norm(tokens, (32,), student.vit.norm.weight, student.vit.norm.bias, 1e-6)
    ours = tag_logits(student, mel)
    torch.testing.assert_close(ours[0], student.head(normed[:, 0]))
    torch.testing.assert_close(ours[1], student.head_dist(normed[:, 1]))
    other = build_encoder(
        "maest-tiny", 0, {**build_tagger(recipe, TAGS, "x", "y").settings.model_dump(), "labels": ("a", "b", "c", "d")}
    )
    save_pretrained(other, tmp_path / "other")
    with pytest.raises(UsageError, match="the teacher .* has other labels: 4 only in the corpus"):
        pretrain(micro(teacher__weights=str(tmp_path / "other")), labelled, tmp_path / "not", device="cpu")


def test_validation_scores_are_scikit_learns_over_the_tags_that_can_be_scored(labelled, micro, tmp_path):
    run = build_run(micro(labels__tags=("high", "low", "pulsed")), [labelled], tmp_path / "run", False, Dist())
    corpus = run.objective.valid_crops.corpus
    corpus.tags_NC[:, 1] = True  # a tag of every clip has no ROC
    outputs = []
    run.objective.encoder.head.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    scores = validation_scores(run.objective.encoder, run.objective.valid_crops, Dist())
    tags, logits = corpus.tags_NC[:, [0, 2]], torch.cat(outputs).numpy()[:, [0, 2]]
    assert scores["average_precision"] == pytest.approx(average_precision_score(tags, logits, average="macro"))
    assert scores["roc_auc"] == pytest.approx(roc_auc_score(tags, logits, average="macro"))
    corpus.tags_NC[:] = True
    assert validation_scores(run.objective.encoder, run.objective.valid_crops, Dist()) == {}


class FixedTeacher:
    """A teacher with given predictions."""

    def __init__(self, *rows):
        self.rows = torch.tensor(rows)

    def predict_tags(self, samples_BT):
        return self.rows


def test_a_teachers_targets_are_thresholded_and_never_empty():
    teacher = FixedTeacher([0.9, 0.46, 0.44], [0.1, 0.3, 0.2], [0.44, 0.1, 0.45])
    assert teacher_targets(teacher, torch.zeros(3, 1)).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.slow
def test_the_convolutional_baseline_learns_by_the_same_recipe(labelled, tmp_path):
    changes = {"network.width_multiplier": 0.25, "crop_seconds": 2.05, "batch": 4, "steps": 2, "epoch_clips": 4}
    recipe = resolve("effnet-tagger", "tiny", changes)
    folder = pretrain(recipe, labelled, tmp_path / "run", device="cpu")
    encoder = load(folder)
    assert json.loads((folder / "labels.json").read_text()) == list(TAGS)
    assert encoder.predict_tags(torch.zeros(1, 40_000)).shape == (1, 4)
    # The mean of the logits of patches side by side.
    samples = torch.randn(1, 4 * 128 * 256) / 10
    mel = input_mel(encoder, samples)
    apart = [encoder.classifier(encoder.network(part)[1]) for part in mel.split(128, 1)]
    torch.testing.assert_close(tag_logits(encoder, mel)[0], torch.stack(apart).mean(0), atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match="no patches to drop"):
        pretrain(resolve("effnet-tagger", "tiny", {**changes, "patchout": 3}), labelled, tmp_path / "b", device="cpu")


def test_a_gradient_that_is_not_finite_is_skipped_and_logged(labelled, micro, tmp_path):
    folder = tmp_path / "run"
    run = build_run(micro(steps=3), [labelled], folder, False, Dist())

    def poison(module, inputs, output):
        return [layer * float("nan") for layer in output] if run.step == 1 else None

    run.objective.encoder.vit.register_forward_hook(poison)
    train(run)
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["skipped"] for line in lines] == [1, 0]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert torch.isfinite(load(folder).head[1].weight).all()
    (event,) = read_events(folder / "metrics.jsonl")
    assert (event["step"], event["event"], event["why"], event["batch"]) == (2, "skipped", "loss nan", 1)
    assert len(event["files"]) == 4
