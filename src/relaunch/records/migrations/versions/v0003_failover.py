"""What failover remembers of a group; until when an instance set aside is kept."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("database_groups", sa.Column("primary_instance_id", sa.String(), nullable=True))
    op.add_column("database_groups", sa.Column("state", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("database_groups", sa.Column("version", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("instances", sa.Column("aside_until", sa.String(), nullable=True))
