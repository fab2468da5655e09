from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import IntegrityError

from project import db
from project.api.scores.models import Score
from project.tests.base import BaseTestCase
from project.tests.utils import add_score


class TestScoreModel(BaseTestCase):
    def test_has_an_id_and_times_from_the_database(self):
        before = datetime.now(UTC) - timedelta(minutes=1)

        score = add_score(1, 2, True)

        self.assertEqual((score.id, score.user_id, score.exercise_id), (1, 1, 2))
        self.assertTrue(score.correct)
        self.assertEqual(score.attempts, 1)
        self.assertEqual(score.created_at, score.updated_at)
        self.assertGreater(score.created_at, before)
        self.assertEqual(score.created_at.utcoffset(), timedelta(0))

    def test_keeps_the_time_it_is_given(self):
        moment = datetime(2020, 2, 29, 12, tzinfo=UTC)

        score = add_score(1, 1, True, created_at=moment)

        self.assertEqual(score.created_at, moment)

    def test_is_unique_for_a_user_and_an_exercise(self):
        add_score(1, 1, True)
        add_score(1, 2, True)
        add_score(2, 1, True)

        with self.assertRaises(IntegrityError):
            add_score(1, 1, False)

        db.session.rollback()
        self.assertEqual(db.session.query(Score).count(), 3)

    def test_has_room_for_the_largest_ids(self):
        largest = 2**63 - 1

        score = add_score(largest, largest, False)

        self.assertEqual((score.user_id, score.exercise_id), (largest, largest))
