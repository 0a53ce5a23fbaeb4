"""The stream gives the same crops for the same seed from any step on, and reports what it leaves out."""

import os
import pickle
import shutil

import numpy as np
import pytest
import soundfile
import torch

from carrara.audio.decode import load_audio
from carrara.core.errors import DataError
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.corpus.stream import CropStream

RATE, CROP = 16_000, 16_000


def stream_of(folder, batch=4, seed=0):
    return CropStream(build_corpus([folder], RATE, CROP), CROP, 320, batch, seed)


def test_a_crop_is_that_stretch_of_the_file(corpus):
    stream = stream_of(corpus)
    for batch in stream.iter_batches(0, 6):
        for samples, epoch, item in zip(batch.samples_BT, batch.epochs, batch.item_indices):
            start = stream.crop_start(epoch, item)
            assert start % 320 == 0
            whole = load_audio(stream.corpus.items[item].path, RATE)
            np.testing.assert_array_equal(samples.numpy(), whole[start : start + CROP])


def test_resampled_crops_lie_where_those_of_the_whole_file_do(tmp_path, corpus):
    for path in corpus.rglob("*.flac"):
        samples, _ = soundfile.read(path)
        slow = np.interp(np.arange(0, len(samples), 16_000 / 22_050), np.arange(len(samples)), samples)
        soundfile.write(tmp_path / f"{path.stem}.wav", slow, 22_050)
    stream = stream_of(tmp_path)
    batch = stream.read_batch(1)
    for samples, epoch, item in zip(batch.samples_BT, batch.epochs, batch.item_indices):
        start = stream.crop_start(epoch, item)
        whole = load_audio(stream.corpus.items[item].path, RATE)[start : start + CROP]
        # The resampler's edges differ by a few milliseconds; inside, the two are one signal.
        np.testing.assert_allclose(samples.numpy()[800:-800], whole[800:-800], atol=2e-3)


def test_every_epoch_has_every_file_once_in_another_order(corpus):
    stream = stream_of(corpus, batch=5)
    epochs = [[item for step in (2 * e, 2 * e + 1) for item in stream.read_batch(step).item_indices] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_any_step_can_be_read_at_any_time(corpus):
    first, second = stream_of(corpus, batch=3), stream_of(corpus, batch=3)
    forward = list(first.iter_batches(0, 7))
    later = list(second.iter_batches(4, 7))
    for expected, built in zip(forward[4:], later):
        assert (expected.step, expected.item_indices, expected.epochs) == (built.step, built.item_indices, built.epochs)
        assert torch.equal(expected.samples_BT, built.samples_BT)
    assert forward[0].item_indices != stream_of(corpus, batch=3, seed=1).read_batch(0).item_indices or not torch.equal(
        forward[0].samples_BT, stream_of(corpus, batch=3, seed=1).read_batch(0).samples_BT
    )


def test_an_epoch_can_end_inside_a_batch(corpus):
    assert stream_of(corpus, batch=4).read_batch(2).epochs == (0, 0, 1, 1)


def test_the_corpus_is_the_same_wherever_it_stands(tmp_path, corpus):
    shutil.copytree(corpus, tmp_path / "moved")
    here, there = build_corpus([corpus], RATE, CROP), build_corpus([tmp_path / "moved"], RATE, CROP)
    assert here.identity() == there.identity()
    single = build_corpus(sorted(corpus.rglob("*.flac")), RATE, CROP)
    assert single.identity() == here.identity()
    (tmp_path / "moved" / "0" / "0.flac").unlink()
    assert build_corpus([tmp_path / "moved"], RATE, CROP).identity() != here.identity()


def test_bad_and_short_files_are_counted_and_never_replaced(tmp_path, corpus):
    shutil.copytree(corpus, tmp_path, dirs_exist_ok=True)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    soundfile.write(tmp_path / "short.wav", np.zeros(8000), RATE)
    stream = stream_of(tmp_path, batch=10)
    assert stream.corpus.short == 1
    assert len(stream.corpus.unreadable) == 1
    assert "broken.wav" in stream.corpus.unreadable[0]
    (tmp_path / "1" / "1.flac").unlink()
    batch = stream.read_batch(0)
    assert len(batch.item_indices) == len(batch.samples_BT) == 9
    assert len(batch.errors) == 1
    assert "1.flac" in batch.errors[0]
    for path in tmp_path.rglob("*.flac"):
        path.unlink()
    assert stream.read_batch(0).samples_BT.shape == (0, CROP)


def test_a_corpus_shorter_than_a_crop_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), RATE)
    with pytest.raises(DataError, match="no file is as long as a crop of 1 s .1 shorter, 0 unreadable."):
        build_corpus([tmp_path], RATE, CROP)


def test_paths_without_audio_are_refused(tmp_path):
    with pytest.raises(DataError, match="no audio file"):
        build_corpus([tmp_path], RATE, CROP)
    with pytest.raises(DataError, match="nowhere: there is no such file"):
        build_corpus([tmp_path / "nowhere"], RATE, CROP)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_parts_of_all_ranks_are_the_batch(corpus, ranks):
    stream = CropStream(build_corpus([corpus], RATE, CROP), CROP, 320, 4, 0)
    for whole, *parts in zip(
        stream.iter_batches(1, 5), *(stream.iter_batches(1, 5, rank, ranks) for rank in range(ranks))
    ):
        assert torch.equal(torch.cat([part.samples_BT for part in parts]), whole.samples_BT)
        assert sum((part.item_indices for part in parts), ()) == whole.item_indices
        assert sum((part.epochs for part in parts), ()) == whole.epochs
        assert max(len(part.item_indices) for part in parts) - min(len(part.item_indices) for part in parts) <= 1
        assert torch.equal(parts[1].samples_BT, stream.read_batch(whole.step, 1, ranks).samples_BT)


def test_a_name_that_is_not_utf_8_is_reported(tmp_path, corpus):
    shutil.copy(corpus / "0" / "0.flac", tmp_path / "0.flac")
    try:
        shutil.copy(corpus / "1" / "1.flac", os.fsencode(tmp_path) + b"/\xff.flac")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.warns(UserWarning, match="its name is not UTF-8; rename it"):
        assert len(build_corpus([tmp_path], RATE, CROP).items) == 1


def test_two_files_of_one_name_are_refused(tmp_path, corpus):
    shutil.copytree(corpus / "0", tmp_path / "a")
    shutil.copytree(corpus / "0", tmp_path / "b")
    with pytest.raises(DataError, match=r"two files of the corpus are named \d.flac; give the folder above both"):
        build_corpus([tmp_path / "a", tmp_path / "b"], RATE, CROP)
    assert len(build_corpus([tmp_path], RATE, CROP).items) == 8


def test_a_corpus_can_be_sent_to_another_process(corpus):
    built = build_corpus([corpus], RATE, CROP)
    sent = pickle.loads(pickle.dumps(built))
    assert sent.identity() == built.identity()
    assert (
        CropStream(sent, CROP, 320, 4, 0).read_batch(1).item_indices
        == CropStream(built, CROP, 320, 4, 0).read_batch(1).item_indices
    )
