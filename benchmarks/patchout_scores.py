"""What patchout costs in score, in training and at inference, beside a convolutional network.

    python benchmarks/patchout_scores.py OUT                        trains five taggers (half an hour on one core)
    python benchmarks/patchout_scores.py OUT --corpus magnatagatune --scale small --device cuda

As on MAEST's poster ("Faster feature extraction with inference patchout"), in miniature: networks are trained on the
corpus's tags from crops of 3 s, MAEST with a quarter, a half, three quarters of its columns of patches left out or
none, and EfficientNet by the same recipe (it trains on whole patches of 2.05 s: two thirds of a crop). The score is the
macro average precision on the middle crops of the validation split, which nothing was chosen on. The network that was
trained with a half is then given fewer and fewer columns: minutes of audio a second (of its fastest batch, from samples
to tags) against average precision. One thread, in the process's own seconds on a CPU, so that other work changes
little. A run that was stopped goes on; OUT gets the networks and patchout.png.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from patchout import SHARES, dropped

from carrara.encoders._base import Encoder
from carrara.encoders._hub.load import load
from carrara.encoders._maest.network import HOP, SAMPLE_RATE, MaestEncoder
from carrara.metrics.ranking import average_precision, macro_mean
from carrara.nn.device import pick_device
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain
from carrara.pretrain.tagging.data import CenterCrops, build_tagged_corpus
from carrara.pretrain.tagging.settings import LabelSettings

SECONDS, FRAMES, COLUMNS = 3.0, 187, 18
TRAINING_SHARE, TIMES = 0.5, 5
Point = tuple[float, float]  # minutes of audio a second, average precision


def train_tagger(options: argparse.Namespace, name: str, recipe: str, changes: Mapping[str, object]) -> Encoder:
    """Return a tagger, trained now or before."""
    made = resolve(recipe, options.scale, {"crop_seconds": SECONDS, **changes})
    steps = options.steps
    folder = pretrain(made, options.corpus, options.out / name, steps=steps, resume=True, device=options.device)
    return load(folder, options.device)


@torch.inference_mode()
def score_tagger(options: argparse.Namespace, encoder: Encoder) -> Point:
    """Return how fast a tagger encodes the middle crops of the validation split, and its macro average precision."""
    names = encoder.tag_names
    _, valid = build_tagged_corpus([options.corpus], LabelSettings(tags=names), SAMPLE_RATE)
    middles = CenterCrops(valid, round(SECONDS * SAMPLE_RATE), HOP, options.batch, 0)
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    answers, took = [], []
    for index, batch in enumerate(middles.iter_batches(0, middles.steps)):
        samples_BT = batch.samples_BT.to(options.device)
        for _ in range(TIMES if index == 0 else 1):
            began = clock()
            tags_BC = encoder.predict_tags(samples_BT).cpu()
            if len(samples_BT) == options.batch:
                took.append((clock() - began) / options.batch)
        answers.append(tags_BC)
    precision = float(macro_mean(average_precision(valid.tags_NC, torch.cat(answers).numpy()))[0])
    return SECONDS / 60 / min(took), precision


def picture(path: Path, encoding: dict[float, Point], other: Point) -> None:
    """Draw average precision against throughput, as on the poster."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*encoding.values()), marker="o", label="MAEST, columns left out at inference")
    for share, point in encoding.items():
        axes.annotate(f"{share:.0%}", point, textcoords="offset points", xytext=(6, 6))
    axes.plot(*other, marker="s", linestyle="", color="#d55e00", label="EfficientNet")
    axes.set_xlabel("throughput (minutes of audio a second)")
    axes.set_ylabel("mean average precision")
    axes.grid(alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train what is not trained yet, score all, print both tables and draw the second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the networks")
    parser.add_argument("--corpus", default="pebble", help="whose tags are learnt (default pebble)")
    parser.add_argument("--scale", default="tiny", help="of the recipes (default tiny)")
    parser.add_argument("--steps", type=int, help="of each training, instead of the recipes'")
    parser.add_argument("--batch", type=int, default=12, help="crops at once at inference (default 12)")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    options.device = pick_device(options.device)
    torch.set_num_threads(1)

    print(f"{'left out in training':<22}{'columns':>8}{'mAP, all columns':>18}")
    half: MaestEncoder | None = None
    for share in SHARES:
        out = round(COLUMNS * share)
        network = {"network.frames": FRAMES, "patchout": out}
        encoder = train_tagger(options, f"maest-{share:.0%}".rstrip("%"), "maest-10s", network)
        assert isinstance(encoder, MaestEncoder)
        half = encoder if share == TRAINING_SHARE else half
        print(f"{share:<22.0%}{out:>8}{score_tagger(options, encoder)[1]:>18.3f}", flush=True)
    assert half is not None

    print(f"\n{'left out at inference':<22}{'min/s':>8}{'mAP':>18}")
    encoding, plain = {}, half.settings
    for share in SHARES:
        half.settings = plain.model_copy(update={"drop_columns": dropped(COLUMNS, share)})
        encoding[share] = score_tagger(options, half)
        print(f"{share:<22.0%}{encoding[share][0]:>8.2f}{encoding[share][1]:>18.3f}", flush=True)
    other = score_tagger(options, train_tagger(options, "effnet", "effnet-tagger", {}))
    print(f"{'EfficientNet':<22}{other[0]:>8.2f}{other[1]:>18.3f}")
    picture(options.out / "patchout.png", encoding, other)


if __name__ == "__main__":
    main()
