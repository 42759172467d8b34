"""The tables of the server. The migrations make them; a test holds that both agree.

Names begin with `insula_`, as the database may hold other people's tables. Text that is ordered or compared by range
has the order of its bytes on every database, whatever the locale.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, MetaData, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ByteText = Text().with_variant(Text(collation="C"), "postgresql")

#: What is to run: one row a service, owned by the data folder `depot_id`, in order of `position`.
deployments = Table(
    "insula_deployments",
    metadata,
    Column("depot_id", ByteText, primary_key=True),
    Column("service_id", ByteText, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("deployed_at", Text, nullable=False),
)

#: What ran before, the stack that a rollback takes from: the highest `number` is the newest.
deployment_history = Table(
    "insula_deployment_history",
    metadata,
    Column("depot_id", ByteText, primary_key=True),
    Column("service_id", ByteText, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("deployed_at", Text, nullable=False),
    ForeignKeyConstraint(
        ["depot_id", "service_id"],
        ["insula_deployments.depot_id", "insula_deployments.service_id"],
        ondelete="CASCADE",
    ),
)

#: The values of guests. `value` is JSON text; `modified` and `expires` are Unix milliseconds.
state = Table(
    "insula_state",
    metadata,
    Column("service_id", ByteText, primary_key=True),
    Column("key", ByteText, primary_key=True),
    Column("value", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("modified", BigInteger, nullable=False),
    Column("expires", BigInteger),
    Index(None, "expires"),
)

#: What a service holds in `state`, and `floor`, the highest version that a removed key of it had.
state_usage = Table(
    "insula_state_usage",
    metadata,
    Column("service_id", ByteText, primary_key=True),
    Column("key_count", BigInteger, nullable=False),
    Column("byte_count", BigInteger, nullable=False),
    Column("floor", BigInteger, nullable=False),
)
