"""Who calls: what counts as a token, whom it speaks for, and that nothing opens the door."""

import ast
import base64
import hmac
import inspect
import json
import time
from concurrent.futures import ThreadPoolExecutor

import jwt

from project import create_app, tokens, users
from project.api import auth
from project.config import TestingConfig
from project.tests import users_service as fakes
from project.tests.base import ADMIN, LEARNER, BaseTestCase, users_service
from project.tests.processes import wait_until
from project.tests.users_service import FakeUsersService
from project.users import User

SECRET = "the secret of these tests, which is long enough"
LARGEST = 2**63 - 1
# How long the worst of these may take on a busy machine.
PATIENCE_SECONDS = 5


def app_with(**settings):
    """Return an app of its own on the same database; without users-service unless told."""
    known = {
        "SECRET_KEY": SECRET,
        "USERS_SERVICE_URL": None,
        "INVALID_TOKEN_LIMIT": "1000000/minute",
        "CORS_ORIGINS": "*",
        **settings,
    }
    return create_app(type("AuthConfig", (TestingConfig,), known))


def claims(**others):
    """Return what a good token of ours says, but for what is said here; ... leaves one out."""
    good = {"iss": "eval-service", "sub": "7", "exp": int(time.time()) + 60, "roles": []}
    return {name: value for name, value in (good | others).items() if value is not ...}


def part(text):
    raw = text if isinstance(text, bytes) else text.encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(payload, header=None, secret=SECRET):
    """Return a token with these claims, signed as HS256 does, whatever the header says.

    PyJWT would refuse to make most of what is wrong here.
    """
    header = {"alg": "HS256", "typ": "JWT"} if header is None else header
    message = f"{part(json.dumps(header))}.{part(json.dumps(payload))}"
    return f"{message}.{part(hmac.digest(secret.encode(), message.encode(), 'sha256'))}"


class AuthTestCase(BaseTestCase):
    def ask(self, authorization=None, client=None):
        """Return the answer of /ping to that header, which has come in time."""
        headers = {} if authorization is None else {"Authorization": authorization}
        started_at = time.monotonic()
        answer = (client or self.client).get("/ping", headers=headers)
        self.assertLess(time.monotonic() - started_at, PATIENCE_SECONDS)
        return answer

    def assert_invalid(self, answer):
        body = self.assert_fails(answer, 401, "invalid_token")
        self.assertEqual(body["message"], "Invalid token.")
        self.assertEqual(answer.headers["WWW-Authenticate"], "Bearer")

    def assert_expired(self, answer):
        body = self.assert_fails(answer, 401, "token_expired")
        self.assertEqual(body["message"], "Token expired.")
        self.assertEqual(answer.headers["WWW-Authenticate"], "Bearer")

    def assert_required(self, answer):
        body = self.assert_fails(answer, 403, "token_required")
        self.assertEqual(body["message"], "Provide a valid auth token.")
        self.assertEqual(answer.headers["WWW-Authenticate"], "Bearer")

    def assert_welcome(self, answer):
        self.assertEqual((answer.status_code, answer.get_json().get("message")), (200, "pong!"))


