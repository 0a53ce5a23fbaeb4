"""The static site of a leaderboard on the Hugging Face hub, as a Space whose files are served as they are."""

from __future__ import annotations

import json
from pathlib import Path

from carrara.bench.site.write import INDEX, OWN_FOLDERS
from carrara.core.errors import UsageError
from carrara.core.io import write_text
from carrara.encoders._hub.push import check_repository, hub_errors


def push_site(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a site that `write_site` wrote and return the address of the commit; the Space is created if missing.

    Data and records that the Space has and the folder has not are deleted. Address and token are huggingface_hub's:
    `HF_ENDPOINT`, `HF_TOKEN` or `hf auth login`.

    Args:
        folder: of the site. Its README.md, which names the kind of Space, is written where it is missing.
        repository: org/name or user/name.
        private: whether a new Space is private.

    Raises:
        UsageError: the folder holds no site, the name is none, or the hub refuses; the message says why.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    if not (folder / "data" / f"{INDEX}.json").is_file():
        raise UsageError(f"{folder}: holds no site; `carrara leaderboard results --site {folder}` writes one")
    check_repository(repository)
    if not (folder / "README.md").is_file():
        title = json.dumps(repository.partition("/")[2])
        facts = f"title: {title}\nsdk: static\napp_file: index.html\npinned: false\ntags: [leaderboard, music]\n"
        write_text(
            folder / "README.md", f"---\n{facts}---\n\nA leaderboard of music-audio encoders, written by Carrara.\n"
        )
    api = HfApi()
    with hub_errors(repository):
        api.create_repo(repository, repo_type="space", space_sdk="static", private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            repo_type="space",
            folder_path=folder,
            allow_patterns=["*.html", "*.js", "*.css", "README.md", *(f"{name}/**" for name in OWN_FOLDERS)],
            delete_patterns=[f"{name}/**" for name in OWN_FOLDERS],
            commit_message="The leaderboard, by carrara push-site",
        )
    return str(commit.commit_url)
