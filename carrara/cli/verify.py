"""`carrara verify`: check official files and datasets against known hashes, counts and reference outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from carrara.cli._echo import echo


def verify(
    name: Annotated[str, typer.Argument(help="An encoder, a dataset, or all.")],
    file: Annotated[
        Path | None, typer.Option(help="The encoder's official file or folder, instead of a download.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets. [env: CARRARA_DATA]")] = None,
    download: Annotated[
        bool | None,
        typer.Option(
            "--download/--no-download",
            help="Fetch official files that are not here; by default for one name, not for all.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the outputs of each layer.")] = False,
) -> None:
    """Check an encoder's official files, or a dataset, against known hashes, counts and reference outputs.

    - `carrara verify musicnn-msd`
    - `carrara verify mert-v1-95m --file ~/Downloads/MERT-v1-95M`
    - `carrara verify gtzan --data-dir /data/music`
    - `carrara verify all --json` checks whatever is on this machine

    Prints a report to paste into an issue; nothing is sent. Exit 1 if a check failed, or nothing was at hand.
    """
    from carrara.verify import render_verifications
    from carrara.verify import verify as run_checks

    allow_download = download if download is not None else name != "all"
    verifications = run_checks(name, file, data_dir, allow_download)
    echo(render_verifications(verifications, as_json))
    statuses = {each.status for each in verifications}
    if "failed" in statuses or "passed" not in statuses:
        raise typer.Exit(1)
