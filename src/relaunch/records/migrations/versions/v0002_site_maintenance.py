"""Sites in maintenance; a DNS record's column says that it holds the deployment's name."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "site_maintenance",
        sa.Column("deployment_id", sa.String(), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("allow", sa.JSON(), nullable=False),
        sa.Column("since", sa.String(), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["deployment_id"], ["deployments.id"]),
        sa.PrimaryKeyConstraint("deployment_id", "site"),
    )
    with op.batch_alter_table("dns_records") as table:
        table.alter_column("deployment_id", new_column_name="deployment")
