"""Fine-tune an encoder on a task, all of it or low-rank changes of it (LoRA), beside a probe on frozen features.

python examples/fine_tune.py my-mert data/pebble/tiny results [epochs]
"""

import sys

import carrara

TASK = "pebble/genre"


def main(encoder: str, data_dir: str, results: str, epochs: str = "10") -> None:
    """Measure frozen features, then the fine-tuned network; each protocol has records of its own."""
    records = carrara.bench(encoder, TASK, data_dir, results, protocol="constrained")
    for mode in ("full", "lora"):
        settings = {"mode": mode, "epochs": int(epochs)}
        records += carrara.bench(encoder, TASK, data_dir, results, protocol="unconstrained", settings=settings)
    for record in records:
        print(f"{record.protocol.name}: accuracy {record.scores['accuracy']}")


if __name__ == "__main__":
    if len(sys.argv) <= 3:
        sys.exit(__doc__)
    main(*sys.argv[1:5])
