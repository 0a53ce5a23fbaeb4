"""NSynth in every layout met, its large JSON read in pieces against the standard library's, and copies gone wrong."""

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
from carrara.data._nsynth_examples import examples
from carrara.data.nsynth import DATASET, NSynth

# Real notes; the families' numbers are NSynth's own.
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


def written(notes):
    """Return the text as NSynth's own has it: four blanks of indentation, and a blank after each comma."""
    return json.dumps(notes, indent=4, separators=(", ", ": "))


def sound(path, seconds=0.05, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16000)), 16000, "PCM_16")


def build(root, inside="{}", sides=("train", "valid", "test")):
    for number, side in enumerate(sides):
        folder = root / inside.format(f"nsynth-{side}")
        for seed, key in enumerate(NOTES[side]):
            sound(folder / "audio" / f"{key}.wav", seed=10 * number + seed)
        (folder / "examples.json").write_text(written({key: entry(key) for key in NOTES[side]}))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("data") / "nsynth")


@pytest.mark.parametrize("inside", ["{}", "nsynth-data/{}", "NSynth/nsynth-data/{}", "NSynth/{}", "{0}.jsonwav/{0}"])
def test_every_layout_met_is_found(tmp_path, inside):
    found = DATASET.clips(build(tmp_path, inside), "official")
    assert [(clip.id, clip.split) for clip in found] == [(key, side) for side in NOTES for key in NOTES[side]]
    assert all(clip.path.is_file() for clip in found)


def test_the_root_may_be_spelt_as_marble_spells_it(tmp_path):
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


def test_some_of_the_sides_are_indexed_and_never_called_whole(tmp_path):
    root = build(tmp_path, sides=("test",))
    assert {clip.split for clip in DATASET.clips(root, "official")} == {"test"}
    found = Small().check(root)
    assert not found.ok and found.differing == (
        "official/train: 0 clips, should be 3",
        "official/valid: 0 clips, should be 2",
    )
    assert "partial (3 of 8 clips)" in found.comparability["official"]
    assert "partial (3 of 305979 clips)" in DATASET.comparability("official", 3, 3)


def test_a_whole_copy_passes_and_its_known_leaks_are_told(root):
    found = Small().check(root)
    assert found.ok and found.found == 8 and not found.extra
    assert {leak.group: leak.splits for leak in found.leaks} == {
        "bass_electronic_018": ("test", "valid"),
        "keyboard_electronic_001": ("test", "valid"),
    }
    assert found.comparability == {"official": "NSynth, official split"}


def test_an_instrument_of_train_on_another_side_is_told(tmp_path):
    root = build(tmp_path)
    path = root / "nsynth-train" / "examples.json"
    path.write_text(path.read_text().replace("vocal_acoustic_002", "guitar_acoustic_010"))
    found = Small().check(root)
    assert not found.ok
    assert ("guitar_acoustic_010", ("test", "train")) in [(leak.group, leak.splits) for leak in found.leaks]


def test_what_is_wrong_on_disk_is_told_by_name(tmp_path):
    root = build(tmp_path)
    first, second, third = (root / "nsynth-train" / "audio" / f"{key}.wav" for key in NOTES["train"])
    first.unlink()
    second.write_bytes(b"RIFF")
    sound(third, seconds=0.2)
    sound(root / "nsynth-train" / "audio" / "none.wav")
    found = Small().check(root)
    assert not found.ok and found.missing == (NOTES["train"][0],) and list(found.unreadable) == [str(second)]
    assert list(found.wrong_length) == [NOTES["train"][2]] and found.extra == (str(third.parent / "none.wav"),)


@pytest.mark.parametrize(
    ("old", "new", "told"),
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
def test_annotations_gone_wrong_are_told_with_file_and_place(tmp_path, old, new, told):
    root = build(tmp_path)
    path = root / "nsynth-train" / "examples.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=told):
        DATASET.index(root)


def test_missing_annotations_and_a_note_on_two_sides_are_told(tmp_path):
    with pytest.raises(DataError, match=r"nsynth-train/examples.json: not there; `carrara download nsynth`"):
        DATASET.index(tmp_path)
    root = build(tmp_path)
    text = (root / "nsynth-valid" / "examples.json").read_text()
    (root / "nsynth-test" / "examples.json").write_text(text)
    with pytest.raises(DataError, match="stands in valid and in test"):
        DATASET.splits(root)
    (root / "nsynth-test" / "examples.json").unlink()
    with pytest.raises(DataError, match=r"nsynth-test/examples.json: not there"):
        DATASET.index(root)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=8), VALUES.filter(lambda value: isinstance(value, dict | list)), max_size=4)


@settings(deadline=None)
@given(OBJECTS, st.sampled_from([None, 0, 4]), st.booleans(), st.integers(1, 40))
def test_pieces_of_any_size_give_what_the_standard_library_gives(tmp_path_factory, found, indent, ascii_only, block):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(found, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert list(examples(path, block)) == list(json.loads(path.read_text(encoding="utf-8")).items())


@settings(deadline=None)
@given(st.data(), st.integers(1, 500))
def test_a_file_cut_short_anywhere_is_told(tmp_path_factory, data, block):
    text = written({key: entry(key) for key in NOTES["train"]})
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_text(text[: data.draw(st.integers(0, len(text) - 1))])
    with pytest.raises(DataError, match=r"cut.json, line \d+: .*; `carrara download nsynth` gives it whole"):
        list(examples(path, block))


@pytest.mark.parametrize(("old", "new"), [('"pitch": 66, ', '"pitch": 66 '), ('"note"', '"note'), (": 100", ":")])
@pytest.mark.parametrize("block", [1, 300, 1 << 20])
def test_the_line_told_is_the_standard_librarys(tmp_path, old, new, block):
    path = tmp_path / "examples.json"
    before, after = (written({key: entry(key) for key in NOTES[side]}) for side in ("train", "test"))
    path.write_text(before[:-2] + ",\n" + after[2:].replace(old, new))
    with pytest.raises(json.JSONDecodeError) as known:
        json.loads(path.read_text())
    with pytest.raises(DataError, match=f"line {known.value.lineno}: {known.value.msg};"):
        list(examples(path, block))


def test_what_follows_the_object_and_bytes_that_are_no_text_are_told(tmp_path):
    path = tmp_path / "examples.json"
    path.write_text('{"a": {}}\n\n{')
    with pytest.raises(DataError, match=r"examples.json, line 3: '\{' where the end of the file should be"):
        list(examples(path))
    path.write_bytes(b'{"a\xff": {}}')
    with pytest.raises(DataError, match="examples.json: cannot be read"):
        list(examples(path))


def test_a_large_file_is_read_with_a_small_part_of_it_in_memory(tmp_path):
    path = tmp_path / "examples.json"
    path.write_text(
        written({f"guitar_acoustic_010-066-100-{n}": entry("guitar_acoustic_010-066-100") for n in range(4000)})
    )
    assert path.stat().st_size > 2_500_000
    tracemalloc.start()
    assert sum(note["pitch"] for _, note in examples(path, 1 << 16)) == 4000 * 66
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
