"""What the released training code of MERT and fairseq computes, and what Carrara does by default and as released.

    python benchmarks/differences.py --mert DIR --fairseq DIR

DIR are checkouts of github.com/yizhilll/MERT and github.com/facebookresearch/fairseq. Neither can be installed beside a
current Python; single functions and classes are taken from their files by name and run as they are. The CQT needs
nnAudio. The table is in docs/differences.md.
"""

from __future__ import annotations

import argparse
import ast
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from carrara.pretrain.masks import draw_masks
from carrara.pretrain.objectives._masked_network import cosine_logits
from carrara.pretrain.optimiser import adamw, scheduled_rate
from carrara.pretrain.recipes._base import AdamWSettings, MaskingSettings, OptimiserSettings
from carrara.pretrain.targets import REGISTRY as TARGETS
from carrara.pretrain.targets._base import FrameGrid

POOL, FRAMES, SAMPLE_RATE, HOP = 16, 374, 24_000, 320


class _Schedule:
    """Stands for fairseq's base class of schedules."""

    def __init__(self, cfg: Any, optimizer: Any) -> None:
        self.cfg, self.optimizer = cfg, optimizer


class _Rate:
    """Stands for fairseq's optimizer: it keeps the learning rate."""

    def set_lr(self, lr: float) -> None:
        """Keep the rate."""
        self.lr = lr

    def get_lr(self) -> float:
        """Return the rate."""
        return self.lr


