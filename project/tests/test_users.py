"""The client of users-service, over real sockets and with real threads."""

import logging
import os
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from inspect import signature
from pathlib import Path
from shutil import which
from threading import Barrier, Event
from unittest import mock

from project.tests import users_service as fakes
from project.tests.processes import LATENESS_SECONDS
from project.tests.users_service import FakeUsersService, Handler
from project.users import User, UsersService, UsersUnavailable

# How late anything may be on a machine that is busy with other things.
GRACE_SECONDS = 5.0


def setUpModule() -> None:
    # What the breaker says is asserted where it matters and not printed.
    logging.getLogger("project.users").addHandler(logging.NullHandler())


class UsersTestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.fake = self.enterContext(FakeUsersService())
        self.users = self.connect()

    def connect(self, url: str | None = None, **settings: float) -> UsersService:
        """Return a client that never gives up asking, unless `settings` say otherwise."""
        patient = {"timeout_seconds": 20, "failures_to_open": 1_000_000}
        users = UsersService(url or self.fake.url, **(patient | settings))
        self.addCleanup(users.close)
        return users

    def assert_unavailable(self, users: UsersService, *tokens: str) -> UsersUnavailable:
        with self.assertRaises(UsersUnavailable) as caught:
            users.who_is(*(tokens or ["test"]))
        return caught.exception

    def assert_soon(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        while not holds():
            self.assertLess(time.monotonic(), deadline, "it did not come true in time")
            time.sleep(0.005)

    def assert_nothing_is_left_behind(self) -> None:
        """No thread asks any more, and the server sees no connection."""
        self.assert_soon(lambda: not asking_threads())
        self.assert_soon(lambda: self.fake.connections == 0)


def asking_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "users-service"]


class TestWhoIs(UsersTestCase):
    def test_returns_the_user_whose_token_it_is(self) -> None:
        """A yes names the user, and whether that is an admin."""
        self.assertEqual(self.users.who_is("learner"), User(7))
        self.assertEqual(self.users.who_is("test"), User(998877, is_admin=True))

    def test_takes_admin_from_the_data_or_from_the_top(self) -> None:
        """Either place counts, and only a true `true`."""
        data = {"id": 7, "active": True}
        for answer, is_admin in [
            ({"data": data | {"admin": True}}, True),
            ({"data": data, "admin": True}, True),
            ({"data": data | {"admin": False}, "admin": True}, True),
            ({"data": data | {"admin": 1}, "admin": "true"}, False),
            ({"data": data}, False),
        ]:
            with self.subTest(answer=answer):
                self.fake.behaviour = fakes.answers(200, {"status": "success", **answer})

                user = self.connect().who_is("x")

                self.assertEqual(user, User(7, is_admin=is_admin))

    def test_returns_none_where_users_service_says_no(self) -> None:
        """401, 403 and an inactive user are a no."""
        self.assertIsNone(self.users.who_is("unknown"))
        self.assertIsNone(self.users.who_is("inactive"))
        self.fake.behaviour = fakes.answers(403, b"<h1>Forbidden</h1>", "text/html")
        self.assertIsNone(self.users.who_is("unknown"))

    def test_asks_at_auth_status_below_the_path_of_the_address(self) -> None:
        """The token goes into the header, the path may have a prefix."""
        self.fake.behaviour = fakes.answers(401, {})

        self.connect(f"{self.fake.url}/users/").who_is("abc")

        question = self.fake.last_question
        self.assertEqual(question["path"], "/users/auth/status")
        self.assertEqual(question["Authorization"], "Bearer abc")
        self.assertEqual(question["Accept"], "application/json")

    def test_does_not_ask_about_what_cannot_be_a_token(self) -> None:
        """Text that does not fit into a header is a no, without a question."""
        for text in ["", "a\r\nX: y", "a\nb", "\0", "\x7f", "\x85", "ключ", "\ud800", "x" * 8193]:
            with self.subTest(text=text[:10]):
                self.assertIsNone(self.users.who_is(text))

        self.assertEqual(self.fake.questions, 0)

    def test_refuses_an_address_that_is_none(self) -> None:
        """A wrong setting is noticed at the start, not by the first caller."""
        for url in ["", "users-service:5000", "ftp://users-service", "http://"]:
            with self.subTest(url=url), self.assertRaises(ValueError):
                UsersService(url)


