"""Pre-train a small MERT on a folder of recordings, and compare it with the same network untrained.

python examples/pretrain.py ~/Music my-mert data/pebble/tiny [steps]
"""

import sys

import carrara


def main(corpus: str, output: str, data_dir: str, steps: str = "") -> None:
    """Train, or continue a run that was stopped; then measure what training added."""
    changes = {"batch": 2} if steps else {}  # a few steps are for trying this script out
    number = int(steps) if steps else None
    model = carrara.pretrain("mert-v0", corpus, output, scale="tiny", steps=number, changes=changes, resume=True)
    results = f"{output}-results"
    carrara.bench([str(model), f"{model}:random"], "pebble/genre", data_dir, results)
    print(carrara.compare(model.name, f"{model.name}:random", results))
    print(f"loss and everything else by step: {model}/metrics.png")


if __name__ == "__main__":
    if len(sys.argv) <= 3:
        sys.exit(__doc__)
    main(*sys.argv[1:5])
