"""Deployments with their history, and the state of guests."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, PrimaryKeyConstraint, Text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

byte_text = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "insula_deployments",
        Column("depot_id", byte_text, nullable=False),
        Column("service_id", byte_text, nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("digest", Text, nullable=False),
        Column("version", Text, nullable=False),
        Column("source", Text, nullable=False),
        Column("deployed_at", Text, nullable=False),
        PrimaryKeyConstraint("depot_id", "service_id", name="pk_insula_deployments"),
    )
    op.create_table(
        "insula_deployment_history",
        Column("depot_id", byte_text, nullable=False),
        Column("service_id", byte_text, nullable=False),
        Column("number", BigInteger, nullable=False),
        Column("digest", Text, nullable=False),
        Column("version", Text, nullable=False),
        Column("source", Text, nullable=False),
        Column("deployed_at", Text, nullable=False),
        PrimaryKeyConstraint("depot_id", "service_id", "number", name="pk_insula_deployment_history"),
        ForeignKeyConstraint(
            ["depot_id", "service_id"],
            ["insula_deployments.depot_id", "insula_deployments.service_id"],
            name="fk_insula_deployment_history_insula_deployments",
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "insula_state",
        Column("service_id", byte_text, nullable=False),
        Column("key", byte_text, nullable=False),
        Column("value", Text, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("modified", BigInteger, nullable=False),
        Column("expires", BigInteger),
        PrimaryKeyConstraint("service_id", "key", name="pk_insula_state"),
    )
    op.create_index("ix_insula_state_expires", "insula_state", ["expires"])
    op.create_table(
        "insula_state_usage",
        Column("service_id", byte_text, nullable=False),
        Column("key_count", BigInteger, nullable=False),
        Column("byte_count", BigInteger, nullable=False),
        Column("floor", BigInteger, nullable=False),
        PrimaryKeyConstraint("service_id", name="pk_insula_state_usage"),
    )


def downgrade() -> None:
    op.drop_table("insula_state_usage")
    op.drop_index("ix_insula_state_expires", "insula_state")
    op.drop_table("insula_state")
    op.drop_table("insula_deployment_history")
    op.drop_table("insula_deployments")