class TestUnavailable(UsersTestCase):
    def test_says_neither_yes_nor_no_to_a_wrong_answer(self) -> None:
        """Only what is certainly an answer of users-service counts as one."""
        yes = {"id": 7, "active": True}
        wrong_ids = [0, -1, 2**63, True, "7", 7.0, None, [7]]
        for status, body in [
            (500, b""),
            (502, b"<h1>Bad gateway</h1>"),
            (408, {"status": "fail"}),
            (429, {}),
            (304, b""),
            (201, {"status": "success", "data": yes}),
            (200, b""),
            (200, b"<h1>Welcome</h1>"),
            (200, b'{"status": "success", "data": {"id": 7, "active": true'),
            (200, b"[" * 60_000),
            (200, b"\xff\xfe"),
            (200, []),
            (200, None),
            (200, {"data": yes}),
            (200, {"status": "fail", "data": yes}),
            (200, {"status": "success"}),
            (200, {"status": "success", "data": [yes]}),
            (200, {"status": "success", "data": {"id": 7}}),
            (200, {"status": "success", "data": {"id": 7, "active": 1}}),
            (200, {"status": "success", "data": {"active": True}}),
            *((200, {"status": "success", "data": yes | {"id": wrong}}) for wrong in wrong_ids),
        ]:
            with self.subTest(status=status, body=str(body)[:60]):
                self.fake.behaviour = fakes.answers(status, body)

                self.assert_unavailable(self.users)

    def test_lookup_returns_none_for_any_other_client_error(self) -> None:
        """A 4xx is a no for that token, whatever its body."""
        for status in (400, 401, 402, 403, 404, 405, 410, 413, 415, 422, 431, 451, 499):
            for body in (b"", b"<h1>No</h1>", {"status": "success"}, b"x" * 100_000):
                with self.subTest(status=status, body=str(body)[:20]):
                    self.fake.behaviour = fakes.answers(status, body)

                    self.assertIsNone(self.users.who_is("test"))

    def test_accepts_the_largest_id(self) -> None:
        """2^63-1 is an id."""
        self.fake.tokens["last"] = fakes.person(2**63 - 1, "last")

        self.assertEqual(self.users.who_is("last"), User(2**63 - 1))

    def test_a_network_fault_is_never_a_no(self) -> None:
        """Hung up, broken off, refused, no such name: all are no answer."""
        for fault in [fakes.close_at_once, fakes.break_off]:
            with self.subTest(fault=fault.__name__):
                self.fake.behaviour = fault
                self.assert_unavailable(self.users)
        self.assert_nothing_is_left_behind()

        self.fake.stop()
        self.assert_unavailable(self.users)
        with mock.patch("socket.getaddrinfo", side_effect=socket.gaierror("no such name")):
            self.assert_unavailable(self.users)

    def test_tells_nobody_the_token(self) -> None:
        """The reason names the fault and when to come back, not what was asked."""
        self.fake.stop()

        error = self.assert_unavailable(self.connect(open_seconds=2.5), "a-secret")

        self.assertNotIn("a-secret", str(error))
        self.assertEqual(error.retry_after_seconds, 3)

    def test_follows_no_redirect(self) -> None:
        """The token does not travel to another server."""
        with FakeUsersService() as elsewhere:
            self.fake.behaviour = fakes.redirects_to(f"{elsewhere.url}/auth/status")

            self.assert_unavailable(self.users)

            self.assertEqual(elsewhere.questions, 0)

    def test_stops_reading_an_answer_that_is_too_large(self) -> None:
        """Of 10 MB the server gets rid of no more than its socket buffers hold."""
        finished = Event()

        def flood(handler: Handler) -> None:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            fakes.flood(handler)
            handler.wfile.flush()
            finished.set()

        self.fake.behaviour = flood

        self.assert_unavailable(self.users)

        self.assert_nothing_is_left_behind()
        self.assertFalse(finished.is_set())


