"""A training step of ours beside Hugging Face's HubertModel with an equivalent loss, on equal shapes.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --width 768 --layers 12 --channels 512 --batch 8 --steps 3

Forward, backward, clipping and fused AdamW of masked prediction of one label set of 100 classes, 5-s crops at 16 kHz;
the labels are random and given, so no target is computed by either. Both run in turn in one process; the peak memory of
each comes from a process of its own (`--only`), since memory once taken is seldom given back.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from transformers import HubertConfig, HubertModel

from carrara.encoders._hub.load import build_encoder
from carrara.pretrain.masks import plan_masks
from carrara.pretrain.objectives._masked_network import MaskedPrediction
from carrara.pretrain.recipes._base import MaskingSettings, ObjectiveSettings
from carrara.pretrain.targets import REGISTRY
from carrara.pretrain.targets._base import FrameGrid

RATE, SECONDS, CLASSES, FINAL = 16_000, 5, 100, 256
MASKING = MaskingSettings(mask_prob=0.8, mask_length=10)
Step = Callable[[], None]


def ours(asked: argparse.Namespace, samples_BT: torch.Tensor, labels_BF: torch.Tensor) -> Step:
    """Return our step."""
    sizes = {
        "conv_channels": asked.channels,
        "dim": asked.width,
        "num_layers": asked.layers,
        "num_heads": asked.width // 64,
        "ffn_dim": 4 * asked.width,
        "layerdrop": 0.0,
    }
    clusters = REGISTRY.get("clusters")
    target = clusters(clusters.settings_type(feature="mfcc-39", k=CLASSES), FrameGrid(RATE, 320, 200))
    encoder = build_encoder("musichubert-base", 0, sizes)
    model = MaskedPrediction(encoder, {"codes": target}, ObjectiveSettings(final_dim=FINAL), 0)
    adam = torch.optim.AdamW(model.parameters(), lr=5e-4, fused=True)
    frames, count = labels_BF.shape[1], len(samples_BT)
    seen = plan_masks([(0, 0, item) for item in range(count)], MASKING, frames, asked.width)
    number = int(seen.masked_BF.sum())

    def step() -> None:
        model.train()
        losses = model(samples_BT, seen, {"codes": labels_BF[..., None]})
        losses.loss({"frames": number, "clips": count}).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        adam.step()
        adam.zero_grad(set_to_none=True)

    return step


def theirs(asked: argparse.Namespace, samples_BT: torch.Tensor, labels_BF: torch.Tensor) -> Step:
    """Return the step that a tutorial would write over HubertModel."""
    config = HubertConfig(
        conv_dim=(asked.channels,) * 7,
        hidden_size=asked.width,
        num_hidden_layers=asked.layers,
        num_attention_heads=asked.width // 64,
        intermediate_size=4 * asked.width,
        layerdrop=0.0,
        activation_dropout=0.0,
        mask_time_prob=0.65,  # any above 0 gives it a mask vector; the frames are given below
    )
    model = HubertModel._from_config(config, attn_implementation="sdpa")
    project, classes_CP = nn.Linear(asked.width, FINAL), nn.Parameter(torch.rand(CLASSES, FINAL))
    parameters = [*model.parameters(), *project.parameters(), classes_CP]
    adam = torch.optim.AdamW(parameters, lr=5e-4, fused=True)
    seen = plan_masks([(0, 0, item) for item in range(len(samples_BT))], MASKING, labels_BF.shape[1], asked.width)
    asked_BF = seen.masked_BF

    def step() -> None:
        model.train()
        found: list[torch.Tensor] = []
        hook = model.feature_extractor.register_forward_hook(lambda module, given, out: found.append(out))
        hidden_BFD = model(samples_BT, mask_time_indices=asked_BF).last_hidden_state
        hook.remove()
        projected_SP = functional.normalize(project(hidden_BFD[asked_BF]), dim=-1)
        logits_SC = projected_SP @ functional.normalize(classes_CP, dim=-1).T / 0.1
        loss = functional.cross_entropy(logits_SC, labels_BF[asked_BF]) + 10 * found[0].square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        adam.step()
        adam.zero_grad(set_to_none=True)

    return step


def main() -> None:
    """Print seconds a step, audio heard a second, and peak memory, of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256, help="of the Transformer (default 256)")
    parser.add_argument("--layers", type=int, default=4, help="of the Transformer (default 4)")
    parser.add_argument("--channels", type=int, default=128, help="of the convolutions (default 128)")
    parser.add_argument("--batch", type=int, default=8, help="crops of 5 s a step (default 8)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each (default 5)")
    parser.add_argument("--only", choices=("ours", "theirs"), help="run one alone and print its peak memory in MB")
    asked = parser.parse_args()
    torch.manual_seed(0)
    samples_BT = 0.1 * torch.randn(asked.batch, RATE * SECONDS)
    labels_BF = torch.randint(CLASSES, (asked.batch, 249))
    makers = {"ours": ours, "theirs": theirs}
    if asked.only:
        step = makers[asked.only](asked, samples_BT, labels_BF)
        for _ in range(2):
            step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    steps = {name: make(asked, samples_BT, labels_BF) for name, make in makers.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(asked.steps + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn:
                times[name].append(time.perf_counter() - began)
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, {asked}")
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, median in medians.items():
        told = subprocess.run([sys.executable, *sys.argv, "--only", name], capture_output=True, text=True, check=True)
        heard = asked.batch * SECONDS / median
        print(
            f"{name:<8} {median:7.2f} s a step   {heard:6.1f} s of sound a second   peak {float(told.stdout):6.0f} MB"
        )
    print(f"theirs / ours = {medians['theirs'] / medians['ours']:.2f}")


if __name__ == "__main__":
    main()
