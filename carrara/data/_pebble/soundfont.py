"""A small SoundFont 2.04 sampler: reads the preset tables and plays single notes as mono float32 at 24 kHz.

Written because symusic 0.5.9's synthesizer, measured on the same soundfont, ignores velocity, cuts releases and plays
many presets semitones out of tune, which would make the labels untrue. This one follows the SoundFont 2.04
specification where it is heard: zones by key and velocity, global zones, tuning, loops, volume envelope, attenuation,
low-pass cut-off; modulators are the default ones for velocity (loudness and brightness) only; pan is folded to mono.

The soundfont is TimGM6mb.sf2 by Tim Brechbill (GPL), found inside the pretty_midi package; its samples are played,
not copied. Units: seconds, Hz, MIDI keys and velocities.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfilt

from carrara.core.errors import DataError

RATE = 24000
DRUM_BANK = 128

_START, _END, _LOOP_START, _LOOP_END, _START_K, _CUTOFF, _END_K = 0, 1, 2, 3, 4, 8, 12
_DELAY, _ATTACK, _HOLD, _DECAY, _SUSTAIN, _RELEASE = 33, 34, 35, 36, 37, 38
_INSTRUMENT, _KEYS, _VELOCITIES, _LOOP_START_K, _ATTENUATION, _LOOP_END_K = 41, 43, 44, 45, 48, 50
_COARSE, _FINE, _SAMPLE, _MODE, _SCALE, _ROOT = 51, 52, 53, 54, 56, 58
_RANGES = (_KEYS, _VELOCITIES)
_ONLY_INSTRUMENT = (_START, _END, _LOOP_START, _LOOP_END, _START_K, _END_K, _LOOP_START_K, _LOOP_END_K, _MODE, _ROOT)
_DEFAULTS = (
    {_CUTOFF: 13500, _SCALE: 100, _ROOT: -1} | dict.fromkeys(range(_DELAY, _DECAY + 1), -12000) | {_RELEASE: -12000}
)

_HEADER = np.dtype([("name", "S20"), ("number", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("rest", "V12")])
_INST = np.dtype([("name", "S20"), ("bag", "<u2")])
_BAG = np.dtype([("gen", "<u2"), ("mod", "<u2")])
_GEN = np.dtype([("oper", "<u2"), ("amount", "<i2")])
_SAMPLE_HEADER = np.dtype(
    [("name", "S20"), ("start", "<u4"), ("end", "<u4"), ("loop_start", "<u4"), ("loop_end", "<u4"), ("rate", "<u4"),
     ("key", "u1"), ("correction", "i1"), ("link", "<u2"), ("type", "<u2")]
)  # fmt: skip


@dataclass(frozen=True)
class Region:
    """One sample as one zone plays it; positions in samples, times in seconds, gain linear, tune in semitones."""

    keys: tuple[int, int]
    velocities: tuple[int, int]
    start: int
    end: int
    loop: tuple[int, int] | None
    rate: int
    root: int
    tune: float
    scale: float
    gain: float
    attack: float
    hold: float
    decay: float
    sustain_db: float
    release: float
    cutoff: float

    def ratio(self, key: int) -> float:
        """Return how many of the sample's own samples pass for each one played."""
        return float(2.0 ** (((key - self.root) * self.scale + self.tune) / 12) * self.rate / RATE)


def path() -> Path:
    """Return where the soundfont lies.

    Raises:
        DataError: pretty_midi, which carries it, is not installed or has lost it.
    """
    spec = importlib.util.find_spec("pretty_midi")
    file = Path(spec.origin).parent / "TimGM6mb.sf2" if spec and spec.origin else Path("TimGM6mb.sf2")
    if not file.is_file():
        raise DataError(
            f"{file.name} is missing from the package pretty_midi: pip install --force-reinstall pretty_midi"
        )
    return file


