"""`carrara demo`: from nothing to a leaderboard on a laptop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the model, the records and the report.")
    ] = Path("carrara-demo"),
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the datasets, in which Pebble is rendered. [env: CARRARA_DATA]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Pre-training steps; by default the recipe's, about three minutes.")
    ] = None,
) -> None:
    """Render Pebble, pre-train a small network, measure four systems, print the leaderboard, write a report. Offline.

    - `carrara demo`
    - `carrara demo -o first-look --steps 200`
    - `carrara demo --data-dir ~/music-data`

    Run the same command again to continue a stopped demo, or to print the leaderboard of a finished one.
    """
    from carrara.cli._demo import run_demo

    run_demo(output, data_dir, steps)