class TestDeadline(UsersTestCase):
    def assert_ends_in_time(self, users: UsersService) -> None:
        started_at = time.monotonic()

        self.assert_unavailable(users)

        self.assertLess(time.monotonic() - started_at, GRACE_SECONDS)
        self.assert_nothing_is_left_behind()

    def test_bounds_a_server_that_never_answers(self) -> None:
        """The deadline ends the wait, and the thread that asked."""
        self.fake.behaviour = fakes.hang

        self.assert_ends_in_time(self.connect(timeout_seconds=0.1))

    def test_bounds_a_server_that_drips(self) -> None:
        """Many small waits take no longer than `timeout_seconds` together."""
        for fault in [fakes.drip_header, fakes.drip_body, fakes.drip_chunks]:
            with self.subTest(fault=fault.__name__):
                self.fake.behaviour = fault

                self.assert_ends_in_time(self.connect(timeout_seconds=0.2))

    def test_lookup_waits_for_a_slow_answer_until_the_deadline(self) -> None:
        """The first byte may come as late as the last one."""

        def answer_slowly(handler: Handler) -> None:
            handler.fake.released.wait(1.2)
            fakes.answer_truly(handler)

        self.fake.behaviour = answer_slowly
        users = UsersService(self.fake.url)
        self.addCleanup(users.close)

        self.assertEqual(users.who_is("learner"), User(7))

    def test_lookup_waits_for_a_slow_connect_until_the_deadline(self) -> None:
        """A full backlog drops the first packet, and the kernel repeats it after a second."""
        with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as listener:
            listener.settimeout(GRACE_SECONDS)
            address = listener.getsockname()
            with closing(socket.create_connection(address)), ThreadPoolExecutor(1) as pool:
                users = self.connect("http://{}:{}".format(*address))
                waiting = pool.submit(users.who_is, "learner")
                time.sleep(0.7)

                for _ in range(2):  # the one that filled the backlog, then the lookup
                    connection, _ = listener.accept()
                    self.enterContext(closing(connection))
                connection.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")

                self.assertIsNone(waiting.result())

    def test_bounds_a_name_lookup_that_hangs(self) -> None:
        """Nothing can interrupt it, but nobody waits for it and the breaker knows."""
        looked_up = Event()
        users = self.connect(timeout_seconds=0.1, failures_to_open=1, open_seconds=60)

        def hang(*_: object, **__: object) -> None:
            looked_up.wait(GRACE_SECONDS)
            raise socket.gaierror("the name server is away")

        with mock.patch("socket.getaddrinfo", hang):
            self.assert_unavailable(users)

            self.assertTrue(asking_threads())
            self.assertTrue(users.is_open)
            looked_up.set()
            self.assert_nothing_is_left_behind()

    @unittest.skipUnless(which("openssl"), "a certificate is made with openssl")
    def test_bounds_tls_too(self) -> None:
        """Over https it asks, verifies the server, and keeps to the deadline."""
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        options = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        options += ["-subj", "/CN=users", "-addext", "subjectAltName=IP:127.0.0.1"]
        options += ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run(["openssl", "req", *options], check=True, capture_output=True)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        self.fake = self.enterContext(FakeUsersService(tls))
        self.assert_unavailable(self.connect())
        with mock.patch.dict(os.environ, {"SSL_CERT_FILE": str(certificate)}):
            trusting = self.connect()
            hasty = self.connect(timeout_seconds=0.3)

        self.assertEqual(trusting.who_is("learner"), User(7))
        self.assertIsNone(trusting.who_is("unknown"))
        trusting.close()
        for fault in [fakes.drip_header, fakes.drip_body]:
            self.fake.behaviour = fault
            self.assert_ends_in_time(hasty)


