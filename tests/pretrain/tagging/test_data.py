"""The tags of any dataset become a corpus, each epoch draws clips by weight, and unusable datasets are refused."""

import numpy as np
import pytest
import soundfile

from carrara.core.errors import DataError, UsageError
from carrara.pretrain.tagging.data import (
    BalancedCrops,
    CenterCrops,
    build_tagged_corpus,
    check_same_tags,
    clip_weights,
    epoch_order,
    find_dataset,
)
from carrara.pretrain.tagging.settings import LabelSettings

RATE = 16_000


@pytest.fixture(scope="module")
def corpora(labelled):
    return build_tagged_corpus([labelled], LabelSettings(), RATE)


def test_tags_and_splits_are_the_files(corpora, labelled):
    train, valid = corpora
    assert train.tags == valid.tags == ("high", "low", "pulsed", "steady")
    assert (len(train.items), len(valid.items)) == (16, 8)
    for corpus in corpora:
        for number, row in enumerate(corpus.tags_NC):
            name = int(corpus.items[number].id.removesuffix(".wav"))
            expected = {"high" if name % 2 else "low", "pulsed" if name // 2 % 2 else "steady"}
            assert {tag for tag, has in zip(corpus.tags, row) if has} == expected
            assert corpus.items[number].samples == soundfile.info(labelled / f"{name}.wav").frames


def test_the_identity_depends_on_the_tags(corpora, labelled, tmp_path):
    text = (labelled / "labels.csv").read_text()
    for name in [f"{number}.wav" for number in range(24)]:
        (tmp_path / name).symlink_to(labelled / name)
    (tmp_path / "labels.csv").write_text(text)
    same, _ = build_tagged_corpus([tmp_path], LabelSettings(), RATE)
    assert same.identity() == corpora[0].identity()
    (tmp_path / "labels.csv").write_text(text.replace("3.wav,train,high", "3.wav,train,low", 1))
    other, _ = build_tagged_corpus([tmp_path], LabelSettings(), RATE)
    assert other.identity() != corpora[0].identity()


def test_tags_can_be_chosen_and_ordered(labelled):
    train, _ = build_tagged_corpus([labelled], LabelSettings(tags=("steady", "high")), RATE)
    assert train.tags == ("steady", "high")
    assert train.tags_NC.sum(0).tolist() == [8, 8]


def test_a_clip_is_a_stretch_of_its_file(labelled, tmp_path):
    (tmp_path / "labels.jsonl").write_text(
        f'{{"path": "{labelled / "3.wav"}", "split": "train", "tags": ["a"], "start": 1.5, "duration": 1}}\n'
        f'{{"path": "{labelled / "7.wav"}", "split": "train", "tags": ["b"], "start": 3}}\n'
    )
    train, _ = build_tagged_corpus([tmp_path], LabelSettings(), RATE)
    assert [(item.start, item.samples) for item in (train.items[0], train.items[1])] == [(1.5, RATE), (3.0, RATE)]
    crops = BalancedCrops(train, RATE, 256, 2, 0, clips=2)
    sounds = {
        item: samples
        for batch in crops.iter_batches(0, 1)
        for item, samples in zip(batch.item_indices, batch.samples_BT)
    }
    expected = soundfile.read(labelled / "3.wav")[0][RATE * 3 // 2 :][:RATE]
    assert np.allclose(sounds[0], expected, atol=1e-4)


def test_an_epoch_draws_each_clip_once_and_others_the_next_time(corpora):
    train, _ = corpora
    orders = [epoch_order(train, 1, epoch, 6) for epoch in range(3)]
    for order in orders:
        assert len(set(order.tolist())) == len(order) == 6
    assert not np.array_equal(np.sort(orders[0]), np.sort(orders[1]))
    assert sorted(epoch_order(train, 1, 0, 99).tolist()) == list(range(16))


class Skewed:
    """Ten clips, of which one has a rare tag."""

    tags_NC = np.array([[True, False]] * 9 + [[True, True]])


def test_the_first_draw_follows_the_weights():
    weight = clip_weights(Skewed.tags_NC)
    corpus, first = Skewed(), np.zeros(10)
    for epoch in range(3000):
        first[epoch_order(corpus, 0, epoch, 1)] += 1
    expected = 3000 * weight / weight.sum()
    assert np.abs(first - expected).max() < 5 * np.sqrt(expected.max())


def test_the_order_within_an_epoch_is_independent_of_the_weights():
    # The clip with the rare tag is at each of the ten positions alike: mean 4.5, standard error 2.9 / sqrt(1000).
    positions = [int(np.flatnonzero(epoch_order(Skewed, 0, epoch, 10) == 9)[0]) for epoch in range(1000)]
    assert abs(np.mean(positions) - 4.5) < 5 * 2.9 / np.sqrt(1000)


def test_short_clips_are_zero_padded_and_long_ones_cropped(corpora, labelled):
    train, valid = corpora
    crops = BalancedCrops(train, 2 * RATE, 256, 16, 3, clips=16)
    batch = crops.read_batch(0)
    assert batch.samples_BT.shape == (16, 2 * RATE)
    for item, samples in zip(batch.item_indices, batch.samples_BT.numpy()):
        whole = soundfile.read(labelled / train.items[item].id)[0]
        start = crops.crop_start(0, item)
        assert start % 256 == 0
        expected = whole[start : start + 2 * RATE]
        assert np.allclose(samples[: len(expected)], expected, atol=1e-4)
        assert not samples[len(expected) :].any()
        assert len(expected) == min(len(whole), 2 * RATE)
    centres = CenterCrops(valid, RATE, 256, 3, 0)
    read = [item for batch in centres.iter_batches(0, centres.steps) for item in batch.item_indices]
    assert read == list(range(8))
    longest = max(range(8), key=lambda item: valid.items[item].samples)
    assert centres.crop_start(0, longest) == (4 * RATE - RATE) // 2 // 256 * 256


def test_any_step_can_be_read_alone_and_steps_end_with_the_epoch(corpora):
    crops = BalancedCrops(corpora[0], RATE, 256, 5, 3, clips=12)
    assert crops.steps_per_epoch == 3
    batches = list(crops.iter_batches(0, 6))
    assert [len(batch.item_indices) for batch in batches] == [5, 5, 2] * 2
    assert {epoch for batch in batches[:3] for epoch in batch.epochs} == {0}
    assert batches[4].item_indices == crops.read_batch(4).item_indices
    assert (batches[4].samples_BT == crops.read_batch(4).samples_BT).all()


def test_datasets_go_by_name_and_by_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_DATA", str(tmp_path))
    assert find_dataset("pebble")[1] == tmp_path / "pebble" / "demo"
    for folder in ("pebble/small", "gtzan"):
        (tmp_path / folder).mkdir(parents=True)
    assert find_dataset(tmp_path / "pebble" / "small")[1] == tmp_path / "pebble" / "small"
    dataset, root = find_dataset(tmp_path / "gtzan")
    assert (dataset.name, root) == ("gtzan", tmp_path / "gtzan")
    with pytest.raises(UsageError, match=r"neither a dataset nor a folder with labels.csv .* Did you mean 'gtzan'"):
        find_dataset("gtzann")


def test_unusable_corpora_are_refused(labelled, tmp_path):
    with pytest.raises(UsageError, match="takes one --corpus"):
        build_tagged_corpus([labelled, labelled], LabelSettings(), RATE)
    with pytest.raises(DataError, match=r"no training clip has a label 'tag'. Did you mean 'tags'"):
        build_tagged_corpus([labelled], LabelSettings(field="tag"), RATE)
    with pytest.raises(DataError, match=r"has the tag hihg. Did you mean 'high'"):
        build_tagged_corpus([labelled], LabelSettings(tags=("low", "hihg")), RATE)
    with pytest.raises(UsageError, match="no split 'gven'"):
        build_tagged_corpus([labelled], LabelSettings(split="gven"), RATE)
    (tmp_path / "labels.csv").write_text("path,split,tags[]\ngone.wav,train,a\n")
    with pytest.raises(DataError, match="no audio with tags to train on; the first: .*gone.wav: no such file"):
        build_tagged_corpus([tmp_path], LabelSettings(), RATE)
    (tmp_path / "labels.csv").write_text(f"path,split,tags[]\ngone.wav,train,a\n{labelled / '1.wav'},train,b\n")
    with pytest.warns(UserWarning, match="left out: .*gone.wav: no such file"):
        assert len(build_tagged_corpus([tmp_path], LabelSettings(), RATE)[0].items) == 1
    (tmp_path / "labels.jsonl").write_text(f'{{"path": "{labelled / "1.wav"}", "split": "train", "bpm": 120}}\n')
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(DataError, match="its bpm '120' is not a list of strings"):
        build_tagged_corpus([tmp_path], LabelSettings(field="bpm"), RATE)


def test_a_list_in_a_column_of_single_tags_is_refused(tmp_path, labelled):
    (tmp_path / "0.wav").symlink_to(labelled / "0.wav")
    (tmp_path / "labels.csv").write_text("path,split,tags\n0.wav,train,low;steady\n")
    with pytest.raises(DataError, match=r"its tags 'low;steady' is one string with a ; in it; name .* tags\[\]"):
        build_tagged_corpus([tmp_path], LabelSettings(), 16_000)


def test_differing_tags_are_named():
    check_same_tags(["a", "b"], ["a", "b"], "x", "y")
    with pytest.raises(UsageError, match=r"x has other labels: 1 only in the corpus \(c\); 2 only there \(b, d\); y"):
        check_same_tags(["a", "c"], ["a", "b", "d"], "x", "y")
    with pytest.raises(UsageError, match=r"another order \(number 1 is 'a' in the corpus, 'b' there\)"):
        check_same_tags(["a", "b"], ["b", "a"], "x", "y")
