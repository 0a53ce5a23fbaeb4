"""The report: one HTML page with the leaderboard, plots, costs and provenance."""
