"""A dataset's name as corpus of a recipe that needs no tags."""

import numpy as np
import pytest
import soundfile

from carrara.core.errors import DataError
from carrara.pretrain.corpus.build import build_corpus

RATE = 16_000


def write(path, seconds=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(seconds * RATE), np.float32), RATE, format=path.suffix[1:].upper())


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def names(*paths):
    return [item.id for item in build_corpus(paths, RATE, RATE // 2).items]


def test_fma_is_its_largest_size(data):
    write(data / "fma/fma_small/000/000002.mp3")
    assert names("fma") == ["000/000002.mp3"]
    write(data / "fma/fma_medium/000/000002.mp3")
    write(data / "fma/fma_medium/001/001005.mp3")
    assert names("fma") == ["000/000002.mp3", "001/001005.mp3"]


def test_music4all_and_pebble_are_their_audio_for_training(data):
    write(data / "Music4All/audios/0009fFIM1eYThaPg.mp3")
    write(data / "Music4All/extra/other.mp3")
    assert names("music4all") == ["0009fFIM1eYThaPg.mp3"]
    write(data / "pebble/demo/audio/unlabelled/unlabelled-00000.flac")
    write(data / "pebble/demo/audio/songs/songs-00000.flac")
    assert names("pebble") == ["unlabelled-00000.flac"]


def test_other_datasets_are_all_their_audio_also_beside_a_folder(data, tmp_path):
    write(data / "gtzan/genres/blues/blues.00000.wav")
    write(tmp_path / "own/a.wav")
    assert names("gtzan", tmp_path / "own") == ["a.wav", "genres/blues/blues.00000.wav"]


def test_a_folder_of_that_name_here_comes_first(data, tmp_path):
    write(data / "fma/fma_small/000/000002.mp3")
    write(tmp_path / "fma/mine.wav")
    assert names("fma") == ["mine.wav"]


@pytest.mark.parametrize("name", ["fma", "music4all", "gtzan"])
def test_a_dataset_that_is_not_here_is_named_with_the_cure(data, name):
    with pytest.raises(DataError, match=rf"{name}: no audio at .*{name}.*`carrara download {name}`"):
        names(name)
