"""`carrara push-site`: put the pages of a leaderboard on the Hugging Face hub."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from carrara.cli._echo import echo


def push_site(
    repository: Annotated[str, typer.Argument(help="Space on the hub, org/name; it is created where it is missing.")],
    results: Annotated[Path, typer.Option(help="Folder of the records.")] = Path("results"),
    site: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Upload this site, which `leaderboard --site` wrote, instead.")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="Show only this suite's tasks (`carrara ls suites`).")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new Space private.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put the pages of a leaderboard on the Hugging Face hub, as a static Space.

    - `carrara push-site my-lab/music-leaderboard`
    - `carrara push-site my-lab/music-leaderboard --results results --suite marble-14`
    - `carrara push-site my-lab/music-leaderboard --site site --private`

    Log in once with `hf auth login`, or set HF_TOKEN. Every record is uploaded with the pages, as each score links to
    its own; predictions are not. A second run replaces the pages.
    """
    from carrara.core.errors import UsageError
    from carrara.core.record import read_records

    if site is not None and suite is not None:
        raise UsageError("--suite chooses among records, and --site uploads pages as they are; leave one out")
    if site is None:
        records = list(read_records(results))
        if not records:
            raise UsageError(f"{results}: no records in it; `carrara bench ENCODER -o {results}` writes some")
    from carrara.bench.site import push, write

    with tempfile.TemporaryDirectory(prefix="carrara-site-") as folder:
        if site is None:
            write.write_site(Path(folder), records, results, suite)
        address = push.push_site(site or Path(folder), repository, private)
    if as_json:
        echo(json.dumps({"repository": repository, "commit": address}))
        return
    echo(address)
