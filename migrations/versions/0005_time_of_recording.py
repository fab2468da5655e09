"""The time at which an answer was recorded, if it is not the time of the answer."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("recorded_at", sa.DateTime(timezone=True)))
    op.create_index(
        "attempts_recorded_at_idx",
        "attempts",
        ["recorded_at"],
        postgresql_where=sa.text("recorded_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("attempts_recorded_at_idx", "attempts")
    op.drop_column("attempts", "recorded_at")