class TestHeader(AuthTestCase):
    def test_is_needed(self):
        self.assert_required(self.ask())

    def test_empty_authorization_is_like_none(self):
        self.client.get("/")  # creates public:home
        for header in ("", " ", "   "):
            with self.subTest(header):
                public = self.client.post(
                    "/counters/public:home/increment", headers={"Authorization": header}
                )

                self.assert_required(self.ask(header))
                self.assertEqual(public.status_code, 200)

    def test_is_refused_where_it_is_malformed(self):
        """None of these is a question to users-service."""
        before = users_service().questions
        for header in [
            "Bearer",
            "Bearer ",
            "Bearer    ",
            "Bearertest",
            "bearer",
            "test",
            "Basic x",
            "Basic dGVzdDp0ZXN0",
            "Token test",
            "Bearer test test",
            "Bearer test, Bearer test",
            "Bearer test,Bearer test",
            "Bearer test,",
            "Bearer ,test",
            ",Bearer test",
            "Bearer Bearer test",
            "Bearer\ttest",
            "Bearer=test",
            "Bearer: test",
            "\N{LATIN SMALL LETTER E WITH ACUTE}",
        ]:
            with self.subTest(header):
                self.assert_invalid(self.ask(header))
        self.assertEqual(users_service().questions, before)

    def test_several_header_fields_are_invalid_whatever_their_order(self):
        """None of them is chosen: what is in front might choose another one."""
        ours = f"Bearer {signed(claims())}"
        client = app_with(USERS_SERVICE_URL=users_service().url).test_client()
        self.assert_welcome(self.ask(ours, client))
        for first, second in [
            (ours, ours),
            (ours, "Bearer wrong"),
            ("Bearer wrong", ours),
            (ours, "Basic x"),
            ("", ours),
            (ours, ""),
        ]:
            with self.subTest(first=first[:10], second=second[:10]):
                headers = [("Authorization", first), ("Authorization", second)]

                self.assert_invalid(client.get("/ping", headers=headers))

    def test_is_refused_where_the_token_is_huge(self):
        for size in (9_000, 100_000):
            for token in ("x" * size, f"{'x' * size}.{'y' * size}.z", "." * size):
                with self.subTest(size=size, token=token[:3]):
                    self.assert_invalid(self.ask(f"Bearer {token}"))

    def test_takes_the_scheme_in_any_case(self):
        """RFC 9110, section 11.1."""
        for scheme in ("Bearer", "bearer", "BEARER"):
            with self.subTest(scheme):
                self.assert_welcome(self.ask(f"{scheme} test"))

    def test_is_needed_by_every_write(self):
        for method, path in [
            ("POST", "/scores"),
            ("PUT", "/scores/1"),
            ("PATCH", "/scores"),
            ("PATCH", "/scores/1"),
            ("DELETE", "/scores/1"),
            ("GET", "/scores/user"),
            ("GET", "/scores/user/1"),
            ("POST", "/counters/visits/increment"),
        ]:
            with self.subTest(method=method, path=path):
                body = {"exercise_id": 1, "correct": True}
                without = self.client.open(path, method=method, json=body)
                wrong = self.client.open(
                    path, method=method, json=body, headers={"Authorization": "Bearer wrong"}
                )

                self.assert_required(without)
                self.assert_invalid(wrong)

    def test_is_read_even_where_none_is_needed(self):
        """A caller that says who it is is not taken for nobody."""
        answer = self.client.post(
            "/counters/public:visits/increment", headers={"Authorization": "Bearer wrong"}
        )

        self.assert_invalid(answer)


