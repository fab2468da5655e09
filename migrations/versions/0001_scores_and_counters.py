"""Scores and counters."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import CreateSequence, DropSequence, Sequence

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

scores_id_seq = Sequence("scores_id_seq", data_type=sa.BigInteger)
Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.execute(CreateSequence(scores_id_seq))
    op.create_table(
        "scores",
        sa.Column("user_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("exercise_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.BigInteger, nullable=False, server_default=scores_id_seq.next_value()),
        sa.Column("correct", sa.Boolean, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False, server_default="1"),
        sa.Column("solved_at", Moment),
        sa.Column("created_at", Moment, nullable=False, server_default=sa.func.now()),
        sa.Column("updated_at", Moment, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("user_id", "exercise_id", name="scores_pkey"),
    )
    op.create_index("scores_id_idx", "scores", ["id"])
    op.create_index("scores_exercise_id_id_idx", "scores", ["exercise_id", "id"])
    op.create_table(
        "counters",
        sa.Column("name", sa.Text(collation="C"), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
        sa.Column("created_at", Moment, nullable=False, server_default=sa.func.now()),
        sa.Column("updated_at", Moment, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("name", name="counters_pkey"),
    )


def downgrade() -> None:
    op.drop_table("counters")
    op.drop_table("scores")
    op.execute(DropSequence(scores_id_seq))
