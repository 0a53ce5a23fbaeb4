"""The leaderboard as a static site: HTML, JavaScript and JSON that open from a folder or any file host."""