class TestConnections(UsersTestCase):
    def test_uses_a_connection_again(self) -> None:
        """One caller needs one connection."""
        for token in ["test", "learner", "unknown", "inactive"]:
            self.users.who_is(token)

        self.assertEqual(self.fake.questions, 4)
        self.assertEqual(self.fake.connections, 1)

    def test_asks_again_where_the_server_had_closed_an_idle_connection(self) -> None:
        """That the server tidies up is no failure."""
        self.users.who_is("test")
        self.fake.hang_up()
        self.assert_soon(lambda: self.fake.connections == 0)

        self.assertEqual(self.users.who_is("learner"), User(7))

    def test_asks_again_where_the_server_closes_while_it_is_asked(self) -> None:
        """The question may cross the server's good-bye on the wire; a fresh connection answers."""
        self.fake.behaviour = fakes.close_when_reused
        self.users.who_is("test")

        self.assertEqual(self.users.who_is("learner"), User(7))
        self.assertEqual(self.fake.questions, 3)

    def test_asks_a_fresh_connection_only_once(self) -> None:
        """A server that hangs up on everybody is asked once for each caller."""
        self.fake.behaviour = fakes.close_at_once

        self.assert_unavailable(self.users)

        self.assertEqual(self.fake.questions, 1)

    def test_sends_only_so_many_requests_at_a_time(self) -> None:
        users = self.connect(max_requests=2)
        lock, running, seen = threading.Lock(), 0, []

        def answer_slowly(handler: Handler) -> None:
            nonlocal running
            with lock:
                running += 1
                seen.append(running)
            time.sleep(0.05)
            with lock:
                running -= 1
            fakes.answer_truly(handler)

        self.fake.behaviour = answer_slowly
        tokens = [f"token-{number}" for number in range(12)]
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(users.who_is, tokens, tokens))

        self.assertEqual(len(seen), 12)
        self.assertEqual(max(seen), 2)
        self.assertEqual(self.fake.connections, 2)

    def test_closes_its_connections(self) -> None:
        """After close() none is open, nor kept from later questions."""
        self.users.who_is("test")

        self.users.close()

        self.assertEqual(self.users.who_is("learner"), User(7))
        self.assert_nothing_is_left_behind()


class TestCache(UsersTestCase):
    def test_asks_once_for_a_token_that_is_good(self) -> None:
        """A yes is remembered, also while users-service is away."""
        self.users.who_is("test")
        self.fake.stop()

        self.assertEqual(self.users.who_is("test"), User(998877, is_admin=True))
        self.assertEqual(self.fake.questions, 1)

    def test_asks_again_after_its_time(self) -> None:
        """A yes is forgotten after `cache_seconds`."""
        users = self.connect(cache_seconds=0.01)
        users.who_is("learner")
        self.fake.tokens["learner"]["active"] = False

        self.assert_soon(lambda: users.who_is("learner") is None)

    def test_remembers_a_no_for_a_few_seconds(self) -> None:
        users = self.connect(invalid_cache_seconds=0.3)
        self.assertIsNone(users.who_is("new"))
        self.fake.tokens["new"] = fakes.person(10, "new")

        self.assertIsNone(users.who_is("new"))
        self.assertEqual(self.fake.questions, 1)
        self.assert_soon(lambda: users.who_is("new") == User(10))

    def test_invalid_tokens_do_not_evict_valid_ones(self) -> None:
        users = self.connect(cache_size=2)
        users.who_is("learner")
        for number in range(10):
            users.who_is(f"random-{number}")

        self.assertEqual(users.known("learner"), User(7))
        self.assertTrue(users.was_valid("learner"))
        self.assertEqual(users.who_is("random-9"), None)
        self.assertEqual(self.fake.questions, 11)

    def test_token_was_valid_until_users_service_says_no(self) -> None:
        users = self.connect(cache_seconds=0.01)
        self.assertFalse(users.was_valid("learner"))
        users.who_is("learner")
        self.assert_soon(lambda: users.known("learner") is None)
        self.assertTrue(users.was_valid("learner"))

        self.fake.tokens["learner"]["active"] = False
        self.assertIsNone(users.who_is("learner"))

        self.assertFalse(users.was_valid("learner"))

    def test_removed_role_is_gone_when_the_cache_expires(self) -> None:
        users = self.connect(cache_seconds=0.01)
        self.assertEqual(users.who_is("test"), User(998877, is_admin=True))

        self.fake.tokens["test"]["admin"] = False

        self.assert_soon(lambda: users.who_is("test") == User(998877))
        defaults = signature(UsersService).parameters
        self.assertLessEqual(defaults["cache_seconds"].default, 30)  # as the documentation says

    def test_holds_only_so_many(self) -> None:
        """A full cache forgets, and asks again."""
        users = self.connect(cache_size=1)
        for token in ["test", "learner", "test"]:
            users.who_is(token)

        self.assertEqual(self.fake.questions, 3)

    def test_holds_no_token(self) -> None:
        """Its keys are hashes."""
        self.users.who_is("learner")

        self.assertNotIn("learner", repr(self.users._cache))
        self.assertEqual([len(key) for key in self.users._cache], [32])


