"""A mistyped name, path, size, device, port or output of any command is refused before torch is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from carrara.cli._facts import identify_sources
from carrara.encoders import REGISTRY as ENCODERS
from carrara.pretrain.recipes import REGISTRY as RECIPES

ROOT = Path(__file__).parents[2]
EMBED = "embed music -e mfcc -o a.csv"
TRAIN = "pretrain mert-v0 -c music -o m --scale tiny"
KEY = "bench mfcc -t pebble/key"
PLAN = "plan embed music -e mfcc"
SERVE = "serve mfcc --port 0"
TAG = "tag music -e musicnn-mtt:random"

# Command, exit code, part of the message.
MISTAKES = [
    ("embed musik -e mfcc -o a.csv", 1, "Did you mean 'music'?"),
    ("embed empty -e mfcc -o a.csv", 1, "no audio files in it"),
    ("embed -e mfcc -o a.csv", 2, "--files-from"),
    ("embed music -e mffc -o a.csv", 2, "Did you mean 'mfcc'"),
    ("embed music -e mfcc -o a.pdf", 2, ".arrow, .feather"),
    ("embed music -e models/mret -o a.csv", 2, "Did you mean 'mert'?"),
    ("embed music -e models -o a.csv", 2, "models: holds no config.json"),
    (f"{EMBED} --device gpu", 2, "write cuda"),
    (f"{EMBED} --device cdua", 2, "Did you mean 'cuda'"),
    (f"{EMBED} --device cuda:x", 2, "is no device"),
    (f"{EMBED} --layer lst", 2, "mean, last, all"),
    (f"{EMBED} --sample 3-10", 2, "such as 3x10"),
    (f"{EMBED} --set x", 2, "path=value"),
    ("embed music -e mert-v0:random -o a.csv --set setps=2", 2, "no setting 'setps'. Did you mean 'steps'"),
    ("tag musik", 1, "Did you mean 'music'?"),
    ("tag empty -e musicnn-mtt:random", 1, "no audio files in it"),
    ("tag music -e maest-40s", 2, "'maest-"),
    ("tag music", 2, "`carrara import maest-30s` fetches"),
    ("tag music -e clmr", 2, "not on this machine"),
    (f"{TAG} --device gpu", 2, "write cuda"),
    (f"{TAG} --device cpuu", 2, "Did you mean 'cpu'"),
    (f"{TAG} --set x", 2, "path=value"),
    (f"{TAG} --labels nofile.json", 2, "no such file"),
    (f"{TAG} -o music/a.wav", 1, "is a file"),
    ("export mert-v9 --format onnx -o x", 2, "'mert-v0'"),
    ("export mfcc --format carrara -o music/a.wav", 1, "is a file"),
    ("import mfcc -o music/a.wav", 1, "is a file"),
    ("push music a/b", 2, "holds no config.json"),
    ("push models/mert ab", 2, "write it as org/name"),
    ("verify mert-v99", 2, "Did you mean 'mert-v0'"),
    ("verify mert-v0 --file nofile", 2, "does not exist"),
    ("explore music -e mffc --port 0", 2, "Did you mean 'mfcc'"),
    ("explore table.parquet -e mffc --port 0 --no-browser", 2, "Did you mean 'mfcc'"),
    ("explore empty --port 0", 1, "no audio files in it"),
    ("serve mffc", 2, "Did you mean 'mfcc'"),
    (f"{SERVE} --device gpu", 2, "write cuda"),
    (f"{SERVE} --index nofile.parquet", 1, "no such table"),
    (f"{SERVE} --index table.parquet --layer 9", 2, "--layer 9"),
    (f"{SERVE} --index table.parquet --song-ids nofile.csv", 1, "cannot be read as CSV"),
    ("serve mert-v0:random --port 0 --set setps=2", 2, "Did you mean 'steps'"),
    (f"{PLAN} --gpu h1000", 2, "Did you mean 'h100'"),
    (f"{PLAN} --device gpu", 2, "write cuda"),
    (f"{PLAN} --sample 3-10", 2, "such as 3x10"),
    ("plan embed music -e mffc", 2, "Did you mean 'mfcc'"),
    ("plan bench mffc -t pebble/key", 2, "Did you mean 'mfcc'"),
    ("plan pretrain mert-v00", 2, "Did you mean 'mert-v0'"),
    ("plan pretrain mert-v0 x", 2, "takes one recipe"),
    ("plan pretrain mert-v0 --scale tinny", 2, "Did you mean 'tiny'?"),
    ("plan pretrain mert-v0 --gpu h1000", 2, "Did you mean 'h100'"),
    ("plan pretrain mert-v0 -c musik", 1, "Did you mean 'music'?"),
    ("plan pretrain mert-v0 --set setps=3", 2, "Did you mean 'steps'"),
    ("bench mfcc --device nvidia", 2, "write cuda"),
    (f"{KEY} --device cdua", 2, "Did you mean 'cuda'"),
    (f"{KEY} -p constraned", 2, "Did you mean 'constrained'"),
    (f"{KEY} -p constrained:x=1", 2, "no setting 'x'"),
    (f"{KEY} --set hed=lstm", 2, "no setting 'hed'. Did you mean 'head'"),
    (f"{KEY} -p semi-constrained --set head=lstmm", 2, "Did you mean 'lstm'"),
    (f"{KEY} --corrupt nose:20db", 2, "nose"),
    (f"{KEY} -o music/a.wav", 1, "is a file"),
    ("bench mfcc+chrma -t pebble/key", 2, "Did you mean 'chroma'"),
    ("bench maest-30s -t pebble/key", 2, "`carrara import maest-30s` fetches"),
    ("pretrain mert-v0 -c music -o m --scale tinny", 2, "Did you mean 'tiny'?"),
    ("pretrain mert-v0 -c music -o m --device cpu", 2, "400,000 steps over"),
    ("pretrain mert-v0 -c music -o models --scale tiny", 1, "holds a run already"),
    ("pretrain mert-v0 -o m --scale tiny", 2, "--corpus ~/Music"),
    ("pretrain mert-v0 --dry-run --gpu h1000", 2, "Did you mean 'h100'"),
    ("pretrain mert-v0 --dry-run -c musik", 1, "Did you mean 'music'?"),
    (f"{TRAIN} --device gpu", 2, "write cuda"),
    (f"{TRAIN} --tracker wandbb", 2, "'wandb'"),
    (f"{TRAIN} --set x", 2, "path=value"),
    (f"{TRAIN} --set setps=3", 2, "Did you mean 'steps'"),
    (f"{TRAIN} --from ./x", 2, "no such folder"),
    (f"{TRAIN} --probe pebble/kex", 2, "'pebble/key'"),
    ("reproduce thesis-5-9", 2, "Did you mean 'thesis-5-"),
    ("reproduce thesis-5-3 --rows x", 2, "The rows:"),
    ("reproduce thesis-5-3 --tasks pebble/kex", 2, "'pebble/key'"),
    ("reproduce thesis-5-3 --scale tinny", 2, "Did you mean 'tiny'?"),
    ("reproduce thesis-5-3 --corpus musik", 1, "Did you mean 'music'?"),
    ("reproduce thesis-5-3 --set setps=3", 2, "Did you mean 'steps'"),
    ("reproduce thesis-5-3 --model untrained=mffc", 2, "Did you mean 'mfcc'"),
    ("reproduce thesis-5-3 --protocol linear:x=3", 2, "no setting 'x'"),
    ("reproduce thesis-5-3 --device gpu", 2, "write cuda"),
    ("reproduce thesis-5-3 -o music/a.wav", 1, "is a file"),
    ("leaderboard music -o a.pdf", 2, "give .md, .csv, .json, .html, .tex, .png, .txt or -"),
    ("map table.parquet -o -", 2, "give .png, .svg, .pdf or .parquet"),
    ("map table.parquet -o a.jpg", 2, "give .png, .svg, .pdf or .parquet"),
    ("find row:0 --in table.parquet -e mffc", 2, "Did you mean 'mfcc'"),
    ("find row:0 --in table.parquet --metadata nofile.csv", 2, "--exclude-same"),
]

# Runs each command in a process of its own, in which what most of them import stands ready, and torch does not.
PROGRAM = """
import json, os, sys, traceback
import av, pandas, pyarrow.parquet, soundfile
import carrara.bench.select_tasks, carrara.cli._checks, carrara.features.search, carrara.web.listen
from typer.testing import CliRunner
from carrara.cli._main import app
for line in sys.stdin:
    sys.stdout.flush()
    if not (child := os.fork()):
        done = CliRunner().invoke(app, line.split())
        error = done.exception
        trace = "" if error is None or isinstance(error, SystemExit) else "".join(traceback.format_exception(error))
        print(json.dumps([done.exit_code, done.stderr + trace, "torch" in sys.modules]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def write_facts(home: Path, kind: str, facts: dict) -> None:
    """Store facts as `carrara show` does, which imports torch for them once."""
    content = {"sources": identify_sources(kind), "facts": {name: json.dumps(each) for name, each in facts.items()}}
    (home / "facts").mkdir(parents=True, exist_ok=True)
    (home / "facts" / f"{kind}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    """Return a folder with music, a table, a run and stored facts."""
    for name in ("music", "empty", "models/mert"):
        (tmp_path / name).mkdir(parents=True)
    soundfile.write(tmp_path / "music" / "a.wav", np.zeros(100), 8000)
    (tmp_path / "models" / "run.json").write_text("{}")
    (tmp_path / "models" / "mert" / "config.json").write_text("{}")
    columns = {"path": ["a.wav"], "start": [0.0], "duration": [1.0], "layer": ["mean"], "embedding": [[1.0, 0.0]]}
    kind = pa.schema(
        [
            ("path", pa.string()),
            ("start", pa.float64()),
            ("duration", pa.float64()),
            ("layer", pa.string()),
            ("embedding", pa.list_(pa.float32(), 2)),
        ],
        metadata={"settings": json.dumps({"encoder": "mfcc", "weights_sha256": "00", "encoder_settings": {}})},
    )
    pq.write_table(pa.table(columns, schema=kind), tmp_path / "table.parquet")
    settings = {"steps": 400_000, "batch": 16, "crop_seconds": 5.0}
    home = tmp_path / "home"
    write_facts(home, "recipes", {key: {"settings": settings, "scales": ["base", "tiny"]} for key in RECIPES.names()})
    write_facts(home, "encoders", {key: {"settings": settings} for key in ENCODERS.names()})
    protocols = {"constrained": {"head": "mlp"}, "semi-constrained": {"head": "mlp"}, "linear": {"layers": "mean"}}
    write_facts(home, "protocols", {name: {"settings": own} for name, own in protocols.items()})
    return tmp_path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_mistakes_are_said_in_one_line_before_torch_is_imported(folder):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input="".join(f"{command}\n" for command, *_ in MISTAKES),
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "CARRARA_HOME": str(folder / "home"), "PATH": os.environ["PATH"]},
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(MISTAKES), done.stderr
    faults = []
    for (command, code, message), (exit_code, stderr, has_torch) in zip(MISTAKES, results):
        if (exit_code, has_torch, stderr.count("\n")) != (code, False, 1) or message not in stderr:
            faults.append(f"{command}: exit {exit_code}{', torch' * has_torch}: {stderr}")
    assert not faults, "\n".join(faults)
