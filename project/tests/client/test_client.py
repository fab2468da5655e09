"""The Python client against the real service, and against what may come between them."""

import json
import pickle
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from unittest import mock

from eval_client import EvalClient, NewScore, errors, transport
from eval_client.counters import ANY_VERSION
from eval_client.models import Written

from project.api.errors import ApiError
from project.tests.base import users_service
from project.tests.client.servers import Proxy, Script
from project.tests.faults.harness import SECRET, FaultTestCase, Postgres, Service
from project.tests.processes import free_port, is_alive
from project.tokens import Tokens
from project.users import User

tokens = Tokens(SECRET)
LEARNER = tokens.issue(User(7), days=1)
SERVICE = tokens.issue(User(1, is_service=True), days=1)
ADMIN = tokens.issue(User(2, is_admin=True), days=1)
EXPIRED = tokens.issue(User(7), days=-1)

UNAVAILABLE = {"status": "error", "message": "Later.", "code": "unavailable"}
VALUE = {"status": "success", "data": {"name": "visits", "value": 1}}


def setUpModule():
    ClientTestCase.postgres = Postgres()
    unittest.addModuleCleanup(ClientTestCase.postgres.stop)
    users = users_service().url
    ClientTestCase.service = Service(ClientTestCase.postgres, USERS_SERVICE_URL=users)
    unittest.addModuleCleanup(ClientTestCase.service.stop)


class ClientTestCase(FaultTestCase):
    service: Service

    def setUp(self):
        self.empty()

    def client(self, token=LEARNER, url=None, **options):
        address = url or f"http://127.0.0.1:{self.service.port}"
        client = EvalClient(address, token, **options)
        self.addCleanup(client.close)
        return client

    def service_client(self, scores=()):
        """Return a client that may write for all, and has written these."""
        client = self.client(SERVICE)
        if scores:
            client.scores.upsert_many([NewScore(*score) for score in scores])
        return client


class TestScores(ClientTestCase):
    def test_are_written_and_read(self):
        scores = self.client().scores

        first = scores.add(1, correct=False)
        second = scores.update(first.id, 1, correct=True)
        third = scores.upsert(1, correct=False)

        self.assertEqual((first.user_id, first.exercise_id, first.correct), (7, 1, False))
        self.assertEqual((first.solved_at, first.attempts), (None, 1))
        self.assertLess(abs(second.solved_at - datetime.now(UTC)), timedelta(minutes=1))
        self.assertEqual((third.attempts, third.solved_at), (3, second.solved_at))
        self.assertEqual(scores.get(first.id), third)
        self.assertEqual(scores.get_own(first.id), third)
        self.assertEqual([a.correct for a in scores.attempts(first.id)], [False, True, False])

    def test_come_page_by_page_as_they_are_needed(self):
        client = self.service_client((user, 1, True) for user in range(1, 8))

        with mock.patch.object(transport.Transport, "get", autospec=True) as get:
            get.side_effect = REAL_GET
            some = client.scores.find(page_size=3)
            users = [next(some).user_id for _ in range(3)]
            self.assertEqual((users, get.call_count), ([1, 2, 3], 1))
            self.assertEqual([score.user_id for score in some], [4, 5, 6, 7])
            self.assertEqual(get.call_count, 3)

    def test_are_found_by_filters(self):
        client = self.service_client([(7, 1, True), (7, 2, False), (8, 1, False)])
        late = datetime.now(UTC) + timedelta(hours=1)

        def found(scores):
            return [(score.user_id, score.exercise_id) for score in scores]

        self.assertEqual(found(client.scores.find(user_id=7)), [(7, 1), (7, 2)])
        self.assertEqual(found(client.scores.find(exercise_id=1, correct=False)), [(8, 1)])
        self.assertEqual(found(client.scores.find(updated_since=late)), [])
        own = self.client().scores
        self.assertEqual(found(own.find_own(correct=True)), [(7, 1)])
        self.assertEqual(found(own.find_own(exercise_id=2, page_size=1)), [(7, 2)])

    def test_are_written_for_others_by_services(self):
        client = self.service_client()

        written = client.scores.upsert_many([NewScore(7, 1, False), NewScore(7, 1, True)])
        score = client.scores.upsert(1, correct=False, user_id=8)

        self.assertEqual(written, [Written(1, True), Written(1, False)])
        self.assertEqual(score.user_id, 8)

    def test_batch_sends_the_times_of_answers(self):
        client = self.service_client()
        january = datetime(2026, 1, 5, 9, tzinfo=timezone(timedelta(hours=1)))

        client.scores.upsert_many([NewScore(7, 1, False), NewScore(7, 1, True, at=january)])

        score = client.scores.get(1)
        self.assertFalse(score.correct)
        self.assertEqual(score.solved_at, january)

    def test_are_deleted_by_administrators(self):
        self.service_client([(7, 1, True)])
        admin = self.client(ADMIN)

        admin.scores.delete(1)

        with self.assertRaises(errors.ScoreNotFound):
            admin.scores.get(1)

    def test_are_ranked(self):
        client = self.service_client([(1, 1, True), (2, 1, True), (2, 2, True), (3, 1, False)])

        entries = list(client.scores.leaderboard(window="day", tie="dense", page_size=1))
        around = client.scores.neighbours(2, span=0)

        self.assertEqual([(e.rank, e.user_id, e.solved) for e in entries], [(1, 2, 2), (2, 1, 1)])
        self.assertEqual((around.entries, around.me), (entries[:1], entries[0]))
        self.assertEqual(self.client().scores.neighbours().me, None)

    def test_are_summed_up(self):
        client = self.service_client([(7, 1, True), (7, 2, False), (8, 1, False)])

        progress = self.client().scores.progress(tz="UTC")
        stats = client.scores.stats(1)

        self.assertEqual((progress.solved, progress.attempted, progress.accuracy), (1, 2, 0.5))
        self.assertEqual((progress.streak.current, progress.streak.longest), (1, 1))
        self.assertEqual(list(progress.days.values()), [1])
        self.assertLessEqual(abs(next(iter(progress.days)) - datetime.now(UTC).date()).days, 1)
        self.assertEqual((stats.attempted, stats.solved, stats.pass_rate), (2, 1, 0.5))
        self.assertEqual(stats.first_solved.user_id, 7)

    def test_are_told_as_they_happened(self):
        client = self.service_client([(7, 1, True), (7, 2, False), (8, 2, False)])

        activity = client.scores.activity("week")
        [failed] = client.scores.failures(limit=5)

        self.assertEqual(sum(point.attempts for point in activity.points), 3)
        self.assertLess(activity.points[0].at, activity.points[-1].at)
        self.assertIn(activity.today.users, (0, 2))  # midnight may have been a moment ago
        self.assertEqual((failed.exercise_id, failed.failed, failed.attempts), (2, 2, 2))


