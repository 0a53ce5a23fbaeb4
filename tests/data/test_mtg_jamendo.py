"""MTG-Jamendo against its real lists: counts, hours, artists, the order of the tags; and the layouts people have."""

from pathlib import Path

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
from carrara.data.mtg_jamendo import DATASET, HEAD, ROWS, SUMS

REAL = Path(__file__).parents[2].parent / "shared/fixtures/mtg-jamendo"
real = pytest.mark.skipif(not REAL.parent.parent.exists(), reason="../shared is not here")
# benchmark.md 1.3: hours and 30-s chunks (a rest under a second is dropped), train / valid / test.
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
def clips():
    if not REAL.exists():
        pytest.skip("../shared is not here")
    return {clip.id: clip for clip in DATASET.index(REAL)}, DATASET.splits(REAL)


@real
@pytest.mark.parametrize("row", list(ROWS))
def test_sides_hours_and_chunks_are_the_golden_ones(clips, row):
    known, splits = clips
    for side, hours, chunks in zip(("train", "valid", "test"), HOURS[row], CHUNKS[row]):
        seconds = [known[name].labels["seconds"] for name, mine in splits[row].items() if mine == side]
        assert len(seconds) == DATASET.expected_counts[row][side]
        assert sum(seconds) / 3600 == pytest.approx(hours, abs=0.6)
        # The lists tell tenths of a second, so the windows are counted at 10 Hz.
        assert sum(len(window_spans(round(10 * length), 300, min_tail=10)) for length in seconds) == chunks


@real
def test_all_rows_together_are_the_golden_tracks(clips):
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


@real
@pytest.mark.parametrize("row", list(ROWS))
def test_no_artist_is_on_two_sides(clips, row):
    known, splits = clips
    sides = {}
    for name, side in splits[row].items():
        sides.setdefault(known[name].group, set()).add(side)
    assert max(map(len, sides.values())) == 1


@real
@pytest.mark.parametrize(("row", "tags"), [("genre", 87), ("instrument", 40), ("mood-theme", 56), ("top50", 50)])
def test_the_tags_stand_in_the_order_of_their_first_appearance(row, tags):
    order = {}
    for side in ("train", "validation", "test"):
        path = REAL / f"data/splits/split-0/autotagging_{ROWS[row]}-{side}.tsv"
        for line in path.read_text().splitlines()[1:]:
            order.update(dict.fromkeys(tag.split("---")[1] for tag in line.split("\t")[5:]))
    assert task(f"mtg-jamendo/{row}").labels == tuple(order) and len(order) == tags


@real
def test_no_two_kinds_share_the_name_of_a_tag(clips):
    kinds = {}
    for clip in clips[0].values():
        for kind in ("genre", "instrument", "mood-theme"):
            for tag in clip.labels.get(kind, ()):
                kinds.setdefault(tag, set()).add(kind)
    assert len(kinds) == 87 + 40 + 56 and set(task("mtg-jamendo/top50").labels) <= set(kinds)
    assert max(map(len, kinds.values())) == 1


@real
def test_each_task_sees_every_tag_on_every_side(clips):
    known, splits = clips
    for row in ROWS:
        labels = task(f"mtg-jamendo/{row}")
        for side in ("train", "valid", "test"):
            mine = [known[name] for name, of in splits[row].items() if of == side]
            assert not TASK_TYPE.unscored_tags(labels, TASK_TYPE.truths(labels, mine))
    tested = [known[name] for row in ROWS for name, of in splits[row].items() if of == "test"]
    fewest = min(
        np.sum(TASK_TYPE.truths(task(f"mtg-jamendo/{row}"), [c for c in tested if row in c.labels]), 0).min()
        for row in ROWS
    )
    assert fewest >= 21


@real
def test_the_pinned_sums_are_those_of_the_real_lists():
    import hashlib

    for name, found in SUMS.items():
        path = REAL / f"data/splits/split-0/autotagging_{name}.tsv"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == found


def lists(root, lines, kind="genre"):
    folder = root / "data/splits/split-0"
    folder.mkdir(parents=True, exist_ok=True)
    for side, mine in zip(("train", "validation", "test"), lines):
        (folder / f"autotagging_{kind}-{side}.tsv").write_text("\n".join(["\t".join(HEAD), *mine]) + "\n")


def line(track, artist, seconds=0.5, tags="genre---rock\tgenre---jazz"):
    return f"track_{track:07}\tartist_{artist:06}\talbum_000001\t{track % 100:02}/{track}.mp3\t{seconds}\t{tags}"


@pytest.mark.parametrize(
    ("folder", "ending"),
    [("audio-low", ".low.mp3"), ("raw_30s/audio", ".mp3"), ("audios", ".mp3"), (".", ".mp3"), (".", ".low.mp3")],
)
def test_every_layout_is_found(tmp_path, folder, ending):
    lists(tmp_path, [[line(1001, 1)], [line(1002, 2)], [line(1003, 3)]])
    for track in (1001, 1002):
        path = tmp_path / folder / f"{track % 100:02}/{track}{ending}"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.random.default_rng(track).standard_normal(4000) * 0.1, 8000, format="MP3")
    found = DATASET.check(tmp_path)
    assert found.found == 2 and found.missing == ("1003",) and not found.unreadable and not found.extra


