"""Labels of Pebble's later collections agree with their audio, as estimated by librosa and textbook methods."""

import librosa
import numpy as np
import pytest

from carrara.data._pebble import labels, theory
from carrara.data._pebble.players import parse_progression
from carrara.data.pebble import DATASET

pytestmark = pytest.mark.slow
HOP = 512


@pytest.fixture(scope="module")
def recordings(pebble_root, read_audio):
    """Give labels and audio of the clips of a split scheme."""

    def read(scheme):
        clips = DATASET.clips(pebble_root, scheme)
        return [(clip.labels, read_audio(clip.path).astype(np.float32)) for clip in clips]

    return read


def chroma_of(samples, **changes):
    return librosa.feature.chroma_cqt(y=samples, sr=24000, hop_length=HOP, tuning=0.0, **changes)


def templates(shapes):
    """One row of chroma for each shape on each of the twelve tonics, of unit length."""
    rows = []
    for steps in shapes:
        row = np.zeros(12)
        row[np.array(steps) % 12] = 1
        rows += [np.roll(row, tonic) / np.linalg.norm(row) for tonic in range(12)]
    return np.array(rows)


def test_a_chroma_template_estimates_the_triad(recordings):
    right = seconds = 0.0
    triads = templates([(0, 4, 7), (0, 3, 7)])
    for song, samples in recordings("pieces"):
        chroma = chroma_of(samples)
        for start, end, chord in song["chords"]:
            root, quality = chord.split(":")
            if end - start < 0.3 or quality in ("5", "sus4", "dim", "hdim7"):
                continue
            low, high = (round(time * 24000 / HOP) for time in (start, end))
            estimate = int(np.argmax(triads @ chroma[:, low:high].mean(1)))
            expected = labels.TONICS.index(root) + 12 * quality.startswith("min")
            right, seconds = right + (end - start) * (estimate == expected), seconds + end - start
    # Chance is 1 in 24.
    assert seconds > 60
    assert right > 0.4 * seconds


def test_the_melody_has_energy_at_its_pitch(recordings):
    """At the annotated frequency there is more energy than a semitone above or below, in most notes."""
    louder = count = 0
    for song, samples in recordings("pieces"):
        for start, end, hz in song["melody"]:
            part = samples[round(start * 24000) : round(end * 24000)]
            if len(part) < 4800:
                continue
            spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 16))

            def level(frequency, spectrum=spectrum):
                index = round(frequency * (1 << 16) / 24000)
                return spectrum[index - 6 : index + 7].max()

            louder += level(hz) > max(level(hz * 2 ** (1 / 12)), level(hz / 2 ** (1 / 12)))
            count += 1
    assert count > 80
    assert louder > 0.75 * count


def test_downbeats_are_marked(recordings):
    """More low-frequency onsets fall on downbeats than on the other beats."""
    first, others = [], []
    for song, samples in recordings("pieces"):
        if "drums" not in song["instruments"] or song["genre"] == "reggae":
            continue
        strength = librosa.onset.onset_strength(y=samples, sr=24000, hop_length=240, fmax=200, n_mels=8)

        def near(times, strength=strength):
            frames = np.clip((np.array(times) * 100).round().astype(int), 5, len(strength) - 6)
            return np.mean([strength[f - 4 : f + 5].max() for f in frames]) / strength.mean()

        rest = sorted(set(song["beats"][:-1]) - set(song["downbeats"]))
        first.append(near(song["downbeats"]))
        others.append(near(rest))
    assert len(first) >= 6
    assert np.mean(np.array(first) > np.array(others)) > 0.6


def test_sections_differ_in_sound(recordings):
    """Frames of one section are more alike than frames of different sections; a boundary is where sound changes."""
    same, different = [], []
    for song, samples in recordings("forms"):
        features = librosa.feature.mfcc(y=samples, sr=24000, hop_length=HOP, n_mfcc=20)
        features = np.vstack([features, 60 * chroma_of(samples)[:, : features.shape[1]]])
        means = []
        for start, end, name in song["structure"]:
            low, high = (round(time * 24000 / HOP) for time in (start, end))
            if end - start > 2:
                means.append((name, features[:, low:high].mean(1)))
        for i, (name, mean) in enumerate(means):
            for other, other_mean in means[:i]:
                (same if name == other else different).append(np.linalg.norm(mean - other_mean))
    assert len(same) >= 4 and len(different) >= 8
    assert np.mean(same) < 0.6 * np.mean(different)


