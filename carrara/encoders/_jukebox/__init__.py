"""Jukebox's codec and prior, and their official files."""