def load_definition(path: Path, name: str, **names: Any) -> Any:
    """Return a function, class or method of a file, run without the file's imports and decorators."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.ClassDef
    [definition] = [node for node in ast.walk(tree) if isinstance(node, kinds) and node.name == name][:1]
    definition.decorator_list = []
    for node in ast.walk(definition):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
    scope: dict[str, Any] = {"np": np, "torch": torch, "math": math, **names}
    exec(compile(ast.Module([definition], []), str(path), "exec"), scope)
    return scope[name]


def measure_masks(fairseq: Path) -> None:
    """Print the share of masked frames and the mean length of their runs."""
    published = load_definition(fairseq / "fairseq/data/data_utils.py", "compute_mask_indices")
    for mask_prob, mask_length, min_masks, frames in ((0.8, 5, 2, 374), (0.8, 10, 2, 779), (0.65, 10, 1, 1499)):
        batches = 200
        theirs = np.concatenate(
            [published((POOL, frames), None, mask_prob, mask_length, min_masks=min_masks) for _ in range(batches)]
        )
        print(f"masks, p {mask_prob}, length {mask_length}, {frames} frames")
        print("  released:   {:.1%} in runs of {:.2f}".format(*_summarize(theirs)))
        for name, same_masks in (("as released", True), ("default", False)):
            settings = MaskingSettings(
                mask_prob=mask_prob, mask_length=mask_length, min_masks=min_masks, same_masks=same_masks, pool=POOL
            )
            draws = [(0, 0, item) for item in range(batches * POOL)]
            ours = draw_masks(draws, settings, frames).numpy()
            print("  {:12}{:.1%} in runs of {:.2f}".format(name + ":", *_summarize(ours)))


def _summarize(mask_BF: np.ndarray) -> tuple[float, float]:
    starts = np.diff(np.pad(mask_BF, ((0, 0), (1, 0))).astype(int), axis=1) == 1
    return float(mask_BF.mean()), float(mask_BF.sum() / starts.sum())


def measure_classes(mert: Path) -> None:
    """Print how far a codebook's loss and gradients are from MERT's, with and without the four special classes."""
    path = mert / "mert_fairseq/models/mert/mert_model.py"
    compute_nce = load_definition(path, "compute_nce")
    model = SimpleNamespace(logit_temp=0.1, chunk_nce_cal=0)
    generator = torch.Generator().manual_seed(0)
    initial_rows = {"U(0, 1), as at the start": torch.rand, "N(0, 1)": torch.randn}
    for kind, draw in initial_rows.items():
        rows_RP = draw(1028, 64, generator=generator)
        x_SP = torch.randn(256, 64, generator=generator)
        codes_S = torch.randint(4, 1028, (256,), generator=generator)
        tensors = [x_SP.clone().requires_grad_(), rows_RP.clone().requires_grad_()]
        negatives = tensors[1][:, None].expand(-1, len(x_SP), -1)
        logits = compute_nce(model, tensors[0], tensors[1][codes_S], negatives)
        functional.cross_entropy(logits, torch.zeros_like(codes_S), reduction="sum").backward()
        for special in (4, 0):
            ours = [x_SP.clone().requires_grad_(), rows_RP.clone().requires_grad_()]
            rows_CP = torch.cat([ours[1][4:], ours[1][: 4 if special else 0]])
            functional.cross_entropy(cosine_logits(ours[0], rows_CP, 0.1), codes_S - 4, reduction="sum").backward()
            pairs = zip(ours, tensors)
            errors = [float((a.grad - b.grad).norm() / b.grad.norm()) for a, b in pairs if a.grad is not None]
            print(
                f"classes {kind}, special_classes {special}: gradient of the frames {errors[0]:.1e}, "
                f"of the classes {errors[1]:.1e}"
            )


def measure_cqt(mert: Path) -> None:
    """Print how far the CQT target is from MERT's, on a chirp with noise."""
    from nnAudio import features

    path = mert / "mert_fairseq/models/mert/mert_model.py"
    model = load_definition(path, "model_cqt_pred", nn=nn, nnAudioFeatures=features)
    published = model(8, n_bins=336, sr=SAMPLE_RATE, freq=SAMPLE_RATE // HOP)
    time_T = torch.arange(5 * SAMPLE_RATE) / SAMPLE_RATE
    generator = torch.Generator().manual_seed(0)
    notes_T = sum(
        torch.sin(2 * math.pi * pitch * time_T) * (torch.sin(2 * math.pi * rate * time_T) > 0)
        for pitch, rate in ((110.0, 2.0), (523.25, 3.0), (1760.0, 5.0))
    )
    samples_BT = (0.1 * notes_T + 0.01 * torch.randn(len(time_T), generator=generator))[None]
    theirs_BFM = published.compute_cqt(samples_BT)[:, :FRAMES]
    cqt = TARGETS.get("cqt")
    for centre in ("hop", "frame"):
        target = cqt(cqt.settings_type(centre=centre), FrameGrid(SAMPLE_RATE, HOP, 200))
        ours_BFM = target.labels(samples_BT, FRAMES)
        error = float((ours_BFM - theirs_BFM).norm() / theirs_BFM.norm())
        print(f"CQT, centre {centre}: {error:.1e} (relative L2 norm over {FRAMES} frames x 336 bins)")


def measure_schedules(fairseq: Path) -> None:
    """Print the rates of the first steps and the largest difference of a whole run."""
    folder = fairseq / "fairseq/optim/lr_scheduler"
    names = {"FairseqLRScheduler": _Schedule}
    polynomial = load_definition(folder / "polynomial_decay_schedule.py", "PolynomialDecayLRSchedule", **names)
    cfg = SimpleNamespace(
        lr=[5e-4], warmup_updates=32_000, total_num_update=400_000, end_learning_rate=0.0, power=1.0, force_anneal=None
    )
    schedule = polynomial(cfg, _Rate())
    theirs = np.array([schedule.step_update(step) for step in range(400_000)])
    for from_zero in (True, False):
        settings = OptimiserSettings(learning_rate=5e-4, warmup_fraction=0.08, warmup_from_zero=from_zero)
        ours = np.array([scheduled_rate(step, 400_000, settings) for step in range(400_000)])
        largest = np.abs(ours - theirs).max()
        print(
            f"polynomial decay, warmup_from_zero {from_zero}: first steps {ours[:2]}, released {theirs[:2]}, "
            f"largest difference {largest:.2e}"
        )
    tri_stage = load_definition(folder / "tri_stage_lr_scheduler.py", "TriStageLRSchedule", **names)
    cfg = SimpleNamespace(
        lr=[5e-4], init_lr_scale=0.01, final_lr_scale=0.01, phase_ratio=[0.03, 0.9, 0.07], max_update=400_000
    )
    schedule = tri_stage(cfg, _Rate())
    theirs = np.array([schedule.step_update(step) for step in range(400_000)])
    settings = OptimiserSettings(learning_rate=5e-4, warmup_fraction=0.03, hold_fraction=0.9)
    ours = np.array([scheduled_rate(step, 400_000, settings) for step in range(400_000)])
    print(f"three stages: largest difference {np.abs(ours - theirs).max():.2e} of 5e-4")


def measure_adam(fairseq: Path) -> None:
    """Print the relative difference of the weights' changes under equal gradients of several sizes."""
    published = load_definition(fairseq / "fairseq/optim/adam.py", "Adam")
    for size in (1e-3, 1e-5, 1e-6):
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(10_000, generator=generator)
        theirs, ours = (nn.Parameter(start.clone()) for _ in range(2))
        optimizers = [
            published([theirs], lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01),
            adamw(nn.ParameterList([ours]), AdamWSettings()),
        ]
        for step in range(1, 1001):
            gradient = size * torch.randn(10_000, generator=generator)
            for parameter, optimizer in zip((theirs, ours), optimizers):
                parameter.grad = gradient.clone()
                optimizer.step()
            if step in (1, 10, 100, 1000):
                change = theirs.detach() - start
                error = float((ours.detach() - start - change).norm() / change.norm())
                print(f"Adam, gradients of {size:g}, after {step} steps: {error:.1e}")


def measure_decay(fairseq: Path) -> None:
    """Print the largest difference of the decays of data2vec's teacher, whose first update has number 1 in fairseq."""
    published = load_definition(fairseq / "examples/data2vec/models/data2vec_audio.py", "get_annealed_rate")
    teacher = TARGETS.get("teacher")
    ours = teacher(teacher.settings_type(), FrameGrid(16_000, HOP, 200))
    pairs = [(ours.decay_at(step), published(0.999, 0.9999, step + 1, 30_000)) for step in range(29_999)]
    print(f"teacher's decay: largest difference {max(abs(a - b) for a, b in pairs):.1e}")


def measure_mixup(mert: Path) -> None:
    """Print how often the released code mixes a crop at some values of its probability."""
    text = (mert / "mert_fairseq/models/mert/mert_model.py").read_text(encoding="utf-8")
    [condition] = [line.strip() for line in text.splitlines() if "torch.rand(1).item()" in line]
    expression = compile(condition.removeprefix("if ").removesuffix(":"), "mert_model.py", "eval")
    torch.manual_seed(0)
    for probability in (0.25, 0.5):
        scope = {"torch": torch, "self": SimpleNamespace(mixture_prob=probability)}
        share = np.mean([eval(expression, scope) for _ in range(20_000)])
        print(f"mixup, mixture_prob {probability}: the released code mixes {share:.1%} of the crops")


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mert", type=Path, required=True, help="checkout of yizhilll/MERT")
    parser.add_argument("--fairseq", type=Path, required=True, help="checkout of facebookresearch/fairseq")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    measure_masks(given.fairseq)
    measure_classes(given.mert)
    measure_cqt(given.mert)
    measure_schedules(given.fairseq)
    measure_adam(given.fairseq)
    measure_decay(given.fairseq)
    measure_mixup(given.mert)


if __name__ == "__main__":
    main()