class TestSingleFlight(UsersTestCase):
    """Many callers, one question."""

    def ask_together(
        self, users: UsersService, token: str, callers: int = 32
    ) -> list[Future[User | None]]:
        """Have all ask at once, while users-service keeps the first waiting for the others."""
        here = Barrier(callers)

        def ask() -> User | None:
            here.wait(GRACE_SECONDS)
            return users.who_is(token, client=token)

        pool = ThreadPoolExecutor(callers)
        self.addCleanup(pool.shutdown)
        return [pool.submit(ask) for _ in range(callers)]

    def hold(self, then: Callable[[Handler], None]) -> Event:
        """Have users-service wait for the returned event before it answers."""
        go = Event()

        def wait_and_answer(handler: Handler) -> None:
            go.wait(GRACE_SECONDS)
            then(handler)

        self.fake.behaviour = wait_and_answer
        return go

    def wait_for_callers(self, waiting: int = 32) -> None:
        """Return when that many callers wait for a lookup."""
        pending = self.users._pending
        self.assert_soon(
            lambda: sum(len(p.result._waiters) for p in list(pending.values())) == waiting
        )

    def test_asks_once_for_many_who_come_at_once(self) -> None:
        """Of 32 callers with one token one asks, and all get the same user."""
        go = self.hold(fakes.answer_truly)
        answers = self.ask_together(self.users, "learner")
        self.wait_for_callers()

        go.set()

        self.assertEqual([answer.result() for answer in answers], [User(7)] * 32)
        self.assertEqual(self.fake.questions, 1)

    def test_shares_a_no(self) -> None:
        """A no is the result of all callers that waited for it."""
        go = self.hold(fakes.answer_truly)
        answers = self.ask_together(self.users, "unknown")
        self.wait_for_callers()

        go.set()

        self.assertEqual([answer.result() for answer in answers], [None] * 32)
        self.assertEqual(self.fake.questions, 1)

    def test_gives_each_an_exception_of_its_own(self) -> None:
        """No two threads raise the same object."""
        go = self.hold(fakes.close_at_once)
        answers = self.ask_together(self.users, "test")
        self.wait_for_callers()

        go.set()

        errors = [answer.exception() for answer in answers]
        self.assertEqual({type(error) for error in errors}, {UsersUnavailable})
        self.assertEqual(len({id(error) for error in errors}), 32)
        self.assertEqual(self.fake.questions, 1)

    def test_does_not_mix_tokens(self) -> None:
        """Each token has a lookup of its own, at the same time."""
        self.users = self.connect(max_requests=8)
        go = self.hold(fakes.answer_truly)
        answers = {
            token: self.ask_together(self.users, token, 4)
            for token in ["test", "learner", "other", "unknown"]
        }
        self.wait_for_callers(16)

        go.set()

        users = {token: {a.result() for a in asked} for token, asked in answers.items()}
        expected = {"test": {User(998877, True)}, "learner": {User(7)}, "other": {User(8)}}
        self.assertEqual(users, {**expected, "unknown": {None}})
        self.assertEqual(self.fake.questions, 4)

    def test_lets_all_go_when_the_asking_thread_dies(self) -> None:
        """Whatever kills it, nobody waits on, and the next caller asks anew."""
        go = Event()

        def die(*_: object) -> None:
            go.wait(GRACE_SECONDS)
            raise SystemExit

        with mock.patch.object(self.users._connections, "get", die):
            answers = self.ask_together(self.users, "test")
            self.wait_for_callers()
            go.set()
            errors = [answer.exception(GRACE_SECONDS) for answer in answers]

        self.assertEqual({type(error) for error in errors}, {UsersUnavailable})
        self.assertEqual(self.users.who_is("test"), User(998877, is_admin=True))

    def test_is_unavailable_where_no_thread_can_start(self) -> None:
        """A machine without threads left is no reason to wait."""
        with mock.patch("threading.Thread.start", side_effect=RuntimeError("no more threads")):
            self.assert_unavailable(self.users)

        self.assertEqual(self.users.who_is("learner"), User(7))


