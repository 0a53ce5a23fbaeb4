"""Pebble's labels agree with its audio, as estimated by librosa and textbook methods."""

import librosa
import numpy as np
import pytest

from carrara.data._pebble import labels, soundfont
from carrara.data._pebble.clips import NOTE_PRESETS
from carrara.data._pebble.genres import PROGRAMS
from carrara.data._pebble.players import parse_chord, parse_progression, scale_pitches
from carrara.data._pebble.voice import sing, write_exercise
from carrara.data.pebble import DATASET

pytestmark = pytest.mark.slow

# Probe-tone ratings [krumhansl1982].
MAJOR = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
MINOR = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])


def hertz(pitch):
    return 440 * 2 ** ((pitch - 69) / 12)


@pytest.fixture(scope="module")
def songs(pebble_root, read_audio):
    return [(clip.labels, read_audio(clip.path).astype(np.float32)) for clip in DATASET.clips(pebble_root, "songs")]


def test_a_chroma_template_estimates_the_key(songs):
    profiles = np.array([np.roll(row, shift) for row in (MAJOR, MINOR) for shift in range(12)])
    exact = tonic_or_relative = 0
    for song, samples in songs:
        chroma = librosa.feature.chroma_cqt(y=samples, sr=24000, hop_length=2048, tuning=0.0).mean(axis=1)
        estimate = int(np.argmax([np.corrcoef(chroma, profile)[0, 1] for profile in profiles]))
        key = labels.KEYS.index(song["key"])
        relative = (key - 3) % 12 + 12 if key < 12 else (key - 12 + 3) % 12
        exact += estimate == key
        tonic_or_relative += estimate in (key, relative)
    # Chance is 1 in 24 and 2 in 24.
    assert exact >= 0.45 * len(songs)
    assert tonic_or_relative >= 0.6 * len(songs)


def test_songs_are_in_tune(songs):
    off = [librosa.estimate_tuning(y=samples, sr=24000) for _, samples in songs[:12]]
    assert abs(np.median(off)) < 0.08


def test_beats_have_onsets(songs):
    """With drums, most beats have an onset within 50 ms, many more than the same beats moved by half a period have."""
    on, off = [], []
    for song, samples in songs:
        if "drums" not in song["instruments"] or song["genre"] in ("reggae", "funk"):
            continue
        strength = librosa.onset.onset_strength(y=samples, sr=24000, hop_length=240)
        beats = np.array(song["beats"])[:-1]
        half = beats + np.diff(song["beats"]) / 4

        def near(times, strength=strength):
            frames = np.clip((times * 100).round().astype(int), 5, len(strength) - 6)
            return np.mean([strength[f - 4 : f + 5].max() for f in frames]) / strength.mean()

        on.append(near(beats))
        off.append(near(half))
    assert len(on) > 15
    assert np.mean(np.array(on) > np.array(off)) > 0.8
    assert np.mean(on) > 2


def test_loud_and_dense_songs_have_high_arousal(songs):
    power = [np.log(np.mean(samples**2)) for _, samples in songs]
    flux = [np.mean(librosa.onset.onset_strength(y=x, sr=24000, hop_length=1024)) for _, x in songs]
    arousal = [song["arousal"] for song, _ in songs]
    assert np.corrcoef(power, arousal)[0, 1] > 0.3
    assert np.corrcoef(flux, arousal)[0, 1] > 0.2
    assert np.corrcoef(power, arousal)[0, 1] < 0.97


def test_notes_have_their_pitch(pebble_root, read_audio):
    checked = 0
    for clip in DATASET.clips(pebble_root, "notes"):
        true = hertz(clip.labels["pitch"])
        samples = read_audio(clip.path)[6000:18000]
        estimate = librosa.yin(samples, fmin=true / 2.5, fmax=true * 2.5, sr=24000, frame_length=4096)
        checked += abs(12 * np.log2(np.median(estimate) / true)) < 0.5
        assert off_key(samples, clip.labels["pitch"]) < 0.5, clip.id
    # A drawbar organ's 16-foot stop sounds an octave below its key: three of the thirty-three are organs.
    assert checked >= 29


def off_key(wave, pitch):
    """Return by how many semitones a note misses its key, in any octave: by YIN, or a low harmonic where YIN errs."""
    true = hertz(pitch)
    estimate = np.median(librosa.yin(wave, fmin=true / 2.5, fmax=true * 2.5, sr=24000, frame_length=4096))
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 17))
    peak = np.argmax(spectrum) * 24000 / (1 << 17)
    octaves = 12 * np.log2(estimate / true)
    harmonic = max(round(2 * peak / true) / 2, 0.5)
    misses = [abs(octaves - 12 * round(octaves / 12))]
    misses += [abs(12 * np.log2(peak / true / harmonic))] if harmonic <= 4 else []
    return min(misses)


PLAYED = sorted({preset for table in (NOTE_PRESETS, PROGRAMS) for row in table.values() for preset in row})


