"""A linear probe on frozen features: the constrained track without its hidden layer, in the same search.

Linear probes are [alain2016]'s; the gap to the constrained track says how much its hidden layer had to work out. All
else is the constrained track's (`carrara/bench/protocols/constrained.py`): layers, weighted sum, learning rates,
schedule and choice. There is no dropout, since there are no hidden units, no weight decay, and the features are
standardised only with `standardise=true`. A weighted sum under a linear map is a linear map of all layers that share
their directions. Source separation gets one linear layer and the logistic function, from a frame's features to each
stem's mask, in place of MARBLE's recurrent head.
"""

from __future__ import annotations

from carrara.bench.protocols._base import Protocol, ProtocolInputs, ProtocolResult, refuse_without_probe
from carrara.bench.protocols.constrained import SearchSettings, check_search, grid_window_spec, run_search, run_stems
from carrara.bench.task_types._base import TaskType
from carrara.core.task import Task
from carrara.encoders._base import Card
from carrara.features.windows import WindowSpec


def _window_spec(task: Task, task_type: TaskType, card: Card, settings: SearchSettings) -> WindowSpec | None:
    if task_type.reads_features:
        refuse_without_probe(task, task_type)
    return grid_window_spec(task, task_type, card, settings)


def _run(inputs: ProtocolInputs) -> ProtocolResult:
    if not inputs.task_type.reads_features:
        return run_stems(inputs, head="linear", dropout=0.0)
    return run_search(inputs, hidden=0, dropout=0.0)


PROTOCOL = Protocol("linear", 1, SearchSettings, _window_spec, _run, check_search=check_search)
