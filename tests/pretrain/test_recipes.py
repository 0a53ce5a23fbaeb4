"""Each kind of recipe, killed (SIGKILL) in the middle, resumes to the weights of an uninterrupted run."""

import json

import pytest
import torch
from safetensors.torch import load_file

from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain

pytestmark = pytest.mark.slow

SMALL = {
    "network.conv_channels": 16,
    "network.dim": 32,
    "network.num_layers": 3,
    "network.num_heads": 2,
    "network.ffn_dim": 64,
    "network.position_groups": 4,
    "crop_seconds": 1.0,
    "batch": 4,
}
CQT = {"targets.cqt.bins": 84, "targets.cqt.bins_per_octave": 12}
CODES = {"targets.codes.num_codebooks": 3, "targets.codes.codebook_size": 8, "targets.codes.fraction": 1.0, **CQT}
CONFORMER = {
    "network.dim": 32,
    "network.num_layers": 2,
    "network.num_heads": 2,
    "network.ffn_dim": 64,
    "network.dropout": 0.1,
    "targets.codes.codebook_size": 8,
    "targets.codes.fraction": 1.0,
    "targets.codes.learning_steps": 20,
    "masking.mask_length": 3,
    "crop_seconds": 1.0,
    "batch": 4,
}
CONVNEXT = {"network.conv_channels": (8, 16, 32)}
KINDS = {
    "mert-v0-mixup50": {**SMALL, **CQT, "targets.log-mel.k": 8, "targets.chroma.k": 6},
    "mert-v1-95m": {**SMALL, **CODES},
    "mert-v1-95m-random-codebook": {**SMALL, **CODES},
    "mert-v1-330m": {**SMALL, **CODES, "activation_checkpointing": True},
    "music2vec-crop5s": {**SMALL, "network.position_kernel": 5},
    "musichubert-k2000": {**SMALL, "targets.mfcc.k": 8},
    "musichubert-iter2": {**SMALL, "targets.layer.k": 8, "targets.layer.encoder": "mert-tiny:random"},
    **{
        name: {
            "network.columns": 6,
            "network.dim": 32,
            "network.num_heads": 2,
            "network.ffn_dim": 64,
            "crop_seconds": 0.96,
            "batch": 4,
        }
        for name in ("m2d", "a-jepa")
    },
    "contrastive": {
        "network.dim": 32,
        "network.num_heads": 2,
        "network.hidden": 16,
        "pairs.view_seconds": 0.3,
        "pairs.group": 4,
        "crop_seconds": 1.0,
        "batch": 4,
    },
    "mel-conformer-random": {**CONFORMER, **CONVNEXT},
    "mel-conformer-rvq": {**CONFORMER, **CONVNEXT, "activation_checkpointing": True},
    "mel-transformer-rvq": {
        **{path: value for path, value in CONFORMER.items() if path != "network.dropout"},
        "masking.mask_length": 2,
        "crop_seconds": 2.0,
    },
    "muq": {**CONFORMER, "network.channels": 4},
    "rvq-vae": {
        "network.filters": 4,
        "network.latent": 16,
        "network.num_codebooks": 4,
        "network.codebook_size": 32,
        "batch": 4,
    }
    | {"crop_seconds": 0.2},
}
STEPS = {"steps": 8, "checkpoint_every": 3, "log_every": 1}
# A child kills itself in the middle of its sixth step, which is then neither in the log nor in a checkpoint. Steps by
# which targets are fitted come before the log.
CHILD = """
import os
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_pre_hook
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain

name, changes, corpus, folder = arguments
log = Path(folder, "metrics.jsonl")
register_optimizer_step_pre_hook(
    lambda *_: os.kill(os.getpid(), 9) if log.is_file() and '"step": 5,' in log.read_text() else None
)
pretrain(resolve(name, "tiny", changes), corpus, folder, device="cpu")
"""


@pytest.mark.parametrize("name", KINDS)
def test_killed_it_resumes_bit_for_bit(name, corpus, fork, wait_for, tmp_path):
    changes = KINDS[name] | STEPS
    codes, messages = wait_for([fork(CHILD, [name, changes, str(corpus), str(tmp_path / "killed")])])
    assert codes == [-9], messages
    recipe = resolve(name, "tiny", changes)
    whole = pretrain(recipe, corpus, tmp_path / "run", device="cpu")
    assert json.loads((tmp_path / "killed/metrics.jsonl").read_text().splitlines()[-1])["step"] < 8
    resumed = pretrain(recipe, corpus, tmp_path / "killed", resume=True, device="cpu")
    expected, actual = (load_file(folder / "training" / "last.safetensors") for folder in (whole, resumed))
    assert expected.keys() == actual.keys()
    assert not [tensor for tensor in expected if not torch.equal(expected[tensor], actual[tensor])]