@pytest.mark.parametrize("preset", PLAYED)
def test_every_preset_that_is_played_is_in_tune(preset):
    sung_high = {program for row in PROGRAMS.values() for program in row}
    for pitch in (43, 57, 74, 86) if preset in sung_high else (43, 57, 74):
        assert off_key(soundfont.play_note(0, preset, pitch, 100, 0.5)[2400:12000], pitch) < 0.35


def test_velocity_and_length_change_the_note():
    soft, loud = (soundfont.play_note(0, 0, 60, velocity, 0.5) for velocity in (40, 110))
    power = [np.sqrt(np.mean(wave[2400:9600] ** 2)) for wave in (soft, loud)]
    bright = [librosa.feature.spectral_centroid(y=wave, sr=24000).mean() for wave in (soft, loud)]
    assert power[1] > 3 * power[0] and bright[1] > bright[0]
    held = soundfont.play_note(0, 48, 60, 100, 1.0)
    tail = [np.sqrt(np.mean(held[a : a + 1200] ** 2)) for a in (20000, len(held) - 1200)]
    assert tail[1] < 0.1 * tail[0]
    assert len(soundfont.play_note(128, 0, 127, 100, 0.2)) == 0


def test_a_sample_played_fast_does_not_alias():
    """A bright preset at a high key: hardly any energy but at the harmonics."""
    for preset, key in ((80, 96), (81, 96), (81, 84), (40, 93)):
        wave = soundfont.play_note(0, preset, key, 110, 1.0)[4800:21600]
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
        harmonic = np.arange(len(spectrum)) * 24000 / len(wave) / hertz(key)
        near = (np.abs(harmonic - np.round(harmonic)) < 0.04 * np.maximum(harmonic, 1)) & (harmonic > 0.5)
        assert spectrum[near].sum() > 0.99 * spectrum.sum(), (preset, key)


def sung(technique, seed, name="m2", duration=2.5):
    rng = np.random.default_rng([9, seed])
    return sing(name, technique, write_exercise(name, technique, duration, rng), duration, rng)


def test_vibrato_wavers_and_straight_does_not():
    wide = {}
    for technique in ("vibrato", "straight"):
        extents = []
        for seed in range(6):
            pitch = librosa.yin(sung(technique, seed), fmin=60, fmax=700, sr=24000, frame_length=1536, hop_length=256)
            semitones = 12 * np.log2(pitch[30:180])
            smooth = np.convolve(semitones, np.ones(25) / 25, "same")
            extents.append(np.median(np.abs(semitones - smooth)[15:-15]))
        wide[technique] = np.median(extents)
    assert wide["vibrato"] > 3 * wide["straight"] and wide["vibrato"] > 0.2


def test_breath_is_noise_and_fry_is_low():
    def flatness(technique):
        values = []
        for seed in range(4):
            power = np.abs(librosa.stft(sung(technique, seed)[12000:36000], n_fft=2048)[26:427]) ** 2 + 1e-12
            values.append(np.median(np.exp(np.log(power).mean(axis=0)) / power.mean(axis=0)))
        return np.mean(values)

    assert flatness("breathy") > 2 * flatness("straight")
    assert flatness("inhaled") > 2 * flatness("straight")
    fry = librosa.yin(sung("vocal_fry", 0)[12000:48000], fmin=30, fmax=300, sr=24000, frame_length=4096)
    assert np.median(fry) < 75


def test_lip_trill_and_trillo_pulse_at_their_rates():
    def rate(technique):
        envelope = np.sqrt(np.convolve(sung(technique, 3)[6000:54000] ** 2, np.ones(240) / 240, "same"))[::240]
        spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
        frequency = np.arange(len(spectrum)) * 100 / len(envelope)
        return frequency[(frequency > 3)][np.argmax(spectrum[frequency > 3])]

    assert 17 < rate("lip_trill") < 30
    assert 4 < rate("trillo") < 10


def test_women_sing_higher_than_men_with_shorter_tracts():
    centre = {}
    for sex in "fm":
        waves = [sung("straight", seed, f"{sex}{1 + seed}") for seed in range(6)]
        centre[sex] = np.mean([librosa.feature.spectral_centroid(y=wave, sr=24000).mean() for wave in waves])
    assert centre["f"] > 1.15 * centre["m"]


def test_numerals_follow_music_theory():
    assert parse_chord("V7", 0).pitch_classes == (7, 11, 2, 5)
    assert parse_chord("ii7", 2).pitch_classes == (4, 7, 11, 2)
    assert parse_chord("iim7b5", 9).pitch_classes == (11, 2, 5, 9)
    assert parse_chord("bVII", 0).pitch_classes == (10, 2, 5)
    assert parse_chord("iio", 0).pitch_classes == (2, 5, 8)
    assert [bars for _, bars in parse_progression("I IV,V", 0)] == [1, 0.5, 0.5]
    assert parse_chord("I", 5).voices(60) == [57, 60, 65]
    assert list(scale_pitches("major", 7, 60, 72)) == [60, 62, 64, 66, 67, 69, 71, 72]
    with pytest.raises(ValueError, match="numeral"):
        parse_chord("IX", 0)
