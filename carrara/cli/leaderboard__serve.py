"""`carrara leaderboard serve`: serve a leaderboard that takes submissions."""

from __future__ import annotations

from typing import Annotated

import typer

from carrara.cli._echo import echo

DATABASE_HELP = "sqlite:///file.db or postgresql://user:password@host/name."
DATABASE = "sqlite:///leaderboard.db"


def leaderboard__serve(
    database: Annotated[str, typer.Option(envvar="CARRARA_DATABASE", help=DATABASE_HELP)] = DATABASE,
    host: Annotated[str, typer.Option(help="Address to answer at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8300,
    per_minute: Annotated[int, typer.Option(min=1, help="Records that a token may submit in a minute.")] = 60,
) -> None:
    """Serve a leaderboard that takes records: pages of the accepted ones, and an HTTP interface for `carrara submit`.

    - `carrara leaderboard serve`, with an SQLite file in this folder
    - `carrara leaderboard serve --database postgresql://me:secret@localhost/leaderboard --port 8400`
    - `carrara leaderboard serve --host 0.0.0.0 --port 80`

    Before others can submit, add a token for each: `carrara leaderboard token add ada`. Each record
    is verified as by `carrara verify-record`, every score again from its predictions, before it is shown. Put a web
    server with TLS in front where others reach it. /api/openapi.json describes the interface.
    """
    from carrara.web.listen import bind_socket, format_url, import_web, run_application

    import_web()
    listener = bind_socket(host, port)
    from carrara.web.leaderboard.app import create_app
    from carrara.web.leaderboard.database import open_database
    from carrara.web.leaderboard.pages import SitePages

    opened = open_database(database)
    app = create_app(opened, SitePages(opened), per_minute)
    echo(f"leaderboard at {format_url(listener)} (Ctrl-C ends it)")
    run_application(app, listener)