class TestQueue(UsersTestCase):
    """Lookups of one client wait for each other, and not for those of other clients."""

    def hold(self) -> Event:
        """Have users-service answer when the returned event is set."""
        go = Event()
        self.addCleanup(go.set)

        def wait_and_answer(handler: Handler) -> None:
            go.wait(GRACE_SECONDS)
            fakes.answer_truly(handler)

        self.fake.behaviour = wait_and_answer
        return go

    def test_client_has_one_request_at_a_time(self) -> None:
        go = self.hold()
        with ThreadPoolExecutor(9) as pool:
            for number in range(8):
                pool.submit(self.users.who_is, f"random-{number}", "attacker")
            self.assert_soon(lambda: self.fake.questions == 1)

            good = pool.submit(self.users.who_is, "learner", "other client")

            self.assert_soon(lambda: self.fake.questions == 2)
            self.assertEqual(self.fake.last_question["Authorization"], "Bearer learner")
            go.set()
            self.assertEqual(good.result(), User(7))

    def test_token_that_was_valid_before_does_not_wait_for_new_ones(self) -> None:
        """Also if the new tokens come from many clients."""
        users = self.connect(max_requests=4, cache_seconds=0.01)
        users.who_is("learner", "learner")
        self.assert_soon(lambda: users.known("learner") is None)
        go = self.hold()
        with ThreadPoolExecutor(9) as pool:
            for number in range(8):
                pool.submit(users.who_is, f"random-{number}", f"client-{number}")
            self.assert_soon(lambda: self.fake.questions == 4)

            good = pool.submit(users.who_is, "learner", "learner")

            self.assert_soon(lambda: self.fake.questions == 5)
            self.assertEqual(self.fake.last_question["Authorization"], "Bearer learner")
            go.set()
            self.assertEqual(good.result(), User(7))

    def test_callers_with_one_token_share_a_request_though_their_clients_differ(self) -> None:
        go = self.hold()
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(self.users.who_is, "learner", str(n)) for n in range(4)]
            self.assert_soon(lambda: self.fake.questions == 1)
            go.set()

            self.assertEqual([answer.result() for answer in answers], [User(7)] * 4)
        self.assertEqual(self.fake.questions, 1)

    def test_time_in_the_queue_is_not_a_failure(self) -> None:
        """A lookup whose turn does not come is unavailable, and the breaker stays closed."""
        users = self.connect(timeout_seconds=2.0, failures_to_open=2, open_seconds=60)
        self.fake.behaviour = fakes.hang
        with ThreadPoolExecutor(9) as pool:
            asked = pool.submit(users.who_is, "first", "client")
            self.assert_soon(lambda: self.fake.questions == 1)
            queued = [pool.submit(users.who_is, f"random-{n}", "client") for n in range(8)]
            errors = [answer.exception() for answer in queued]

        self.assertIsInstance(asked.exception(), UsersUnavailable)
        self.assertEqual({type(error) for error in errors}, {UsersUnavailable})
        self.assertFalse(users.is_open)

    def test_lookup_waits_for_its_turn_until_its_deadline(self) -> None:
        """As during logins, when a users-service with one worker hashes passwords."""
        users = self.connect(timeout_seconds=2.0, failures_to_open=1)

        def answer_slowly(handler: Handler) -> None:
            handler.fake.released.wait(1.5 if self.fake.questions == 1 else 0)
            fakes.answer_truly(handler)

        self.fake.behaviour = answer_slowly
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(users.who_is, token, "client") for token in ("test", "learner")]

            self.assertEqual([a.result() for a in answers], [User(998877, True), User(7)])

        self.assertFalse(users.is_open)

    def test_timeout_is_no_failure_if_the_request_was_sent_late(self) -> None:
        users = self.connect(timeout_seconds=2.0, failures_to_open=1)

        def answer_once(handler: Handler) -> None:
            if self.fake.questions == 1:
                handler.fake.released.wait(1.5)
                fakes.answer_truly(handler)
            else:
                fakes.hang(handler)

        self.fake.behaviour = answer_once
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(users.who_is, "test", "client")
            self.assert_soon(lambda: self.fake.questions == 1)
            began = time.monotonic()
            late = pool.submit(users.who_is, "learner", "client").exception()
            seconds = time.monotonic() - began

            self.assertEqual(first.result(), User(998877, True))
            self.assertIsInstance(late, UsersUnavailable)
            self.assertLess(seconds, 2.0 + LATENESS_SECONDS)
            self.assertFalse(users.is_open)
            with self.assertRaises(UsersUnavailable):
                users.who_is("other", "client")
            self.assertTrue(users.is_open)


