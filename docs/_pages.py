"""Hooks of MkDocs: pages of the datasets from the registry, and links from citations to the references."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

from carrara.bench import tasks
from carrara.data import REGISTRY

REFERENCES = "references.md"
NOTES = re.compile(r"(?<!`)\[notes/(\w+)((?: §[^\]]*)?)\](?![(\[:])")
INTERVAL = re.compile(r"(?<=[\d.]) (\[[-+]?[\d.]+,) ([-+]?[\d.]+\])(?: (†))?")
PICTURE = re.compile(r"^(!\[[^\]]*\]\(([^)]+)\))$")
DEFINITION = re.compile(r"\*\*\[([\w-]+)\]\*\*")
CITATION = re.compile(r"(?<![\[`\w])\[([\w-]+)((?: §[^\]]*)?)\](?![(\[:])")
KEYS = set(DEFINITION.findall((Path(__file__).parent / REFERENCES).read_text(encoding="utf-8")))


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """Link `[key §n]` to the reference, `[notes/name §n]` to its page and a picture to its file.

    Args:
        markdown: text of the page.
        page: the page.
        config: of MkDocs.
        files: the site's files.
    """
    if page.file.src_uri == REFERENCES:
        markdown = DEFINITION.sub(r'<a id="\1"></a>**\\[\1\\]**', markdown)
    target = posixpath.relpath(REFERENCES, posixpath.dirname(page.file.src_uri) or ".")

    def link(match: re.Match[str]) -> str:
        key, section = match.groups()
        return f"[\\[{key}{section}\\]]({target}#{key})" if key in KEYS else match.group()

    markdown = CITATION.sub(link, markdown)
    if not page.file.src_uri.startswith("notes/"):
        notes = posixpath.relpath("notes", posixpath.dirname(page.file.src_uri) or ".")
        markdown = NOTES.sub(rf"[\\[notes/\1\2\\]]({notes}/\1.md)", markdown)
    # On a telephone the letters of a wide picture are too small to read before it is opened.
    lines = [PICTURE.sub(r"[\1](\2)", line) for line in markdown.split("\n")]
    # A table's columns are narrow: no interval is broken there.
    return "\n".join(INTERVAL.sub(_unbroken, line) if line.startswith("|") else line for line in lines)


def _unbroken(interval: re.Match[str]) -> str:
    return "".join(f"\xa0{part}" for part in interval.groups() if part)


def on_files(files: Files, config) -> Files:
    """Add a page for each dataset, and their list.

    Args:
        files: the site's files.
        config: of MkDocs.
    """
    tasks_of: dict[str, list[str]] = {name: [] for name in REGISTRY.names()}
    for task in tasks.REGISTRY.names():
        tasks_of.setdefault(tasks.task(task).dataset, []).append(task)
    lines = [
        "# Data",
        "",
        "Datasets are read in the layout in which they are distributed. `carrara download NAME` downloads what may be",
        "downloaded, resumes, and prints the steps by hand for the rest; `carrara check NAME` compares a copy with the",
        "official annotations and says what its scores are comparable with. Where a page gives a layout, it is",
        "below `--data-dir` (or `$CARRARA_DATA`, by default `~/mir_datasets`).",
        "",
        "| name | dataset | licence | tasks |",
        "|---|---|---|---|",
    ]
    for name in REGISTRY.names():
        files.append(File.generated(config, f"datasets/{name}.md", content=_page(name, tasks_of[name])))
        dataset = REGISTRY.get(name)
        lines.append(f"| [{name}]({name}.md) | {dataset.title} | {dataset.license} | {len(tasks_of[name]) or '–'} |")
    files.append(File.generated(config, "datasets/index.md", content="\n".join(lines) + "\n"))
    return files


def _page(name: str, task_names: list[str]) -> str:
    dataset, entry = REGISTRY.get(name), REGISTRY.get_entry(name)
    commands = ["```sh", f"carrara download {name}", f"carrara check {name}", "```", ""] if name != "folder" else []
    title = dataset.title[:1].upper() + dataset.title[1:]
    parts = [f"# {title}", "", entry.text, "", "## How to get it", "", *commands, f"Source: {dataset.source}", ""]
    if dataset.manual_steps:
        parts += ["What has to be done by hand:", "", "```text", dataset.manual_steps, "```", ""]
    parts += ["## Facts", "", "| | |", "|---|---|", f"| licence | {dataset.license} |"]
    commercial = {True: "allowed", False: "not allowed", None: "unknown"}[dataset.commercial_use]
    parts += [f"| commercial use | {commercial} |", f"| cite | {dataset.citation} |"]
    for scheme, counts in dataset.expected_counts.items():
        numbers = ", ".join(f"{split} {count}" for split, count in counts.items())
        parts.append(f"| clips, `{scheme}` | {numbers} |")
    for scheme, groups in dataset.known_leaks.items():
        shared = "not counted" if groups is None else f"{groups}"
        parts.append(f"| groups that official splits share, `{scheme}` | {shared} |")
    if task_names:
        parts += ["", "## Tasks", ""]
        parts += [f"- `{task}`: {tasks.REGISTRY.get_entry(task).summary}" for task in task_names]
    return "\n".join(parts) + "\n"
