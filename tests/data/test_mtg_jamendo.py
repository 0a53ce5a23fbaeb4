"""MTG-Jamendo against its real lists: counts, hours, artists, the order of the tags; and the known layouts."""

import hashlib

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.audio.windows import window_spans
from carrara.bench.task_types.multilabel import TASK_TYPE
from carrara.bench.tasks import task
from carrara.core.errors import DataError, UsageError
from carrara.data import _base
from carrara.data.mtg_jamendo import DATASET, HEADER, KINDS, LISTS_SHA256

# [notes/benchmark §1.3]: hours and 30-s chunks (a rest under a second is dropped), train / valid / test.
HOURS = {
    "genre": (2213, 714, 808),
    "instrument": (935, 337, 357),
    "mood-theme": (611, 223, 261),
    "top50": (2184, 704, 801),
}
CHUNKS = {
    "genre": (280_744, 90_840, 102_305),
    "instrument": (118_886, 42_993, 45_136),
    "mood-theme": (77_984, 28_504, 33_292),
    "top50": (277_081, 89_485, 101_372),
}


@pytest.fixture(scope="module")
def clips(fixtures_dir):
    root = fixtures_dir / "mtg-jamendo"
    return {clip.id: clip for clip in DATASET.index(root)}, DATASET.splits(root)


# Lines "track split classes" by rising track. The classes are the tags that scripts/commons.py of mtg-jamendo-dataset
# (1b4fa8c) reads, numbered by the class2id of MARBLE-Benchmark's MTG*_dataset.py (d9300e3); both ran on 2026-11-29.
REFERENCE_SHA256 = {
    "genre": "358603277c4e45b76e6d870c409f198af0ee49c5109b5435c4effedacaabbf29",
    "instrument": "c30e67bb91d69d5b2aff2db56f00df2393fe53ff371062dfb22f92d1501054de",
    "mood-theme": "a5ee3b9ed4ca3fc434be62c8db458b5b1bac9fa65dfd66adb23f3fa3b9ae0b08",
    "top50": "b88a2b5eb7b1c8093b7b6cb9487d5eea7f7b2ecf91c906e50f27e23565b06e6b",
}


@pytest.mark.needs_fixtures
@pytest.mark.parametrize("scheme", list(KINDS))
def test_every_track_has_the_split_and_the_classes_of_the_reference_code(clips, scheme):
    known, splits = clips
    classes = {tag: index for index, tag in enumerate(task(f"mtg-jamendo/{scheme}").labels)}
    lines = [
        f"{name} {split} {','.join(map(str, sorted(classes[tag] for tag in known[name].labels[scheme])))}"
        for name, split in sorted(splits[scheme].items(), key=lambda entry: int(entry[0]))
    ]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == REFERENCE_SHA256[scheme]


@pytest.mark.slow
@pytest.mark.needs_fixtures
@pytest.mark.parametrize("scheme", list(KINDS))
def test_splits_hours_and_chunks_are_as_published(clips, scheme):
    known, splits = clips
    for split, hours, chunks in zip(("train", "valid", "test"), HOURS[scheme], CHUNKS[scheme]):
        seconds = [known[name].labels["seconds"] for name, name_split in splits[scheme].items() if name_split == split]
        assert len(seconds) == DATASET.expected_counts[scheme][split]
        assert sum(seconds) / 3600 == pytest.approx(hours, abs=0.6)
        # The lists have tenths of a second, so the windows are counted at 10 Hz.
        assert sum(len(window_spans(round(10 * length), 300, min_tail=10)) for length in seconds) == chunks


@pytest.mark.slow
@pytest.mark.needs_fixtures
def test_all_schemes_together_have_the_published_tracks(clips):
    known, _ = clips
    assert len(known) == 55_525
    assert sum(clip.labels["seconds"] for clip in known.values()) / 3600 == pytest.approx(3764, abs=0.6)
    assert (
        sum(len(window_spans(round(10 * clip.labels["seconds"]), 300, min_tail=10)) for clip in known.values())
        == 477_604
    )
    assert known["948"].labels["mood-theme"] == ["background"] and known["948"].group == "artist_000087"
    assert DATASET.expected_seconds(known["948"]) == pytest.approx((211.2, 214.2))
    assert known["948"].path.name == "948.low.mp3"
    assert list(known) == sorted(known, key=int)


