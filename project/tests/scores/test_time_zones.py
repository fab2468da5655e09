"""Time zones: the names and offsets of the IANA database, whatever the machine has installed."""

from datetime import UTC, datetime, timedelta
from unittest import TestCase
from zoneinfo import ZoneInfo

from project.api.scores import time_zones
from project.tests.base import LEARNER, BaseTestCase
from project.tests.utils import add_score

LEARNER_ID = 7


class TestOffsets(TestCase):
    def test_offsets_are_those_of_zoneinfo(self):
        for name in ("UTC", "Europe/Berlin", "CET", "Africa/Casablanca", "America/St_Johns",
                     "Asia/Calcutta", "Australia/Lord_Howe", "Pacific/Apia"):  # fmt: skip
            with self.subTest(name):
                found, zone = time_zones.offsets(name), ZoneInfo(name)
                self.assertEqual(len(found.offsets), len(found.since) + 1)
                self.assertEqual(found.since, sorted(found.since))
                for seconds in [*found.since, 0, int(datetime.now(UTC).timestamp())]:
                    for moment in (seconds - 1, seconds):
                        number = sum(since <= moment for since in found.since)
                        offset = datetime.fromtimestamp(moment, zone).utcoffset()

                        self.assertEqual(timedelta(seconds=found.offsets[number]), offset)

    def test_every_zone_can_be_used(self):
        for name in time_zones.names().values():
            with self.subTest(name):
                self.assertTrue(time_zones.offsets(name).offsets)


class TestProgress(BaseTestCase):
    def days(self, tz):
        path = "/scores/user/progress"
        response = self.client.get(path, query_string={"tz": tz}, headers=LEARNER)
        self.assertEqual(response.status_code, 200, response.get_json())
        return list(response.get_json()["data"]["days"])

    def test_day_is_that_of_the_zone_also_for_names_that_postgresql_may_lack(self):
        late = datetime(2026, 7, 1, 22, 30, tzinfo=UTC)
        add_score(LEARNER_ID, 1, created_at=late)

        for tz, day in (
            ("UTC", "2026-07-01"),
            ("Asia/Calcutta", "2026-07-02"),
            ("US/Pacific", "2026-07-01"),
            ("Europe/Kiev", "2026-07-02"),
            ("CET", "2026-07-02"),
            ("MET", "2026-07-02"),
            ("EET", "2026-07-02"),
            ("WET", "2026-07-01"),
            ("europe/berlin", "2026-07-02"),
            ("EUROPE/BERLIN", "2026-07-02"),
        ):
            with self.subTest(tz):
                self.assertEqual(self.days(tz), [day])

    def test_zones_named_for_a_standard_time_have_summer_time(self):
        add_score(LEARNER_ID, 1, created_at=datetime(2026, 7, 1, 23, 30, tzinfo=UTC))
        add_score(LEARNER_ID, 2, created_at=datetime(2026, 1, 1, 23, 30, tzinfo=UTC))

        self.assertEqual(self.days("WET"), ["2026-01-01", "2026-07-02"])

    def test_day_before_1970_is_that_of_the_first_offset(self):
        add_score(LEARNER_ID, 1, created_at=datetime(1960, 5, 5, 23, 30, tzinfo=UTC))

        self.assertEqual(self.days("Europe/Berlin"), ["1960-05-06"])
