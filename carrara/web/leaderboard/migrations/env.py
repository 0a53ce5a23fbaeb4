"""Alembic's environment: runs the migrations on the connection of `carrara.web.leaderboard.database`."""

from alembic import context

from carrara.web.leaderboard.database import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
