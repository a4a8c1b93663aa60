"""Run by Alembic: migrates over the connection that augu_api.store.database opened."""

from alembic import context

from augu_api.store.models import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
