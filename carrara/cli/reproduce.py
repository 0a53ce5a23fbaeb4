"""`carrara study`: do a paper's claims hold in miniature?"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import typer


def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            help="A published table: thesis-4.2, thesis-4.3, thesis-5.3, thesis-5.4, maest-init, maest-segment, "
            "maest-tokens."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of models, records and the page.")] = Path(
        "carrara-study"
    ),
    corpus: Annotated[
        list[Path] | None,
        typer.Option(help="Sound to learn from; by default Pebble's unlabelled part, or Pebble with its tags."),
    ] = None,
    lines: Annotated[
        list[str] | None, typer.Option("--lines", help="Only these lines of the table, with commas or repeated.")
    ] = None,
    scale: Annotated[str, typer.Option(help="Scale of the recipes.")] = "tiny",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of every training, not the recipes'.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Models a line.")] = 3,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=FILE", help="Official weights that lines begin from: deit=FILE, passt=FILE."),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets. [env: CARRARA_DATA]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Train every line of a published ablation table, measure all on Pebble, and say which claims hold.

    - `carrara study thesis-5.3`
    - `carrara study thesis-5.3 --lines mfcc,logmel-chroma,untrained --steps 600 --seeds 3`
    - `carrara study thesis-5.4 --scale small --corpus ~/Music --device cuda`
    - `carrara study maest-init --scale base --weights deit=deit.pth --weights passt=passt.pt --device cuda`

    Stopped anywhere, the same command goes on. Scores are Pebble's; the published ones stand beside them.
    """
    from carrara.data import REGISTRY as DATA
    from carrara.nn.device import pick_device
    from carrara.reproduce import REGISTRY
    from carrara.reproduce._measure import Plan, measured
    from carrara.reproduce._page import markdown, values, write
    from carrara.reproduce._verdict import found, verdicts

    asked = REGISTRY.get(name.replace(".", "-"))
    labels = _labels(lines or (), [line.label for line in asked.lines])
    files = _files(weights or (), {line.weights for line in asked.lines if line.weights})
    root = DATA.get("pebble").root(data_dir)
    DATA.get("pebble").get(root)
    own = [root] if asked.labelled else [clip.path for clip in DATA.get("pebble").clips(root, "unlabelled")]
    sound = tuple(corpus or own)
    plan = Plan(sound, output, scale, seeds, steps, labels, data_dir, pick_device(device), files)
    results = found(asked, list(measured(asked, plan)), output / "results")
    judged = verdicts(asked, results, plan.lacking(asked))
    text = markdown(asked, plan, results, judged, shlex.join(["carrara", *sys.argv[1:]]))
    page = write(plan, asked, text, results)
    typer.echo(json.dumps(values(asked, plan, results, judged), ensure_ascii=False, indent=1) if as_json else text)
    typer.echo(f"wrote {page}", err=True)


def _labels(given: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the lines that `--lines` names.

    Raises:
        UsageError: one that the study has not.
    """
    from carrara.core.errors import UsageError, did_you_mean

    labels = tuple(part.strip() for text in given for part in text.split(",") if part.strip())
    for label in labels:
        if label not in known:
            raise UsageError(f"--lines: the study has no line {label!r}.{did_you_mean(label, known)}")
    return labels


def _files(given: Sequence[str], kinds: Collection[str]) -> dict[str, Path]:
    """Return the files of `--weights`, by kind.

    Raises:
        UsageError: not KIND=FILE, a kind that no line of the study begins from, or no such file.
    """
    from carrara.core.errors import UsageError

    files = {}
    for text in given:
        kind, _, name = text.partition("=")
        path = Path(name).expanduser()
        if kind not in kinds:
            known = " or ".join(f"{one}=FILE" for one in sorted(kinds))
            raise UsageError(f"--weights {text}: " + (f"give {known}" if known else "no line begins from a file"))
        if not path.is_file():
            raise UsageError(f"--weights {text}: there is no such file")
        files[kind] = path
    return files
