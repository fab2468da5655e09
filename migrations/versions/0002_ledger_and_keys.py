"""The ledger of counters, and the keys of writes that may be sent again."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "counter_hours",
        sa.Column("name", sa.Text(collation="C"), primary_key=True),
        sa.Column("hour", Moment, primary_key=True),
        sa.Column("added", sa.Numeric, nullable=False, server_default="0"),
        sa.Column("adjusted", sa.Numeric, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("name", "hour", name="counter_hours_pkey"),
    )
    # What was counted before there was a ledger stands in it as one adjustment.
    op.execute(
        "INSERT INTO counter_hours (name, hour, adjusted) "
        "SELECT name, date_trunc('hour', updated_at, 'UTC'), value FROM counters"
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.SmallInteger),
        sa.Column("headers", JSONB),
        sa.Column("body", sa.LargeBinary),
        sa.Column("created_at", Moment, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("principal", "key", name="idempotency_keys_pkey"),
    )
    op.create_index("idempotency_keys_created_at_idx", "idempotency_keys", ["created_at"])


def downgrade() -> None:
    op.drop_table("idempotency_keys")
    op.drop_table("counter_hours")
