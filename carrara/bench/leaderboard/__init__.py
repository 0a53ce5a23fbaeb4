"""The board: records and published tables ranked, compared and written out as text, Markdown, LaTeX and pictures."""
