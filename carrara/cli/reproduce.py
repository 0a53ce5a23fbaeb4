"""`carrara reproduce`: train a published ablation in miniature and test its conclusions."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carrara.cli._echo import echo

if TYPE_CHECKING:
    from carrara.reproduce._base import Reproduction

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of models, records and the page.")]
Corpus = Annotated[
    list[Path] | None,
    typer.Option(help="Audio to train on; by default Pebble's unlabelled part, or Pebble with its tags."),
]
Rows = Annotated[
    list[str] | None, typer.Option("--rows", help="Only these rows of the table, with commas or repeated.")
]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--tasks", help="Measure these tasks instead of the table's, with commas or repeated."),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(metavar="KIND=FILE", help="Official weights that rows start from: deit=FILE, passt=FILE."),
]
OtherCorpus = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FOLDER", help="Audio of rows with another corpus: speech=FOLDER, other=FOLDER."),
]
Model = Annotated[
    list[str] | None,
    typer.Option(metavar="ROW=ENCODER", help="A trained encoder for a row, instead of training; one per seed."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a setting of every row's recipe; may be repeated."),
]
ProtocolName = Annotated[
    str,
    typer.Option("--protocol", help="Of the probes, with settings after a colon: linear:layers=concat:last4 is quick."),
]


def reproduce(
    name: Annotated[str, typer.Argument(help="A published table (`carrara ls reproductions`).")],
    output: Output = Path("carrara-reproduction"),
    corpus: Corpus = None,
    rows: Rows = None,
    tasks: Tasks = None,
    scale: Annotated[str, typer.Option(help="Scale of the recipes.")] = "tiny",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of every training, instead of the recipes'.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Models trained per row, one per seed.")] = 3,
    weights: Weights = None,
    other_corpus: OtherCorpus = None,
    model: Model = None,
    changes: Changes = None,
    protocol: ProtocolName = "constrained",
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets. [env: CARRARA_DATA]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train every row of a published ablation, measure all on Pebble, and test the authors' conclusions.

    - `carrara reproduce thesis-5-3`
    - `carrara reproduce thesis-5-3 --rows logmel-chroma-cqt,logmel-chroma,untrained --steps 600 --seeds 3`
    - `carrara reproduce thesis-5-4 --scale small --corpus ~/Music --device cuda`
    - `carrara reproduce thesis-4-1 --other-corpus speech=speech`
    - `carrara reproduce appendix-b --model trained=my-mert --seeds 1`
    - `carrara reproduce stability --steps 200 --seeds 1`
    - `carrara reproduce maest-init --scale base --weights deit=deit.pth --weights passt=passt.pt --device cuda`

    Run the same command again to continue a stopped run. Scores are Pebble's; the published ones are shown beside them.
    `--rows`, `--steps` and `--set` make a run cheaper: every row keeps the same budget. The page shows each training's
    curve and says whether it has flattened; a verdict is in bold from three seeds on.
    """
    from carrara.bench.config import parse_protocol_name
    from carrara.cli._checks import check_bench_config, check_corpus, check_encoder, check_output_folder, check_recipe
    from carrara.core.settings import parse_assignments
    from carrara.data import REGISTRY as DATA
    from carrara.nn.device import check_device, pick_device
    from carrara.reproduce import REGISTRY

    # Whatever can be wrong in the command is looked at before torch is imported.
    reproduction = REGISTRY.get(name.replace(".", "-"))
    known = [row.label for row in reproduction.rows]
    labels = _parse_rows(name, rows or (), known)
    if tasks:
        reproduction = _with_tasks(reproduction, name, tasks)
    kinds = {row.official_weights for row in reproduction.rows if row.official_weights}
    files = _parse_paths("--weights", weights or (), kinds, "no row starts from a file")
    corpora_kinds = {row.corpus for row in reproduction.rows if row.corpus}
    corpora = _parse_paths("--other-corpus", other_corpus or (), corpora_kinds, "no row has another corpus")
    models = _parse_models(model or (), known)
    for encoder in sum(models.values(), ()):
        check_encoder(encoder)
    assignments = parse_assignments(changes or [])
    for recipe in {row.recipe for row in reproduction.rows if row.recipe and (not labels or row.label in labels)}:
        check_recipe(recipe, scale, assignments)
    check_bench_config(parse_protocol_name(protocol))
    check_device(device)
    check_corpus(corpus or ())
    check_output_folder(output)

    from carrara.reproduce._report import run_and_report
    from carrara.reproduce._run import ReproductionPlan

    pebble = DATA.get("pebble")
    root = pebble.root(data_dir)
    pebble.download(root)
    own = [root] if reproduction.is_supervised else [clip.path for clip in pebble.clips(root, "unlabelled")]
    plan = ReproductionPlan(
        tuple(corpus or own), output, scale, seeds, steps, labels, data_dir, pick_device(device), files, corpora,
        assignments, models, protocol,
    )  # fmt: skip
    if reproduction.measures == "tasks":
        plan.bench_config(reproduction, 0).check()
    command = shlex.join(["carrara", *sys.argv[1:]])
    values, text, page = run_and_report(reproduction, plan, command)
    echo(json.dumps(values, ensure_ascii=False, indent=1) if as_json else text)
    echo(f"wrote {page}", err=True)


def _parse_rows(name: str, texts: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of `["a,b", "c"]`, each of them one of a reproduction's rows."""
    from carrara.core.errors import UsageError, did_you_mean

    labels = tuple(part.strip() for text in texts for part in text.split(",") if part.strip())
    for label in labels:
        if label not in known:
            raise UsageError(
                f"--rows: {name} has no row {label!r}.{did_you_mean(label, known)} The rows: {', '.join(known)}."
            )
    return labels


def _with_tasks(reproduction: Reproduction, name: str, texts: Sequence[str]) -> Reproduction:
    """Return the reproduction with the tasks of `["pebble/key,pebble/genre", …]` instead of its own."""
    from carrara.bench.tasks import task as find_task
    from carrara.core.errors import UsageError

    if reproduction.measures != "tasks":
        raise UsageError(f"--tasks: {name} measures no tasks; leave it out")
    names = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    return replace(reproduction, tasks=tuple(find_task(each).name for each in names))


def _parse_paths(option: str, texts: Sequence[str], kinds: Collection[str], none: str) -> dict[str, Path]:
    """Return `["deit=FILE"]` as paths by kind; `none` says why there are no kinds."""
    from carrara.core.errors import UsageError

    paths = {}
    for text in texts:
        kind, _, path = text.partition("=")
        paths[kind] = Path(path).expanduser()
        what = "FILE" if option == "--weights" else "FOLDER"
        if kind not in kinds:
            options = " or ".join(f"{kind}={what}" for kind in sorted(kinds))
            raise UsageError(f"{option} {text}: " + (f"give {options}" if options else none))
        if not (paths[kind].is_file() if what == "FILE" else paths[kind].exists()):
            raise UsageError(f"{option} {text}: there is no such {what.lower()}")
    return paths


def _parse_models(texts: Sequence[str], known: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return `["trained=FOLDER", …]` as encoders by row."""
    from carrara.core.errors import UsageError

    models: dict[str, tuple[str, ...]] = {}
    for text in texts:
        label, _, encoder = text.partition("=")
        if label not in known or not encoder:
            raise UsageError(f"--model {text}: write it as ROW=ENCODER. The rows: {', '.join(known)}.")
        models[label] = (*models.get(label, ()), encoder)
    return models