REAL_GET = transport.Transport.get


class TestCounters(ClientTestCase):
    def test_are_incremented_and_read(self):
        counters = self.client().counters

        self.assertEqual(counters.increment("a:b"), 1)
        self.assertEqual(counters.increment("a:b", 5), 6)
        self.assertEqual(counters.increment_many({"a:b": -1, "c": 2}), {"a:b": 5, "c": 2})
        self.assertEqual(counters.get("c").value, 2)
        self.assertEqual([c.name for c in counters.find(page_size=1)], ["a:b", "c"])
        self.assertEqual([c.name for c in counters.find(prefix="c")], ["c"])
        self.assertEqual(sum(point.added for point in counters.history("c", interval="hour")), 2)
        self.assertTrue(counters.audit("c").consistent)

    def test_are_set_where_they_are_as_they_were_seen(self):
        counters = self.client(ADMIN).counters

        made = counters.create("c", 5)
        changed = counters.set("c", 6, if_match=made.etag)
        with self.assertRaises(errors.PreconditionFailed):
            counters.set("c", 7, if_match=made.etag)
        with self.assertRaises(errors.PreconditionFailed):
            counters.create("c", 8)

        self.assertEqual((made.value, changed.value), (5, 6))
        self.assertEqual(counters.get("c"), changed)
        self.assertEqual(counters.set("c", 9, if_match=ANY_VERSION).value, 9)
        counters.delete("c")
        with self.assertRaises(errors.CounterNotFound):
            counters.get("c")

    def test_counters_are_deleted_by_prefix(self):
        counters = self.client(ADMIN).counters
        counters.increment_many({"quiz:a": 1, "quiz:b": 1, "visits": 1})

        deleted = [counters.delete_prefix("quiz:") for _ in range(2)]

        self.assertEqual(deleted, [2, 0])
        self.assertEqual([counter.name for counter in counters.find(prefix="quiz:")], [])
        self.assertEqual(counters.get("visits").value, 1)

    def test_have_names_that_cannot_lead_elsewhere(self):
        with self.assertRaises(errors.EvalError):
            self.client(ADMIN).counters.increment("../scores?x=")


