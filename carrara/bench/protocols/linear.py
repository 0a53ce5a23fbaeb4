"""A linear probe on frozen features: the constrained track without its hidden layer, and with the same search.

What a linear map can read from a representation is the oldest question asked of one (Alain & Bengio 2016, arXiv
1610.01644), and the gap to the constrained track says how much its hidden layer had to work out. All else is the
constrained track's (Yuan et al. 2023, arXiv 2306.10548, section 4; benchmark.md 2.1 to 2.3): every layer and their
learned weighted sum × six learning rates, batches of 64, Adam, the rate halved on a plateau of the watched validation
score, training stopped early, the best epoch of the best probe by that score; then the test side is read, once. There
is no dropout, since there are no hidden units, no penalty on the weights, and the features are not standardised. A
weighted sum under a linear map is a linear map of all layers that share their directions.
"""

from __future__ import annotations

from carrara.bench.probes.grid import GridSettings
from carrara.bench.protocols._base import Protocol, ProtocolInputs, ProtocolResult
from carrara.bench.protocols.constrained import BATCH, search, searched
from carrara.core.errors import UsageError


def run(inputs: ProtocolInputs) -> ProtocolResult:
    """Return what the rules find for one task.

    Raises:
        UsageError: the answer is not given by a probe.
        DataError: no probe reached a finite validation score.
    """
    task, answer = inputs.task, inputs.answer
    if answer.run is not None:
        raise UsageError(
            f"task {task.name!r}: {task.task_type} need a network of their own; use --protocol constrained"
        )
    how = GridSettings(
        outputs=answer.outputs(task),
        hidden=0,
        dropout=0.0,
        batch=BATCH,
        max_epochs=task.max_epochs,
        plateau_patience=task.plateau_patience,
        stop_patience=task.stop_patience,
        device=inputs.device,
    )
    sides = inputs.sides()
    return searched(inputs, sides, search(tuple(sides.train.layers), inputs.seeds), how)


PROTOCOL = Protocol("linear", 1, run)
