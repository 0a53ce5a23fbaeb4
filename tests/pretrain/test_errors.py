"""What goes wrong while training is one line with a cure that works; the run goes on from its checkpoint."""

import re
import resource
import shutil
import signal

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from carrara.core.errors import CarraraError, DataError, StoreError
from carrara.core.settings import replace
from carrara.pretrain.metrics_log import read_metrics
from carrara.pretrain.run import pretrain


@pytest.fixture
def music(corpus, tmp_path):
    """A copy of the corpus that a test may damage."""
    return shutil.copytree(corpus, tmp_path / "music")


def refused(kind, recipe, corpus, folder, **options):
    """Return the line with which a run stops."""
    with pytest.raises(kind) as error:
        pretrain(recipe, corpus, folder, device="cpu", **options)
    assert isinstance(error.value, CarraraError) and "\n" not in str(error.value)
    return str(error.value)


def test_files_that_vanish_are_counted_and_a_corpus_that_vanishes_stops_the_run(
    micro, music, tmp_path, before_optimiser_steps
):
    recipe = replace(micro, {"steps": 8, "batch": 5, "checkpoint_every": 2, "log_every": 1})
    files = sorted(music.rglob("*.flac"))
    kept = {path: path.read_bytes() for path in files}

    def vanish(number):
        for path in files if number == 2 else ():
            path.unlink()

    before_optimiser_steps(vanish)
    line = refused(DataError, recipe, music, tmp_path / "x")
    assert re.match(r"no file of the corpus can be read, the last for this reason: .*\.flac: no such file", line)
    assert sum(entry["missing"] for entry in read_metrics(tmp_path / "x" / "metrics.jsonl")) > 0
    # Once the files are back, the run goes on from its checkpoint.
    for path, content in kept.items():
        path.write_bytes(content)
    pretrain(recipe, music, tmp_path / "x", resume=True, device="cpu")
    assert read_metrics(tmp_path / "x" / "metrics.jsonl")[-1]["step"] == 8


def test_samples_that_are_no_numbers_are_no_part_of_the_training(micro, music, tmp_path):
    """Files of floating-point numbers can hold them; a given length lets such a file into the corpus."""
    bad = np.full(4 * 16_000, np.nan, dtype=np.float32)
    soundfile.write(music / "bad.wav", bad, 16_000, subtype="FLOAT")
    recipe = replace(micro, {"steps": 6, "batch": 4})
    with pytest.warns(UserWarning, match="left out: .*bad.wav: holds samples that are NaN or infinite"):
        left_out = pretrain(recipe, music, tmp_path / "left-out", device="cpu")
    rows = [f"{path},{soundfile.info(path).duration}" for path in sorted(music.rglob("*.*"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,seconds", *rows]) + "\n")
    listed = pretrain(recipe, tmp_path / "list.csv", tmp_path / "listed", device="cpu")
    for folder, expected in ((left_out, 0), (listed, 2)):
        tensors = load_file(folder / "training" / "last.safetensors")
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point())
        lines = read_metrics(folder / "metrics.jsonl")
        assert sum(line["missing"] for line in lines) == expected and lines[-1]["step"] == 6


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_a_full_disk_at_a_checkpoint(micro, corpus, tmp_path, before_optimiser_steps):
    """The limit of a file's size stops a write in its middle, as a full disk does."""
    recipe = replace(micro, {"steps": 6, "checkpoint_every": 2})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(number):
        if number == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    before_optimiser_steps(limit)
    try:
        line = refused(StoreError, recipe, corpus, tmp_path / "x", trackers=())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, former)
    assert "last.safetensors: cannot write here" in line and line.endswith("make room and go on with --resume")
    whole = pretrain(recipe, corpus, tmp_path / "whole", device="cpu")
    pretrain(recipe, corpus, tmp_path / "x", resume=True, device="cpu")
    ours, theirs = (load_file(each / "training" / "last.safetensors") for each in (tmp_path / "x", whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
