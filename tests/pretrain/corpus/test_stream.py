"""The stream gives the same crops for the same seed from any step on, and names what it leaves out."""

import os
import pickle
import shutil

import numpy as np
import pytest
import soundfile
import torch

from carrara.audio.decode import load
from carrara.core.errors import DataError
from carrara.pretrain.corpus.stream import Stream, find

RATE, CROP = 16_000, 16_000


def stream_of(folder, batch=4, seed=0):
    return Stream(find([folder], RATE, CROP), CROP, 320, batch, seed)


def test_a_crop_is_that_stretch_of_the_file(corpus):
    stream = stream_of(corpus)
    for batch in stream.batches(0, 6):
        for samples, epoch, item in zip(batch.samples_BT, batch.epochs, batch.items):
            start = stream.start(epoch, item)
            assert start % 320 == 0
            whole = load(stream.corpus.items[item].path, RATE)
            np.testing.assert_array_equal(samples.numpy(), whole[start : start + CROP])


def test_resampled_crops_lie_where_those_of_the_whole_file_do(tmp_path, corpus):
    for path in corpus.rglob("*.flac"):
        samples, _ = soundfile.read(path)
        slow = np.interp(np.arange(0, len(samples), 16_000 / 22_050), np.arange(len(samples)), samples)
        soundfile.write(tmp_path / f"{path.stem}.wav", slow, 22_050)
    stream = stream_of(tmp_path)
    batch = stream.at(1)
    for samples, epoch, item in zip(batch.samples_BT, batch.epochs, batch.items):
        start = stream.start(epoch, item)
        whole = load(stream.corpus.items[item].path, RATE)[start : start + CROP]
        # The resampler's edges differ by a few milliseconds; inside, the two are one signal.
        np.testing.assert_allclose(samples.numpy()[800:-800], whole[800:-800], atol=2e-3)


def test_every_epoch_hears_every_file_once_in_another_order(corpus):
    stream = stream_of(corpus, batch=5)
    epochs = [[item for step in (2 * e, 2 * e + 1) for item in stream.at(step).items] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_any_step_can_be_had_at_any_time(corpus):
    one, two = stream_of(corpus, batch=3), stream_of(corpus, batch=3)
    forward = list(one.batches(0, 7))
    later = list(two.batches(4, 7))
    for expected, found in zip(forward[4:], later):
        assert (expected.step, expected.items, expected.epochs) == (found.step, found.items, found.epochs)
        assert torch.equal(expected.samples_BT, found.samples_BT)
    assert forward[0].items != stream_of(corpus, batch=3, seed=1).at(0).items or not torch.equal(
        forward[0].samples_BT, stream_of(corpus, batch=3, seed=1).at(0).samples_BT
    )


def test_an_epoch_can_end_inside_a_batch(corpus):
    assert stream_of(corpus, batch=4).at(2).epochs == (0, 0, 1, 1)


def test_the_corpus_is_the_same_wherever_it_stands(tmp_path, corpus):
    shutil.copytree(corpus, tmp_path / "moved")
    here, there = find([corpus], RATE, CROP), find([tmp_path / "moved"], RATE, CROP)
    assert here.identity() == there.identity()
    single = find(sorted(corpus.rglob("*.flac")), RATE, CROP)
    assert single.identity() == here.identity()
    (tmp_path / "moved" / "0" / "0.flac").unlink()
    assert find([tmp_path / "moved"], RATE, CROP).identity() != here.identity()


def test_bad_and_short_files_are_counted_and_never_replaced(tmp_path, corpus):
    shutil.copytree(corpus, tmp_path, dirs_exist_ok=True)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    soundfile.write(tmp_path / "short.wav", np.zeros(8000), RATE)
    stream = stream_of(tmp_path, batch=10)
    assert stream.corpus.short == 1
    assert len(stream.corpus.unreadable) == 1
    assert "broken.wav" in stream.corpus.unreadable[0]
    (tmp_path / "1" / "1.flac").unlink()
    batch = stream.at(0)
    assert len(batch.items) == len(batch.samples_BT) == 9
    assert len(batch.bad) == 1
    assert "1.flac" in batch.bad[0]
    for path in tmp_path.rglob("*.flac"):
        path.unlink()
    assert stream.at(0).samples_BT.shape == (0, CROP)


def test_a_corpus_shorter_than_a_crop_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), RATE)
    with pytest.raises(DataError, match="no file is as long as a crop of 1 s .1 shorter, 0 unreadable."):
        find([tmp_path], RATE, CROP)


def test_paths_without_sound_are_refused(tmp_path):
    with pytest.raises(DataError, match="no audio file"):
        find([tmp_path], RATE, CROP)
    with pytest.raises(DataError, match="nowhere: there is no such file"):
        find([tmp_path / "nowhere"], RATE, CROP)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_parts_of_all_ranks_are_the_batch(corpus, ranks):
    stream = Stream(find([corpus], RATE, CROP), CROP, 320, 4, 0)
    for whole, *parts in zip(stream.batches(1, 5), *(stream.batches(1, 5, rank, ranks) for rank in range(ranks))):
        assert torch.equal(torch.cat([part.samples_BT for part in parts]), whole.samples_BT)
        assert sum((part.items for part in parts), ()) == whole.items
        assert sum((part.epochs for part in parts), ()) == whole.epochs
        assert max(len(part.items) for part in parts) - min(len(part.items) for part in parts) <= 1
        assert torch.equal(parts[1].samples_BT, stream.at(whole.step, 1, ranks).samples_BT)


def test_a_name_that_is_not_utf_8_is_told(tmp_path, corpus):
    shutil.copy(corpus / "0" / "0.flac", tmp_path / "0.flac")
    try:
        shutil.copy(corpus / "1" / "1.flac", os.fsencode(tmp_path) + b"/\xff.flac")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.warns(UserWarning, match="its name is not UTF-8; rename it"):
        assert len(find([tmp_path], RATE, CROP).items) == 1


def test_two_sounds_of_one_name_are_refused(tmp_path, corpus):
    shutil.copytree(corpus / "0", tmp_path / "a")
    shutil.copytree(corpus / "0", tmp_path / "b")
    with pytest.raises(DataError, match=r"two sounds of the corpus are called \d.flac; give the folder above both"):
        find([tmp_path / "a", tmp_path / "b"], RATE, CROP)
    assert len(find([tmp_path], RATE, CROP).items) == 8


def test_a_corpus_can_be_sent_to_another_process(corpus):
    found = find([corpus], RATE, CROP)
    sent = pickle.loads(pickle.dumps(found))
    assert sent.identity() == found.identity()
    assert Stream(sent, CROP, 320, 4, 0).at(1).items == Stream(found, CROP, 320, 4, 0).at(1).items
