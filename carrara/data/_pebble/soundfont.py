"""A small SoundFont 2.04 sampler: reads the preset tables and plays single notes as mono float32 at 24 kHz.

symusic 0.5.9's synthesizer, measured on the same soundfont, ignores velocity, cuts releases and plays many presets
semitones out of tune, which would make the labels wrong. This sampler follows the SoundFont 2.04 specification
[soundfont2006] where it is audible: zones by key and velocity, global zones, tuning, loops, volume envelope,
attenuation and low-pass cut-off; of the modulators only the default ones of velocity (loudness and brightness); no pan.

The soundfont is TimGM6mb.sf2 by Tim Brechbill (GPL) in the package pretty_midi. Units: seconds, Hz, MIDI keys and
velocities.
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
_CHUNKS = {
    "phdr": _HEADER, "pbag": _BAG, "pgen": _GEN, "inst": _INST, "ibag": _BAG, "igen": _GEN, "shdr": _SAMPLE_HEADER,
    "smpl": np.dtype("<i2"),
}  # fmt: skip


@dataclass(frozen=True)
class Region:
    """A sample with the settings of a zone: positions in samples, times in seconds, linear gain, tune in semitones."""

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
        """Return the speed at which the sample is played, in its samples per output sample."""
        return float(2.0 ** (((key - self.root) * self.scale + self.tune) / 12) * self.rate / RATE)


def soundfont_path() -> Path:
    """Return the path of the soundfont.

    Raises:
        DataError: it is missing, or pretty_midi is not installed.
    """
    spec = importlib.util.find_spec("pretty_midi")
    path = Path(spec.origin).parent / "TimGM6mb.sf2" if spec and spec.origin else Path("TimGM6mb.sf2")
    if not path.is_file():
        raise DataError(
            f"{path.name} is missing from the package pretty_midi: pip install --force-reinstall pretty_midi"
        )
    return path


@lru_cache(maxsize=1)
def _tables() -> dict[str, np.ndarray]:
    """Return the preset tables and samples of the soundfont by chunk name."""
    data = soundfont_path().read_bytes()
    tables: dict[str, np.ndarray] = {}
    offset = 12
    while offset + 8 <= len(data):
        name, size = data[offset : offset + 4].decode("latin1"), int.from_bytes(data[offset + 4 : offset + 8], "little")
        if name == "LIST":
            offset += 12
            continue
        if name in _CHUNKS:
            dtype = _CHUNKS[name]
            tables[name] = np.frombuffer(data, dtype, size // dtype.itemsize, offset + 8)
        offset += 8 + size + size % 2
    if missing := sorted(_CHUNKS.keys() - tables.keys()):
        raise DataError(
            f"{soundfont_path().name} has no chunk {missing[0]!r}: pip install --force-reinstall pretty_midi"
        )
    return tables


def _read_zones(bags: np.ndarray, gens: np.ndarray, first: int, last: int, target: int) -> list[dict[int, int]]:
    """Return the generators of each zone that has a `target`, with those of the global zone as defaults."""
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


def _parse_range(zone: dict[int, int], generator: int) -> tuple[int, int]:
    amount = zone.get(generator, 0x7F00) & 0xFFFF
    return amount & 0xFF, amount >> 8


def _to_seconds(timecents: int) -> float:
    return 0.0 if timecents <= -12000 else float(2.0 ** (min(timecents, 8000) / 1200))


def _create_region(zone: dict[int, int], outer: dict[int, int]) -> Region:
    head = _tables()["shdr"][zone[_SAMPLE]]
    total = {k: zone.get(k, _DEFAULTS.get(k, 0)) for k in range(60) if k not in _RANGES}
    for k, amount in outer.items():
        if k not in _ONLY_INSTRUMENT and k not in _RANGES and k != _INSTRUMENT:
            total[k] += amount
    inner_ranges, outer_ranges = ([_parse_range(z, k) for k in _RANGES] for z in (zone, outer))
    keys, velocities = ((max(a[0], b[0]), min(a[1], b[1])) for a, b in zip(inner_ranges, outer_ranges))
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
        tune=tune - _loop_mistuning(loop[1] - loop[0], int(head["rate"]), root, tune) if looped else tune,
        scale=total[_SCALE] / 100,
        gain=float(10 ** (-0.4 * max(total[_ATTENUATION], 0) / 200)),
        attack=_to_seconds(total[_ATTACK]),
        hold=_to_seconds(total[_HOLD]),
        decay=_to_seconds(total[_DECAY]),
        sustain_db=min(max(total[_SUSTAIN], 0) / 10, 100.0),
        release=max(_to_seconds(total[_RELEASE]), 0.01),
        cutoff=float(8.176 * 2.0 ** (min(total[_CUTOFF], 13500) / 1200)),
    )


def _loop_mistuning(length: int, rate: int, root: int, tune: float) -> float:
    """Return by how many semitones a loop of a few periods is out of tune because it has a whole number of samples.

    Some of this soundfont's short loops (accordion, saw wave, high keys) are up to 0.8 semitones out of tune, which
    would make the labels wrong. Small detunings are intended and stay.
    """
    hertz = 440 * 2 ** ((root - 69) / 12)
    # Half a period: the sample is an octave above its key, as one of an accordion's two reeds is.
    periods = max(round(2 * length * hertz / rate) / 2, 0.5)
    semitones = float(12 * np.log2(periods * rate / length / hertz)) + tune
    return semitones if periods <= 6 and 0.25 < abs(semitones) < 1 else 0.0


@lru_cache(maxsize=256)
def read_regions(bank: int, program: int) -> tuple[Region, ...]:
    """Return the regions of a preset.

    Raises:
        DataError: the soundfont has no such preset.
    """
    tables = _tables()
    presets = tables["phdr"]
    indices = np.flatnonzero((presets["bank"][:-1] == bank) & (presets["number"][:-1] == program))
    if not len(indices):
        raise DataError(f"{soundfont_path().name} has no preset {program} in bank {bank}")
    regions = []
    first, last = presets["bag"][indices[0]], presets["bag"][indices[0] + 1]
    for outer in _read_zones(tables["pbag"], tables["pgen"], first, last, _INSTRUMENT):
        bags = tables["inst"]["bag"]
        first, last = bags[outer[_INSTRUMENT]], bags[outer[_INSTRUMENT] + 1]
        regions += [
            _create_region(zone, outer) for zone in _read_zones(tables["ibag"], tables["igen"], first, last, _SAMPLE)
        ]
    return tuple(region for region in regions if region.keys[0] <= region.keys[1])


@lru_cache(maxsize=512)
def _load_sample(start: int, end: int, loop: tuple[int, int] | None, step: int) -> np.ndarray:
    """Return a sample as float32, its loop centred, low-passed so that 2**(step/2) times the speed does not alias."""
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
def _play_region(region: Region, key: int, length: int) -> np.ndarray:
    """Return `length` samples of a region at a key, before envelope, by Catmull-Rom interpolation."""
    ratio = region.ratio(key)
    sample = _load_sample(region.start, region.end, region.loop, int(np.ceil(2 * np.log2(max(ratio, 1e-6)) - 1e-9)))
    position = np.arange(length) * ratio
    if region.loop:
        begin, stop = region.loop[0] - region.start, region.loop[1] - region.start
        position = np.where(position < stop, position, begin + (position - begin) % (stop - begin))
    else:
        position = position[position < region.end - region.start - 2]
    whole = position.astype(np.int64)
    part = (position - whole).astype(np.float32)
    whole = np.minimum(whole, len(sample) - 3)
    a, b, c, d = sample[np.maximum(whole - 1, 0)], sample[whole], sample[whole + 1], sample[whole + 2]
    out = b + 0.5 * part * (c - a + part * (2 * a - 5 * b + 4 * c - d + part * (3 * (b - c) + d - a)))
    return np.ascontiguousarray(out)


def _envelope(region: Region, held: int, length: int, release: float) -> np.ndarray:
    """Return the volume envelope: linear attack; decay and release linear in decibels (100 dB in their time)."""
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
def _design_low_pass(step: int) -> np.ndarray:
    return butter(2, min(2.0 ** (step / 4), 0.49 * RATE), fs=RATE, output="sos")


def play_note(bank: int, program: int, key: int, velocity: int, seconds: float) -> np.ndarray:
    """Return one note held for `seconds`, with its release, as mono float32 at 24 kHz; empty if no zone has the key."""
    parts = []
    for region in read_regions(bank, program):
        if not (region.keys[0] <= key <= region.keys[1] and region.velocities[0] <= velocity <= region.velocities[1]):
            continue
        release = min(region.release, 1.5)
        held = round(seconds * RATE)
        length = held + round(0.6 * release * RATE)
        if bank == DRUM_BANK and region.loop is None:
            held = length = 3 * RATE
        # Rounded up so that notes of similar lengths share the cached wave.
        wave = _play_region(region, key, -(-length // 6000) * 6000)[:length]
        level = region.gain * (velocity / 127) ** 2
        wave = wave * _envelope(region, held, len(wave), release) * np.float32(level)
        cutoff = region.cutoff * 2.0 ** (-1.6 * (1 - velocity / 127))
        if cutoff < 9000:
            wave = sosfilt(_design_low_pass(round(4 * np.log2(cutoff))), wave).astype(np.float32)
        fade = min(48, len(wave))
        wave[len(wave) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
        parts.append(wave)
    out = np.zeros(max((len(part) for part in parts), default=0), np.float32)
    for part in parts:
        out[: len(part)] += part
    return out