class TestUsersService(AuthTestCase):
    def setUp(self):
        super().setUp()
        self.fake = self.enterContext(FakeUsersService())
        self.client = app_with(USERS_SERVICE_URL=self.fake.url).test_client()

    def test_says_yes(self):
        self.assert_welcome(self.ask("Bearer learner"))
        self.assertEqual(self.fake.last_question["Authorization"], "Bearer learner")

    def test_says_no_to_the_unknown_and_to_the_inactive(self):
        for token in ("unknown", "inactive", "Test", "test.", "%74est"):
            with self.subTest(token):
                self.assert_invalid(self.ask(f"Bearer {token}"))

    def test_is_asked_who_is_an_administrator(self):
        deleted = self.client.delete("/scores/1", headers=ADMIN)
        refused = self.client.delete("/scores/1", headers=LEARNER)

        self.assert_fails(deleted, 404, "score_not_found")
        self.assert_fails(refused, 403, "forbidden")

    def test_is_away_in_every_way_that_a_server_can_be(self):
        """503, soon, and never a no to a token that may be good, nor a bug of ours."""
        for behaviour in (
            fakes.answers(500, b"<h1>Oops</h1>", "text/html"),
            fakes.answers(429, {"status": "fail"}),
            fakes.answers(200, b"<h1>Welcome</h1>", "text/html"),
            fakes.answers(200, {"status": "success", "data": {"id": "7", "active": True}}),
            fakes.close_at_once,
            fakes.break_off,
            fakes.hang,
        ):
            with self.subTest(behaviour=str(behaviour)[:40]):
                self.client = app_with(USERS_SERVICE_URL=self.fake.url).test_client()
                self.fake.behaviour = behaviour

                answer = self.ask("Bearer learner")

                body = self.assert_fails(answer, 503, "unavailable")
                self.assertIn("Users-service", body["message"])
                self.assertGreaterEqual(int(answer.headers["Retry-After"]), 1)

    def test_lookup_ends_after_the_seconds_of_the_setting(self):
        self.fake.behaviour = fakes.hang
        app = app_with(USERS_SERVICE_URL=self.fake.url, USERS_SERVICE_TIMEOUT_SECONDS="0.2")
        began = time.monotonic()

        answer = self.ask("Bearer learner", app.test_client())

        self.assert_fails(answer, 503, "unavailable")
        self.assertLess(time.monotonic() - began, 1.5)

    def test_lookup_is_rejected_if_too_many_requests_wait(self):
        """With four threads a process has two slots, and one of them for lookups."""
        self.fake.behaviour = fakes.hang
        self.client = app_with(USERS_SERVICE_URL=self.fake.url, THREADS="4").test_client()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(self.ask, "Bearer learner")
            wait_until(lambda: self.fake.questions == 1)
            began = time.monotonic()

            with self.assertLogs(self.client.application.logger, "WARNING"):
                second = self.ask("Bearer other")

            self.assertLess(time.monotonic() - began, 1.5)
            self.assertIn("Users-service", self.assert_fails(second, 503, "unavailable")["message"])
            self.assertGreaterEqual(int(second.headers["Retry-After"]), 1)
            self.assert_welcome(self.ask(f"Bearer {signed(claims())}"))
            self.assertFalse(first.done())
            self.assert_fails(first.result(), 503, "unavailable")

    def test_new_tokens_at_once_are_all_looked_up_if_users_service_answers(self):
        """More than there are slots for lookups: the others wait for their turn."""
        self.client = app_with(USERS_SERVICE_URL=self.fake.url, THREADS="4").test_client()
        tokens = [f"new-{number}" for number in range(32)]
        self.fake.tokens |= {token: fakes.person(7, token) for token in tokens}

        answers = self.at_once(len(tokens), lambda number: self.ask(f"Bearer {tokens[number]}"))

        for answer in answers:
            self.assert_welcome(answer)

    def limited_to(self, limit, **settings):
        app = app_with(USERS_SERVICE_URL=self.fake.url, INVALID_TOKEN_LIMIT=limit, **settings)
        self.client = app.test_client()

    def test_invalid_tokens_of_an_address_are_limited(self):
        self.limited_to("3/minute")

        statuses = [self.ask(f"Bearer random-{n}").status_code for n in range(3)]
        before = self.fake.questions
        answer = self.ask("Bearer random-4")

        self.assertEqual(statuses, [401, 401, 401])
        body = self.assert_fails(answer, 429, "rate_limited")
        self.assertIn("invalid tokens", body["message"])
        self.assertRegex(answer.headers["Retry-After"], r"^[1-9]\d?$")
        self.assertEqual(answer.headers["RateLimit-Policy"], '"invalid-tokens";q=3;w=60')
        self.assertRegex(answer.headers["RateLimit"], r'^"invalid-tokens";r=0;t=\d+$')
        self.assertEqual(self.fake.questions, before)

    def test_one_invalid_token_is_limited_as_many_are(self):
        self.limited_to("3/minute")

        statuses = [self.ask("Bearer wrong").status_code for _ in range(5)]

        self.assertEqual(statuses, [401, 401, 401, 429, 429])
        self.assertEqual(self.fake.questions, 1)

    def test_limit_of_invalid_tokens_spares_valid_ones(self):
        """Those that were valid before, our own, and those from other addresses."""
        self.limited_to("1/minute", TRUSTED_PROXIES="1")
        self.assert_welcome(self.ask("Bearer learner"))
        self.assert_invalid(self.ask("Bearer wrong"))

        elsewhere = self.client.get(
            "/ping", headers={"Authorization": "Bearer other", "X-Forwarded-For": "203.0.113.5"}
        )

        self.assert_fails(self.ask("Bearer other-unknown"), 429, "rate_limited")
        self.assert_welcome(self.ask("Bearer learner"))
        self.assert_welcome(self.ask(f"Bearer {signed(claims())}"))
        self.assert_invalid(self.ask(f"Bearer {signed(claims(), secret='x' * 32)}"))
        self.assert_required(self.ask())
        self.assert_welcome(elsewhere)

    def test_limit_of_invalid_tokens_spares_a_valid_token_whose_cache_time_is_over(self):
        self.limited_to("1/minute")
        self.assert_welcome(self.ask("Bearer learner"))
        self.assert_invalid(self.ask("Bearer wrong"))
        before = self.fake.questions

        self.client.application.extensions["callers"]._users_service._cache.clear()

        self.assert_welcome(self.ask("Bearer learner"))
        self.assertEqual(self.fake.questions, before + 1)

    def test_is_not_waited_for_while_it_is_away_and_is_asked_again_when_it_is_back(self):
        self.fake.stop()
        with self.assertLogs("project.users", "WARNING"):
            for _ in range(10):
                self.assert_fails(self.ask("Bearer learner"), 503, "unavailable")
        self.fake.start()

        deadline = time.monotonic() + PATIENCE_SECONDS
        while (answer := self.ask("Bearer learner")).status_code == 503:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

        self.assert_welcome(answer)

    def test_may_be_away_where_nobody_needs_it(self):
        """What is open stays open, and our own tokens stay good."""
        self.fake.stop()
        ours = f"Bearer {signed(claims())}"

        self.assertEqual(self.client.get("/scores").status_code, 200)
        self.assertEqual(self.client.get("/ready").status_code, 200)
        self.assert_welcome(self.ask(ours))
        self.assert_invalid(self.ask("Bearer"))
        self.assert_required(self.ask())

    def test_gets_no_write_done_while_it_is_away(self):
        self.fake.stop()

        answer = self.client.post(
            "/scores", json={"exercise_id": 1, "correct": True}, headers=LEARNER
        )

        self.assert_fails(answer, 503, "unavailable")
        self.assertEqual(self.client.get("/scores").get_json()["data"]["scores"], [])