class TestManyItems(ClientTestCase):
    """Calls with more items than one request takes."""

    def scores(self, count):
        return [NewScore(user, 1, user % 3 == 0) for user in range(1, count + 1)]

    def stored(self):
        """Return the user and the attempts of every score, in the order of their ids."""
        return [(score.user_id, score.attempts) for score in self.client().scores.find()]

    def test_upsert_many_writes_more_than_a_thousand_in_order(self):
        for count in (1, 1000, 1001, 2500):
            with self.subTest(count):
                self.empty()

                written = self.client(SERVICE).scores.upsert_many(self.scores(count))

                self.assertEqual(written, [Written(n, True) for n in range(1, count + 1)])
                self.assertEqual(self.stored(), [(n, 1) for n in range(1, count + 1)])

    def test_upsert_many_is_done_once_if_it_is_repeated_with_its_key(self):
        client = self.client(SERVICE)

        first = client.scores.upsert_many(self.scores(2500), key="mine")
        again = client.scores.upsert_many(self.scores(2500), key="mine")
        without_key = client.scores.upsert_many(self.scores(2500))

        self.assertEqual(first, again)
        self.assertEqual([one.created for one in without_key], [False] * 2500)
        self.assertEqual({attempts for _, attempts in self.stored()}, {2})

    def test_upsert_many_takes_any_key(self):
        for key in ("k" * 255, '"quoted"', "with spaces"):
            with self.subTest(key[:10]):
                self.empty()
                for _ in range(2):
                    self.client(SERVICE).scores.upsert_many(self.scores(1001), key=key)

                self.assertEqual({attempts for _, attempts in self.stored()}, {1})

    def test_upsert_many_refuses_the_key_of_other_items(self):
        client = self.client(SERVICE)
        client.scores.upsert_many(self.scores(2500), key="mine")

        for count, written in ((1, 0), (1500, 1000), (2499, 2000)):
            with self.subTest(count), self.assertRaises(errors.IdempotencyKeyReused) as raised:
                client.scores.upsert_many(self.scores(count), key="mine")
            self.assertEqual(raised.exception.written, written)

    def test_upsert_many_says_what_was_written_before_a_bad_item(self):
        scores = self.scores(2500)
        scores[1400] = NewScore(0, 1, True)

        with self.assertRaises(errors.InvalidPayload) as raised:
            self.client(SERVICE).scores.upsert_many(scores)

        self.assertEqual(list(raised.exception.errors), ["scores[1400].user_id"])
        self.assertEqual(raised.exception.written, 1000)
        self.assertEqual(len(self.stored()), 1000)

    def test_upsert_many_can_be_repeated_after_a_lost_answer(self):
        with Proxy(self.service.port) as proxy:
            client = self.client(SERVICE, proxy.url, patience_seconds=0)
            proxy.passes, proxy.cuts = 1, 1
            with self.assertRaises(errors.Unreachable) as raised:
                client.scores.upsert_many(self.scores(2500), key="mine")
            written = client.scores.upsert_many(self.scores(2500), key="mine")

        self.assertEqual((raised.exception.written, proxy.cut), (1000, 1))
        self.assertEqual(written, [Written(n, True) for n in range(1, 2501)])
        self.assertEqual(self.stored(), [(n, 1) for n in range(1, 2501)])

    def test_increment_many_adds_to_more_than_a_thousand_counters(self):
        counters = self.service_client().counters
        increments = {f"c{number:04}": number for number in range(1, 2501)}

        first = counters.increment_many(increments, key="mine")
        again = counters.increment_many(increments, key="mine")

        self.assertEqual(first, increments)
        self.assertEqual(again, increments)
        self.assertEqual({c.name: c.value for c in counters.find()}, increments)

    def test_increment_many_says_what_was_written_before_a_bad_item(self):
        increments = {f"c{number:04}": 1 for number in range(2500)} | {"c1400": 0}

        with self.assertRaises(errors.InvalidPayload) as raised:
            self.client().counters.increment_many(increments)

        self.assertEqual(list(raised.exception.errors), ["increments.c1400"])
        self.assertEqual(raised.exception.written, 1000)

    def test_written_survives_a_pickle(self):
        error = errors.Unreachable("No answer.")
        error.written = 1000

        self.assertEqual(pickle.loads(pickle.dumps(error)).written, 1000)  # noqa: S301 - our own


