"""Which layer of a network knows what? Draws the validation score of each layer on each task.

python examples/plot_layers.py my-mert data/pebble/tiny layers.svg
"""

import sys
from pathlib import Path

import carrara
from carrara.bench.report.plots import best_by_layer


def main(encoder: str, data_dir: str, picture: str) -> None:
    """Measure an encoder on two tasks, print the scores by layer, and draw them."""
    records = carrara.bench(encoder, ["pebble/genre", "pebble/pitch"], data_dir, Path(picture).with_suffix(""))
    for record in records:
        scores = {layer: f"{score:.1f}" for layer, score in best_by_layer(record.grid).items()}
        print(record.task.name, scores, "chosen:", record.protocol.chosen)
    print("drawn in", carrara.plots.layers(carrara.leaderboard(records)).save(picture))


if __name__ == "__main__":
    if len(sys.argv) <= 3:
        sys.exit(__doc__)
    main(*sys.argv[1:4])
