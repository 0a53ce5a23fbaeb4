"""The report: one HTML page with the board, its plots, what it cost and where it comes from."""