class TestOurTokens(AuthTestCase):
    @classmethod
    def setUpClass(cls):
        cls.fake = cls.enterClassContext(FakeUsersService())
        cls.own_app = app_with(USERS_SERVICE_URL=cls.fake.url)

    def setUp(self):
        super().setUp()
        self.client = self.own_app.test_client()

    def assert_refused_unseen(self, token):
        """Assert that a token is refused, and that users-service was not shown it."""
        before = self.fake.questions
        self.assert_invalid(self.ask(f"Bearer {token}"))
        self.assertEqual(self.fake.questions, before)

    def test_speak_for_whom_they_name(self):
        for user_id in (1, 7, LARGEST):
            with self.subTest(user_id):
                answer = self.client.patch(
                    "/scores",
                    json={"exercise_id": 1, "correct": True},
                    headers={"Authorization": f"Bearer {signed(claims(sub=str(user_id)))}"},
                )

                self.assertEqual(answer.get_json()["data"]["user_id"], user_id)

    def test_are_those_that_we_issue(self):
        issued = self.own_app.extensions["tokens"].issue(User(7, is_admin=True), days=1)

        answer = self.ask(f"Bearer {issued}")

        self.assert_welcome(answer)
        said = jwt.decode(issued, SECRET, algorithms=["HS256"])
        self.assertEqual((said["iss"], said["sub"]), ("eval-service", "7"))
        self.assertEqual(said["roles"], ["admin"])
        self.assertAlmostEqual(said["exp"], time.time() + 24 * 60 * 60, delta=60)

    def test_are_never_shown_to_users_service(self):
        """It could use them here, and so could whoever reads its log."""
        before = self.fake.questions

        self.assert_welcome(self.ask(f"Bearer {signed(claims())}"))

        self.assertEqual(self.fake.questions, before)

    def test_expired_token_is_named_so(self):
        """Also if it was used before its end, or signed with an earlier secret."""
        before = self.fake.questions
        now = int(time.time())
        for exp in (now - 1, now - 10**6, 0, -1):
            with self.subTest(exp):
                self.assert_expired(self.ask(f"Bearer {signed(claims(exp=exp))}"))
        self.assertEqual(self.fake.questions, before)

        short = signed(claims(exp=time.time() + 1))
        self.assert_welcome(self.ask(f"Bearer {short}"))
        time.sleep(1.1)
        self.assert_expired(self.ask(f"Bearer {short}"))

        earlier = "an earlier secret of these tests that is long enough"
        client = app_with(SECRET_KEY_FALLBACKS=earlier).test_client()
        self.assert_expired(self.ask(f"Bearer {signed(claims(exp=1), secret=earlier)}", client))

    def test_expired_token_is_invalid_if_its_signature_is(self):
        expired = signed(claims(exp=1))
        for wrong in (
            signed(claims(exp=1), secret="another secret, which is just as long as ours"),
            signed(claims(exp=1), {"alg": "none"}),
            f"{expired[:-2]}",
            f"{expired.rpartition('.')[0]}.",
        ):
            with self.subTest(wrong[-20:]):
                self.assert_refused_unseen(wrong)

    def test_have_an_end(self):
        for exp in (..., None, "tomorrow", "", [], {}, [2**40]):
            with self.subTest(exp):
                self.assert_refused_unseen(signed(claims(exp=exp)))

    def test_are_signed_with_our_secret(self):
        token = signed(claims())
        message, _, signature = token.rpartition(".")
        for wrong in [
            signed(claims(), secret="another secret, which is just as long as ours"),
            signed(claims(), secret=""),
            f"{message}.",
            f"{message}.{part(b'x' * 32)}",
            f"{message}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}",
            f"{message}.{part(signature)}",
        ]:
            with self.subTest(wrong[-20:]):
                self.assert_refused_unseen(wrong)

    def test_are_whole(self):
        token = signed(claims())
        for cut in (token[:-2], token[:-20], token[1:], token.rpartition(".")[0], f"{token}.x"):
            with self.subTest(cut[-20:]):
                self.assert_invalid(self.ask(f"Bearer {cut}"))

    def test_are_signed_as_we_sign(self):
        """The header chooses nothing: neither none, nor an algorithm with a public key."""
        unsigned = f"{part(json.dumps({'alg': 'none'}))}.{part(json.dumps(claims()))}."
        self.assert_refused_unseen(unsigned)
        for algorithm in ("none", "None", "NONE", "", "hs256", "HS384", "HS512", "RS256", "ES256"):
            with self.subTest(algorithm):
                self.assert_refused_unseen(signed(claims(), {"alg": algorithm, "typ": "JWT"}))

    def test_name_no_key_of_their_own(self):
        """A header that brings a key, or says where one is, is not believed."""
        key = {"kty": "oct", "k": part(b"theirs, and as long as it takes to be")}
        header = {"alg": "HS256", "jwk": key, "jku": "http://evil.example/keys", "kid": "../../x"}
        theirs = signed(claims(), header, secret="theirs, and as long as it takes to be")

        self.assert_refused_unseen(theirs)

    def test_speak_for_somebody(self):
        for subject in [
            ...,
            None,
            7,
            7.0,
            True,
            ["7"],
            {"id": 7},
            "",
            "0",
            "-1",
            "+7",
            " 7",
            "7\n",
            "7.0",
            "1e3",
            "0x7",
            "seven",
            "٣",
            "²",
            str(2**63),
            "9" * 5000,
        ]:
            with self.subTest(str(subject)[:20]):
                self.assert_refused_unseen(signed(claims(sub=subject)))

    def test_list_their_roles(self):
        for roles in ("admin", {"admin": True}, 1, True, None):
            with self.subTest(roles):
                self.assert_refused_unseen(signed(claims(roles=roles)))

    def test_have_only_the_roles_that_they_list(self):
        for roles, allowed in [
            (..., False),
            ([], False),
            (["service"], False),
            (["Admin"], False),
            (["administrator"], False),
            ([["admin"]], False),
            ([{"admin": 1}, 7, None], False),
            ([f"role-{number}" for number in range(100)], False),
            ([f"role-{number}" for number in range(100)] + ["admin"], True),
            (["admin"], True),
            (["service", "admin"], True),
        ]:
            with self.subTest(roles):
                token = signed(claims(roles=roles))
                answer = self.client.delete(
                    "/scores/1", headers={"Authorization": f"Bearer {token}"}
                )

                self.assertEqual(answer.status_code, 404 if allowed else 403)

    def test_other_claims_and_header_fields_do_not_matter(self):
        nested = {"roles": ["admin"], "sub": "998877"}
        for _ in range(200):
            nested = {"nested": nested, "list": [nested]} if len(str(nested)) < 2000 else [nested]
        header = {"alg": "HS256", "kid": "../../x", "jku": "http://evil.example/keys"}
        token = signed(claims(nested=nested, admin=True, role="admin"), header)

        answer = self.client.delete("/scores/1", headers={"Authorization": f"Bearer {token}"})

        self.assert_fails(answer, 403, "forbidden")

    def test_cannot_be_changed(self):
        """Whoever writes another role or user into one needs the secret for its signature."""
        header, _, signature = signed(claims()).split(".")
        for changed in ({"roles": ["admin"]}, {"sub": "998877"}, {"exp": 2**40}):
            with self.subTest(changed):
                payload = part(json.dumps(claims(**changed)))

                self.assert_refused_unseen(f"{header}.{payload}.{signature}")

    def test_are_named_ours_or_users_service_is_asked(self):
        """A token of another issuer is none of our business, even with our signature."""
        for issuer in (
            ...,
            None,
            "users-service",
            "eval-service ",
            "Eval-Service",
            ["eval-service"],
        ):
            with self.subTest(issuer):
                token = signed(claims(iss=issuer))
                self.assert_invalid(self.ask(f"Bearer {token}"))

                self.assertEqual(self.fake.last_question["Authorization"], f"Bearer {token}")

    def test_are_refused_where_they_are_no_json(self):
        """Whoever decodes what came of it, it is a no, in time."""
        deep = '{"iss": "eval-service", "x": ' + "[" * 10_000 + "]" * 10_000 + "}"
        less_deep = '{"iss": "eval-service", "x": ' + "[" * 2_500 + "]" * 2_500 + "}"
        for payload in [
            "",
            "null",
            "[]",
            '"eval-service"',
            '{"iss": "eval-service"',
            '{"iss": "eval-service", "exp": NaN}',
            '{"iss": "eval-service", "exp": ' + "9" * 5000 + "}",
            '{"iss": "eval-service", "sub": "\\ud800"}',
            b"\xff\xfe",
            deep,
            less_deep,
        ]:
            for header in ('{"alg": "HS256"}', "{}", "[]", '{"alg": 7}', deep, less_deep):
                with self.subTest(payload=payload[:40], header=header[:40]):
                    token = f"{part(header)}.{part(payload)}.{part('x')}"

                    self.assert_invalid(self.ask(f"Bearer {token}"))


