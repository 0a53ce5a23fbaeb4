"""Builds a small evaluation on sounds that Pebble did not make, from Debian's and Python's package registries.

    apt-get install libfluidsynth3; pip install music21 pyfluidsynth
    python benchmarks/real_audio.py DIR          # downloads 650 MB by apt-get, renders, writes DIR/*.toml
    python benchmarks/real_audio.py DIR --tasks language     # only some: 40 MB, and nothing to install
    carrara bench chroma-mfcc --task DIR/instrument.toml,DIR/key.toml -o results

A package that stands unpacked in DIR/packages is not downloaded. Seven tasks, multiclass, by accuracy (keys: weighted):

- `instrument`, `note`: notes of the Fluid soundfont (recorded samples, not Pebble's), 11 families; presets split.
- `key`, `style`: music21's corpus (chorales, fiddle tunes, madrigals, masses, ballate), the first 9.5 s of a score
  played on random presets of the same soundfont, transposed at random; pieces split. A key is the score's, by
  Krumhansl's profiles, where they are clear.
- `drum`: recorded drum kits of Hydrogen; kits split.
- `soundtrack`: which free game a span of 9.5 s is from; tracks split.
- `language`: spoken letters and syllables of KLettres, one speaker a language; sounds split.

These numbers are ours: no publication has them. Nothing of this is distributed with Carrara.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from carrara.audio.decode import load_audio
from carrara.core.errors import AudioError

RATE = 24_000
PACKAGES = {
    "fluid-soundfont-gm": "sounds", "hydrogen-drumkits": "drums", "klettres-data": "speech",
    "wesnoth-1.16-music": "game", "warzone2100-music": "game", "extremetuxracer-data": "game", "hedgewars-data": "game",
    "openclonk-data": "game", "xmoto-data": "game",
}  # fmt: skip
# By task: the set of clips and the label.
TASKS = {
    "instrument": ("notes", "family"), "note": ("notes", "note"), "key": ("keys", "key"), "style": ("scores", "style"),
    "drum": ("drums", "drum"), "soundtrack": ("games", "game"), "language": ("speech", "language"),
}  # fmt: skip
# General-MIDI programs of NSynth's families, as the standard names them.
FAMILIES = {
    "bass": range(32, 40), "brass": range(56, 64), "flute": range(72, 80), "guitar": range(24, 32),
    "keyboard": range(8), "mallet": range(8, 15), "organ": range(16, 23), "reed": range(64, 72),
    "string": (40, 41, 42, 43, 44, 48, 49, 50, 51), "synth_lead": range(80, 88), "vocal": (52, 53, 54, 85, 91),
}  # fmt: skip
DRUMS = {
    "kick": r"kick|^bd|_bd|hardhse_k|bassd", "snare": r"snare|^sd|_sn_|jsnare|^sn",
    "closed hat": r"chh|hh_0|hhc|hat_cl|closed",
    "open hat": r"ohh|^ho_|hho|hat_op|hhopen|open", "tom": r"tom|^t[123]_|^ft_", "crash": r"crash|^cc_",
    "ride": r"ride|^rc_",
    "clap": r"clap|handclap", "rim": r"rim|^rs_|stick",
}  # fmt: skip
STYLES = {
    "chorale": ("bach", r"bwv\d+(\.\d+)*\.mxl"),
    "fiddle": ("ryansMammoth", r".*abc"), "madrigal": ("monteverdi", r".*(mxl|xml)"), "mass": ("palestrina", r".*krn"),
    "ballata": ("trecento", r".*(xml|mxl)"),
}  # fmt: skip
PIECES_PER_STYLE, KEY_PIECES_PER_STYLE, EXCERPT_SECONDS, NOTE_SECONDS = 60, 180, 9.5, 1.75
# Presets with sustained notes, of several families.
PROGRAMS = (0, 6, 16, 19, 24, 40, 48, 52, 56, 60, 68, 71, 73)
Event = tuple[float, float, int, int]
SPLITS = ("train", "train", "train", "valid", "test", "test")


def main() -> None:
    """Download, render and write everything that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", default=",".join(TASKS))
    options = parser.parse_args()
    folder, names = options.folder, options.tasks.split(",")
    if unknown := set(names) - TASKS.keys():
        parser.error(f"--tasks: no {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    builds = {
        "notes": ("sounds", _build_notes), "scores": ("sounds", _build_scores), "keys": ("sounds", _build_keys),
        "drums": ("drums", _build_drums), "games": ("game", _build_games), "speech": ("speech", _build_speech),
    }  # fmt: skip
    for data in dict.fromkeys(TASKS[name][0] for name in names):
        kind, build = builds[data]
        of_kind = [package for package, own in PACKAGES.items() if own == kind]
        packages = {package: unpack(package, folder / "packages") for package in of_kind}
        if not (folder / data / "labels.jsonl").is_file():
            (folder / data).mkdir(parents=True, exist_ok=True)
            rows = list(build(packages, folder / data, random.Random(data)))
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / data / "labels.jsonl").write_text(text, encoding="utf-8")
        print(data, sum(1 for _ in (folder / data / "labels.jsonl").open()), "clips", flush=True)
    for name in names:
        data, label = TASKS[name]
        weighted = 'metrics = ["key_weighted"]\nmonitor = "key_weighted"\n' if name == "key" else ""
        text = f'data = "{data}"\ntask_type = "multiclass"\nlabel = "{label}"\n{weighted}'
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")