@lru_cache(maxsize=1)
def _tables() -> dict[str, np.ndarray]:
    data = path().read_bytes()
    kinds: dict[str, np.dtype] = {
        "phdr": _HEADER,
        "pbag": _BAG,
        "pgen": _GEN,
        "inst": _INST,
        "ibag": _BAG,
        "igen": _GEN,
    }
    kinds |= {"shdr": _SAMPLE_HEADER, "smpl": np.dtype("<i2")}
    found: dict[str, np.ndarray] = {}
    place = 12
    while place + 8 <= len(data):
        name, size = data[place : place + 4].decode("latin1"), int.from_bytes(data[place + 4 : place + 8], "little")
        if name == "LIST":
            place += 12
            continue
        if name in kinds:
            kind = kinds[name]
            found[name] = np.frombuffer(data, kind, size // kind.itemsize, place + 8)
        place += 8 + size + size % 2
    if missing := sorted(kinds.keys() - found.keys()):
        raise DataError(f"{path().name} has no chunk {missing[0]!r}: pip install --force-reinstall pretty_midi")
    return found


def _zones(bags: np.ndarray, gens: np.ndarray, first: int, last: int, target: int) -> list[dict[int, int]]:
    """Return the generators of each zone that names a `target`, the global zone's ones underneath."""
    common: dict[int, int] = {}
    zones = []
    for bag in range(first, last):
        rows = gens[bags["gen"][bag] : bags["gen"][bag + 1]]
        zone = {int(oper): int(amount) for oper, amount in zip(rows["oper"], rows["amount"])}
        if target in zone:
            zones.append(common | zone)
        elif bag == first:
            common = zone
    return zones


def _range(zone: dict[int, int], kind: int) -> tuple[int, int]:
    amount = zone.get(kind, 0x7F00) & 0xFFFF
    return amount & 0xFF, amount >> 8


def _seconds(timecents: int) -> float:
    return 0.0 if timecents <= -12000 else float(2.0 ** (min(timecents, 8000) / 1200))


def _region(zone: dict[int, int], outer: dict[int, int]) -> Region:
    head = _tables()["shdr"][zone[_SAMPLE]]
    total = {k: zone.get(k, _DEFAULTS.get(k, 0)) for k in range(60) if k not in _RANGES}
    for k, amount in outer.items():
        if k not in _ONLY_INSTRUMENT and k not in _RANGES and k != _INSTRUMENT:
            total[k] += amount
    keys, velocities = (
        (max(_range(zone, k)[0], _range(outer, k)[0]), min(_range(zone, k)[1], _range(outer, k)[1])) for k in _RANGES
    )
    loop = (
        int(head["loop_start"]) + total[_LOOP_START] + 32768 * total[_LOOP_START_K],
        int(head["loop_end"]) + total[_LOOP_END] + 32768 * total[_LOOP_END_K],
    )
    root = total[_ROOT] if 0 <= total[_ROOT] <= 127 else int(head["key"])
    looped = bool(total[_MODE] & 1) and loop[1] - loop[0] >= 8
    tune = total[_COARSE] + (total[_FINE] + int(head["correction"])) / 100
    return Region(
        keys=keys,
        velocities=velocities,
        start=int(head["start"]) + total[_START] + 32768 * total[_START_K],
        end=int(head["end"]) + total[_END] + 32768 * total[_END_K],
        loop=loop if looped else None,
        rate=int(head["rate"]),
        root=root,
        tune=tune - _mistuning(loop[1] - loop[0], int(head["rate"]), root, tune) if looped else tune,
        scale=total[_SCALE] / 100,
        gain=float(10 ** (-0.4 * max(total[_ATTENUATION], 0) / 200)),
        attack=_seconds(total[_ATTACK]),
        hold=_seconds(total[_HOLD]),
        decay=_seconds(total[_DECAY]),
        sustain_db=min(max(total[_SUSTAIN], 0) / 10, 100.0),
        release=max(_seconds(total[_RELEASE]), 0.01),
        cutoff=float(8.176 * 2.0 ** (min(total[_CUTOFF], 13500) / 1200)),
    )


def _mistuning(length: int, rate: int, root: int, tune: float) -> float:
    """Return by how many semitones a loop of a few periods sounds off its key, where that is a flaw of the soundfont.

    A loop of whole samples rounds its period; some of this soundfont's short loops (accordion, saw wave, high keys)
    were left up to 0.8 semitones off by it, which would falsify the labels. Small detunings are meant and stay.
    """
    hertz = 440 * 2 ** ((root - 69) / 12)
    # Half a period: the sample sounds an octave above its key, as one of an accordion's two reeds does.
    periods = max(round(2 * length * hertz / rate) / 2, 0.5)
    off = float(12 * np.log2(periods * rate / length / hertz)) + tune
    return off if periods <= 6 and 0.25 < abs(off) < 1 else 0.0


@lru_cache(maxsize=256)
def regions(bank: int, program: int) -> tuple[Region, ...]:
    """Return the regions of a preset.

    Raises:
        DataError: the soundfont has no such preset.
    """
    tables = _tables()
    heads = tables["phdr"]
    places = np.flatnonzero((heads["bank"][:-1] == bank) & (heads["number"][:-1] == program))
    if not len(places):
        raise DataError(f"{path().name} has no preset {program} in bank {bank}")
    found = []
    place = int(places[0])
    for outer in _zones(tables["pbag"], tables["pgen"], heads["bag"][place], heads["bag"][place + 1], _INSTRUMENT):
        bags = tables["inst"]["bag"]
        first, last = bags[outer[_INSTRUMENT]], bags[outer[_INSTRUMENT] + 1]
        found += [_region(zone, outer) for zone in _zones(tables["ibag"], tables["igen"], first, last, _SAMPLE)]
    return tuple(region for region in found if region.keys[0] <= region.keys[1])


@lru_cache(maxsize=512)
def _smoothed(start: int, end: int, loop: tuple[int, int] | None, step: int) -> np.ndarray:
    """Return a sample as float32, its loop centred, low-passed so as not to alias played 2**(step/2) times faster."""
    raw = _tables()["smpl"]
    samples = raw[start : end + 4].astype(np.float32) / 32768
    if loop:
        samples -= np.float32(raw[loop[0] : loop[1]].mean() / 32768)
    if step <= 0:
        return samples
    spectrum = np.fft.rfft(samples, 2 ** int(np.ceil(np.log2(len(samples) + 256))))
    frequency = np.linspace(0, 1, len(spectrum))
    edge = 2 ** (-step / 2)
    spectrum *= np.clip((edge - frequency) / (0.1 * edge) + 1, 0, 1)
    return np.fft.irfft(spectrum)[: len(samples)].astype(np.float32)


@lru_cache(maxsize=192)
def _played(region: Region, key: int, length: int) -> np.ndarray:
    """Return `length` samples of a region at a key, before envelope, by Catmull-Rom interpolation."""
    ratio = region.ratio(key)
    sample = _smoothed(region.start, region.end, region.loop, int(np.ceil(2 * np.log2(max(ratio, 1e-6)) - 1e-9)))
    place = np.arange(length) * ratio
    if region.loop:
        begin, stop = region.loop[0] - region.start, region.loop[1] - region.start
        place = np.where(place < stop, place, begin + (place - begin) % (stop - begin))
    else:
        place = place[place < region.end - region.start - 2]
    whole = place.astype(np.int64)
    part = (place - whole).astype(np.float32)
    whole = np.minimum(whole, len(sample) - 3)
    a, b, c, d = sample[np.maximum(whole - 1, 0)], sample[whole], sample[whole + 1], sample[whole + 2]
    out = b + 0.5 * part * (c - a + part * (2 * a - 5 * b + 4 * c - d + part * (3 * (b - c) + d - a)))
    return np.ascontiguousarray(out)


def _envelope(region: Region, held: int, length: int, release: float) -> np.ndarray:
    """Return the volume envelope: linear attack, decay and release straight in decibels (100 dB in their time)."""
    time = np.arange(length, dtype=np.float32) / RATE
    after = time - (region.attack + region.hold)
    slope = 100.0 / max(region.decay, 1e-3)
    level_db = np.minimum(np.maximum(after, 0) * slope, region.sustain_db)
    if held < length:
        level_db[held:] += (time[held:] - time[held]) * (100.0 / release)
    level = np.exp(level_db * np.float32(-np.log(10) / 20))
    attack = int(region.attack * RATE)
    if attack:
        level[:attack] *= np.linspace(0, 1, attack, dtype=np.float32)[:length]
    return level


@lru_cache(maxsize=256)
def _low_pass(step: int) -> np.ndarray:
    return butter(2, min(2.0 ** (step / 4), 0.49 * RATE), fs=RATE, output="sos")


def note(bank: int, program: int, key: int, velocity: int, seconds: float) -> np.ndarray:
    """Return one note held for `seconds`, with its release, as mono float32 at 24 kHz; empty where no zone answers."""
    parts = []
    for region in regions(bank, program):
        if not (region.keys[0] <= key <= region.keys[1] and region.velocities[0] <= velocity <= region.velocities[1]):
            continue
        release = min(region.release, 1.5)
        held = round(seconds * RATE)
        length = held + round(0.6 * release * RATE)
        if bank == DRUM_BANK and region.loop is None:
            held = length = 3 * RATE
        # Rounded up so that notes of like lengths share the interpolated wave.
        wave = _played(region, key, -(-length // 6000) * 6000)[:length]
        level = region.gain * (velocity / 127) ** 2
        wave = wave * _envelope(region, held, len(wave), release) * np.float32(level)
        cutoff = region.cutoff * 2.0 ** (-1.6 * (1 - velocity / 127))
        if cutoff < 9000:
            wave = sosfilt(_low_pass(round(4 * np.log2(cutoff))), wave).astype(np.float32)
        fade = min(48, len(wave))
        wave[len(wave) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
        parts.append(wave)
    out = np.zeros(max((len(part) for part in parts), default=0), np.float32)
    for part in parts:
        out[: len(part)] += part
    return out