class TestWithoutUsersService(AuthTestCase):
    def setUp(self):
        super().setUp()
        self.client = app_with().test_client()

    def test_takes_our_own_tokens_only(self):
        before = users_service().questions

        self.assert_welcome(self.ask(f"Bearer {signed(claims())}"))
        self.assert_invalid(self.ask("Bearer test"))
        self.assert_invalid(self.ask(f"Bearer {signed(claims(iss='users-service'))}"))
        self.assert_required(self.ask())
        self.assertEqual(users_service().questions, before)


class TestActingForOthers(AuthTestCase):
    def setUp(self):
        super().setUp()
        self.client = app_with(USERS_SERVICE_URL=users_service().url).test_client()

    def write(self, method, path, headers, **fields):
        body = {"exercise_id": 1, "correct": True, **fields}
        return self.client.open(path, method=method, json=body, headers=headers)

    def test_is_for_administrators_and_services(self):
        for name, headers in {
            "users-service's administrator": ADMIN,
            "our administrator": {"Authorization": f"Bearer {signed(claims(roles=['admin']))}"},
            "our service": {"Authorization": f"Bearer {signed(claims(roles=['service']))}"},
        }.items():
            with self.subTest(name):
                patched = self.write("PATCH", "/scores", headers, user_id=123)
                score = patched.get_json()["data"]
                put = self.write("PUT", f"/scores/{score['id']}", headers, user_id=123)
                posted = self.write("POST", "/scores", headers, user_id=123)

                self.assertIn(patched.status_code, (200, 201))
                self.assertEqual(score["user_id"], 123)
                self.assertEqual(put.get_json()["data"]["user_id"], 123)
                self.assert_fails(posted, 400, "score_exists")

    def test_is_not_for_everybody(self):
        ordinary = {"Authorization": f"Bearer {signed(claims())}"}
        for headers in (LEARNER, ordinary):
            for method, path in [
                ("POST", "/scores"),
                ("PUT", "/scores/1"),
                ("PATCH", "/scores"),
                ("PATCH", "/scores/1"),
            ]:
                with self.subTest(method=method, path=path):
                    answer = self.write(method, path, headers, user_id=8)

                    self.assert_fails(answer, 403, "forbidden")
        self.assertEqual(self.client.get("/scores").get_json()["data"]["scores"], [])

    def test_is_no_matter_for_oneself(self):
        answer = self.write("POST", "/scores", LEARNER, user_id=7)

        self.assertEqual(answer.get_json()["data"]["user_id"], 7)

    def test_is_not_assumed(self):
        """Who names nobody writes its own score, whatever it may do."""
        answer = self.write("POST", "/scores", ADMIN)

        self.assertEqual(answer.get_json()["data"]["user_id"], 998877)

    def test_does_not_make_a_service_an_administrator(self):
        service = {"Authorization": f"Bearer {signed(claims(roles=['service']))}"}
        score = self.write("POST", "/scores", service).get_json()["data"]

        answer = self.client.delete(f"/scores/{score['id']}", headers=service)

        self.assert_fails(answer, 403, "forbidden")


class TestNoSwitch(AuthTestCase):
    SWITCHES = (
        "AUTH_DISABLED",
        "AUTH_ENABLED",
        "AUTHENTICATION",
        "DISABLE_AUTH",
        "LOGIN_DISABLED",
        "NO_AUTH",
        "PUBLIC",
        "SKIP_AUTH",
        "USERS_SERVICE_DISABLED",
    )

    def test_is_thrown_by_testing(self):
        self.assertTrue(self.app.config["TESTING"])
        self.assert_required(self.ask())
        self.assert_invalid(self.ask("Bearer wrong"))

    def test_is_thrown_by_a_setting(self):
        for value in (True, False, "1", "0"):
            with self.subTest(value):
                client = app_with(DEBUG=True, **dict.fromkeys(self.SWITCHES, value)).test_client()

                self.assert_required(self.ask(client=client))
                self.assert_invalid(self.ask("Bearer wrong", client=client))

    def test_exists(self):
        """Whoever decides is told a secret and an address, and reads no setting."""
        for module in (auth, tokens, users):
            tree = ast.parse(inspect.getsource(module))
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            with self.subTest(module.__name__):
                forbidden = {"config", "os", "getenv", "debug", "testing"}

                self.assertEqual(names & forbidden, set())