class TestCallers(ClientTestCase):
    def test_are_users_of_users_service_as_well(self):
        self.assertEqual(self.client("other").scores.upsert(1, correct=True).user_id, 8)

    def test_share_connections(self):
        with Proxy(self.service.port) as proxy:
            client = self.client(SERVICE, proxy.url)

            owners = [
                client.speaking_for(token).scores.upsert(1, correct=True).user_id
                for token in (LEARNER, "other", lambda: "test")
            ]

            self.assertEqual(owners, [7, 8, 998877])
            self.assertEqual(proxy.connections, 1)

    def test_may_be_anonymous_where_that_is_enough(self):
        client = self.client(None)
        self.client().counters.increment("public:visits", 5)

        self.assertEqual(client.counters.increment("public:visits"), 6)
        self.assertEqual(client.counters.increment("public:home"), 1)
        with self.assertRaises(errors.CounterNotFound):
            client.counters.increment("public:missing")
        for name, by in (("visits", 1), ("public:visits", 2)):
            with self.assertRaises(errors.TokenRequired):
                client.counters.increment(name, by)

    def test_are_not_shown_where_their_token_is_none(self):
        with self.assertRaises(ValueError) as raised:
            self.client("se\ncret").scores.get(1)

        self.assertNotIn("cret", str(raised.exception).replace("secret", ""))


class TestErrors(ClientTestCase):
    def test_have_a_class_for_each_code_of_the_service(self):
        # These say that the client itself made a mistake that no caller can cause.
        never = {"method_not_allowed", "unsupported_media_type", "precondition_required"}
        known = {kind.kind for kind in errors.ApiError.__subclasses__()}

        self.assertEqual({kind.slug for kind in ApiError.__subclasses__()} - never, known)

    def test_say_what_was_wrong(self):
        with self.assertRaises(errors.InvalidPayload) as raised:
            self.client().scores.add(0, correct=True)

        error = raised.exception
        self.assertEqual((error.code, error.status), ("invalid_payload", 400))
        self.assertEqual(list(error.errors), ["exercise_id"])
        self.assertRegex(error.request_id, "^[0-9a-f]{32}$")
        self.assertIn("exercise_id: ", str(error))
        self.assertNotIn(LEARNER, repr(error))

    def test_survive_a_pickle(self):
        error = errors.RateLimited("Slowly.", "rate_limited", 429, None, "id", 3.0)

        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

        self.assertEqual((type(again), vars(again)), (type(error), vars(error)))

    def test_are_raised_by_code(self):
        client = self.client()
        client.scores.add(1, correct=True, key="mine")
        for error, call in (
            (errors.ScoreExists, lambda: client.scores.add(1, correct=True)),
            (errors.ScoreMismatch, lambda: client.scores.update(1, 2, correct=True)),
            (errors.Forbidden, lambda: client.scores.delete(1)),
            (errors.InvalidQuery, lambda: list(client.scores.find(page_size=0))),
            (errors.InvalidToken, self.client("nobody").scores.progress),
            (errors.TokenExpired, self.client(EXPIRED).scores.progress),
            (errors.IdempotencyKeyReused, lambda: client.counters.increment("c", key="mine")),
        ):
            with self.subTest(error.kind), self.assertRaises(error) as raised:
                call()
            self.assertEqual(raised.exception.code, error.kind)


class TestEndpoints(ClientTestCase):
    # Pages for people; and PATCH with an id is PUT.
    LEFT_OUT = {"home", "get_badge", "patch_score"}

    def test_are_all_there(self):
        """Every operation on scores and counters is called by a method of the client."""
        document = self.service.get("/openapi.json")[1]
        wanted = {
            operation["operationId"]
            for path in document["paths"].values()
            for operation in path.values()
            if set(operation["tags"]) & {"Scores", "Counter"}
        }

        self.assertEqual(self.called(document), wanted - self.LEFT_OUT)

    def called(self, document):
        sent = []

        def note(_self, method, path, *_, **__):
            sent.append((method, path.partition("?")[0]))
            raise errors.Unreachable

        client = self.client()
        with mock.patch.object(transport.Transport, "call", note):
            for group in (client.scores, client.counters):
                for name in dir(group):
                    if not name.startswith("_"):
                        with self.assertRaises(errors.Unreachable):
                            list(self.with_anything(getattr(group, name)))
        return {operation(document, method, path) for method, path in sent}

    def with_anything(self, method):
        given = {"score_id": 1, "exercise_id": 1, "correct": True, "name": "c", "value": 1}
        given |= {"scores": [], "increments": {}, "if_match": "*", "prefix": "c"}
        names = method.__code__.co_varnames[1 : method.__code__.co_argcount]
        names += ("if_match",) if method.__name__ == "set" else ()
        needed = {name: given[name] for name in names if name in given}
        return method(**needed)


