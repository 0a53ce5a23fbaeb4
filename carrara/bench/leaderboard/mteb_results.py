"""Records as the result files of MTEB, for the tasks that both have: the same recordings, queries and metric.

There is one, `song-describer/text-full`: all 1,106 captions search the 706 recordings, each has one, and nothing is
trained, so a record's ranks are all that MTEB's scores need. docs/adapters.md compares the other tasks. The folder is
that of MTEB's `ResultCache`: `results/<model>/<revision>/<Task>.json` with `model_meta.json` beside it. The version of
mteb in it is empty, since mteb did not run, and there are no `nauc_…`, which need the similarities.

Letters: Q queries, R ranks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carrara.bench.predictions import predictions_path, read_predictions
from carrara.bench.tasks import task as load_task
from carrara.core.errors import UsageError
from carrara.core.io import write_text
from carrara.core.record import Record

CUTOFFS = (1, 3, 5, 10, 20, 100, 1000)


@dataclass(frozen=True)
class MtebTask:
    """A task as MTEB names it.

    Attributes:
        name, revision: of the task and of its dataset on the hub, as in mteb 2.26.
        main_score: the metric of its leaderboard.
        languages: as MTEB writes them.
        queries, recordings: how many there are.
    """

    name: str
    revision: str
    main_score: str
    languages: tuple[str, ...]
    queries: int
    recordings: int


MTEB_TASKS = {
    "song-describer/text-full": MtebTask(
        "SongDescriberT2ARetrieval",
        "c58ad9b08343e56ce412d4da41accd15bffdbd6d",
        "recall_at_5",
        ("eng-Latn",),
        queries=1106,
        recordings=706,
    )
}


def mteb_model_name(name: str) -> str:
    """Return an encoder's name in MTEB's form, organisation/model."""
    return name if name.count("/") == 1 else f"carrara/{name.replace('/', '-')}"


def retrieval_scores(ranks_Q: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return MTEB's scores of queries from the ranks of each one's positives, from 1 and ascending, at least one each.

    Recall, precision, hit rate, nDCG, average precision and the reciprocal rank of the first positive, at each of
    `CUTOFFS`, means over the queries as trec_eval defines them.
    """
    scores: dict[str, float] = {}
    for cutoff in CUTOFFS:
        sums: dict[str, list[float]] = {}
        for ranks in ranks_Q:
            rank_R = np.asarray(ranks)
            inside_R = rank_R[rank_R <= cutoff]
            ideal = np.sum(1 / np.log2(2 + np.arange(min(len(rank_R), cutoff))))
            values = {
                "recall": len(inside_R) / len(rank_R),
                "precision": len(inside_R) / cutoff,
                "hit_rate": float(len(inside_R) > 0),
                "ndcg": np.sum(1 / np.log2(1 + inside_R)) / ideal,
                "map": np.sum(np.arange(1, len(inside_R) + 1) / inside_R) / len(rank_R),
                "mrr": 1 / rank_R[0] if len(inside_R) else 0.0,
            }
            for name, value in values.items():
                sums.setdefault(name, []).append(float(value))
        scores |= {f"{name}_at_{cutoff}": float(np.mean(each)) for name, each in sums.items()}
    return scores | {"accuracy": scores["recall_at_1"]}


def to_mteb_result(record: Record, results: Path) -> dict[str, Any]:
    """Return a record as MTEB's `TaskResult` writes it.

    Args:
        record: of a task in `MTEB_TASKS`.
        results: the folder of the records; the ranks are in the predictions beside them.

    Raises:
        UsageError: MTEB has no such task, or the record is of an older version of it or of a part of its recordings or
            texts.
        StoreError: its predictions cannot be read.
    """
    task = MTEB_TASKS.get(record.task.name)
    if task is None:
        raise UsageError(
            f"{record.task.name}: MTEB has no equal task; of this program's it has {', '.join(MTEB_TASKS)}"
        )
    path = record.path(results)
    if record.task.version != load_task(record.task.name).version:
        raise UsageError(f"{path}: of version {record.task.version} of its task; measure again")
    ranks = [
        ranks
        for truth, prediction in next(iter(read_predictions(predictions_path(record, results)).values())).values()
        for _, ranks in zip(truth, prediction, strict=True)
    ]
    if record.partial or (len(ranks), record.data.n["test"]) != (task.queries, task.recordings):
        raise UsageError(
            f"{path}: {len(ranks)} texts and {record.data.n['test']} recordings; MTEB's {task.name} has {task.queries} "
            f"and {task.recordings}, and only all of them make its score"
        )
    scores = retrieval_scores(ranks)
    entry = scores | {"main_score": scores[task.main_score], "hf_subset": "default", "languages": list(task.languages)}
    return {
        "dataset_revision": task.revision,
        "task_name": task.name,
        "mteb_version": None,
        "scores": {"test": [entry]},
        "evaluation_time": sum(record.run.seconds.values()),
        "kg_co2_emissions": None,
    }


def write_mteb_results(records: Sequence[Record], results: Path, folder: Path) -> list[Path]:
    """Write the records whose task MTEB has below a folder that MTEB's `ResultCache` reads, and return the files.

    Raises:
        UsageError: there is no such record, there are two of one encoder, or see `to_mteb_result`.
        StoreError: a file cannot be read or written.
    """
    chosen = [record for record in records if record.task.name in MTEB_TASKS]
    if not chosen:
        raise UsageError(
            f"{results}: no record of a task that MTEB has ({', '.join(MTEB_TASKS)}); `carrara bench ENCODER -t "
            f"{next(iter(MTEB_TASKS))} -o {results}` writes one"
        )
    sources: dict[Path, Path] = {}
    contents: dict[Path, dict[str, Any]] = {}
    for record in chosen:
        name, revision = mteb_model_name(record.encoder.name), record.encoder.weights_sha256[:12]
        target = folder / "results" / name.replace("/", "__") / revision / f"{MTEB_TASKS[record.task.name].name}.json"
        if target in sources:
            raise UsageError(f"{sources[target]} and {record.path(results)} are one result for MTEB; move one away")
        sources[target] = record.path(results)
        contents[target] = to_mteb_result(record, results)
        contents[target.with_name("model_meta.json")] = {
            "name": name,
            "revision": revision,
            "n_parameters": record.encoder.parameters or None,
            "framework": ["PyTorch"],
            "similarity_fn_name": "cosine",
            "modalities": ["audio", "text"],
            "model_type": ["dense"],
            "loader": None,
        }
    for path, values in contents.items():
        write_text(path, json.dumps(values, indent=2) + "\n")
    return list(sources)
