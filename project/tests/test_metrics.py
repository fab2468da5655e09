"""What /metrics tells: of requests, of pools and users-service, and over workers that die."""

import json
import os
import re
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from unittest import TestCase

from prometheus_client.parser import text_string_to_metric_families

from project import db, storage
from project.api.counter import queries
from project.metrics import Places
from project.tests.base import LEARNER, BaseTestCase
from project.tests.faults.harness import Postgres, Service
from project.tests.processes import ROOT, wait_until
from project.tests.utils import add_counter
from project.users import UsersService, UsersUnavailable

REQUESTS = "eval_http_request_seconds_count"


def samples(text):
    """Return every number of an exposition by its name and its labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name, **labels):
    return (name, *sorted(labels.items()))


class TestMetrics(BaseTestCase):
    def told(self):
        answer = self.client.get("/metrics")
        self.assertEqual(answer.status_code, 200)
        return samples(answer.get_data(as_text=True))

    def growth(self, name, **labels):
        """Return a function that tells by how much a number has grown since."""
        before = self.told().get(key(name, **labels), 0)
        return lambda: self.told().get(key(name, **labels), 0) - before

    def test_counts_requests_by_route_method_and_status(self):
        found = self.growth(REQUESTS, route="/scores/<score_id>", method="GET", status="404")
        added = self.growth(
            REQUESTS, route="/counters/<name>/increment", method="POST", status="200"
        )

        self.client.get("/scores/1")
        self.client.get("/scores/2")
        self.client.post("/counters/visits/increment", headers=LEARNER)

        self.assertEqual((found(), added()), (2, 1))

    def test_counts_a_request_that_failed_in_whatever_way(self):
        def fail():
            raise RuntimeError

        view = self.app.view_functions["eval.health"]
        self.addCleanup(self.app.view_functions.__setitem__, "eval.health", view)
        self.app.view_functions["eval.health"] = fail
        failed = self.growth(REQUESTS, route="/health", method="GET", status="500")

        with self.assertLogs(self.app.logger, "ERROR"):
            self.client.get("/health")

        self.assertEqual(failed(), 1)

    def test_grows_by_nothing_that_strangers_invent(self):
        """Neither paths nor methods of their own make rows of their own."""
        self.client.get("/nowhere")
        self.client.open("/nowhere", method="INVENTED")
        rows = len(self.told())

        for number in range(5):
            self.client.get(f"/nowhere/{number}")
            self.client.open("/nowhere", method=f"INVENTED{number}")
            self.client.open("/health", method=f"INVENTED{number}")

        self.assertLessEqual(len(self.told()) - rows, 17)  # a 405 of "other", in its buckets
        self.assertNotIn("INVENTED", str(self.told().keys()))

    def test_knows_how_long_requests_take(self):
        seconds = self.growth("eval_http_request_seconds_sum", route="/ready", method="GET",
                              status="200")  # fmt: skip

        self.client.get("/ready")

        self.assertGreater(seconds(), 0)
        self.assertLess(seconds(), 60)

    def test_knows_the_pools(self):
        with db.engine.connect():
            told = self.told()

        for pool in ("transactions", "statements"):
            in_use = told[key("eval_pool_connections", pool=pool, state="in use")]
            self.assertGreater(told[key("eval_pool_limit", pool=pool)], in_use)
        self.assertEqual(told[key("eval_pool_connections", pool="transactions", state="in use")], 1)

    def test_tells_which_version_this_is(self):
        built = [labels for labels in self.told() if labels[0] == "eval_build_info"]

        self.assertEqual(len(built), 1)
        self.assertIn(self.app.version, str(built[0]))

    def test_tells_what_was_asked_of_users_service_and_what_was_remembered(self):
        users = self.app.extensions["callers"]._users_service
        users._cache.clear()
        users._invalid.clear()
        asked = self.growth("eval_users_question_seconds_count", answer="yes")
        refused = self.growth("eval_users_question_seconds_count", answer="no")
        hits = self.growth("eval_users_cache_hits_total")

        for _ in range(3):
            self.client.get("/ping", headers=LEARNER)
        self.client.get("/ping", headers={"Authorization": "Bearer nobody's"})

        self.assertEqual((asked(), hits(), refused()), (1, 2, 1))

    def test_tells_when_the_breaker_opens(self):
        observer = self.app.extensions["callers"]._users_service._observer
        self.addCleanup(observer.on_state_change, is_open=False)
        away = UsersService("http://127.0.0.1:9", observer=observer, failures_to_open=1)
        refused = self.growth("eval_users_refused_total")
        none = self.growth("eval_users_question_seconds_count", answer="none")
        with self.assertLogs("project.users", "WARNING"):
            for token in ("a", "b"):
                with self.assertRaises(UsersUnavailable):
                    away.who_is(token)

        self.assertEqual((none(), refused()), (1, 1))
        self.assertEqual(self.told()[key("eval_users_breaker_open")], 1)


class TestStorage(BaseTestCase):
    def sampled(self):
        storage.sample()
        return samples(self.client.get("/metrics").get_data(as_text=True))

    def test_storage_is_measured_for_each_table_and_the_database(self):
        add_counter("visits")
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE counters")

        told = self.sampled()

        self.assertEqual(told[key("eval_table_rows", table="counters")], 1)
        for table in db.metadata.tables:
            self.assertGreaterEqual(told[key("eval_table_bytes", table=table)], 8192)
        [database] = [told[name] for name in told if name[0] == "eval_database_bytes"]
        self.assertGreater(database, 5_000_000)

    def test_storage_grows_with_new_counters(self):
        before = self.sampled()
        queries.add_many({f"counter-{number}": 1 for number in range(5000)})

        after = self.sampled()

        name = key("eval_table_bytes", table="counters")
        self.assertGreater(after[name] - before[name], 500_000)


class TestDeploy(BaseTestCase):
    """The dashboard and the alerts speak of what there is."""

    RULES = ROOT / "deploy" / "prometheus" / "eval-service.rules.yml"
    DASHBOARD = ROOT / "deploy" / "grafana" / "eval-service.json"

    def test_name_only_metrics_that_are_told(self):
        text = self.client.get("/metrics").get_data(as_text=True)
        told = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
        expressions = [
            target["expr"]
            for panel in json.loads(self.DASHBOARD.read_text())["panels"]
            for target in panel["targets"]
        ]
        expressions += re.findall(r"expr: (.+(?:\n {10}.+)*)", self.RULES.read_text())

        self.assertGreater(len(expressions), 25)
        for expression in expressions:
            for name in re.findall(r"\beval_\w+", expression):
                with self.subTest(name):
                    self.assertIn(re.sub("_(bucket|sum|count)$", "", name), told)

    def test_measure_nothing_that_is_not_shown(self):
        """Every metric of ours is looked at in one of them."""
        text = self.client.get("/metrics").get_data(as_text=True)
        told = set(re.findall(r"^# TYPE (eval_\w+)", text, re.MULTILINE))
        shown = self.DASHBOARD.read_text() + self.RULES.read_text()

        unseen = {name for name in told if name not in shown and not name.endswith("_created")}

        self.assertEqual(unseen, set())

    def test_explain_each_alert(self):
        explained = (ROOT / "docs" / "operations.md").read_text()
        alerts = re.findall(r"alert: (\w+)", self.RULES.read_text())

        self.assertGreater(len(alerts), 5)
        for alert in alerts:
            with self.subTest(alert):
                self.assertIn(f"### {alert}\n", explained)


class TestPlaces(TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.places = Places(self.folder)

    def in_another_process(self, then):
        """Fork a process that takes a place, and ends once told; return its end of the talk."""
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(tell)
            place = self.places.take()
            (self.folder / f"gauge_livesum_{place}.db").touch()
            (self.folder / f"counter_{place}.db").touch()
            os.read(told, 1)
            os._exit(0)
        os.close(told)
        wait_until(lambda: len(self.names()) == then)
        return child, tell

    def end(self, child, tell):
        os.write(tell, b".")
        os.close(tell)
        os.waitpid(child, 0)

    def names(self):
        return sorted(Path(file).name for file in self.places.files())

    def test_are_summed_up_as_long_as_they_are_taken_but_what_was_counted_stays(self):
        first = self.in_another_process(then=2)
        second = self.in_another_process(then=4)

        self.end(*first)
        after = self.names()
        self.end(*second)

        self.assertEqual(after, ["counter_0.db", "counter_1.db", "gauge_livesum_1.db"])
        self.assertEqual(self.names(), ["counter_0.db", "counter_1.db"])

    def test_are_taken_again(self):
        self.end(*self.in_another_process(then=2))

        self.assertEqual(self.places.take(), 0)
        self.assertEqual(self.names(), ["counter_0.db"])


class TestWorkers(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.postgres = Postgres()
        cls.addClassCleanup(cls.postgres.stop)
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.service = Service(cls.postgres, WORKERS="2", TMPDIR=str(cls.folder))
        cls.addClassCleanup(cls.service.stop)

    def told(self):
        address = f"http://127.0.0.1:{self.service.port}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return samples(answer.read().decode())

    def counted(self):
        return self.told().get(key(REQUESTS, route="/health", method="GET", status="200"), 0)

    def send(self, count):
        with ThreadPoolExecutor(8) as pool:
            statuses = set(pool.map(lambda _: self.service.get("/health")[0], range(count)))
        self.assertEqual(statuses, {200})

    def files(self):
        """Return the names of the files of metrics, and how many workers show that they live."""
        names = sorted(path.name for path in self.folder.glob("eval-metrics-*/*"))
        alive = [name for name in names if name.endswith(".alive")]
        return len(alive), [name for name in names if name not in alive]

    def living(self):
        """Return how many workers there are by what they say, 0 while none takes a connection."""
        with suppress(OSError):
            return self.told()[key("eval_workers")]
        return 0

    def test_are_summed_up_and_lose_nothing_when_one_is_killed(self):
        """Neither do files gather, nor do the dead go on to be counted among the living."""
        wait_until(lambda: self.living() == 2)
        before = self.counted()
        self.send(200)
        self.assertEqual(self.counted() - before, 200)
        files = self.files()

        for _ in range(2):
            workers = {worker.pid for worker in self.service.workers}
            self.service.kill_worker()
            wait_until(lambda old=workers: len(self.fresh(old)) == 1)
            wait_until(lambda: self.living() == 2)
            self.send(50)

        self.assertEqual(self.counted() - before, 300)
        wait_until(lambda: self.files() == files)
        # A worker looks around once it lives.
        limit = key("eval_pool_limit", pool="statements")
        wait_until(lambda: self.told()[limit] == 2 * 32)

    def fresh(self, old):
        return {worker.pid for worker in self.service.workers} - old
