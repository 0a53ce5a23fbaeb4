"""Write the tasks' fingerprints anew: `python tests/golden/write_fingerprints.py`, after a version was raised."""

import json
from pathlib import Path

from carrara.bench.provenance import fingerprint
from carrara.bench.tasks import REGISTRY, task

GOLDEN = Path(__file__).parent / "fingerprints.json"


def current():
    """Return version and fingerprint of every registered task, without the index of its clips."""
    return {name: [task(name).version, fingerprint(task(name), "")] for name in REGISTRY.names()}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(current(), indent=1) + "\n")
