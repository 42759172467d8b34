"""Run by Alembic. The connection comes from `insula.storage.migrate`, with its transaction already begun there."""

from __future__ import annotations

from alembic import context

from insula.storage.migrate import VERSION_TABLE
from insula.storage.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
