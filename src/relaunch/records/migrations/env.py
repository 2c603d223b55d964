"""Alembic's entry: runs the migrations on the connection handed over by `upgrade`."""

from alembic import context

from relaunch.records.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
