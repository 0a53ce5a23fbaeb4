"""The leaderboard: records and published scores ranked, compared, and written as tables and pictures."""
