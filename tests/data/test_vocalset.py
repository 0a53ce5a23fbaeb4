"""VocalSet in both layouts: the folders give the labels, groups are in one split, and faults are reported."""

from collections import Counter, defaultdict
from hashlib import sha1

import numpy as np
import pytest
import soundfile

from carrara.bench.task_types.multiclass import TASK_TYPE
from carrara.bench.tasks.vocalset.singer import TASK as SINGER
from carrara.bench.tasks.vocalset.technique import TASK as TECHNIQUE
from carrara.core.errors import DataError
from carrara.data.vocalset import DATASET, singer_split, technique_split

FOLDERS = {
    **{f"female{number}": f"f{number}" for number in range(1, 10)},
    **{f"male{number}": f"m{number}" for number in range(1, 12)},
}
TEN = ("belt", "breathy", "inhaled", "lip_trill", "spoken", "straight", "trill", "trillo", "vibrato", "vocal_fry")
FILES = (
    "arpeggios/belt/{}_arpeggios_belt_c_a.wav",
    "scales/fast_forte/{}_scales_c_fast_forte_a.wav",
    "long_tones/vibrato/{}_long_vibrato_e.wav",
)


def write_audio(path, seed, seconds=0.02):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 44100)), 44100, "PCM_16")


def build(root, tree="FULL"):
    for number, (folder, singer) in enumerate(FOLDERS.items()):
        for index, name in enumerate(FILES):
            write_audio(root / tree / folder / name.format(singer), seed=10 * number + index)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("data") / "vocalset")


@pytest.mark.parametrize(
    "tree", ["FULL", ".", "VocalSet11/FULL", "data_by_singer", "VocalSet1-2/data_by_singer", "VocalSet/FULL"]
)
def test_every_known_layout_gives_the_same_ids(tmp_path, root, tree):
    clips = DATASET.index(build(tmp_path, tree))
    assert [clip.id for clip in clips] == [clip.id for clip in DATASET.index(root)]
    assert all(clip.path.is_relative_to(tmp_path / tree) for clip in clips)


def test_ids_are_sorted_and_their_parts_are_the_labels(root):
    clips = DATASET.index(root)
    assert [clip.id for clip in clips] == sorted(clip.id for clip in clips) and len(clips) == 60
    assert "m10/arpeggios/belt/m10_arpeggios_belt_c_a" in {clip.id for clip in clips}
    for clip in clips:
        singer, context, technique, stem = clip.id.split("/")
        assert clip.labels == {"singer": singer, "technique": technique, "context": context}
        assert clip.path.stem == stem and clip.duration is None


def test_m1_m10_and_m11_are_three_singers(root):
    by_singer = defaultdict(set)
    for clip in DATASET.index(root):
        by_singer[clip.labels["singer"]].add(clip.path.parts[-4])
    assert by_singer == {singer: {folder} for folder, singer in FOLDERS.items()}
    assert [technique_split(singer) for singer in ("m1", "m10", "m11")] == ["train", "test", "valid"]
    numbers = TASK_TYPE.truths(SINGER, [clip for clip in DATASET.index(root) if clip.labels["technique"] == "belt"])
    assert sorted(numbers) == list(range(20))


def test_three_copies_of_the_audio_are_read_once(tmp_path):
    root = tmp_path / "vocalset"
    for tree in ("data_by_singer", "data_by_technique", "data_by_vowel"):
        build(root, tree)
    report = DATASET.check(root)
    assert report.ok and report.found == 60 and not report.duplicates and len(report.extra) == 120


def test_the_folder_gives_the_singer_for_any_file_name(tmp_path):
    root = build(tmp_path)
    path = root / "FULL" / "female2"
    write_audio(path / "arpeggios" / "lip_trill" / "lip_trill_arps.wav", 900)
    write_audio(path / "excerpts" / "vibrato" / "caro_vibrato.WAV", 901)
    write_audio(path / "scales" / "vibrato" / "m3_scales_vibrato_a.wav", 902)
    write_audio(path / "scales" / "vibrato" / "f2_scales_vibrato_a(1).wav", 903)
    write_audio(path / "scales" / "vibrato" / "._f2_scales_vibrato_a.wav", 904)
    write_audio(path / "scales" / "stray.wav", 905)
    write_audio(root / "FULL" / "female10" / "scales" / "vibrato" / "f10_scales_vibrato_a.wav", 906)
    write_audio(root / "__MACOSX" / "FULL" / "female1" / "scales" / "vibrato" / "f1_scales_vibrato_a.wav", 907)
    (path / "scales" / "vibrato" / "notes.txt").write_text("not a recording")
    clips = {clip.id for clip in DATASET.index(root)} - {clip.id for clip in DATASET.index(build(tmp_path / "other"))}
    assert clips == {
        "f2/arpeggios/lip_trill/lip_trill_arps",
        "f2/excerpts/vibrato/caro_vibrato",
        "f2/scales/vibrato/m3_scales_vibrato_a",
    }


