"""A leaderboard without any download: Pebble is composed and played here, and hand-crafted features need no weights.

python examples/leaderboard.py data leaderboard.png [size]
"""

import sys
from pathlib import Path

import carrara


def main(data_dir: str, picture: str, size: str = "demo") -> None:
    """Render Pebble, measure three encoders and the floor on three tasks, print the leaderboard and draw it."""
    root = Path(data_dir) / "pebble" / size
    carrara.datasets["pebble"].download(root, size)
    records = carrara.bench(
        ["chroma-mfcc", "chroma", "mfcc", "noise"],
        ["pebble/key", "pebble/genre", "pebble/instrument"],
        root,
        Path(data_dir) / "results",
        on_record=lambda record, seconds: print(f"{record} in {seconds:.0f} s"),
    )
    board = carrara.leaderboard(records)
    print(board)
    print("drawn in", carrara.plots.picture(board, picture))


if __name__ == "__main__":
    if len(sys.argv) <= 2:
        sys.exit(__doc__)
    main(*sys.argv[1:4])
