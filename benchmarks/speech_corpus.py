"""Render a corpus of speech with espeak-ng, for `carrara reproduce thesis-4-1 --other-corpus speech=FOLDER`.

    sudo apt install espeak-ng          # Debian; flite and festival are others
    python benchmarks/speech_corpus.py speech --files 80

Texts are the licences that every Debian has (/usr/share/common-licenses), or any text files. Each file has 30 s and
one voice: an accent, a variant, a pitch and a speed that depend on its number alone. The synthesis is of formants, so
it has few of the details of recorded speech.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

ACCENTS = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-029")
VARIANTS = ("m1", "m3", "m7", "f1", "f2", "f4", "croak", "whisper")
SECONDS, WORDS = 30, 150
LICENCES = Path("/usr/share/common-licenses")


def voice(number: int) -> list[str]:
    """Return espeak-ng's options of a file's voice."""
    rng = random.Random(number)
    name = f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS)}"
    return ["-v", name, "-p", str(rng.randint(20, 80)), "-s", str(rng.randint(130, 190))]


def passages(texts: list[Path]) -> list[str]:
    """Return passages of 150 words in a fixed order."""
    words = [word for path in texts for word in path.read_text(encoding="utf-8", errors="replace").split()]
    return [" ".join(words[first : first + WORDS]) for first in range(0, len(words) - WORDS, WORDS)]


def render(number: int, passage: str, output: Path) -> None:
    """Write one file of 30 s; a shorter passage is spoken again."""
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "speech.wav"
        command = ["espeak-ng", *voice(number), "-w", str(wave), "--stdin"]
        subprocess.run(command, input=passage.encode(), check=True)
        samples_T, rate = soundfile.read(wave, dtype="float32")
    soundfile.write(output / f"speech-{number:05d}.flac", np.resize(samples_T, SECONDS * rate), rate)


def main() -> None:
    """Render the corpus; files that exist stay."""
    parser = argparse.ArgumentParser(description="Render a corpus of speech with espeak-ng.")
    parser.add_argument("output", type=Path, help="folder of the files")
    parser.add_argument("--files", type=int, default=80, help="how many, of 30 s each")
    parser.add_argument("--texts", type=Path, default=LICENCES, help="folder of the texts that are spoken")
    options = parser.parse_args()
    if not shutil.which("espeak-ng"):
        sys.exit("espeak-ng is not installed: sudo apt install espeak-ng")
    texts = sorted(path for path in options.texts.iterdir() if path.is_file() and not path.is_symlink())
    chosen = passages(texts)
    if not chosen:
        sys.exit(f"--texts {options.texts}: fewer than {WORDS} words of text; give a folder of text files")
    options.output.mkdir(parents=True, exist_ok=True)
    for number in range(options.files):
        if not (options.output / f"speech-{number:05d}.flac").exists():
            render(number, chosen[number % len(chosen)], options.output)
    print(f"wrote {options.files} files of {SECONDS} s into {options.output}")


if __name__ == "__main__":
    main()