class TestBreaker(UsersTestCase):
    def broken(self, open_seconds: float) -> UsersService:
        """Return a client whose breaker has just opened, after three failures."""
        users = self.connect(failures_to_open=3, open_seconds=open_seconds)
        self.fake.behaviour = fakes.answers(500, {})
        with self.assertLogs("project.users", "WARNING"):
            for _ in range(3):
                self.assertFalse(users.is_open)
                self.assert_unavailable(users)
        self.assertTrue(users.is_open)
        return users

    def test_refuses_at_once_while_it_is_open(self) -> None:
        """Nobody waits, and users-service is left in peace."""
        users = self.broken(open_seconds=60)
        self.fake.behaviour = fakes.hang
        started_at = time.monotonic()

        for token in ["test", "learner", "other"] * 100:
            self.assert_unavailable(users, token)

        self.assertLess(time.monotonic() - started_at, 1)
        self.assertEqual(self.fake.questions, 3)

    def test_still_knows_what_it_knew(self) -> None:
        """A cached yes needs no users-service."""
        users = self.connect(failures_to_open=1, open_seconds=60)
        users.who_is("learner")
        self.fake.stop()
        self.assert_unavailable(users)

        self.assertTrue(users.is_open)
        self.assertEqual(users.who_is("learner"), User(7))

    def test_recovers_by_itself(self) -> None:
        """Once users-service is back a trial finds out, and it says so in the log."""
        users = self.broken(open_seconds=0.02)
        self.fake.behaviour = fakes.answer_truly

        def is_back() -> bool:
            try:
                return users.who_is("learner") == User(7)
            except UsersUnavailable:
                return False

        with self.assertLogs("project.users", "INFO") as logs:
            self.assert_soon(is_back)

        self.assertEqual([record.levelname for record in logs.records], ["INFO"])
        self.assertFalse(users.is_open)
        self.assertEqual(self.fake.questions, 4)

    def test_breaker_counts_missing_answers_only(self) -> None:
        """A connection error, a timeout and a 5xx open it; no other answer does."""
        yes = {"status": "success", "data": {"id": 7, "active": True}}
        for behaviour, opens in [
            (fakes.close_at_once, True),
            (fakes.break_off, True),
            (fakes.hang, True),
            (fakes.drip_body, True),
            *((fakes.answers(status, {}), True) for status in (500, 501, 502, 503, 504, 599)),
            *((fakes.answers(status, {}), False) for status in (400, 401, 404, 408, 422, 429)),
            *((fakes.answers(status, yes), False) for status in (201, 204, 304)),
            (fakes.answers(200, {}), False),
            (fakes.answers(200, b"<h1>Welcome</h1>"), False),
            (fakes.redirects_to("http://127.0.0.1:9"), False),
            (fakes.flood, False),
        ]:
            with self.subTest(behaviour=str(behaviour)):
                users = self.connect(failures_to_open=3, open_seconds=60, timeout_seconds=0.3)
                self.fake.behaviour = behaviour

                for number in range(3):
                    with suppress(UsersUnavailable):
                        users.who_is(f"token-{number}")

                self.assertEqual(users.is_open, opens)

    def test_breaker_starts_its_count_again_after_an_unexpected_answer(self) -> None:
        users = self.connect(failures_to_open=2, open_seconds=60)
        for status in (500, 429, 500, 302, 500, 404, 500):
            self.fake.behaviour = fakes.answers(status, {})
            with suppress(UsersUnavailable):
                users.who_is("test")

        self.assertFalse(users.is_open)

    def test_breaker_closes_if_the_trial_gets_an_unexpected_answer(self) -> None:
        users = self.broken(open_seconds=0.02)
        self.fake.behaviour = fakes.answers(429, {})

        self.assert_soon(lambda: bool(self.assert_unavailable(users)) and not users.is_open)

    def test_takes_a_no_for_a_sign_of_life(self) -> None:
        """A no between failures starts the count again."""
        users = self.connect(failures_to_open=2)
        for number in range(3):
            self.fake.behaviour = fakes.answers(500, {})
            self.assert_unavailable(users)
            self.fake.behaviour = fakes.answer_truly
            self.assertIsNone(users.who_is(f"unknown-{number}"))

        self.assertFalse(users.is_open)

    def test_lets_one_caller_try(self) -> None:
        """While the trial is on its way all others are refused, also those with its token."""
        users = self.broken(open_seconds=0.02)
        asked, go = Event(), Event()

        def wait_and_answer(handler: Handler) -> None:
            asked.set()
            go.wait(GRACE_SECONDS)
            fakes.answer_truly(handler)

        self.fake.behaviour = wait_and_answer
        with ThreadPoolExecutor(1) as pool:
            trial = pool.submit(self.try_until_asked, users, asked)
            self.assertTrue(asked.wait(GRACE_SECONDS))
            for token in ["test", "learner", "other"] * 10:
                self.assert_unavailable(users, token)
            go.set()
            self.assertEqual(trial.result(), User(7))

        self.assertEqual(self.fake.questions, 4)
        self.assertFalse(users.is_open)

    def try_until_asked(self, users: UsersService, asked: Event) -> User | None:
        while True:
            try:
                return users.who_is("learner")
            except UsersUnavailable:
                if asked.is_set():
                    raise

    def test_breaker_tries_a_token_that_was_valid_before_any_other(self) -> None:
        users = self.connect(failures_to_open=1, open_seconds=0.5, cache_seconds=0.01)
        users.who_is("learner")
        self.fake.behaviour = fakes.answers(500, {})
        self.assert_unavailable(users, "test")
        time.sleep(0.6)

        for number in range(10):
            self.assert_unavailable(users, f"random-{number}")
        self.assertEqual(self.fake.questions, 2)
        self.fake.behaviour = fakes.answer_truly
        self.assertEqual(users.who_is("learner"), User(7))

        self.assertFalse(users.is_open)

    def test_breaker_tries_any_token_if_none_that_was_valid_comes(self) -> None:
        users = self.connect(failures_to_open=1, open_seconds=0.05, cache_seconds=0.01)
        users.who_is("learner")
        self.fake.behaviour = fakes.answers(500, {})
        self.assert_unavailable(users, "test")
        self.fake.behaviour = fakes.answer_truly

        def is_back() -> bool:
            with suppress(UsersUnavailable):
                return users.who_is("other") == User(8)
            return False

        self.assert_soon(is_back)

    def test_opens_again_when_the_trial_fails(self) -> None:
        """One failed trial is enough, and is no news to the log."""
        users = self.broken(open_seconds=0.02)

        with self.assertNoLogs("project.users"):
            self.assert_soon(lambda: bool(self.assert_unavailable(users)) and self.trials() == 2)

        self.assertTrue(users.is_open)

    def trials(self) -> int:
        return self.fake.questions - 3

    def test_ignores_what_was_asked_before_it_opened(self) -> None:
        """A late answer to an early question neither closes it nor keeps it open."""
        users = self.connect(failures_to_open=1, open_seconds=60)
        asked, go = Event(), Event()

        def answer_late(handler: Handler) -> None:
            asked.set()
            go.wait(GRACE_SECONDS)
            fakes.answer_truly(handler)

        self.fake.behaviour = answer_late
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(users.who_is, "learner")
            self.assertTrue(asked.wait(GRACE_SECONDS))
            self.fake.behaviour = fakes.answers(500, {})
            self.assert_unavailable(users, "test")
            go.set()
            self.assertEqual(late.result(), User(7))

        self.assertTrue(users.is_open)


if __name__ == "__main__":
    unittest.main()