def test_intervals_are_the_distance_of_two_pitches(recordings):
    right = 0
    examples = recordings("intervals")
    for example, samples in examples:
        chroma = chroma_of(samples).mean(1)
        steps = labels.INTERVALS.index(example["interval"]) + 1
        # Of all pairs of pitch classes so far apart and of all others, the best pair by what it explains.
        scores = {d: np.max(chroma + np.roll(chroma, -d)) if d else 1.6 * chroma.max() for d in range(12)}
        best = max(scores, key=scores.get)
        right += best in (steps % 12, -steps % 12)
    # Chance is about 2 in 12.
    assert right >= 0.6 * len(examples)


def test_a_template_of_the_notes_estimates_the_quality(recordings):
    rows = templates(theory.QUALITY_STEPS.values())
    names = [name for name in theory.QUALITY_STEPS for _ in range(12)]
    examples, right = recordings("qualities"), 0
    for example, samples in examples:
        best = int(np.argmax(rows @ chroma_of(samples).mean(1)))
        # An augmented triad has three roots; its quality is the same.
        right += names[best] == example["quality"]
    # Chance is 1 in 8.
    assert right >= 0.6 * len(examples)


def test_the_first_note_and_the_template_from_it_estimate_the_scale(recordings):
    """A scale starts on its tonic, up or down."""
    examples, right = recordings("scales"), 0
    for example, samples in examples:
        chroma = chroma_of(samples)
        tonic = int(np.argmax(chroma[:, : round(0.36 * 24000 / HOP)].mean(1)))
        mean = np.roll(chroma.mean(1), -tonic)
        scores = {name: mean[list(steps)].sum() / len(steps) ** 0.5 for name, steps in theory.MODE_STEPS.items()}
        right += max(scores, key=scores.get) == example["scale"]
    # Chance is 1 in 8.
    assert right >= 0.6 * len(examples)


def test_progressions_have_their_chords_in_some_key(recordings):
    examples, ranks = recordings("progressions"), []
    for example, samples in examples:
        chroma = chroma_of(samples)
        parts = [part.mean(1) for part in np.array_split(chroma[:, : round(2.9 * 24000 / HOP)], 4, axis=1)]
        scores = {}
        for name in labels.PROGRESSIONS:
            by_key = []
            for tonic in range(12):
                chords = [chord for chord, _ in parse_progression(name, tonic)]
                by_key.append(sum(part[list(chord.pitch_classes)].sum() for chord, part in zip(chords, parts)))
            scores[name] = max(by_key)
        ranks.append(sorted(scores, key=scores.get, reverse=True).index(example["progression"]))
    # Chance is rank 0 in 1 of 8.
    assert np.mean(np.array(ranks) == 0) >= 0.4


def test_meters_have_their_period(recordings):
    """The low band repeats after as many beats as a bar has; 0.19 to 0.225 s a beat."""
    examples, right = recordings("meters"), 0
    for example, samples in examples:
        strength = librosa.onset.onset_strength(y=samples, sr=24000, hop_length=240, fmax=180, n_mels=6)
        strength = strength - strength.mean()
        correlation = librosa.autocorrelate(strength)
        scores = {}
        for meter in labels.METERS:
            lags = np.arange(round(int(meter) * 19), round(int(meter) * 22.5) + 1)
            lags = lags[lags < len(correlation)]
            scores[meter] = correlation[lags].max() / (1 - lags.mean() / len(strength))
        # A multiple of the period repeats too, so the shortest good one.
        best = max(scores.values())
        right += next(meter for meter in labels.METERS if scores[meter] > 0.8 * best) == example["meter"]
    # Chance is 1 in 4.
    assert right >= 0.5 * len(examples)


def test_covers_share_their_chroma_once_transposed(recordings):
    covers = recordings("covers")
    profiles = []
    for cover, samples in covers:
        tonic = labels.TONICS.index(cover["key"].split()[0])
        profiles.append(np.roll(chroma_of(samples).mean(1), -tonic))
    profiles = np.array(profiles) - np.mean(profiles, axis=0)
    similarity = np.corrcoef(profiles)
    songs = np.array([cover["song"] for cover, _ in covers])
    same = songs[:, None] == songs
    np.fill_diagonal(same, False)
    other = songs[:, None] != songs
    assert similarity[same].mean() > similarity[other].mean() + 0.2
    tempi = {song: [cover["tempo"] for cover, _ in covers if cover["song"] == song] for song in set(songs)}
    assert all(max(values) > 1.2 * min(values) for values in tempi.values())