def test_techniques_are_split_by_singer_nine_six_and_five(root):
    singers_by_split, groups = defaultdict(set), defaultdict(set)
    for clip in DATASET.clips(root, "technique"):
        assert clip.labels["technique"] in TEN and clip.group == clip.labels["singer"]
        singers_by_split[clip.split].add(clip.group)
        groups[clip.group].add(clip.split)
    assert {split: len(singers) for split, singers in singers_by_split.items()} == {"train": 9, "valid": 6, "test": 5}
    assert singers_by_split["test"] == {"f2", "f8", "m3", "m5", "m10"}
    assert all(len(splits) == 1 for splits in groups.values())
    assert all({singer[0] for singer in singers} == {"f", "m"} for singers in singers_by_split.values())


def test_other_techniques_are_in_the_scheme_singer_only(root):
    fast = {clip.id for clip in DATASET.index(root) if clip.labels["technique"] == "fast_forte"}
    splits = DATASET.splits(root)
    assert len(fast) == 20 and not fast & set(splits["technique"]) and fast <= set(splits["singer"])
    assert len(splits["technique"]) == 40 and len(splits["singer"]) == 60


def test_the_split_of_a_recording_is_the_sha_1_of_its_id(root):
    for clip in DATASET.clips(root, "singer"):
        remainder = 0
        for digit in sha1(clip.id.encode("utf-8")).digest():
            remainder = (256 * remainder + digit) % 25
        assert clip.split == ("train" if remainder < 12 else "valid" if remainder < 20 else "test")
        assert clip.group == clip.id


def test_recordings_are_split_twelve_eight_five():
    counts = Counter(singer_split(f"m11/scales/slow_piano/m11_scales_{n}_é") for n in range(25_000))
    assert all(
        abs(counts[split] - expected) < 400
        for split, expected in (("train", 12_000), ("valid", 8_000), ("test", 5_000))
    )


def test_the_tasks_have_marbles_classes(root):
    assert TECHNIQUE.labels == TEN and SINGER.labels == tuple(FOLDERS.values())
    clips = DATASET.clips(root, "technique")
    assert TASK_TYPE.truths(TECHNIQUE, clips) == [TEN.index(clip.path.parts[-2]) for clip in clips]
    for task in (SINGER, TECHNIQUE):
        assert round(task.window_seconds * 44100) == 132_000


def test_twenty_singers_pass_and_scores_are_of_carraras_splits(root):
    report = DATASET.check(root)
    assert report.ok and report.found == 60 and not report.leaks and not report.extra
    assert "not MARBLE's unpublished lists" in report.comparability["singer"]
    assert report.comparability["technique"].startswith("VocalSet, technique split; by Carrara's")


def test_missing_singers_are_reported(tmp_path):
    for folder in ("female1", "male10"):
        write_audio(tmp_path / "FULL" / folder / "scales" / "belt" / "a.wav", len(folder))
    report = DATASET.check(tmp_path)
    assert not report.ok and report.found == 2
    (line,) = report.differing
    assert line.startswith("singers: 2, should be 20; missing: f2, f3,") and line.endswith("m8, m9, m11")
    assert all(text.endswith("; 2 of 20 singers") for text in report.comparability.values())


def test_the_check_names_faulty_files(tmp_path):
    root = build(tmp_path)
    broken = root / "FULL" / "male4" / FILES[0].format("m4")
    broken.write_bytes(b"RIFF")
    twice = root / "FULL" / "male4" / FILES[2].format("m4")
    twice.write_bytes((root / "FULL" / "female2" / FILES[2].format("f2")).read_bytes())
    report = DATASET.check(root)
    assert not report.ok and list(report.unreadable) == [str(broken)]
    assert report.duplicates == (
        ("f2/long_tones/vibrato/f2_long_vibrato_e", "m4/long_tones/vibrato/m4_long_vibrato_e"),
    )
    assert ("technique", ("test", "train")) in [(leak.split_scheme, leak.splits) for leak in report.leaks]
    assert "partial (59 of 60 clips)" in report.comparability["singer"]


def test_a_folder_without_recordings_is_reported(tmp_path):
    for inside in (None, "FULL/female1/scales/belt", "FULL/soprano1/scales/belt"):
        if inside:
            (tmp_path / inside).mkdir(parents=True)
        with pytest.raises(DataError, match=r"FULL: no recordings .*run `carrara download vocalset`"):
            DATASET.index(tmp_path)
