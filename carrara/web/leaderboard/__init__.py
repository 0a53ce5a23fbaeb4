"""A leaderboard that takes submissions: a database of records, an HTTP interface, and the static site."""