def operation(document, method, path):
    """Return the id of the operation that a request is for; a path without names comes first."""
    parts = path.split("/")
    for template in sorted(document["paths"], key=lambda template: template.count("{")):
        pieces = template.split("/")
        if len(pieces) == len(parts) and all(
            piece == part or piece.startswith("{")
            for piece, part in zip(pieces, parts, strict=True)
        ):
            found = document["paths"][template].get(method.lower())
            if found:
                return found["operationId"]
    raise AssertionError(f"{method} {path} is no operation of the service")


class TestLostAnswers(ClientTestCase):
    """The write was done, and the connection cut before its answer arrived."""

    def setUp(self):
        super().setUp()
        self.proxy = self.enterContext(Proxy(self.service.port))

    def test_of_increments_count_once(self):
        client = self.client(url=self.proxy.url)
        client.counters.increment("visits")

        self.proxy.cuts = 3
        value = client.counters.increment("visits", 10)

        self.assertEqual((value, self.proxy.cut), (11, 3))
        self.assertEqual(client.counters.get("visits").value, 11)

    def test_of_scores_count_once(self):
        client = self.client(SERVICE, self.proxy.url)
        for number, write in enumerate(
            (
                lambda: client.scores.add(1, correct=True).id,
                lambda: client.scores.upsert(1, correct=True).id,
                lambda: client.scores.update(1, 1, correct=True).id,
                lambda: client.scores.upsert_many([NewScore(1, 1, True)])[0].id,
            ),
            start=1,
        ):
            with self.subTest(number):
                self.proxy.cuts = 1

                self.assertEqual(write(), 1)
                self.assertEqual(self.proxy.cut, number)
                self.assertEqual(client.scores.get(1).attempts, number)

    def test_of_reads_are_asked_for_again(self):
        client = self.client(SERVICE, self.proxy.url)
        client.counters.increment("visits")
        self.proxy.cuts = 2

        self.assertEqual(client.counters.get("visits").value, 1)

    def test_of_what_has_no_key_are_left_to_the_caller(self):
        client = self.client(ADMIN, self.proxy.url)
        client.counters.increment("visits")
        self.proxy.cuts = 1

        with self.assertRaises(errors.Unreachable):
            client.counters.delete("visits")

        with self.assertRaises(errors.CounterNotFound):
            client.counters.get("visits")


