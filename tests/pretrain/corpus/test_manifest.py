"""A manifest is the files and segments that it lists; given lengths are trusted, invalid rows are reported."""

import csv

import numpy as np
import pyarrow
import pytest
import soundfile
import torch
from pyarrow import parquet

from carrara.core.errors import DataError
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.corpus.stream import CropStream

RATE, CROP = 16_000, 16_000


def table_of(folder, **columns):
    """Write a Parquet manifest beside the sounds and return its path."""
    parquet.write_table(pyarrow.table(columns), folder / "manifest.parquet")
    return folder / "manifest.parquet"


def test_a_manifest_of_whole_files_is_the_folder(tmp_path, corpus):
    files = sorted(corpus.rglob("*.flac"))
    names = [path.relative_to(corpus).as_posix() for path in files]
    with open(tmp_path / "list.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["genre", "path", "id"])
        writer.writerows(["NA", str(path), name] for path, name in zip(files, names))
    folder, listed = build_corpus([corpus], RATE, CROP), build_corpus([tmp_path / "list.csv"], RATE, CROP)
    assert folder.identity() == listed.identity()
    assert listed.trusted == 0
    whole, rows = CropStream(folder, CROP, 320, 4, 7).read_batch(3), CropStream(listed, CROP, 320, 4, 7).read_batch(3)
    assert torch.equal(whole.samples_BT, rows.samples_BT)


def test_a_row_can_be_a_segment_of_a_file(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 10 * RATE).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="FLOAT")
    built = build_corpus(
        [table_of(tmp_path, path=["long.wav"] * 2, start=[2.0, 7.5], duration=[1.5, None])], RATE, CROP
    )
    assert [built.items[n].id for n in (0, 1)] == ["long.wav@2", "long.wav@7.5"]
    assert [built.items[n].samples for n in (0, 1)] == [24_000, 40_000]
    assert built.trusted == 1
    stream = CropStream(built, CROP, 320, 2, 0)
    starts = set()
    for batch in stream.iter_batches(0, 8):
        for crop, epoch, item in zip(batch.samples_BT, batch.epochs, batch.item_indices):
            start = (32_000, 120_000)[item] + stream.crop_start(epoch, item)
            assert start + CROP <= (56_000, 160_000)[item]
            np.testing.assert_array_equal(crop.numpy(), samples[start : start + CROP])
            starts.add(start)
    assert len(starts) > 4


def test_given_lengths_are_trusted_and_counted_and_a_wrong_one_shows_when_it_is_read(tmp_path, corpus):
    path = corpus / "0" / "0.flac"
    rows = {"path": [str(path), "gone.wav", "short.wav"], "samples": [88_200, 441_000, 10], "sample_rate": [44_100] * 3}
    built = build_corpus([table_of(tmp_path, **rows)], RATE, CROP)
    assert (len(built.items), built.trusted, built.short, built.seconds) == (2, 2, 1, 12.0)
    batch = CropStream(built, CROP, 320, 2, 0).read_batch(0)
    assert [built.items[item].id for item in batch.item_indices] == [str(path)]
    assert batch.errors == (f"{tmp_path}/gone.wav: no such file",)
    wrong = build_corpus([table_of(tmp_path, path=[str(path)], seconds=[60.0])], RATE, CROP)
    batches = list(CropStream(wrong, CROP, 320, 1, 0).iter_batches(0, 3))
    assert not any(batch.item_indices for batch in batches)
    assert all(len(batch.errors) == 1 and "0.flac" in batch.errors[0] for batch in batches)


def test_invalid_rows_are_reported_and_counted(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(3 * RATE), RATE)
    manifest = table_of(
        tmp_path,
        path=["a.wav", "a.wav", "a.wav", "a.wav", "b.wav", "a.wav"],
        start=[0.0, -1.0, 2.0, float("inf"), 0.0, 0.0],
        duration=[2.0, 2.0, 2.0, 2.0, None, 0.0],
        seconds=[3.0, 3.0, 3.0, 3.0, None, 3.0],
    )
    with pytest.warns(UserWarning, match="left out: .*row 2, a.wav: 2 s from -1 s on of 3 s .*and 4 more"):
        built = build_corpus([manifest], RATE, CROP)
    assert len(built.items) == 1
    assert [line.partition(": row ")[2][:1] for line in built.unreadable[:-1]] == ["2", "3", "4", "6"]
    assert built.unreadable[-1] == f"{tmp_path}/b.wav: no such file"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,start\na.wav,0\n", "no column path, only file, start"),
        ("path,start\na.wav,early\n", "cannot be read as a manifest: .*early"),
        ("path,samples\na.wav,5\n", "none sample_rate"),
        ("path,start\na.wav,0\n,1\n", "row 2 has no path"),
        ("", "cannot be read as a manifest"),
    ],
)
def test_a_manifest_that_is_none_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        build_corpus([tmp_path / "list.csv"], RATE, CROP)
    assert str(caught.value).startswith(str(tmp_path / "list.csv"))
    assert "\n" not in str(caught.value)


def test_a_parquet_manifest_that_is_none_is_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match="there is no such manifest"):
        build_corpus([tmp_path / "nowhere.parquet"], RATE, CROP)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot be read as a manifest"):
        build_corpus([tmp_path / "x.parquet"], RATE, CROP)
    with pytest.raises(DataError, match="no column path, only file, samples, genre"):
        build_corpus([table_of(tmp_path, file=["a.wav"], samples=[5], genre=["rock"])], RATE, CROP)
    with pytest.raises(DataError, match="column start is string, not double"):
        build_corpus([table_of(tmp_path, path=["a.wav"], start=["soon"])], RATE, CROP)
