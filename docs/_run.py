"""Runs the snippets of a page of the documentation, or writes them as a notebook.

    python docs/_run.py docs/quickstart.md                 # in the current folder
    python docs/_run.py docs/quickstart.md quickstart.ipynb

Blocks marked `bash` and `python` run in order, the Python ones in one namespace; others (`sh`, `text`) are only shown.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```\n?", re.MULTILINE | re.DOTALL)


def run_page(path: Path) -> None:
    """Run the snippets of a page in the current folder.

    Raises:
        subprocess.CalledProcessError: a bash block failed.
        Exception: whatever a Python block raised.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for language, code in BLOCK.findall(path.read_text(encoding="utf-8")):
        print(f"--- {language}\n{code}", flush=True)
        if language == "bash":
            subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
        else:
            exec(compile(code, path.name, "exec"), namespace)


def write_notebook(page: Path, output: Path) -> None:
    """Write a page as a notebook: its text as Markdown cells, its snippets as code cells."""
    import nbformat

    cells, end = [], 0
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        language, code = block.groups()
        cells += [nbformat.v4.new_markdown_cell(text[end : block.start()].strip())]
        cells += [nbformat.v4.new_code_cell(code.rstrip() if language == "python" else f"%%bash\n{code.rstrip()}")]
        end = block.end()
    cells += [nbformat.v4.new_markdown_cell(text[end:].strip())]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [cell for cell in cells if cell.source]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), output)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        write_notebook(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        run_page(Path(sys.argv[1]))