@pytest.mark.parametrize("folder", ["mtg-jamendo-dataset/data/splits/split-0", "splits/split-0", "split-0", "."])
def test_the_lists_are_found_where_people_put_them(tmp_path, folder):
    lists(tmp_path, [[line(1001, 1)], [line(1002, 2)], [line(1003, 3)]])
    before = DATASET.index(tmp_path)
    for path in sorted((tmp_path / "data/splits/split-0").iterdir()):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / folder / path.name)
    assert DATASET.index(tmp_path) == before and [clip.id for clip in before] == ["1001", "1002", "1003"]


def test_the_folder_is_found_by_the_names_people_give_it(tmp_path):
    assert DATASET.root(tmp_path) == tmp_path / "mtg-jamendo"
    (tmp_path / "MTG").mkdir()
    assert DATASET.root(tmp_path) == DATASET.root(tmp_path / "MTG") == tmp_path / "MTG"


def test_a_copy_is_read_in_one_quality_and_what_is_not_read_is_extra(tmp_path):
    lists(tmp_path, [[line(1001, 1)], [line(1002, 2)], [line(1003, 3)]])
    for name in ("audio/01/1001.mp3", "audio/02/1002.mp3", "raw_30s/audio-low/02/1002.low.mp3"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    found = DATASET.check(tmp_path)
    assert found.missing == ("1001", "1003") and len(found.extra) == 2
    assert DATASET.index(tmp_path)[0].path == tmp_path / "raw_30s/audio-low/01/1001.low.mp3"


def test_a_track_of_several_rows_is_one_clip_with_the_labels_of_each(tmp_path):
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
    with pytest.raises(DataError, match=r"instrument-train\.tsv: not there; `carrara download mtg-jamendo`"):
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
    for track, (side, tags) in tracks.items():
        mine[side].append(line(track, 1, 30.5, "\t".join(f"genre---{tag}" for tag in tags)))
    lists(root, mine)
    for path in (root / "data/splits/split-0").iterdir():
        path.write_bytes(path.read_text().replace("\n", end).encode())
    clips = DATASET.clips(root, "genre")
    found = {int(clip.id): (("train", "valid", "test").index(clip.split), clip.labels["genre"]) for clip in clips}
    assert found == tracks


def test_the_check_names_twins_across_sides_and_wrong_lengths(tmp_path):
    lists(tmp_path, [[line(1001, 1), line(1004, 1, 60)], [line(1002, 2)], [line(1003, 3)]])
    sound = np.random.default_rng(0).standard_normal(4000) * 0.1
    for track in (1001, 1002, 1003, 1004):
        path = tmp_path / f"audio-low/{track % 100:02}/{track}.low.mp3"
        path.parent.mkdir(parents=True)
        soundfile.write(path, sound if track != 1002 else sound[::-1], 8000, format="MP3")
    found = DATASET.check(tmp_path)
    assert list(found.wrong_length) == ["1004"]
    assert found.duplicates == (("1001", "1003", "1004"),)
    assert [(leak.split_scheme, leak.group, leak.splits) for leak in found.leaks] == [
        ("genre", "1001 = 1003 = 1004", ("test", "train"))
    ]
    assert "partial (4 of 55094 clips)" in found.comparability["genre"]


@pytest.mark.parametrize(
    ("bad", "says"),
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
def test_a_damaged_line_is_named(tmp_path, bad, says):
    lists(tmp_path, [[bad], [line(1002, 2)], [line(1003, 3)]])
    with pytest.raises(DataError, match=f"genre-train.tsv, {says}"):
        DATASET.index(tmp_path)


@pytest.mark.parametrize(
    ("again", "says"),
    [(line(1001, 1), "track_0001001 stands in train already"), (line(1001, 2), "track_0001001 is otherwise")],
)
def test_a_track_stands_once_a_row_and_is_the_same_in_all_of_them(tmp_path, again, says):
    lists(tmp_path, [[line(1001, 1)], [again], []])
    with pytest.raises(DataError, match=f"genre-validation.tsv, line 2: {says}"):
        DATASET.index(tmp_path)


def test_get_asks_for_the_lists_and_tells_how_to_get_the_sound(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(_base, "download", lambda remote, root: asked.append(remote))
    assert "--type audio-low" in DATASET.download(tmp_path)
    assert len(asked) == len({remote.path for remote in asked}) == 12
    assert all(remote.sha256 and remote.url.endswith(remote.path) for remote in asked)


def test_missing_lists_say_what_gives_them(tmp_path):
    with pytest.raises(DataError, match="carrara download mtg-jamendo"):
        DATASET.index(tmp_path)
    lists(tmp_path, [[line(1001, 1)], [line(1002, 2)], [line(1003, 3)]])
    (tmp_path / "data/splits/split-0/autotagging_genre-test.tsv").write_text("nothing\n")
    with pytest.raises(DataError, match="line 1: not the columns TRACK_ID"):
        DATASET.splits(tmp_path)
