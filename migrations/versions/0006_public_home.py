"""The counter of the home page, which always exists."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "INSERT INTO counters (name, value) VALUES ('public:home', 0) ON CONFLICT DO NOTHING"
    )


def downgrade() -> None:
    """Keep the counter: before this revision, the first visit created it."""
