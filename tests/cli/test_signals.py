"""Signals at any moment and a standard output that is gone or full: a word and an exit code, never a traceback."""

import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile

COMMAND = [sys.executable, "-m", "carrara"]


def run(*arguments, **options):
    return subprocess.run([*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True, timeout=300, **options)


def test_no_garbage_is_collected_when_it_ends():
    """What torch leaves takes a second to look through; functions registered before `main` run after its own."""
    code = "import atexit, gc; atexit.register(lambda: print('frozen', gc.get_freeze_count() > 0)); "
    code += "from carrara.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "frozen True"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_killed_at_random_moments_of_the_start_it_says_a_word(tmp_path, number, word):
    """A moment is after so many imports, so that it is one of the start on a busy machine too."""
    sound, output = tmp_path / "a.wav", tmp_path / "o.parquet"
    soundfile.write(sound, np.random.default_rng(0).uniform(-0.3, 0.3, 300 * 16_000), 16_000)
    arguments = [*COMMAND, "embed", sound, "-e", "mert-tiny:random", "-o", output]
    environment = os.environ | {"PYTHONVERBOSE": "1", "CARRARA_HOME": str(tmp_path / "home")}
    rng = random.Random(int(number))
    for _ in range(6):
        imports, moment = 0, rng.randrange(1, 1000)
        with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment) as process:
            for line in process.stderr:
                if imports or "carrara.core.interrupts" in line:
                    imports += line.startswith("import ")
                if imports > moment:
                    process.send_signal(number)
                    break
            said = process.stderr.read()
        # The word may stand behind half a line of what Python says about its imports.
        assert said.count(f"carrara: {word}\n") == 1 and "Traceback" not in said and "Fatal" not in said, said[-2000:]
        assert process.returncode == 128 + number


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [("ls", "encoders"), ("--help",), ("--version",)])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_one_line(arguments, unbuffered):
    with open("/dev/full", "w") as full:
        result = run(*arguments, stdout=full, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert result.stderr == "carrara: standard output cannot be written (No space left on device)\n"
    assert result.returncode == 1


def test_a_reader_that_is_gone_is_no_error_message():
    read, write = os.pipe()
    os.close(read)
    result = run("ls", "encoders", stdout=write)
    os.close(write)
    assert (result.returncode, result.stderr) == (141, "")
