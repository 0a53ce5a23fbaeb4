"""The report: one HTML page with the leaderboard, its plots, what it cost and where it comes from."""
