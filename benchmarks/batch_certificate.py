"""The batch certificate: what each encoder gives for a clip in a batch of unequal lengths, against the clip alone.

    python benchmarks/batch_certificate.py                              every encoder; the table of docs/encoders.md
    python benchmarks/batch_certificate.py mert-v1-95m FOLDER           some, by anything that `carrara.load` takes
    python benchmarks/batch_certificate.py --device cuda --precision bfloat16

Weights are the real ones where an encoder is ready here, else random: padding leaks through the network's arithmetic,
whatever its weights. The difference is the largest of all layers, frames and dimensions of all clips, relative to the
largest value of the same layer of the clip alone; the cosine is the smallest of all pairs of vectors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from carrara.core.errors import CarraraError
from carrara.encoders import REGISTRY
from carrara.encoders._base import Encoder
from carrara.encoders._hub.availability import check_availability
from carrara.encoders._hub.load import build_encoder, load
from carrara.pretrain.precision import autocast

SECONDS = (3.0, 1.0, 2.2, 0.35)
# 2.56 billion parameters do not fit a laptop's memory: the same code with fewer and smaller layers.
SMALLER = {
    "jukebox-5b": {
        "layer": 2, "dtype": "float32", "dim": 32, "num_heads": 2, "context": 2048, "row_length": 16,
        "codebook_size": 64, "code_dim": 8, "codec_channels": 4, "codec_depth": 1, "num_artists": 5, "num_genres": 3,
    }
}  # fmt: skip


@dataclass(frozen=True)
class Certificate:
    """How far clips in a batch are from the same clips alone.

    Attributes:
        difference: Largest difference, relative to the largest value of the layer of the clip.
        cosine: Smallest cosine of two vectors.
        tail: Largest value of the frames after a clip's own.
    """

    difference: float
    cosine: float
    tail: float


@torch.inference_mode()
def certify(
    encoder: Encoder, seconds: Sequence[float] = SECONDS, device: str = "cpu", precision: str = "float32"
) -> Certificate:
    """Return the certificate of an encoder on clips of noise of these lengths."""
    rate, target = encoder.card.sample_rate, torch.device(device)
    encoder = encoder.eval().to(target)
    generator = torch.Generator().manual_seed(0)
    clips = [(0.1 * torch.randn(int(length * rate), generator=generator)).to(target) for length in seconds]
    lengths_B = torch.tensor([len(clip) for clip in clips], device=target)

    def encode(samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        with autocast(precision, target):
            return encoder(samples_BT, lengths_B).double()

    together_BLFD = encode(pad_sequence(clips, batch_first=True), lengths_B)
    differences, cosines, tails = [], [], [0.0]
    for row_LFD, clip_T in zip(together_BLFD, clips):
        alone_LFD = encode(clip_T[None])[0]
        frames = encoder.num_frames(len(clip_T))
        own_LFD = row_LFD[:, :frames]
        largest_L = alone_LFD.abs().amax((1, 2)).clamp(min=1e-12)
        differences.append(float(((own_LFD - alone_LFD).abs().amax((1, 2)) / largest_L).max()))
        cosines.append(float(torch.nn.functional.cosine_similarity(own_LFD, alone_LFD, dim=-1).min()))
        if row_LFD.shape[1] > frames:
            tails.append(float(row_LFD[:, frames:].abs().max()))
    return Certificate(max(differences), min(cosines), max(tails))


def load_any(spec: str) -> tuple[Encoder, str]:
    """Return an encoder and what its weights are: real, random or random at a smaller size."""
    if spec in SMALLER:
        return build_encoder(spec, changes=SMALLER[spec]), "random, smaller"
    name = spec.removesuffix(":random")
    if name in REGISTRY.names() and (name != spec or check_availability(name).status != "ready"):
        return build_encoder(name), "random"
    if name in REGISTRY.names() and not REGISTRY.get(name).has_weights:
        return load(spec), "–"
    return load(spec), "real"


def main() -> None:
    """Print a line of the table for each encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="*", help="anything that carrara.load takes; default: every registered one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16", "float16"])
    given = parser.parse_args()
    print("| encoder | parameters | weights | difference | 1 − cosine | frames after the end |")
    print("|---|--:|---|--:|--:|---|")
    for spec in given.encoders or REGISTRY.names():
        try:
            encoder, weights = load_any(spec)
        except CarraraError as problem:
            print(f"{spec}: {problem}", file=sys.stderr)
            continue
        result = certify(encoder, device=given.device, precision=given.precision)
        size = f"{sum(parameter.numel() for parameter in encoder.parameters()) / 1e6:.1f} M"
        tail = "zero" if result.tail == 0 else f"{result.tail:.1e}"
        print(
            f"| `{spec}` | {size} | {weights} | {result.difference:.0e} | {max(1 - result.cosine, 0):.0e} | {tail} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
