"""NSynth in every known layout, its JSON reader against the standard library's, and damaged copies."""

import json
import tracemalloc
from typing import ClassVar

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.bench.task_types.multiclass import TASK_TYPE
from carrara.bench.tasks.nsynth.instrument import TASK as INSTRUMENT
from carrara.bench.tasks.nsynth.pitch import TASK as PITCH
from carrara.core.errors import DataError
from carrara.data._nsynth_examples import read_examples
from carrara.data.nsynth import DATASET, NSynth

# Real notes; the numbers of families are NSynth's.
NOTES = {
    "train": ("bass_acoustic_000-024-025", "synth_lead_synthetic_011-120-127", "vocal_acoustic_002-009-050"),
    "valid": ("bass_electronic_018-022-025", "keyboard_electronic_001-063-100"),
    "test": ("bass_electronic_018-022-100", "keyboard_electronic_001-063-075", "guitar_acoustic_010-066-100"),
}
FAMILY_NUMBERS = {
    "bass": 0, "brass": 1, "flute": 2, "guitar": 3, "keyboard": 4, "mallet": 5, "organ": 6, "reed": 7, "string": 8,
    "synth_lead": 9, "vocal": 10,
}  # fmt: skip
SOURCES = ("acoustic", "electronic", "synthetic")


class Small(NSynth):
    """Eight notes of a twentieth of a second."""

    expected_counts: ClassVar = {"official": {"train": 3, "valid": 2, "test": 3}}
    known_leaks: ClassVar = {"official": 2}
    seconds = (0.04, 0.06)


def entry(key):
    instrument, pitch, velocity = key.rsplit("-", 2)
    family, source, _ = instrument.rsplit("_", 2)
    return {
        "qualities": [0, 1, 0, 0, 0, 0, 0, 0, 0, 0], "pitch": int(pitch), "note": 217499,
        "instrument_source_str": source, "velocity": int(velocity), "instrument_str": instrument, "instrument": 656,
        "sample_rate": 16000, "qualities_str": ["dark"], "instrument_source": SOURCES.index(source), "note_str": key,
        "instrument_family": FAMILY_NUMBERS[family], "instrument_family_str": family,
    }  # fmt: skip


def to_json(notes):
    """Return JSON formatted as NSynth's file."""
    return json.dumps(notes, indent=4, separators=(", ", ": "))


def write_audio(path, seconds=0.05, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16000)), 16000, "PCM_16")


def build(root, inside="{}", splits=("train", "valid", "test")):
    for number, split in enumerate(splits):
        folder = root / inside.format(f"nsynth-{split}")
        for seed, key in enumerate(NOTES[split]):
            write_audio(folder / "audio" / f"{key}.wav", seed=10 * number + seed)
        (folder / "examples.json").write_text(to_json({key: entry(key) for key in NOTES[split]}))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("data") / "nsynth")


@pytest.mark.parametrize("inside", ["{}", "nsynth-data/{}", "NSynth/nsynth-data/{}", "NSynth/{}", "{0}.jsonwav/{0}"])
def test_every_known_layout_is_read(tmp_path, inside):
    clips = DATASET.clips(build(tmp_path, inside), "official")
    assert [(clip.id, clip.split) for clip in clips] == [(key, split) for split in NOTES for key in NOTES[split]]
    assert all(clip.path.is_file() for clip in clips)


def test_the_folder_may_be_named_as_in_marble(tmp_path):
    assert DATASET.root(tmp_path) == tmp_path / "nsynth"
    build(tmp_path / "NSynth", "nsynth-data/{}")
    assert DATASET.root(tmp_path).samefile(tmp_path / "NSynth")
    assert DATASET.root(tmp_path / "NSynth") == tmp_path / "NSynth"
    assert len(DATASET.index(DATASET.root(tmp_path))) == 8


def test_labels_and_group_are_those_of_the_key(root):
    for clip in DATASET.index(root):
        instrument, pitch, velocity = clip.id.rsplit("-", 2)
        family, source, _ = instrument.rsplit("_", 2)
        assert clip.group == instrument and clip.duration is None
        assert clip.labels == {
            "pitch": pitch.lstrip("0"), "instrument_family": family, "instrument_source": source,
            "velocity": int(velocity),
        }  # fmt: skip


def test_the_tasks_classes_are_midi_numbers_and_nsynths_family_numbers(root):
    clips = DATASET.clips(root, "official")
    notes = [entry(clip.id) for clip in clips]
    assert TASK_TYPE.truths(PITCH, clips) == [note["pitch"] for note in notes]
    assert TASK_TYPE.truths(INSTRUMENT, clips) == [note["instrument_family"] for note in notes]
    assert len(PITCH.labels) == 128 and len(INSTRUMENT.labels) == 11


def test_some_of_the_splits_are_indexed_and_always_partial(tmp_path):
    root = build(tmp_path, splits=("test",))
    assert {clip.split for clip in DATASET.clips(root, "official")} == {"test"}
    report = Small().check(root)
    assert not report.ok and report.differing == (
        "official/train: 0 clips, should be 3",
        "official/valid: 0 clips, should be 2",
    )
    assert "partial (3 of 8 clips)" in report.comparability["official"]
    # Notes of NSynth last 4 s, these do not.
    assert "partial (0 of 305979 clips)" in DATASET.check(root).comparability["official"]


def test_a_complete_copy_passes_and_its_known_leaks_are_reported(root):
    report = Small().check(root)
    assert report.ok and report.found == 8 and not report.extra
    assert {leak.group: leak.splits for leak in report.leaks} == {
        "bass_electronic_018": ("test", "valid"),
        "keyboard_electronic_001": ("test", "valid"),
    }
    assert report.comparability == {"official": "NSynth, official split"}