class TestRepeating(unittest.TestCase):
    """What is asked for again, when, and with which key; against a server with a script."""

    def setUp(self):
        self.sleep = self.enterContext(mock.patch.object(transport.time, "sleep"))

    def increment(self, *answers, **options):
        script = self.enterContext(Script(*answers))
        client = self.enterContext(EvalClient(script.url, "token", **options))
        try:
            outcome = client.counters.increment("visits")
        except errors.EvalError as error:
            outcome = error
        self.keys = [headers["Idempotency-Key"] for _, _, headers in script.requests]
        return outcome

    def answer(self, status, code="", **headers):
        body = {"status": "error", "message": "No.", "code": code}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return status, named, json.dumps(VALUE if status == 200 else body).encode()

    def test_keeps_the_key_of_the_call(self):
        self.assertEqual(self.increment(*[self.answer(503)] * 3, self.answer(200)), 1)
        first = set(self.keys)
        self.increment(self.answer(200))

        self.assertEqual((len(first), len(first | set(self.keys))), (1, 2))

    def test_is_for_what_passes(self):
        for status, code in (
            (429, "rate_limited"),
            (503, "unavailable"),
            (409, "request_in_progress"),
            (502, ""),
            (504, ""),
        ):
            with self.subTest(code or status):
                self.assertEqual(self.increment(self.answer(status, code), self.answer(200)), 1)
                self.assertEqual(len(self.keys), 2)

    def test_is_not_for_what_stays(self):
        for status, code in (
            (400, "invalid_payload"),
            (401, "invalid_token"),
            (401, "token_expired"),
            (409, "counter_overflow"),
            (422, "idempotency_key_reused"),
            (500, "internal"),
            (302, ""),
        ):
            with self.subTest(code or status):
                error = self.increment(self.answer(status, code))

                self.assertEqual((error.status, error.code), (status, code))
                self.assertEqual(len(self.keys), 1)

    def test_waits_for_as_long_as_it_is_asked_to(self):
        self.increment(self.answer(503, Retry_After="3"), self.answer(200))

        [(seconds,)] = [call.args for call in self.sleep.call_args_list]
        self.assertTrue(3 < seconds < 3.1, seconds)

    def test_waits_for_nobody_beyond_its_patience(self):
        error = self.increment(self.answer(429, "rate_limited", Retry_After="31"))

        self.assertIsInstance(error, errors.RateLimited)
        self.assertEqual((error.retry_after_seconds, self.sleep.call_count), (31, 0))

    def test_waits_ever_longer_and_never_alike(self):
        self.increment(*[self.answer(503)] * 12, self.answer(200))

        waits = [call.args[0] for call in self.sleep.call_args_list]
        longest = [min(0.05 * 2**n, 5) for n in range(12)]
        self.assertTrue(
            all(top / 2 <= wait <= top for wait, top in zip(waits, longest, strict=True))
        )
        self.assertEqual(len(set(waits)), 12)

    def test_takes_the_answer_of_a_proxy_for_what_it_is(self):
        error = self.increment((500, {"Content-Type": "text/html"}, b"<h1>Oh no</h1>"))

        self.assertEqual((type(error), error.status, error.code), (errors.ApiError, 500, ""))

    def test_takes_a_page_for_no_answer_though_it_says_200(self):
        error = self.increment((200, {"Content-Type": "text/html"}, b"<h1>Please log in</h1>"))

        self.assertEqual((type(error), error.status), (errors.ApiError, 200))

    def test_follows_nobody_elsewhere_with_a_token(self):
        with Script() as other:
            error = self.increment((302, {"Location": other.url}, b""))

            self.assertEqual((error.status, other.requests), (302, []))

    def test_asks_once_for_the_token_of_a_call(self):
        """Another user's key would be another key: the call would be done twice."""
        given = iter(["first", "second"])
        script = self.enterContext(Script(self.answer(503), self.answer(200)))
        client = self.enterContext(EvalClient(script.url, lambda: next(given)))

        client.counters.increment("visits")

        sent = {headers["Authorization"] for _, _, headers in script.requests}
        self.assertEqual(sent, {"Bearer first"})


class TestUnreachable(unittest.TestCase):
    def test_is_said_where_nobody_listens(self):
        began = time.monotonic()
        client = EvalClient(f"http://127.0.0.1:{free_port()}", "t", patience_seconds=0.3)
        with client, self.assertRaises(errors.Unreachable) as raised:
            client.counters.increment("visits")

        self.assertLess(time.monotonic() - began, 3)
        self.assertIn("/counters/visits/increment", str(raised.exception))

    def test_is_said_where_somebody_listens_and_never_answers(self):
        with Script((200, {"Content-Length": "100"}, b"{")) as script:
            client = EvalClient(script.url, "t", timeout_seconds=0.2, patience_seconds=0)
            with client, self.assertRaises(errors.Unreachable):
                client.counters.get("visits")

    def test_is_no_address(self):
        with self.assertRaises(ValueError):
            EvalClient("localhost:5002")


class TestKilledWorker(ClientTestCase):
    THREADS = 8
    EACH = 60

    def test_costs_no_count_and_adds_none(self):
        """Of so many increments each counts once, though a worker is killed meanwhile."""
        client = self.client()
        count = self.THREADS * self.EACH
        killed = self.service.workers[0]
        done = threading.Semaphore(0)

        def increment(_):
            value = client.counters.increment("visits")
            done.release()
            return value

        with ThreadPoolExecutor(self.THREADS) as pool:
            values = pool.map(increment, range(count))
            for _ in range(count // 4):
                done.acquire(timeout=30)
            killed.kill()
            values = sorted(values)

        self.assertEqual(values, list(range(1, count + 1)))
        self.assertEqual(client.counters.get("visits").value, count)
        self.assertTrue(client.counters.audit("visits").consistent)
        self.assertFalse(is_alive(killed.pid))
