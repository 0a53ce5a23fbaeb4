"""`carrara leaderboard token`: add, list and revoke the tokens of a leaderboard that takes submissions."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from carrara.cli._echo import echo
from carrara.cli.leaderboard__serve import DATABASE, DATABASE_HELP


def leaderboard__token(
    action: Annotated[Literal["add", "list", "revoke"], typer.Argument(help="What to do.")],
    name: Annotated[str | None, typer.Argument(help="Name of the token, such as its holder's.")] = None,
    role: Annotated[
        Literal["submit", "admin"], typer.Option(help="admin may also delete records and read the audit log.")
    ] = "submit",
    database: Annotated[str, typer.Option(envvar="CARRARA_DATABASE", help=DATABASE_HELP)] = DATABASE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Add, list or revoke tokens of a leaderboard that takes submissions; a token is shown once and stored as a hash.

    - `carrara leaderboard token add ada`
    - `carrara leaderboard token add owner --role admin --database postgresql://me:secret@localhost/leaderboard`
    - `carrara leaderboard token revoke ada`
    - `carrara leaderboard token list`
    """
    from carrara.core.errors import UsageError
    from carrara.web.listen import import_web

    import_web()
    from sqlalchemy import select

    from carrara.web.leaderboard.database import AccessToken, add_token, open_database, revoke_token

    if (name is None) != (action == "list"):
        raise UsageError(f"token {action}: " + ("it takes no name" if name else "name the token"))
    opened = open_database(database)
    try:
        if name is not None and action == "add":
            secret = add_token(opened, name, role)
            echo(json.dumps({"name": name, "role": role, "token": secret}) if as_json else secret)
            echo("this line is shown once; `carrara submit` takes it as CARRARA_TOKEN", err=True)
        elif name is not None:
            revoke_token(opened, name)
            echo(json.dumps({"name": name, "revoked": True}) if as_json else f"{name} is revoked")
        else:
            with opened.session() as session:
                tokens = [
                    {"name": each.name, "role": each.role, "created": each.created, "revoked": each.revoked}
                    for each in session.scalars(select(AccessToken).order_by(AccessToken.id))
                ]
            lines = [
                f"{each['name']}\t{each['role']}\tsince {str(each['created'])[:10]}"
                + (f"\trevoked {each['revoked'][:10]}" if each["revoked"] else "")
                for each in tokens
            ]
            echo(json.dumps(tokens, indent=1) if as_json else "\n".join(lines) or "no tokens")
    finally:
        opened.close()