def test_an_instrument_of_train_in_another_split_is_reported(tmp_path):
    root = build(tmp_path)
    path = root / "nsynth-train" / "examples.json"
    path.write_text(path.read_text().replace("vocal_acoustic_002", "guitar_acoustic_010"))
    report = Small().check(root)
    assert not report.ok
    assert ("guitar_acoustic_010", ("test", "train")) in [(leak.group, leak.splits) for leak in report.leaks]


def test_the_check_names_faulty_files(tmp_path):
    root = build(tmp_path)
    first, second, third = (root / "nsynth-train" / "audio" / f"{key}.wav" for key in NOTES["train"])
    first.unlink()
    second.write_bytes(b"RIFF")
    write_audio(third, seconds=0.2)
    write_audio(root / "nsynth-train" / "audio" / "none.wav")
    report = Small().check(root)
    assert not report.ok and report.missing == (NOTES["train"][0],) and list(report.unreadable) == [str(second)]
    assert list(report.wrong_length) == [NOTES["train"][2]] and report.extra == (str(third.parent / "none.wav"),)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"pitch": 24', '"pitch": 128', r"examples.json: note 'bass_acoustic_000-024-025': pitch .* is '128'"),
        ('"pitch": 24', '"pitch": 24.5', "pitch should be one of 0 to 127, is '24.5'"),
        ('"pitch": 24', '"tone": 24', "pitch should be one of 0 to 127, is 'None'"),
        ('"velocity": 25', '"velocity": -1', "velocity should be one of 0 to 127"),
        ('"instrument_family_str": "bass"', '"instrument_family_str": "drum"', "one of bass to vocal, is 'drum'"),
        ('"instrument_source_str": "acoustic"', '"instrument_source_str": 0', "one of acoustic to synthetic, is 0"),
        ('"instrument_str": "bass_acoustic_000"', '"instrument_str": []', "instrument_str should be a name"),
        ("{", "[", r"examples.json, line 1: '\[' where '\{' should be"),
    ],
)
def test_errors_of_damaged_annotations_name_file_and_note(tmp_path, old, new, message):
    root = build(tmp_path)
    path = root / "nsynth-train" / "examples.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        DATASET.index(root)


def test_missing_annotations_and_a_note_in_two_splits_are_reported(tmp_path):
    with pytest.raises(DataError, match=r"nsynth-train/examples.json: missing; run `carrara download nsynth`"):
        DATASET.index(tmp_path)
    root = build(tmp_path)
    text = (root / "nsynth-valid" / "examples.json").read_text()
    (root / "nsynth-test" / "examples.json").write_text(text)
    with pytest.raises(DataError, match="is in valid and in test"):
        DATASET.splits(root)
    (root / "nsynth-test" / "examples.json").unlink()
    with pytest.raises(DataError, match=r"nsynth-test/examples.json: missing"):
        DATASET.index(root)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=8), VALUES.filter(lambda value: isinstance(value, dict | list)), max_size=4)


@settings(deadline=None)
@given(OBJECTS, st.sampled_from([None, 0, 4]), st.booleans(), st.integers(1, 40))
def test_reading_in_blocks_of_any_size_equals_the_standard_library(tmp_path_factory, value, indent, ascii_only, block):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert list(read_examples(path, block)) == list(json.loads(path.read_text(encoding="utf-8")).items())


@settings(deadline=None)
@given(st.data(), st.integers(1, 500))
def test_a_truncated_file_is_reported(tmp_path_factory, data, block):
    text = to_json({key: entry(key) for key in NOTES["train"]})
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_text(text[: data.draw(st.integers(0, len(text) - 1))])
    with pytest.raises(DataError, match=r"cut.json, line \d+: .*; run `carrara download nsynth`"):
        list(read_examples(path, block))


@pytest.mark.parametrize(("old", "new"), [('"pitch": 66, ', '"pitch": 66 '), ('"note"', '"note'), (": 100", ":")])
@pytest.mark.parametrize("block", [1, 300, 1 << 20])
def test_the_line_of_an_error_is_the_standard_librarys(tmp_path, old, new, block):
    path = tmp_path / "examples.json"
    before, after = (to_json({key: entry(key) for key in NOTES[split]}) for split in ("train", "test"))
    path.write_text(before[:-2] + ",\n" + after[2:].replace(old, new))
    with pytest.raises(json.JSONDecodeError) as known:
        json.loads(path.read_text())
    with pytest.raises(DataError, match=f"line {known.value.lineno}: {known.value.msg};"):
        list(read_examples(path, block))


def test_text_after_the_object_and_undecodable_bytes_are_reported(tmp_path):
    path = tmp_path / "examples.json"
    path.write_text('{"a": {}}\n\n{')
    with pytest.raises(DataError, match=r"examples.json, line 3: '\{' where the end of the file should be"):
        list(read_examples(path))
    path.write_bytes(b'{"a\xff": {}}')
    with pytest.raises(DataError, match="examples.json: cannot be read"):
        list(read_examples(path))


def test_a_large_file_is_read_with_a_small_part_in_memory(tmp_path):
    path = tmp_path / "examples.json"
    path.write_text(
        to_json({f"guitar_acoustic_010-066-100-{n}": entry("guitar_acoustic_010-066-100") for n in range(4000)})
    )
    assert path.stat().st_size > 2_500_000
    tracemalloc.start()
    assert sum(note["pitch"] for _, note in read_examples(path, 1 << 16)) == 4000 * 66
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
