"""Jukebox-5B at its full size: what importing it and encoding a window cost in memory and time.

    python benchmarks/jukebox.py /tmp/jukebox                  a whole window of 23.8 s
    python benchmarks/jukebox.py /tmp/jukebox --seconds 3      an eighth of one
    python benchmarks/jukebox.py /tmp/small --set dim=480 --set layer=4    a smaller network (another folder)

There is no peer beside it: JukeMIR's README asks for 30 GB of memory and a GPU of 12 GB. FOLDER gets files of the
published names, shapes and kinds with random weights (10.6 GB), which stay for another run, and the imported encoder
(5.4 GB). Writing, importing and encoding are processes of their own, each measured by its own peak of memory; only
writing has all 72 blocks in memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carrara.core.settings import parse_assignments, replace
from carrara.encoders._hub.import_official import import_official
from carrara.encoders._hub.load import build_encoder, load
from carrara.encoders._jukebox import files as files
from carrara.encoders.jukebox import ENCODER, SAMPLE_RATE

NAME, BLOCKS = "jukebox-5b", 72
NAMES = {ours: theirs for theirs, ours in files.PRIOR_NAMES.items()}
INNER = {ours: theirs for theirs, ours in files.BLOCK_NAMES.items()}


def published(ours: str) -> str:
    """Return the published name of a tensor of the network."""
    room, _, rest = ours.partition(".")
    if room == "prior":
        if not rest.startswith("blocks."):
            return NAMES[ours]
        _, number, inner = rest.split(".", 2)
        return f"prior.transformer._attn_mods.{number}.{INNER[inner]}"
    if rest == "codes_KD":
        return files.CODEC_CODES
    _, level, *places, leaf = rest.split(".")
    for at in (4, 3) if len(places) == 4 else ():
        places.insert(at - 1, "model")
    return f"{files.CODEC_LEVELS}{level}.model.{'.'.join(places)}.{leaf}"


def change(settings: dict[str, Any]) -> None:
    """Let the registered name stand for a network of other sizes, in this process."""
    card, published_settings = ENCODER.variants[NAME]
    changed = replace(published_settings, settings, source="--set")
    ENCODER.variants[NAME] = (ENCODER.update_card(card, changed), changed)


def write(folder: Path, settings: dict[str, Any]) -> None:
    """Save both files with random weights, as they are published."""
    change(settings)
    with torch.device("meta"):
        network = build_encoder(NAME, changes={"layer": BLOCKS})
    tables: dict[str, dict[str, Tensor]] = {files.CODEC_FILE: {}, files.PRIOR_FILE: {}}
    generator = torch.Generator().manual_seed(0)
    for ours, like in network.state_dict().items():
        spread = 1.0 if ours.endswith("codes_KD") else 0.02
        drawn = torch.empty(like.shape, dtype=like.dtype).normal_(
            float("norm.weight" in ours), spread, generator=generator
        )
        tables[files.CODEC_FILE if ours.startswith("codec") else files.PRIOR_FILE][published(ours)] = drawn
    for name, table in tables.items():
        torch.save({"model": table, "step": 0}, folder / name)


def convert(folder: Path, settings: dict[str, Any]) -> None:
    """Import them."""
    change(settings)
    import_official(NAME, folder, folder / "imported")


def encode(folder: Path, seconds: float) -> None:
    """Load the imported encoder and encode some noise."""
    encoder = load(folder / "imported")
    samples_BT = 0.1 * torch.randn(1, round(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answer = encoder(samples_BT)
    assert answer.shape == (1, 1, 1, encoder.card.dim) and torch.isfinite(answer).all()


def _measured(work: Callable[..., None], *given: Any) -> tuple[float, float]:
    began = time.perf_counter()
    work(*given)
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def alone(said: str, work: Callable[..., None], *given: Any) -> None:
    """Run something in a process of its own and print its seconds and its peak of memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, gigabytes = pool.apply(_measured, (work, *given))
    print(f"{said:28} {seconds:7.0f} s {gigabytes:6.2f} GB", flush=True)


def main() -> None:
    """Write the files if they are not there, import them, encode a clip; print what each cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for 16 GB of files")
    parser.add_argument("--seconds", type=float, default=23.8, help="of sound (default 23.8, a whole window)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a size of the network")
    options = parser.parse_args()
    settings = parse_assignments(options.set)
    change(settings)
    layer = ENCODER.variants[NAME][1].layer
    options.folder.mkdir(parents=True, exist_ok=True)
    if not (options.folder / files.PRIOR_FILE).is_file():
        alone(f"writing {BLOCKS} blocks", write, options.folder, settings)
    alone(f"importing {layer} of them", convert, options.folder, settings)
    alone(f"loading, encoding {options.seconds:g} s", encode, options.folder, options.seconds)


if __name__ == "__main__":
    main()
