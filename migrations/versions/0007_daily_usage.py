"""How many counters and stored responses each principal has added on a day."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "counter_usage",
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("counters", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("principal", "day", name="counter_usage_pkey"),
    )
    op.create_index("counter_usage_day_idx", "counter_usage", ["day"])
    op.create_table(
        "idempotency_usage",
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("responses", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("principal", "day", name="idempotency_usage_pkey"),
    )
    op.create_index("idempotency_usage_day_idx", "idempotency_usage", ["day"])


def downgrade() -> None:
    op.drop_table("idempotency_usage")
    op.drop_table("counter_usage")
