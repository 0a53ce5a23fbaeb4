"""Lines of decoder libraries never reach standard error: every format, in threads, loader workers and commands."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
# Name of a file and the codec of PyAV; "" is written with libsndfile.
CODECS = {
    "a.m4a": "aac",
    "a.aac": "aac",
    "a.webm": "libopus",
    "a.ogg": "",
    "b.opus": "libopus",
    "a.mka": "flac",
    "a.flac": "",
    "a.wma": "wmav2",
    "a.mp3": "",
    "a.ac3": "ac3",
}

READ = """
import sys, threading, warnings
from pathlib import Path
import numpy as np, torch
from carrara.audio.decode import iter_audio, load_audio, probe_audio
from carrara.core.errors import AudioError

paths = sorted(Path(sys.argv[1]).iterdir())
warnings.simplefilter("ignore")

def read(path):
    outcomes = []
    for call in (lambda: load_audio(path, 16_000), lambda: load_audio(path, 16_000, 1.0, 0.5),
                 lambda: list(iter_audio(path, 16_000)), lambda: probe_audio(path)):
        try:
            outcomes.append(bool(call() is not None))
        except AudioError:
            outcomes.append(False)
    return outcomes

class Files(torch.utils.data.Dataset):
    def __len__(self):
        return len(paths)
    def __getitem__(self, index):
        return read(paths[index])

if __name__ == "__main__":
    outcomes = [read(path) for path in paths]
    threads = [threading.Thread(target=read, args=(path,)) for path in paths]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    for start in ("fork", "spawn"):
        loader = torch.utils.data.DataLoader(Files(), None, num_workers=2, multiprocessing_context=start)
        assert list(loader) == outcomes
    print(sum(not all(each) for each in outcomes))
"""


@pytest.fixture(scope="module")
def damaged(files, tmp_path_factory):
    """Return a folder of files of every format with blocks of random bytes in their middle, or without their end."""
    folder = tmp_path_factory.mktemp("damaged")
    rng = np.random.default_rng(0)
    for name, codec in CODECS.items():
        path, rate = folder / name, 48_000 if codec in ("libopus", "ac3") else 44_100
        samples_TC = files.chirp(4.0, rate, 2) + 0.1 * rng.standard_normal((4 * rate, 2))
        if codec == "wmav2":
            files.write_av(path, samples_TC, rate, codec, bit_rate=128_000)
        elif codec:
            files.write_av(path, samples_TC, rate, codec)
        else:
            files.write_sndfile(path, samples_TC, rate)
        data = bytearray(path.read_bytes())
        for begin in rng.integers(len(data) // 4, len(data), 30).tolist():
            part = rng.bytes(min(150, len(data) - begin))
            data[begin : begin + len(part)] = part
        path.write_bytes(data)
        (folder / f"cut-{name}").write_bytes(data[: len(data) * 2 // 3])
    return folder


def run(arguments, folder):
    environment = {"PATH": "", "HOME": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=folder, env=environment
    )


@pytest.mark.slow
def test_threads_and_loader_workers_print_nothing_of_decoders(damaged, tmp_path):
    script = tmp_path / "read.py"
    script.write_text(READ)
    done = run([script, damaged], tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert int(done.stdout) >= 4  # the damage is real: that many files end in an error


@pytest.mark.slow
def test_embedding_damaged_files_prints_only_its_own_lines(damaged, tmp_path):
    done = run(["-m", "carrara", "embed", damaged, "-e", "noise", "-o", "x.parquet"], tmp_path)
    *lines, summary = done.stderr.splitlines()
    assert done.returncode == 1 and "failed" in summary, done.stderr
    pattern = rf"carrara( embed)?: {re.escape(str(damaged))}/[\w-]+(\.\w+)+: "
    assert all(re.match(pattern, line) for line in lines), done.stderr
    assert len(lines) == len(set(lines)) >= 4


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a"])
def test_the_libraries_do_print(damaged, tmp_path, name):
    """What the tests above look for exists: libmpg123 prints to C's stderr, FFmpeg to its log where that is on."""
    code = "import soundfile, sys; soundfile.read(sys.argv[1])"
    if name == "a.m4a":
        code = (
            "import av, sys, logging; logging.basicConfig(level=0); av.logging.set_level(av.logging.VERBOSE)\n"
            "try:\n for frame in av.open(sys.argv[1]).decode(audio=0): pass\nexcept av.error.FFmpegError: pass"
        )
    done = run(["-c", code, damaged / name], tmp_path)
    assert [line for line in done.stderr.splitlines() if "Traceback" not in line]
