"""What an error of pre-training proposes is taken from its message, typed after the same command, and trains."""

import re
import shlex
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.pretrain.corpus.stream import CropStream
from carrara.pretrain.metrics_log import read_metrics

pytestmark = pytest.mark.slow

SWITCHES = ("--resume", "--yes")
VALUED = ("--set", "--scale", "--device", "--from", "--tracker", "--gpu")
HUBERT = {
    "network.conv_channels": 16, "network.dim": 32, "network.num_layers": 2, "network.num_heads": 2,
    "network.ffn_dim": 32, "network.position_groups": 4, "crop_seconds": 1.0, "batch": 4, "steps": 2,
}  # fmt: skip
CHROMA = {
    "targets.log-mel.k": 6,
    "targets.log-mel.fraction": 1.0,
    "targets.chroma.k": 6,
    "targets.chroma.fraction": 1.0,
}
CODES = {"targets.codes.num_codebooks": 2, "targets.codes.codebook_size": 8, "targets.codes.fraction": 1.0}
CODEC = {
    "network.filters": 4, "network.latent": 8, "network.num_codebooks": 2, "network.codebook_size": 8,
    "crop_seconds": 1.0, "batch": 4, "steps": 2,
}  # fmt: skip
PATCHES = {
    "network.columns": 8, "network.dim": 32, "network.num_layers": 2, "network.num_heads": 2, "network.ffn_dim": 64,
    "predictor.dim": 16, "predictor.num_layers": 1, "predictor.num_heads": 2, "predictor.ffn_dim": 32,
    "crop_seconds": 1.28, "batch": 4, "steps": 2,
}  # fmt: skip
TAGS = {
    "network.frames": 96, "network.dim": 32, "network.num_layers": 2, "network.num_heads": 2, "network.ffn_dim": 64,
    "crop_seconds": 1.536, "patchout": 3, "epoch_clips": 8, "batch": 4, "epochs": 1, "validate_every": 1,
}  # fmt: skip
RECIPES = {
    "mert-v0": HUBERT | CHROMA,
    "mert-v1-95m": HUBERT | CODES | {"targets.codes.source": "residual-k-means"},
    "music2vec-crop5s": HUBERT | {"targets.teacher.top_layers": 1},
    "musichubert-iter2": HUBERT | {"targets.layer.k": 6, "targets.layer.fraction": 1.0, "targets.layer.layer": 1},
    "mel-conformer-random": {
        "network.conv_channels": [32, 32, 32], "network.dim": 32, "network.num_layers": 1, "network.num_heads": 2,
        "network.ffn_dim": 32, "crop_seconds": 2.0, "batch": 4, "steps": 2, "targets.codes.codebook_size": 16,
        "targets.codes.fraction": 1.0,
    },
    "mel-transformer-random": {
        "network.dim": 32, "network.num_layers": 1, "network.num_heads": 2, "network.ffn_dim": 32, "crop_seconds": 2.0,
        "masking.mask_length": 2, "batch": 4, "steps": 2, "targets.codes.codebook_size": 16,
        "targets.codes.fraction": 1.0,
    },
    "contrastive": {
        "network.dim": 32, "network.num_layers": 1, "network.num_heads": 2, "network.hidden": 16,
        "pairs.view_seconds": 0.3, "pairs.group": 2, "crop_seconds": 1.0, "batch": 4, "steps": 2,
    },
    "rvq-vae": CODEC,
    "m2d": PATCHES,
    "maest-5s": TAGS,
    "effnet-tagger": {
        "network.width_multiplier": 0.1, "crop_seconds": 2.1, "epoch_clips": 4, "batch": 2, "epochs": 1,
        "validate_every": 1,
    },
}  # fmt: skip
TAGGERS = ("maest-5s", "effnet-tagger")


def proposals(message):
    """Return the alternatives of a message, each as the arguments to type: flags without words between them."""
    alternatives, words = [], message.split()
    is_open = False
    for index, word in enumerate(words):
        flag, value = word.strip("(`;,.)"), words[index + 1].strip("(`;,.)") if index + 1 < len(words) else ""
        if flag in SWITCHES or (flag in VALUED and not value.endswith(":")):  # --from FOLDER: is what the line is about
            if not is_open:
                alternatives.append([])
            alternatives[-1] += [flag] if flag in SWITCHES else [flag, value]
            is_open = True
        elif words[index - 1].strip("(`") not in VALUED:
            is_open = False
        if is_open and word[-1] in ";,.)":
            is_open = False
    return alternatives


