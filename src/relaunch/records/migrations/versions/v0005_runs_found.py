"""Runs are found by their task and their instance without reading all of them."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_index("runs_of_task", "runs", ["task_id"])
    op.create_index("runs_of_instance", "runs", ["instance_id"])