@pytest.mark.needs_fixtures
@pytest.mark.parametrize("scheme", list(KINDS))
def test_no_artist_is_in_two_splits(clips, scheme):
    known, splits = clips
    splits_by_artist = {}
    for name, split in splits[scheme].items():
        splits_by_artist.setdefault(known[name].group, set()).add(split)
    assert max(map(len, splits_by_artist.values())) == 1


@pytest.mark.needs_fixtures
@pytest.mark.parametrize(("scheme", "tags"), [("genre", 87), ("instrument", 40), ("mood-theme", 56), ("top50", 50)])
def test_the_tags_are_in_the_order_of_their_first_appearance(fixtures_dir, scheme, tags):
    order = {}
    for split in ("train", "validation", "test"):
        path = fixtures_dir / f"mtg-jamendo/data/splits/split-0/autotagging_{KINDS[scheme]}-{split}.tsv"
        for line in path.read_text().splitlines()[1:]:
            order.update(dict.fromkeys(tag.split("---")[1] for tag in line.split("\t")[5:]))
    assert task(f"mtg-jamendo/{scheme}").labels == tuple(order) and len(order) == tags


@pytest.mark.needs_fixtures
def test_no_two_kinds_share_the_name_of_a_tag(clips):
    kinds = {}
    for clip in clips[0].values():
        for kind in ("genre", "instrument", "mood-theme"):
            for tag in clip.labels.get(kind, ()):
                kinds.setdefault(tag, set()).add(kind)
    assert len(kinds) == 87 + 40 + 56 and set(task("mtg-jamendo/top50").labels) <= set(kinds)
    assert max(map(len, kinds.values())) == 1


@pytest.mark.slow
@pytest.mark.needs_fixtures
def test_each_task_has_every_tag_in_every_split(clips):
    known, splits = clips
    for scheme in KINDS:
        labels = task(f"mtg-jamendo/{scheme}")
        for split in ("train", "valid", "test"):
            mine = [known[name] for name, name_split in splits[scheme].items() if name_split == split]
            assert not TASK_TYPE.unscored_tags(labels, TASK_TYPE.truths(labels, mine))
    tested = [known[name] for scheme in KINDS for name, split in splits[scheme].items() if split == "test"]
    fewest = min(
        np.sum(TASK_TYPE.truths(task(f"mtg-jamendo/{scheme}"), [c for c in tested if scheme in c.labels]), 0).min()
        for scheme in KINDS
    )
    assert fewest >= 21


@pytest.mark.needs_fixtures
def test_the_pinned_hashes_are_those_of_the_real_lists(fixtures_dir):
    for name, sha256 in LISTS_SHA256.items():
        path = fixtures_dir / f"mtg-jamendo/data/splits/split-0/autotagging_{name}.tsv"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def lists(root, lines, kind="genre"):
    folder = root / "data/splits/split-0"
    folder.mkdir(parents=True, exist_ok=True)
    for split, mine in zip(("train", "validation", "test"), lines):
        (folder / f"autotagging_{kind}-{split}.tsv").write_text("\n".join(["\t".join(HEADER), *mine]) + "\n")


def line(track, artist, seconds=0.5, tags="genre---rock\tgenre---jazz"):
    return f"track_{track:07}\tartist_{artist:06}\talbum_000001\t{track % 100:02}/{track}.mp3\t{seconds}\t{tags}"


@pytest.mark.parametrize(
    ("folder", "ending"),
    [("audio-low", ".low.mp3"), ("raw_30s/audio", ".mp3"), ("audios", ".mp3"), (".", ".mp3"), (".", ".low.mp3")],
)
def test_every_known_layout_is_read(tmp_path, folder, ending):
    lists(tmp_path, [[line(1001, 1)], [line(1002, 2)], [line(1003, 3)]])
    for track in (1001, 1002):
        path = tmp_path / folder / f"{track % 100:02}/{track}{ending}"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.random.default_rng(track).standard_normal(4000) * 0.1, 8000, format="MP3")
    report = DATASET.check(tmp_path)
    assert report.found == 2 and report.missing == ("1003",) and not report.unreadable and not report.extra


