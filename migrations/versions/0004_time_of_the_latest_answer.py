"""The time of the latest answer, if it is not the time of the write."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # NULL, as it stays for all scores so far, means updated_at.
    op.add_column("scores", sa.Column("answered_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("scores", "answered_at")
