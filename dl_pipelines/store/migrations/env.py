"""Alembic's environment: runs on the connection that `Database` hands over, with a version table of our own."""

from alembic import context

from dl_pipelines.store.tables import VERSION_TABLE, metadata

options = context.config.attributes
context.configure(
    connection=options["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    version_table_schema=options["schema"],
)
context.run_migrations()
