"""How far the selected probe's validation score is above what to expect of it, by nested resampling of the selection.

    python benchmarks/selection_gap.py chroma-mfcc mert-tiny:random --data-dir PEBBLE/tiny

Every try of the constrained protocol is scored on all validation clips after each of its epochs, and the best score of
all is the selected probe's, so it is too high. Groups of validation clips are drawn with replacement, the best try and
epoch on the draw are selected, and that probe is scored on the clips left out of the draw: the selection is nested in
the resampling, and no clip has a say in both. `nested` is the validation score minus the mean of these scores
[tsamardinos2018]; `optimism` the mean of the score on the draw minus that on all validation clips [efron1983]. Beside
them the gap that was met: validation minus test of the probe that the protocol selected. Tasks with one class of
several. Scores in hundredths. The table is in docs/intervals.md.

Letters: C candidates (tries × epochs), N validation clips, G groups, K classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from carrara.bench import protocols, task_types, tasks
from carrara.bench.interval import unit_groups
from carrara.bench.probes.grid import GridSettings, ProbeProblem, probe_logits, train_grid
from carrara.bench.protocols.constrained import BATCH, DROPOUT, HIDDEN, grid_points, select_best
from carrara.bench.run import FIRST_SEED
from carrara.bench.split_data import monitored_score, predict, training_examples
from carrara.bench.task_data import FeatureProvider
from carrara.bench.task_types._base import ProbeTaskType, monitor_only
from carrara.core.task import Task
from carrara.encoders._hub.any_encoder import resolve_encoder

TASKS = "pebble/genre,pebble/key,pebble/pitch,pebble/instrument,pebble/singer,pebble/technique"
COLUMNS = ("encoder", "task", "validation clips", "tries", "scores on them", "validation", "test", "met", "nested",
           "optimism")  # fmt: skip


def clip_scores(task: Task, task_type: ProbeTaskType, truths_N: np.ndarray, predicted_CN: np.ndarray) -> np.ndarray:
    """Return the monitored metric of each candidate and clip alone, `[C, N]`; its mean over clips is the metric."""
    monitored = monitor_only(task)
    classes = range(len(task.labels))
    pairs_KK = np.array([[task_type.metrics(monitored, [truth], [guess])[task.monitor] for guess in classes]
                         for truth in classes])  # fmt: skip
    return pairs_KK[truths_N, predicted_CN]


def expected_gaps(scores_CN: np.ndarray, groups: list[str], draws: int, seed: int = 0) -> tuple[float, float]:
    """Return by how much the best score on all clips is above what its selection gives elsewhere.

    Returns:
        The best score minus the mean over draws of groups of the score, on the clips left out, of the candidate that is
        best on the draw; and the mean of that candidate's score on the draw minus its score on all clips.
    """
    names, group_N = np.unique(groups, return_inverse=True)
    generator = np.random.default_rng(seed)
    everywhere_C, left_out, optimism = scores_CN.mean(axis=1), [], []
    for _ in range(draws):
        count_G = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        weight_N = count_G[group_N] / count_G[group_N].sum()
        drawn_C = scores_CN @ weight_N
        best = int(drawn_C.argmax())
        optimism.append(drawn_C[best] - everywhere_C[best])
        if not weight_N.all():
            left_out.append(scores_CN[best, weight_N == 0].mean())
    return float(everywhere_C.max() - np.mean(left_out)), float(np.mean(optimism))


def measure(provider: FeatureProvider, task: Task, draws: int) -> tuple[list[str], list[float]]:
    """Return the cells of a task's line, and its gaps: as met, by nested resampling, and the optimism."""
    protocol, task_type = protocols.REGISTRY.get("constrained"), task_types.REGISTRY.get(task.task_type)
    data = provider.load(task, task_type, protocol.window_spec(task, task_type, provider.card, protocol.settings()))
    train, valid, test = (data.splits[name] for name in ("train", "valid", "test"))
    state = task_type.fit(task, train.truths)
    predicted: list[list[int]] = []

    def score(logits_PRK: torch.Tensor) -> list[float]:
        predicted.extend(predict(task, task_type, state, valid, logits_PRK))
        return [each for each, _ in monitored_score(task, task_type, state, valid, logits_PRK)]

    trained = train_grid(
        ProbeProblem(training_examples(task, task_type, state, train), valid.eval_examples(), task_type.loss, score),
        grid_points(tuple(train.layers), (FIRST_SEED,)),
        GridSettings(
            task_type.outputs(task), HIDDEN, DROPOUT, BATCH, task.max_epochs, task.plateau_patience, task.stop_patience
        ),
    )
    best = select_best(task, trained)
    test_logits_PRK = probe_logits(best, test.eval_examples())[None]
    [(test_score, _)] = monitored_score(task, task_type, state, test, test_logits_PRK)
    scores_CN = clip_scores(task, task_type, np.array(valid.truths), np.array(predicted))
    # The clips' scores are those that the protocol selected by.
    assert abs(scores_CN.mean(axis=1).max() - best.history.best) < 1e-9
    gaps = [best.history.best - test_score, *expected_gaps(scores_CN, unit_groups(valid.clips), draws)]
    counts = [f"{count:,}" for count in (len(valid.clips), len(trained), len(predicted))]
    hundredths = [f"{100 * value:.1f}" for value in (best.history.best, test_score, *gaps)]
    return [task.name, *counts, *hundredths], gaps


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    for name in options.encoders:
        provider = FeatureProvider(
            resolve_encoder(name, "cpu", None), options.data_dir, "cpu", options.limit, False, {}
        )
        lines = []
        for task in map(tasks.task, options.tasks.split(",")):
            cells, gaps = measure(provider, task, options.draws)
            lines.append(gaps)
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        means = " | ".join(f"{100 * value:.1f}" for value in np.mean(lines, axis=0))
        print(f"| {name} | mean | | | | | | {means} |", flush=True)


if __name__ == "__main__":
    main()
