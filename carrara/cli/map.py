"""`carrara map`: recordings in two dimensions by their embeddings, and how well each layer separates a label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from carrara.cli._echo import echo
from carrara.core.printable import one_line

if TYPE_CHECKING:
    from carrara.core.clip import Clip
    from carrara.features.embedding_map import MapPoints, Separation

PICTURE_ENDINGS = (".png", ".svg", ".pdf")


def map(
    source: Annotated[Path, typer.Argument(help="A table of `carrara embed`, or the folder of a feature store.")],
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", help="Write OUT.png, .svg, .pdf or .parquet; may be repeated."),
    ] = None,
    color: Annotated[str | None, typer.Option(metavar="LABEL", help="Colour by this label, and measure it.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV or Parquet with path, labels and, if you like, split."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Take the labels from this dataset (`carrara ls data`).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets, by default $CARRARA_DATA.")] = None,
    layer: Annotated[list[str] | None, typer.Option(help="Only this layer; may be repeated. By default all.")] = None,
    method: Annotated[Literal["pca", "umap"], typer.Option(help="umap needs `pip install 'carrara[maps]'`.")] = "pca",
    neighbors: Annotated[int, typer.Option(min=1, help="Nearest neighbours that the purity looks at.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Draw recordings in two dimensions by their embeddings, and measure how well each layer separates a label.

    - `carrara map music.parquet -o music.png`
    - `carrara map music.parquet --labels labels.csv --color genre --method umap -o map.svg -o map.png`
    - `carrara map ~/.cache/carrara/features/mfcc/4e83… --data pebble --color genre --json`
    - `carrara map music.parquet --layer 5 -o map.parquet`, for `embedding-atlas map.parquet`

    A point is a recording. The axes are fitted on the training split where the labels have one. Purity is the fraction
    of the nearest neighbours with the same label, silhouette as in scikit-learn, both by cosine between embeddings.
    With --color, recordings without the label are left out.
    """
    from carrara.cli._outputs import check_ending
    from carrara.core.errors import UsageError, did_you_mean
    from carrara.features.draw_map import draw_map, is_numeric
    from carrara.features.embedding_map import measure_separation, project_points, read_points, write_map_table
    from carrara.features.store import META

    outputs = output or []
    for path in outputs:
        check_ending(path, (*PICTURE_ENDINGS, ".parquet"), has_stdout=False)
    if labels is not None and data is not None:
        raise UsageError("--labels and --data both name labels; give one of them")
    if color is not None and labels is None and data is None:
        raise UsageError(f"--color {color}: give the labels with --labels FILE or --data DATASET")
    points = read_points(source, read_label_clips(labels, data, data_dir), layer or ())
    if color is not None and color not in points.labels:
        raise UsageError(
            f"--color {color}: no such label.{did_you_mean(color, points.labels)} "
            f"The labels: {', '.join(points.labels) or 'none'}."
        )
    count = len(points.names)
    if color is not None:
        points = points.labelled(color)
        if len(points.names) < count:
            echo(f"left out: {count - len(points.names)} of {count} recordings, which have no {color}", err=True)
    if len(points.layers) > 1 and any(path.suffix == ".parquet" for path in outputs):
        raise UsageError(f"a Parquet map is of one layer; choose with --layer: {', '.join(points.layers)}")
    values = None if color is None else points.labels[color]
    if values is not None and any(isinstance(value, list | tuple | dict) for value in values):
        raise UsageError(f"--color {color}: has several values a recording; choose a label with one")
    separations = {}
    if values is not None and not is_numeric(values):
        for name, vectors_ND in points.layers.items():
            separations[name] = measure_separation(vectors_ND, values, neighbors)
    if outputs:
        placed = {name: project_points(vectors, points.fitted, method) for name, vectors in points.layers.items()}
        name = source.parent.name if (source / META).is_file() else source.name
        title = f"{name}{f' by {color}' if color else ''}, {method.upper()}"
        for path in outputs:
            if path.suffix == ".parquet":
                write_map_table(path, points, *next(iter(placed.items())))
            else:
                draw_map(path, placed, values, title, separations)
            echo(f"wrote {path}", err=True)
    _print_separations(points, separations, as_json)


def read_label_clips(labels: Path | None, data: str | None, data_dir: Path | None) -> list[Clip]:
    """Return clips with labels and splits, of a file or of a dataset; none where both are None.

    Raises:
        DataError: the file or the dataset's annotations cannot be read.
        UsageError: the file has no column `path`, or there is no such dataset.
    """
    from carrara.core.clip import Clip, Split
    from carrara.core.errors import DataError, UsageError

    if data is not None:
        from carrara.data import REGISTRY

        dataset = REGISTRY.get(data)
        root = dataset.root(data_dir)
        splits: dict[str, Split] = {}
        # Schemes of different collections complete each other; where two disagree the first counts.
        for scheme in reversed(list(dataset.splits(root).values())):
            splits |= scheme
        return [clip.with_split(splits.get(clip.id)) for clip in dataset.index(root)]
    if labels is None:
        return []
    import pandas as pd

    try:
        frame = pd.read_parquet(labels) if labels.suffix == ".parquet" else pd.read_csv(labels, dtype=str)
    except (OSError, ValueError) as problem:
        raise DataError(f"{labels}: cannot be read as CSV or Parquet ({problem})") from None
    if "path" not in frame:
        raise UsageError(
            f"{labels}: has no column 'path'. Its columns: {', '.join(str(name) for name in frame.columns)}"
        )
    clips = []
    for number, row in enumerate(frame.astype(object).where(frame.notna(), None).to_dict("records")):
        own = {str(key): value for key, value in row.items() if key not in ("path", "split")}
        path = Path(str(row["path"])).expanduser()
        clips.append(Clip(str(number), path, labels=own).with_split(row.get("split")))
    return clips


def _print_separations(points: MapPoints, separations: dict[str, Separation], as_json: bool) -> None:
    if as_json:
        layers = {name: vars(separations[name]) if name in separations else None for name in points.layers}
        echo(json.dumps({"points": len(points.names), "fitted": int(points.fitted.sum()), "layers": layers}))
        return
    if not separations:
        echo(f"{len(points.names)} recordings, layers {', '.join(points.layers)}")
        return
    first = next(iter(separations.values()))
    echo("layer\tpurity\tsilhouette")
    for name, each in separations.items():
        echo(f"{one_line(name)}\t{each.purity:.3f}\t{each.silhouette:.3f}")
    echo(f"{first.points} recordings; purity without any order would be {first.chance:.3f}", err=True)
