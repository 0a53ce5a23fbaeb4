"""`carrara reproduce`: train a published ablation in miniature and test its conclusions."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from carrara.cli._echo import echo


def reproduce(
    name: Annotated[str, typer.Argument(help="A published table (`carrara ls reproductions`).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of models, records and the page.")] = Path(
        "carrara-reproduction"
    ),
    corpus: Annotated[
        list[Path] | None,
        typer.Option(help="Audio to train on; by default Pebble's unlabelled part, or Pebble with its tags."),
    ] = None,
    rows: Annotated[
        list[str] | None, typer.Option("--rows", help="Only these rows of the table, with commas or repeated.")
    ] = None,
    scale: Annotated[str, typer.Option(help="Scale of the recipes.")] = "tiny",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of every training, instead of the recipes'.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Models trained per row, one per seed.")] = 3,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=FILE", help="Official weights that rows start from: deit=FILE, passt=FILE."),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets. [env: CARRARA_DATA]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train every row of a published ablation table, measure all on Pebble, and test the authors' conclusions.

    - `carrara reproduce thesis-5-3`
    - `carrara reproduce thesis-5-3 --rows mfcc,logmel-chroma,untrained --steps 600 --seeds 3`
    - `carrara reproduce thesis-5-4 --scale small --corpus ~/Music --device cuda`
    - `carrara reproduce maest-init --scale base --weights deit=deit.pth --weights passt=passt.pt --device cuda`

    Run the same command again to continue a stopped run. Scores are Pebble's; the published ones are shown beside them.
    """
    from carrara.core.errors import UsageError, did_you_mean
    from carrara.data import REGISTRY as DATA
    from carrara.reproduce import REGISTRY

    REGISTRY.get_entry(name.replace(".", "-"))  # looked at before torch is imported

    from carrara.nn.device import pick_device
    from carrara.reproduce._page import page_markdown, page_values, write_page
    from carrara.reproduce._run import ReproductionPlan, run_reproduction
    from carrara.reproduce._verdict import decide_hypotheses, summarise_rows

    reproduction = REGISTRY.get(name.replace(".", "-"))
    known = [row.label for row in reproduction.rows]
    labels = tuple(part.strip() for text in rows or () for part in text.split(",") if part.strip())
    for label in labels:
        if label not in known:
            raise UsageError(
                f"--rows: {name} has no row {label!r}.{did_you_mean(label, known)} The rows: {', '.join(known)}."
            )
    kinds = {row.official_weights for row in reproduction.rows if row.official_weights}
    files = {}
    for text in weights or ():
        kind, _, file = text.partition("=")
        files[kind] = Path(file).expanduser()
        if kind not in kinds:
            options = " or ".join(f"{kind}=FILE" for kind in sorted(kinds))
            raise UsageError(f"--weights {text}: " + (f"give {options}" if options else "no row starts from a file"))
        if not files[kind].is_file():
            raise UsageError(f"--weights {text}: there is no such file")

    pebble = DATA.get("pebble")
    root = pebble.root(data_dir)
    pebble.download(root)
    own = [root] if reproduction.is_supervised else [clip.path for clip in pebble.clips(root, "unlabelled")]
    plan = ReproductionPlan(
        tuple(corpus or own), output, scale, seeds, steps, labels, data_dir, pick_device(device), files
    )
    results = summarise_rows(reproduction, run_reproduction(reproduction, plan), output / "results")
    verdicts = decide_hypotheses(reproduction, results, plan.missing_weights(reproduction))
    text = page_markdown(reproduction, plan, results, verdicts, shlex.join(["carrara", *sys.argv[1:]]))
    page = write_page(plan, reproduction, text, results)
    values = page_values(reproduction, plan, results, verdicts)
    echo(json.dumps(values, ensure_ascii=False, indent=1) if as_json else text)
    echo(f"wrote {page}", err=True)
