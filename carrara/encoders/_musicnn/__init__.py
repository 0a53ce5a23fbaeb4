"""The networks of the musicnn library and their official files."""
