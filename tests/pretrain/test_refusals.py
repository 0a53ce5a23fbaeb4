"""What cannot train is refused in one line that names the setting and the cure, before the first step."""

import shutil

import pytest

from carrara.core.errors import CarraraError, DataError, StoreError, UsageError, WeightsError
from carrara.core.settings import parse_settings, replace
from carrara.pretrain.corpus.label_store import LabelStore
from carrara.pretrain.run import pretrain

CODES = {"target": "codes", "source": "random-projection", "num_codebooks": 2, "codebook_size": 16, "whole_files": True}


@pytest.fixture(scope="module")
def short(micro):
    """One step on chroma clusters alone."""
    values = replace(micro, {"steps": 1, "batch": 2, "network.num_layers": 1}).model_dump()
    return parse_settings(type(micro), values | {"targets": {"chroma": values["targets"]["chroma"]}}, "test")


def refused(kind, recipe, corpus, folder, **options):
    """Return the line with which a run is refused."""
    with pytest.raises(kind) as error:
        pretrain(recipe, corpus, folder, device="cpu", **options)
    assert isinstance(error.value, CarraraError) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"masking.mask_length": 46},
            "crop_seconds 1 gives 47 frames, too few for masks of 46; give --set crop_seconds=1.1",
        ),
        ({"targets.chroma.k": 5000}, "5000 clusters need at least"),
        ({"mixup.probability": 0.5, "mixup.pool": 1}, "mixup.pool: input should be greater than or equal to 2"),
    ],
)
def test_impossible_combinations(changes, words, short, corpus, tmp_path):
    assert words in refused(UsageError, short, corpus, tmp_path / "x", changes=changes)
    assert not (tmp_path / "x").exists()


def test_a_cqt_above_half_the_rate(short, corpus, tmp_path):
    values = short.model_dump() | {"targets": {"cqt": {"target": "cqt", "bins": 120, "bins_per_octave": 12}}}
    line = refused(UsageError, parse_settings(type(short), values, "test"), corpus, tmp_path / "x")
    assert "the highest of 120 CQT bins is at" in line and "above half the sample rate" in line


def test_labels_of_another_corpus(short, corpus, tmp_path):
    recipe = parse_settings(type(short), short.model_dump() | {"targets": {"codes": CODES}}, "test")
    one = pretrain(recipe, corpus, tmp_path / "one", device="cpu")
    shutil.copytree(one / "labels", tmp_path / "two" / "labels")
    shutil.copytree(one / "targets", tmp_path / "two" / "targets")
    line = refused(StoreError, recipe, corpus / "0", tmp_path / "two")
    assert line.startswith(f"{tmp_path / 'two' / 'labels' / 'codes'}: holds codes of another corpus or target")
    assert "remove it" in line
    more = replace(recipe, {"targets.codes.num_codebooks": 3})
    shutil.rmtree(tmp_path / "two" / "targets")
    assert not (tmp_path / "two" / "run.json").exists()
    assert "holds codes of another corpus or target" in refused(StoreError, more, corpus, tmp_path / "two")


def test_a_fitted_target_that_is_damaged_or_of_another_size(short, corpus, tmp_path):
    one = pretrain(short, corpus, tmp_path / "one", device="cpu")
    path = one / "targets" / "chroma.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    line = refused(WeightsError, short, corpus, one, resume=True)
    assert line.startswith(f"{path}: ") and "remove it, and resuming fits the same target again" in line
    path.unlink()
    assert pretrain(short, corpus, one, device="cpu", resume=True) == one
    assert path.read_bytes() == whole
    (tmp_path / "two" / "targets").mkdir(parents=True)
    shutil.copy(path, tmp_path / "two" / "targets")
    line = refused(WeightsError, replace(short, {"targets.chroma.k": 7}), corpus, tmp_path / "two")
    assert "centroids_KD: (6, " in line and "where (7, " in line


def test_shards_of_which_none_is_whole(short, tmp_path):
    (tmp_path / "s0.tar").write_bytes(b"this is no tar" * 100)
    (tmp_path / "s1.tar").write_bytes(b"")
    line = refused(DataError, short, f"{tmp_path}/s{{0..1}}.tar", tmp_path / "x")
    assert "no file is as long as a crop" in line and "s0.tar" in line


def test_a_refused_start_leaves_the_folder_free_and_what_was_in_it(short, corpus, tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    values = short.model_dump()
    # The first target is fitted before the second is refused.
    values["targets"] = {"codes": CODES, "chroma": values["targets"]["chroma"] | {"k": 5000}}
    assert "5000 clusters" in refused(UsageError, parse_settings(type(short), values, "test"), corpus, folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert pretrain(short, corpus, folder, device="cpu") == folder


@pytest.mark.slow
def test_a_disk_that_fills_while_files_are_labelled_loses_no_labels(short, corpus, tmp_path, monkeypatch):
    recipe = parse_settings(type(short), short.model_dump() | {"targets": {"codes": CODES}}, "test")
    append, calls = LabelStore.append, []

    def filling(self, name, codes_FQ):
        calls.append(name)
        if len(calls) == 5:
            raise StoreError(
                f"{self.folder}: cannot write here (No space left on device); make room and go on with --resume"
            )
        append(self, name, codes_FQ)

    monkeypatch.setattr(LabelStore, "append", filling)
    assert "make room and go on with --resume" in refused(StoreError, recipe, corpus, tmp_path / "x")
    assert pretrain(recipe, corpus, tmp_path / "x", device="cpu", resume=True)
    # Ten files, of which one was tried twice.
    assert len(calls) == 11


def test_a_failed_start_does_not_touch_a_run(short, corpus, tmp_path):
    folder = pretrain(short, corpus, tmp_path / "x", device="cpu")
    before = sorted(path for path in folder.rglob("*"))
    refused(StoreError, short, corpus, folder)
    refused(StoreError, short, corpus, folder, changes={"batch": 3}, resume=True)
    assert sorted(path for path in folder.rglob("*")) == before
