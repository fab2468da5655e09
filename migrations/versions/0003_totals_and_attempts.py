"""Every attempt, and the totals of users and exercises."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Moment = sa.DateTime(timezone=True)

# Of what was written before attempts were kept, only the latest one is known, and that there was
# a correct one where the score is solved.
CORRECT_ATTEMPTS = """
    UPDATE scores SET correct_attempts = 1, solved_at = coalesce(solved_at, updated_at)
     WHERE correct OR solved_at IS NOT NULL
"""
ATTEMPTS = """
    INSERT INTO attempts (user_id, exercise_id, seq, at, correct)
    SELECT user_id, exercise_id, attempts, updated_at, correct FROM scores
"""
USER_TOTALS = """
    INSERT INTO user_totals (user_id, solved, last_solved_at)
    SELECT user_id, count(*), max(solved_at)
      FROM scores WHERE solved_at IS NOT NULL GROUP BY user_id
"""
SOLVED_COUNTS = """
    INSERT INTO solved_counts (solved, shard, users)
    SELECT solved, 0, count(*) FROM user_totals GROUP BY solved
"""
EXERCISE_TOTALS = """
    INSERT INTO exercise_totals (exercise_id, shard, attempted, solved, attempts)
    SELECT exercise_id, 0, count(*), count(solved_at), sum(attempts)
      FROM scores GROUP BY exercise_id
"""


def upgrade() -> None:
    op.execute("ALTER TABLE scores SET (fillfactor = 90)")
    op.add_column(
        "scores",
        sa.Column("correct_attempts", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.execute(CORRECT_ATTEMPTS)
    solved = sa.text("solved_at IS NOT NULL")
    for name, columns in {
        "scores_exercise_id_solved_at_idx": ["exercise_id", "solved_at", "user_id"],
        "scores_solved_at_idx": ["solved_at", "user_id"],
    }.items():
        op.create_index(name, "scores", columns, postgresql_where=solved)
    op.create_table(
        "attempts",
        sa.Column("user_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("exercise_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("actor", sa.BigInteger),
        sa.Column("at", Moment, nullable=False),
        sa.Column("correct", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "exercise_id", "seq", name="attempts_pkey"),
    )
    op.create_index("attempts_at_idx", "attempts", ["at"])
    op.create_table(
        "user_totals",
        sa.Column("user_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("solved", sa.BigInteger, nullable=False),
        sa.Column("last_solved_at", Moment),
        sa.PrimaryKeyConstraint("user_id", name="user_totals_pkey"),
    )
    op.create_index(
        "user_totals_standing_idx",
        "user_totals",
        [sa.text("(-solved)"), "last_solved_at", "user_id"],
        postgresql_where=sa.text("solved > 0"),
    )
    op.create_table(
        "solved_counts",
        sa.Column("solved", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("users", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("solved", "shard", name="solved_counts_pkey"),
    )
    op.create_table(
        "exercise_totals",
        sa.Column("exercise_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("attempted", sa.BigInteger, nullable=False),
        sa.Column("solved", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("exercise_id", "shard", name="exercise_totals_pkey"),
    )
    for statement in (ATTEMPTS, USER_TOTALS, SOLVED_COUNTS, EXERCISE_TOTALS):
        op.execute(statement)


def downgrade() -> None:
    for table in ("exercise_totals", "solved_counts", "user_totals", "attempts"):
        op.drop_table(table)
    op.drop_index("scores_solved_at_idx", "scores")
    op.drop_index("scores_exercise_id_solved_at_idx", "scores")
    op.drop_column("scores", "correct_attempts")
    op.execute("ALTER TABLE scores RESET (fillfactor)")
