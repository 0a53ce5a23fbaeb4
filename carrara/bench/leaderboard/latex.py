r"""The board as a LaTeX table for a paper, with booktabs' rules.

It needs `\usepackage{booktabs}` and nothing else. Lines and columns stand as in the printed table; the best measured
system of a row is bold, published systems never are. Notes follow the table as footnote-sized lines.
"""

from __future__ import annotations

import re

from carrara.bench.leaderboard.ranking import Board, Span
from carrara.bench.leaderboard.text import MISSING, grid

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    # After a line's end a bracket or a star would be taken for the command's own.
    "[": "{[}",
    "*": "{*}",
    "–": r"\textendash{}",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "§": r"\S{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "²": r"\textsuperscript{2}",
}


def latex(board: Board, intervals: bool = True) -> str:
    """Return the board as a table environment, with each score's interval in small type or without."""

    def cell(value: Span | float | None, marks: str, best: bool) -> str:
        if value is None:
            return escaped(MISSING)
        score = f"{value if isinstance(value, float) else value.value:.1f}"
        text = (rf"\textbf{{{score}}}" if best else score) + escaped(marks)
        if intervals and not isinstance(value, float):
            text += rf" {{\scriptsize [{value.low:.1f}, {value.high:.1f}]}}"
        return text

    table = grid(board, cell, escaped)
    head, *lines = [" & ".join(line) + r" \\" for line in table]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            r"\small",
            rf"\caption{{{escaped(board.title)}.}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table[0]) - 1)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
            *(rf"{{\footnotesize {escaped(note)}\par}}" for note in board.notes),
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Return text that LaTeX prints as it is, on one line."""
    plain = "".join(SPECIAL.get(char, char if char.isprintable() else " ") for char in text)
    # Two hyphens would become a dash.
    return re.sub("-(?=-)", "-{}", plain)