def test_alternatives_are_what_stands_between_words():
    line = (
        "x; add --set a=1 --set b.c=2, or mask: --set d=noise (`carrara show` tells), or go on with --resume --set e=1."
    )
    assert proposals(line) == [["--set", "a=1", "--set", "b.c=2"], ["--set", "d=noise"], ["--resume", "--set", "e=1"]]


def run(*arguments):
    return CliRunner().invoke(app, ["pretrain", *map(str, arguments)])


def settings(recipe, changes):
    return [
        word for path, value in {**RECIPES[recipe], **changes}.items() for word in ("--set", assignment(path, value))
    ]


def assignment(path, value):
    return f"{path}={str(value).lower() if isinstance(value, bool) else value}".replace(" ", "")


def refusal(result):
    """Return the one line of a command that stops."""
    assert result.exit_code in (1, 2), result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("carrara pretrain: ")][-1:]
    return line


def done(result):
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def music(corpus, tmp_path_factory):
    """The corpus of files, and with labels.csv, in which every second file has another tag."""
    folder = tmp_path_factory.mktemp("tagged")
    rows = ["path,split,tags[]"]
    for index, path in enumerate(sorted(corpus.rglob("*.flac"))):
        shutil.copy(path, folder / path.name)
        rows.append(f"{path.name},{'valid' if index > 7 else 'train'},{'even' if index % 2 else 'odd'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return {"files": corpus, "tagged": folder}


@pytest.fixture(scope="module")
def trained(music, tmp_path_factory):
    """(recipe, changes) → the folder of a short run."""
    folders = {}

    def train(recipe, **changes):
        key = (recipe, str(changes))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("trained") / recipe
            corpus = music["tagged" if recipe in TAGGERS else "files"]
            done(run(recipe, "--scale", "tiny", *settings(recipe, changes), "-c", corpus, "-o", folders[key]))
        return folders[key]

    return train


@dataclass(frozen=True)
class Case:
    """An error: its recipe, the settings that provoke it, a part of its message, and how many cures it proposes.

    "RUN mert-v0" among the settings and options is the folder of a short run of that recipe.

    Attributes:
        fill: values for the capitals in a proposal, such as FOLDER: a recipe that is trained for it, and its changes.
        follow: parts of the messages of further errors that a proposal may lead to, whose cures are typed as well.
    """

    recipe: str
    words: str
    count: int
    changes: dict = field(default_factory=dict)
    options: tuple = ()
    fill: tuple = ()
    follow: str = ""


CASES = [
    Case("mert-v0", "no file is as long as a crop of 30 s", 1, {"crop_seconds": 30.0}),
    Case("m2d", "no file is as long as a crop of 30.4 s", 1, {"crop_seconds": 30.4, "network.columns": 190},
         follow="columns of patches, network.columns is 190"),
    Case("mert-v0", "too few for masks of 46", 2, {"masking.mask_length": 46}),
    Case("mel-conformer-random", "has no vector for masked frames", 2,
         {"masking.replacement": "vector", "network.mask_vector": False}),
    Case("mert-v0", "fsdp=true needs several ranks", 1, {"fsdp": True}),
    Case("mert-v0", "fsdp=true needs every rank to compute every layer", 1, {"fsdp": True, "network.layerdrop": 0.1},
         follow="fsdp=true needs several ranks"),
    Case("music2vec-crop5s", "fsdp=true does not go with a teacher", 1, {"fsdp": True, "network.layerdrop": 0.0}),
    Case("rvq-vae", "fsdp=true shards Transformers", 1, {"fsdp": True}),
    Case("mert-v0", "accumulation_steps=auto cannot probe", 1, {"fsdp": True, "accumulation_steps": "auto"},
         follow="fsdp=true needs several ranks"),
    Case("rvq-vae", "muon is for the matrices of a Transformer, which", 1, {"optimiser.name": "muon"}),
    Case("rvq-vae", "too few to start 500 codes from", 2, {"network.codebook_size": 500}),
    Case("rvq-vae", "is another codec: ", 1, {"network.filters": 8}, ("--from", "RUN rvq-vae")),
    Case("m2d", "gives 8 columns of patches, network.columns is 9", 2, {"network.columns": 9}),
    Case("m2d", "is another network: ", 1, {"network.dim": 48, "network.num_heads": 3}, ("--from", "RUN m2d")),
    Case("mert-v0", "is another network: ", 1, {"network.dim": 48, "network.num_heads": 3}, ("--from", "RUN mert-v0")),
    Case("maest-5s", "columns of patches, the network has positions for 1 to", 2, {"crop_seconds": 2.5}),
    Case("maest-5s", "is shorter than a patch", 1, {"crop_seconds": 0.2, "patchout": 0}),
    Case("maest-5s", "would drop every one of the", 1, {"patchout": 30}),
    Case("maest-5s", "the second head learns from a teacher", 2, {"network.distilled": "separated"},
         fill=("FOLDER", "maest-5s")),
    Case("maest-5s", "come from a file", 1, {"initial.kind": "folder"}, fill=("PATH", "maest-5s")),
    Case("maest-5s", "columns of patches, this network for", 1, {"initial.kind": "folder", "initial.weights":
         "RUN maest-5s", "network.frames": 128}),
    Case("effnet-tagger", "has no patches to drop and no second head", 1, {"patchout": 3}),
    Case("mert-v1-95m", "has 2 codebooks, not 3", 1, {"targets.codes.source": "rvq-vae", "targets.codes.weights":
         "RUN rvq-vae", "targets.codes.num_codebooks": 3}),
    Case("mert-v1-95m", "its codebooks have 8 codes", 1, {"targets.codes.source": "rvq-vae", "targets.codes.weights":
         "RUN rvq-vae", "targets.codes.codebook_size": 16}),
    Case("mert-v1-95m", "source rvq-vae needs weights", 1, {"targets.codes.source": "rvq-vae"},
         fill=("FOLDER", "rvq-vae")),
    Case("mert-v1-95m", "is fitted on the corpus and takes no weights", 1, {"targets.codes.weights": "RUN rvq-vae"}),
    Case("music2vec-crop5s", "but the network has 2 layers", 1, {"targets.teacher.top_layers": 5}),
    Case("contrastive", "which do not divide over", 1, {"accumulation_steps": 3}),
    Case("contrastive", "is too short for two views at any speed", 1, {"crop_seconds": 0.5}),
    Case("contrastive", "is no multiple of pairs.group", 1, {"batch": 3}),
    Case("m2d", "a crop of one patch has nothing to predict it from", 1,
         {"network.columns": 1, "network.num_bands": 16, "crop_seconds": 0.16}),
    Case("effnet-tagger", "less than a patch of 128", 1, {"crop_seconds": 1.0}),
    Case("maest-5s", "no training clip has the tag", 1, {"labels.tags": '["odd","none"]'}),
    Case("mel-transformer-random", "gives one vector for a clip", 1, {"network.tokens": "stack"}),
    Case("mel-transformer-random", "has heads for tags", 1, {"network.classes": 4}),
    Case("mel-transformer-random", "has no vector for masked frames", 1, {"masking.replacement": "vector"}),
    Case("mel-transformer-random", "is another network: num_layers is 2 there and 1 here, ffn_dim is 64", 1,
         {"network.frames": 96, "crop_seconds": 1.5}, ("--from", "RUN maest-5s")),
    Case("mel-transformer-random", "the network has positions for 1 to 9", 2, {"network.frames": 96}),
    Case("musichubert-iter2", "so layer 9 does not exist", 1, {"targets.layer.layer": 9, "targets.layer.encoder":
         "RUN mert-v0"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.recipe}: {case.words}")
def test_every_proposed_cure_of_a_refused_start_trains(case, music, trained, tmp_path):

    def name_folder(value):
        return str(trained(value.removeprefix("RUN "))) if str(value).startswith("RUN ") else value

    changes = {path: name_folder(value) for path, value in case.changes.items()}
    options = [name_folder(option) for option in case.options]
    corpus = music["tagged" if case.recipe in TAGGERS else "files"]
    command = [*command_of(case.recipe, changes, corpus), *options]
    line = refusal(run(*command, "-o", tmp_path / "x"))
    assert case.words in line and not (tmp_path / "x").exists()
    alternatives = proposals(line)
    assert len(alternatives) == case.count, line
    for number, cure in enumerate(alternatives):
        if case.fill:
            placeholder, recipe = case.fill
            cure = [word.replace(placeholder, str(trained(recipe))) for word in cure]
        typed = [*command, *cure]
        result = run(*typed, "-o", tmp_path / str(number))
        if case.follow and result.exit_code:
            line = refusal(result)
            assert case.follow in line
            result = run(*typed, *proposals(line)[0], "-o", tmp_path / str(number))
        done(result)


def provoked(command, folder, *words):
    """Return the proposals of the line with which a run stops."""
    line = refusal(run(*command, "-o", folder))
    assert all(word in line for word in words), line
    return proposals(line)


def continued(command, cure, folder, copy):
    """Type a cure after the command: in a copy of the folder where the run is resumed, else in a new one."""
    if "--resume" in cure:
        shutil.copytree(folder, copy)
    return done(run(*command, *cure, "-o", copy))


def command_of(recipe, changes, corpus):
    return [recipe, "--scale", "tiny", *settings(recipe, changes), "-c", corpus, "--device", "cpu"]


def test_after_an_exhausted_loss_scale_the_run_goes_on_in_bfloat16_or_starts_with_relaxation(music, tmp_path):
    scale = {"precision": "float16", "steps": 4, "loss_scale.initial": 1e30, "loss_scale.smallest": 9e29}
    command = command_of("mert-v0", scale, music["files"])
    resumed, anew = provoked(command, tmp_path / "x", "the loss scale fell below 9e+29")
    assert resumed == ["--resume", "--set", "precision=bfloat16"]
    continued(command, resumed, tmp_path / "x", tmp_path / "resumed")
    assert anew == ["--set", "network.relaxation=32", "--set", "network.attention=eager"]
    # With a scale that any network overflows at, both get an ordinary one.
    continued(command, [*anew, "--set", "loss_scale.initial=128"], tmp_path / "x", tmp_path / "anew")


def test_after_a_collapse_a_lower_learning_rate_or_a_later_check_trains(music, tmp_path):
    strict = {"recovery.min_prediction_std": 1e6, "recovery.collapse_check_after": 3, "steps": 4, "log_every": 1,
              "checkpoint_every": 1}  # fmt: skip
    command = command_of("mert-v0", strict, music["files"])
    lower, later = provoked(command, tmp_path / "x", "step 3: collapse: std/prediction/cqt is")
    assert lower[1] == "optimiser.learning_rate=0.0015" and later == [
        "--resume",
        "--set",
        "recovery.collapse_check_after=6",
    ]
    continued(command, later, tmp_path / "x", tmp_path / "later")
    # No learning rate reaches a deviation of a million.
    continued(command, [*lower, "--set", "recovery.min_prediction_std=0"], tmp_path / "x", tmp_path / "lower")


def test_after_the_last_roll_back_a_lower_learning_rate_goes_on_and_may_roll_back_again(music, tmp_path, monkeypatch):
    iter_batches, bad = CropStream.iter_batches, set(range(3, 100))

    def spoiled(self, *arguments):
        for batch in iter_batches(self, *arguments):
            if self.batch_size == 4 and batch.step in bad:  # the targets are fitted on larger batches
                batch.samples_BT.mul_(float("nan"))
            yield batch

    monkeypatch.setattr(CropStream, "iter_batches", spoiled)
    careful = {"recovery.max_consecutive_skips": 2, "recovery.max_rollbacks": 1, "steps": 8, "checkpoint_every": 2}
    command = command_of("mert-v0", careful, music["files"])
    (cure,) = provoked(command, tmp_path / "x", "rolled back 1 times and fails again")
    assert cure == ["--resume", "--set", "optimiser.learning_rate=0.0015"]
    # Two more bad batches, and then good ones: the run rolls back once more.
    bad.difference_update(range(7, 100))
    continued(command, cure, tmp_path / "x", tmp_path / "again")


@pytest.mark.parametrize(
    ("changes", "limit", "words", "cure"),
    [
        ({}, 2, "for 4 crops at a time", ["--resume", "--set", "accumulation_steps=2"]),
        ({"accumulation_steps": 2}, 1, "for 2 crops at a time", ["--resume", "--set", "accumulation_steps=4"]),
        ({"accumulation_steps": 4}, 0, "one crop is too much", ["--set", "activation_checkpointing=true"]),
        ({"accumulation_steps": 4, "activation_checkpointing": True}, 0, "one crop is too much",
         ["--set", "crop_seconds=0.5"]),
    ],
)  # fmt: skip
def test_out_of_memory_names_a_setting_that_trains(
    changes, limit, words, cure, music, tmp_path, monkeypatch, before_optimiser_steps
):
    """From the second step on a device holds the activations of `limit` crops; of any number again if that is 0."""
    conv1d, full = torch.nn.functional.conv1d, []

    def limited(x, *arguments, **options):
        if full and torch.is_grad_enabled() and len(x) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return conv1d(x, *arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "conv1d", limited)
    before_optimiser_steps(lambda number: full.append(number))
    command = command_of("mert-v0", {"masking.mask_length": 5, **changes}, music["files"])
    assert provoked(command, tmp_path / "x", "step 2: cpu has no memory left", words) == [cure]
    full.clear()
    if not limit:
        monkeypatch.undo()
    continued(command, cure, tmp_path / "x", tmp_path / "again")


def test_labels_and_checkpoints_that_a_message_says_to_remove_are_made_again(music, tmp_path):
    changes = {"targets.codes.whole_files": True, "checkpoint_every": 1}
    command, folder = command_of("mert-v1-95m", changes, music["files"]), tmp_path / "x"
    done(run(*command, "-o", folder))

    def remove(pattern, line):
        path = Path(re.search(pattern, line).group(1))
        assert folder in path.parents and path.exists()
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    # Labels of another corpus: those of a folder of the same files and one less.
    other = tmp_path / "other"
    shutil.copytree(music["files"], other)
    next(other.rglob("*.flac")).unlink()
    shutil.rmtree(folder / "labels")
    done(run(*command_of("mert-v1-95m", changes, other), "-o", tmp_path / "y"))
    shutil.copytree(tmp_path / "y" / "labels", folder / "labels")
    line = refusal(run(*command, "--resume", "-o", folder))
    assert "holds codes of another corpus or target; remove it, and they are made again" in line
    remove(r"carrara pretrain: (\S+): holds", line)
    done(run(*command, "--resume", "-o", folder))
    # A damaged line of their index.
    index = next((folder / "labels" / "codes").glob("*.jsonl"))
    lines = index.read_text().splitlines()
    index.write_text("\n".join([lines[0], "{", *lines[2:]]) + "\n")
    line = refusal(run(*command, "--resume", "-o", folder))
    assert "line 2 is damaged" in line
    remove(r"remove (\S+)$", line)
    done(run(*command, "--resume", "-o", folder))
    # Both checkpoints.
    for path in (folder / "training").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    line = refusal(run(*command, "--resume", "-o", folder))
    assert "remove the folder to start anew" in line
    remove(r"carrara pretrain: (\S+): no whole checkpoint", line)
    done(run(*command, "--resume", "-o", folder))


def test_a_run_is_resumed_or_another_folder_taken_as_the_messages_say(music, trained, tmp_path):
    folder = shutil.copytree(trained("mert-v0"), tmp_path / "x")
    command = command_of("mert-v0", {}, music["files"])
    line = refusal(run(*command, "-o", folder))
    assert "holds a run already" in line and proposals(line) == [["--resume"]] and "another folder with -o" in line
    done(run(*command, *proposals(line)[0], "-o", folder))
    heavier = ["--set", "optimiser.weight_decay=0.1", "--set", "batch=8"]
    line = refusal(run(*command, *heavier, "--resume", "-o", folder))
    assert "has another recipe" in line
    assert proposals(line) == [["--set", "optimiser.weight_decay=0.01", "--set", "batch=4"]]
    done(run(*command, *heavier, *proposals(line)[0], "--resume", "-o", folder))
    start = trained("mert-v0")
    line = refusal(run(*command, "--resume", "--from", start, "-o", folder))
    assert "leave --from out" in line
    done(run(*command, "--from", start, "-o", tmp_path / "y"))
    line = refusal(run(*command, "--resume", "-o", tmp_path / "y"))
    assert proposals(line) == [["--from", str(start)]]
    done(run(*command, *proposals(line)[0], "--resume", "-o", tmp_path / "y"))


def test_options_that_messages_of_the_command_propose(music, tmp_path):
    micro = settings("mert-v0", {"steps": 2000})
    refused = run("mert-v0", *micro, "-c", music["files"], "-o", tmp_path / "x", "--device", "cpu")
    assert "far too much for a CPU" in refusal(refused)
    scale, yes = [cure for cure in proposals(refusal(refused)) if cure not in (["--dry-run"],)]
    assert (scale, yes) == (["--scale", "tiny"], ["--yes"])
    short = ["mert-v0", *micro, "--set", "steps=1001", "--set", "checkpoint_every=5000"]
    plan = shlex.split(re.search(r"`carrara pretrain (.*?)`", refusal(refused)).group(1))
    assert "parameters" in done(run(*plan, *micro, "--device", "cpu")).stdout
    # Both start; Ctrl-C is not waited for: two steps of the whole run suffice.
    assert done(run(*short[:-4], "--set", "steps=2", *scale, "-c", music["files"], "-o", tmp_path / "s"))
    line = refusal(run(*command_of("mert-v0", {}, music["files"]), "-o", tmp_path / "t", "--tracker", "nothing"))
    assert "tensorboard, trackio, wandb, none" in line
    done(run(*command_of("mert-v0", {}, music["files"]), "-o", tmp_path / "t", "--tracker", "none"))
    line = refusal(run("mert-v0", "--dry-run", "--gpu", "h10", "--scale", "tiny", *micro))
    done(
        run("mert-v0", "--dry-run", "--gpu", re.search(r"There are: (\S+),", line).group(1), "--scale", "tiny", *micro)
    )


COMMAND = "import sys; from carrara.cli._main import main; sys.argv = ['carrara', 'pretrain', *arguments]; main()"


@pytest.fixture
def run_ranks(fork_ranks, wait_for):
    """(command, folder) → the exit codes of the command on two ranks, and its one line of an error, if it has one."""

    def run(command, folder):
        codes, messages = wait_for(fork_ranks(COMMAND, [*map(str, command), "-o", str(folder)]))
        lines = [line for line in "".join(messages).splitlines() if line.startswith("carrara pretrain: ")]
        assert len(lines) <= 1, messages
        return codes, (lines or [""])[0]

    return run


@pytest.mark.parametrize(
    ("changes", "words", "count"),
    [
        ({"batch": 1}, "batch 1 is less than one crop for each of 2 ranks", 1),
        ({"batch": 4, "mixup.probability": 0.5, "mixup.pool": 4}, ".pool 4 does not fit the 4 crops", 2),
        ({"batch": 6, "mixup.probability": 0.5, "mixup.pool": 2}, ".pool 2 does not fit the 6 crops", 1),
    ],
)
def test_a_batch_that_ranks_cannot_divide_names_one_that_they_can(changes, words, count, music, run_ranks, tmp_path):
    command = command_of("mert-v0", {"network.num_layers": 1, "steps": 1, **changes}, music["files"])
    codes, line = run_ranks(command, tmp_path / "x")
    assert 0 not in codes and words in line and not (tmp_path / "x").exists()
    alternatives = proposals(line)
    assert len(alternatives) == count, line
    for number, cure in enumerate(alternatives):
        codes, line = run_ranks([*command, *cure], tmp_path / str(number))
        assert codes == [0, 0], line


WAITING = """
import time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_pre_hook

*arguments, gate = arguments

def wait(*_):
    while not Path(gate).exists():
        time.sleep(0.02)

register_optimizer_step_pre_hook(wait)
"""


def test_of_two_processes_in_one_folder_the_second_is_refused_and_both_ways_out_work(music, fork, wait_for, tmp_path):
    command, folder, gate = command_of("mert-v0", {}, music["files"]), tmp_path / "x", tmp_path / "gate"
    first = fork(WAITING + COMMAND, [*map(str, command), "-o", str(folder), str(gate)])
    while not (folder / "run.json").exists():
        assert first.process.is_alive()
        time.sleep(0.02)
    for more in ([], ["--resume"]):
        line = refusal(run(*command, *more, "-o", folder))
        assert f"{folder}: another process is training here; wait until it is done, or choose another folder" in line
    assert first.process.is_alive()
    # Another folder.
    done(run(*command, "--set", "steps=1", "-o", tmp_path / "y"))
    gate.touch()
    codes, messages = wait_for([first])
    assert codes == [0], messages
    # The first is done; its folder was not touched.
    done(run(*command, "--resume", "-o", folder))
    assert [entry["step"] for entry in read_metrics(folder / "metrics.jsonl")][-1] == 2
