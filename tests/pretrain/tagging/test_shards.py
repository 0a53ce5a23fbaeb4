"""Tags from columns of manifests and of Parquet with audio bytes, and from the members of tar shards."""

import io
import json
import tarfile

import numpy as np
import pyarrow
import pytest
import soundfile
from pyarrow import parquet

from carrara.core.errors import DataError
from carrara.pretrain.run import pretrain
from carrara.pretrain.tagging.data import build_tagged_corpus
from carrara.pretrain.tagging.settings import LabelSettings

RATE = 16_000
TAGS = [["low"], ["low", "loud"], ["high"], ["high"], ["loud"], ["high", "loud"]]
SPLITS = ["train", "train", "train", "train", "validation", "test"]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for number, tags in enumerate(TAGS):
        pitch = 200 if "low" in tags else 2000
        tone = (0.6 if "loud" in tags else 0.1) * np.sin(2 * np.pi * pitch * np.arange(2 * RATE) / RATE)
        soundfile.write(folder / f"{number}.flac", tone, RATE)
    return sorted(folder.glob("*.flac"))


def write_csv(folder, sounds):
    rows = [f"{path},{';'.join(tags)},{split}" for path, tags, split in zip(sounds, TAGS, SPLITS)]
    (folder / "list.csv").write_text("\n".join(["path,tags[],split", *rows]) + "\n")
    return folder / "list.csv"


def write_manifest(folder, sounds):
    columns = {"path": [str(path) for path in sounds], "tags": TAGS, "split": SPLITS}
    parquet.write_table(pyarrow.table(columns), folder / "list.parquet")
    return folder / "list.parquet"


def write_parquet(folder, sounds):
    audio = [{"bytes": path.read_bytes(), "path": path.name} for path in sounds]
    parquet.write_table(pyarrow.table({"audio": audio, "tags": TAGS, "split": SPLITS}), folder / "music.parquet")
    return folder / "music.parquet"


def write_tar(folder, sounds):
    with tarfile.open(folder / "music.tar", "w") as tar:
        for number, (path, tags, split) in enumerate(zip(sounds, TAGS, SPLITS)):
            members = {"flac": path.read_bytes(), "json": json.dumps({"split": split, "tags": tags}).encode()}
            if number == 0:  # one class, as WebDataset writes it
                members = {"flac": path.read_bytes(), "cls": tags[0].encode()}
            if number == 1:
                members = {"flac": path.read_bytes(), "txt": "\n".join(tags).encode()}
            for kind, content in members.items():
                info = tarfile.TarInfo(f"{number}.{kind}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder / "music.tar"


@pytest.mark.parametrize("write", [write_csv, write_manifest, write_parquet, write_tar])
def test_tags_and_splits_are_those_written(write, sounds, tmp_path):
    train, valid = build_tagged_corpus([write(tmp_path, sounds)], LabelSettings(), RATE)
    assert train.tags == ("high", "loud", "low")
    assert train.tags_NC.astype(int).tolist() == [[0, 0, 1], [0, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert valid.tags_NC.astype(int).tolist() == [[0, 1, 0]]
    expected, _ = soundfile.read(sounds[1], dtype="float32", frames=RATE)
    np.testing.assert_array_equal(train.items[1].load(RATE, 0.0, 1.0)[:RATE], expected)


def test_a_tagger_learns_from_parquet_and_its_card_names_it(sounds, micro, tmp_path):
    import carrara

    folder = pretrain(micro(steps=2), write_parquet(tmp_path, sounds), tmp_path / "run", device="cpu")
    encoder = carrara.load(folder)
    assert encoder.tag_names == ("high", "loud", "low") and encoder.card.trained_on == ("music.parquet",)


def test_absent_tags_are_named(sounds, tmp_path):
    path = write_csv(tmp_path, sounds)
    with pytest.raises(DataError, match=r"has no column mood or mood\[\], only path, tags\[\], split; choose one with"):
        build_tagged_corpus([path], LabelSettings(field="mood"), RATE)
    with pytest.raises(DataError, match="no training clip has the tag 'lowd'; choose .*Did you mean"):
        build_tagged_corpus([path], LabelSettings(tags=("lowd",)), RATE)