def unpack(package: str, folder: Path) -> Path:
    """Return the folder with a Debian package's files, downloaded unless it is there."""
    target, partial = folder / package, folder / f".{package}"
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        archive = next(folder.glob(f"{package}_*.deb"))
        # Under its name only when it is whole, or a stopped run would take a part for the package.
        subprocess.run(["dpkg-deb", "-x", archive, partial], check=True)
        partial.rename(target)
        archive.unlink()
    return target


def _build_notes(packages: dict[str, Path], folder: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    for family, programs in FAMILIES.items():
        shuffled = rng.sample(list(programs), len(programs))
        for index, program in enumerate(shuffled):
            split = "test" if index < 2 else "valid" if index == 2 else "train"
            for pitch in rng.sample(range(40, 76), 10):
                note = (0.0, rng.uniform(0.8, 1.4), pitch, rng.randint(60, 110))
                samples = _render(packages, [note], program, NOTE_SECONDS)
                path = _write(folder, f"{family}-{program:03d}-{pitch}", samples)
                yield {"path": path, "split": split, "group": f"{program}", "family": family, "note": str(pitch % 12)}


def _build_scores(packages: dict[str, Path], folder: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    for style in STYLES:
        for number, path in enumerate(_pieces(style, rng)[:PIECES_PER_STYLE]):
            for notes, _ in _excerpts(path, rng, 1):
                samples = _render(packages, notes, rng.choice(PROGRAMS), EXCERPT_SECONDS)
                name = _write(folder, f"{style}-{number:03d}", samples)
                yield {"path": name, "split": SPLITS[number % 6], "group": path.stem, "style": style}


def _build_keys(packages: dict[str, Path], folder: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    for style in ("chorale", "fiddle"):
        for number, path in enumerate(_pieces(style, rng)[:KEY_PIECES_PER_STYLE]):
            split = SPLITS[number % 6]
            for copy, (notes, key) in enumerate(_excerpts(path, rng, 3 if split == "train" else 1)):
                if key:
                    samples = _render(packages, notes, rng.choice(PROGRAMS), EXCERPT_SECONDS)
                    name = _write(folder, f"{style}-{number:03d}-{copy}", samples)
                    yield {"path": name, "split": split, "group": path.stem, "key": key}


def _pieces(style: str, rng: random.Random) -> list[Path]:
    """Return a style's scores in music21's corpus, shuffled."""
    from music21 import corpus

    composer, pattern = STYLES[style]
    paths = sorted(path for path in corpus.getComposer(composer) if re.fullmatch(pattern, path.name))
    return rng.sample(paths, len(paths))


def _excerpts(path: Path, rng: random.Random, count: int) -> Iterator[tuple[list[Event], str | None]]:
    """Yield a score's beginning in some transpositions: notes in seconds, and the key where the profiles are clear."""
    from music21 import converter
    from music21.exceptions21 import Music21Exception

    try:
        score = converter.parse(path)
        score = score[0] if "Opus" in score.classes else score
        elements = list(score.flatten().notes)
    except (Music21Exception, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        # What the parsers raise for scores that they do not know; such a piece is left out.
        print(f"{path.name}: {problem}", file=sys.stderr)
        return
    quarter = 60 / rng.uniform(80, 130)
    events: list[tuple[float, float, int]] = []
    sounding: dict[int, int] = {}
    for element in elements:
        start, length = float(element.offset) * quarter, float(element.quarterLength) * quarter
        is_continued = element.tie is not None and element.tie.type != "start"
        for pitch in element.pitches:
            if is_continued and pitch.midi in sounding:
                first, _, midi = events[sounding[pitch.midi]]
                events[sounding[pitch.midi]] = (first, start + length - first, midi)
            else:
                sounding[pitch.midi] = len(events)
                events.append((start, length, pitch.midi))
    end = max((start for start, _, _ in events), default=0)
    if end < EXCERPT_SECONDS / 2:
        return
    opening = [event for event in events if event[0] < EXCERPT_SECONDS]
    if len(opening) < 8:
        return
    for shift in rng.sample(range(-6, 6), count):
        notes = [
            (start, max(length, 0.1), int(np.clip(pitch + shift, 24, 100)), rng.randint(70, 95))
            for start, length, pitch in opening
        ]
        yield notes, _find_key(notes)


def _find_key(notes: list[Event]) -> str | None:
    """Return the key by Krumhansl's profiles, or None if the second best is nearly as good."""
    weights = np.zeros(12)
    for _, length, pitch, _ in notes:
        weights[pitch % 12] += length
    major = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
    minor = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])
    names = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
    fits = {
        f"{name} {mode}": float(np.corrcoef(weights, np.roll(profile, tonic))[0, 1])
        for mode, profile in (("major", major), ("minor", minor))
        for tonic, name in enumerate(names)
    }
    best, second = sorted(fits, key=lambda key: -fits[key])[:2]
    return best if fits[best] > 0.7 and fits[best] - fits[second] > 0.05 else None


def _build_drums(packages: dict[str, Path], folder: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    root = packages["hydrogen-drumkits"]
    paths = sorted(path for path in root.rglob("*") if path.suffix in (".flac", ".wav") and path.is_file())
    kits = sorted({path.parent.name for path in paths})
    split_of = {kit: SPLITS[index % 6] for index, kit in enumerate(rng.sample(kits, len(kits)))}
    for path in paths:
        drum = next((drum for drum, pattern in DRUMS.items() if re.search(pattern, path.stem.lower())), None)
        if drum:
            kit = path.parent.name
            yield {"path": str(path.absolute()), "split": split_of[kit], "group": kit, "drum": drum}


def _build_games(packages: dict[str, Path], folder: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    for package in (name for name, kind in PACKAGES.items() if kind == "game"):
        paths = [path for path in packages[package].rglob("*") if path.suffix in (".ogg", ".opus")]
        tracks = sorted(path for path in paths if _seconds(path) > 40)
        for index, path in enumerate(rng.sample(tracks, min(len(tracks), 30))):
            count = max(2, min(12, 90 // len(tracks)))
            for start in np.linspace(5, _seconds(path) - EXCERPT_SECONDS - 5, count):
                row = {
                    "path": str(path.absolute()),
                    "id": f"{package}/{path.stem}@{start:.1f}",
                    "start": round(float(start), 2),
                }
                yield row | {
                    "duration": EXCERPT_SECONDS,
                    "split": SPLITS[index % 6],
                    "group": path.stem,
                    "game": package,
                }


def _seconds(path: Path) -> float:
    return float(soundfile.info(path).duration)


def _build_speech(packages: dict[str, Path], folder: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    root = packages["klettres-data"] / "usr/share/klettres"
    by_language: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(root.rglob("*.ogg")):
        by_language[path.relative_to(root).parts[0]].append(path)
    for language, paths in by_language.items():
        if len(paths) >= 36:
            for index, path in enumerate(rng.sample(paths, 36)):
                if not _is_whole(path):
                    continue
                row = {"path": str(path.absolute()), "id": f"{language}/{path.parent.name}/{path.stem}"}
                yield row | {"split": SPLITS[index % 6], "language": language}


def _is_whole(path: Path) -> bool:
    """Return whether a file decodes to its end; 15 of KLettres' Czech syllables do not."""
    try:
        load_audio(path, RATE)
    except AudioError:
        return False
    return True


def _render(packages: dict[str, Path], notes: list[Event], program: int, seconds: float) -> np.ndarray:
    """Return notes played by a preset of the Fluid soundfont, mono."""
    synthesizer, soundfont = _synthesizer(str(next(packages["fluid-soundfont-gm"].rglob("*.sf2"))))
    synthesizer.system_reset()
    synthesizer.program_select(0, soundfont, 0, program)
    # Sorted so that a key is released before it is played again at the same time.
    changes = [(round(start * RATE), 1, pitch, velocity) for start, _, pitch, velocity in notes]
    changes += [(round((start + length) * RATE), 0, pitch, 0) for start, length, pitch, _ in notes]
    total, done, parts = round(seconds * RATE), 0, []
    for time, is_start, pitch, velocity in sorted(changes):
        time = min(time, total)
        parts.append(synthesizer.get_samples(time - done))
        done = time
        if is_start:
            synthesizer.noteon(0, pitch, velocity)
        else:
            synthesizer.noteoff(0, pitch)
    parts.append(synthesizer.get_samples(total - done))
    samples = np.concatenate(parts).reshape(-1, 2).mean(1, dtype=np.float32)
    return samples / max(float(np.abs(samples).max()), 1) * 0.5


@cache
def _synthesizer(path: str) -> tuple[Any, int]:
    """Return FluidSynth without effects and the number of the soundfont in it."""
    import fluidsynth

    synthesizer = fluidsynth.Synth(samplerate=RATE)
    synthesizer.setting("synth.reverb.active", 0)
    synthesizer.setting("synth.chorus.active", 0)
    return synthesizer, synthesizer.sfload(path)


def _write(folder: Path, name: str, samples: np.ndarray) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{name}.flac", samples, RATE)
    return f"{name}.flac"


if __name__ == "__main__":
    main()
