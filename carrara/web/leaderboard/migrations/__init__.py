"""Alembic's environment and migrations of the database."""