@pytest.mark.parametrize("folder", ["mtg-jamendo-dataset/data/splits/split-0", "splits/split-0", "split-0", "."])
def test_the_lists_are_read_in_every_known_folder(tmp_path, folder):
    lists(tmp_path, [[line(1001, 1)], [line(1002, 2)], [line(1003, 3)]])
    before = DATASET.index(tmp_path)
    for path in sorted((tmp_path / "data/splits/split-0").iterdir()):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / folder / path.name)
    assert DATASET.index(tmp_path) == before and [clip.id for clip in before] == ["1001", "1002", "1003"]


def test_the_folder_may_have_its_other_usual_names(tmp_path):
    assert DATASET.root(tmp_path) == tmp_path / "mtg-jamendo"
    (tmp_path / "MTG").mkdir()
    assert DATASET.root(tmp_path) == DATASET.root(tmp_path / "MTG") == tmp_path / "MTG"


def test_a_copy_is_read_in_one_quality_and_what_is_not_read_is_extra(tmp_path):
    lists(tmp_path, [[line(1001, 1)], [line(1002, 2)], [line(1003, 3)]])
    for name in ("audio/01/1001.mp3", "audio/02/1002.mp3", "raw_30s/audio-low/02/1002.low.mp3"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    report = DATASET.check(tmp_path)
    assert report.missing == ("1001", "1003") and len(report.extra) == 2
    assert DATASET.index(tmp_path)[0].path == tmp_path / "raw_30s/audio-low/01/1001.low.mp3"


def test_a_track_in_several_schemes_is_one_clip_with_the_labels_of_each(tmp_path):
    mood, top = "mood/theme---happy", "genre---rock\tmood/theme---happy\tinstrument---piano"
    lists(tmp_path, [[line(1001, 1)], [line(1002, 2)], [line(7, 3)]])
    lists(tmp_path, [[line(1001, 1, tags=mood)], [line(1005, 1, tags=mood)], []], "moodtheme")
    lists(tmp_path, [[], [], [line(7, 3, tags=top)]], "top50tags")
    clips = {clip.id: clip for clip in DATASET.index(tmp_path)}
    assert list(clips) == ["7", "1001", "1002", "1005"]
    assert clips["1001"].labels == {"genre": ["rock", "jazz"], "mood-theme": ["happy"], "seconds": 0.5}
    assert clips["7"].labels == {"genre": ["rock", "jazz"], "top50": ["rock", "happy", "piano"], "seconds": 0.5}
    assert DATASET.splits(tmp_path) == {
        "genre": {"1001": "train", "1002": "valid", "7": "test"},
        "mood-theme": {"1001": "train", "1005": "valid"},
        "top50": {"7": "test"},
    }
    assert [(clip.id, clip.split) for clip in DATASET.clips(tmp_path, "mood-theme")] == [
        ("1001", "train"), ("1005", "valid")
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"instrument-train\.tsv: missing; run `carrara download mtg-jamendo`"):
        DATASET.clips(tmp_path, "instrument")
    with pytest.raises(UsageError, match="no split 'mood'"):
        DATASET.clips(tmp_path, "mood")


@given(
    st.dictionaries(
        st.integers(1, 9_999_999),
        st.tuples(st.sampled_from((0, 1, 2)), st.lists(st.sampled_from("abcdef"), min_size=1, unique=True)),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(("\n", "\r\n")),
)
@settings(max_examples=25, deadline=None)
def test_any_lists_are_read_back_whatever_ends_their_lines(tmp_path_factory, tracks, end):
    root = tmp_path_factory.mktemp("lists")
    mine = [[], [], []]
    for track, (split, tags) in tracks.items():
        mine[split].append(line(track, 1, 30.5, "\t".join(f"genre---{tag}" for tag in tags)))
    lists(root, mine)
    for path in (root / "data/splits/split-0").iterdir():
        path.write_bytes(path.read_text().replace("\n", end).encode())
    clips = DATASET.clips(root, "genre")
    clips = {int(clip.id): (("train", "valid", "test").index(clip.split), clip.labels["genre"]) for clip in clips}
    assert clips == tracks


def test_the_check_names_duplicates_across_splits_and_wrong_lengths(tmp_path):
    lists(tmp_path, [[line(1001, 1), line(1004, 1, 60)], [line(1002, 2)], [line(1003, 3)]])
    sound = np.random.default_rng(0).standard_normal(4000) * 0.1
    for track in (1001, 1002, 1003, 1004):
        path = tmp_path / f"audio-low/{track % 100:02}/{track}.low.mp3"
        path.parent.mkdir(parents=True)
        soundfile.write(path, sound if track != 1002 else sound[::-1], 8000, format="MP3")
    report = DATASET.check(tmp_path)
    assert list(report.wrong_length) == ["1004"]
    assert report.duplicates == (("1001", "1003", "1004"),)
    assert [(leak.split_scheme, leak.group, leak.splits) for leak in report.leaks] == [
        ("genre", "1001 = 1003 = 1004", ("test", "train"))
    ]
    assert "partial (3 of 55094 clips)" in report.comparability["genre"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("track_0000001\tartist_1\talbum_1\t01/1.mp3\tlong\tgenre---rock", "line 2"),
        ("track_0000001\tartist_1\talbum_1\t01/1.mp3\t12", "line 2"),
        ("trak_0000001\tartist_1\talbum_1\t01/1.mp3\t12\tgenre---rock", "line 2"),
        ("track_0000001\tartist_1\talbum_1\t01/2.mp3\t12\tgenre---rock", "line 2: 'track_0000001' and '01/2.mp3'"),
        ("track_0000001\tsomebody\talbum_1\t01/1.mp3\t12\tgenre---rock", "line 2: ARTIST_ID is 'somebody'"),
        ("track_0000001\tartist_1\talbum_1\t01/1.mp3\tnan\tgenre---rock", "line 2: DURATION is 'nan'"),
        ("track_0000001\tartist_1\talbum_1\t01/1.mp3\t12\trock", "line 2: a tag is 'rock'"),
        ("track_0000001\tartist_1\talbum_1\t01/1.mp3\t12\tmood/theme---happy", "line 2: a tag is 'mood/theme---happy'"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, bad, message):
    lists(tmp_path, [[bad], [line(1002, 2)], [line(1003, 3)]])
    with pytest.raises(DataError, match=f"genre-train.tsv, {message}"):
        DATASET.index(tmp_path)


@pytest.mark.parametrize(
    ("again", "message"),
    [(line(1001, 1), "track_0001001 is already in train"), (line(1001, 2), "track_0001001 has other values")],
)
def test_a_track_occurs_once_per_scheme_and_is_the_same_in_all(tmp_path, again, message):
    lists(tmp_path, [[line(1001, 1)], [again], []])
    with pytest.raises(DataError, match=f"genre-validation.tsv, line 2: {message}"):
        DATASET.index(tmp_path)


def test_download_gets_the_lists_and_returns_the_steps_for_the_audio(tmp_path, monkeypatch):
    requested = []
    monkeypatch.setattr(_base, "download", lambda remote, root: requested.append(remote))
    assert "--type audio-low" in DATASET.download(tmp_path)
    assert len(requested) == len({remote.path for remote in requested}) == 12
    assert all(remote.sha256 and remote.url.endswith(remote.path) for remote in requested)


def test_errors_of_missing_lists_name_the_command(tmp_path):
    with pytest.raises(DataError, match="carrara download mtg-jamendo"):
        DATASET.index(tmp_path)
    lists(tmp_path, [[line(1001, 1)], [line(1002, 2)], [line(1003, 3)]])
    (tmp_path / "data/splits/split-0/autotagging_genre-test.tsv").write_text("nothing\n")
    with pytest.raises(DataError, match="line 1: not the columns TRACK_ID"):
        DATASET.splits(tmp_path)
