"""The OWASP API Security Top 10 of 2023, each risk by its number and name, as attacks.

What an attacker tries with tokens stands in tests/test_auth.py as well, with bodies and queries
in tests/test_requests.py, and as users-service in tests/test_users.py.
"""

import hmac
import json
import time
from unittest import mock

import jwt

from project import create_app, db
from project.api.counter.schemas import MOST_NAMES
from project.api.fields import LARGEST_BIGINT
from project.config import ProductionConfig, StagingConfig, TestingConfig
from project.tests import users_service as fakes
from project.tests.base import ADMIN, LEARNER, OTHER, BaseTestCase, users_service
from project.tests.security.operations import operations
from project.tests.utils import add_counter, add_score
from project.tokens import Tokens
from project.users import User, UsersService, UsersUnavailable

PATIENCE_SECONDS = 5
SECRET = "the secret of these attacks, which is long enough for any HMAC, SHA-512 too"


class AttackTestCase(BaseTestCase):
    """The learner 7 attacks; user 8 and the service are the victims."""

    def send(self, method, path, body=None, headers=LEARNER, **options):
        return self.client.open(path, method=method, json=body, headers=headers, **options)

    def document(self):
        return self.client.get("/openapi.json").get_json()

    def stored(self):
        """Return everything that is stored of scores and counters."""
        with db.engine.connect() as connection:
            return {
                table.name: connection.execute(table.select()).all()
                for table in db.metadata.sorted_tables
                if table.name != "idempotency_keys"
            }

    def assert_changes_nothing(self, *attacks):
        """Assert that each of these requests is refused, and that all is as it was."""
        before = self.stored()
        for status, code, method, path, body, *headers in attacks:
            with self.subTest(method=method, path=path, body=body):
                answer = self.send(method, path, body, *headers)

                self.assert_fails(answer, status, code)
        self.assertEqual(self.stored(), before)


class TestApi1BrokenObjectLevelAuthorization(AttackTestCase):
    """Nobody reads or writes what is another's, however it is named."""

    def setUp(self):
        super().setUp()
        self.theirs = add_score(user_id=8, exercise_id=1, correct=False).id
        self.mine = add_score(user_id=7, exercise_id=2, correct=False).id

    def test_keeps_a_score_from_who_knows_its_id(self):
        score = {"exercise_id": 1, "correct": True}

        self.assert_changes_nothing(
            (400, "score_mismatch", "PUT", f"/scores/{self.theirs}", score),
            (400, "score_mismatch", "PATCH", f"/scores/{self.theirs}", score),
            (403, "forbidden", "DELETE", f"/scores/{self.theirs}", None),
            (404, "score_not_found", "GET", f"/scores/user/{self.theirs}", None),
        )

    def test_keeps_a_score_from_who_names_its_owner(self):
        score = {"exercise_id": 1, "correct": True, "user_id": 8}

        self.assert_changes_nothing(
            (403, "forbidden", "POST", "/scores", score | {"exercise_id": 3}),
            (403, "forbidden", "PATCH", "/scores", score),
            (403, "forbidden", "PUT", f"/scores/{self.theirs}", score),
            (403, "forbidden", "PATCH", f"/scores/{self.theirs}", score),
        )

    def test_keeps_a_score_from_who_sends_a_batch(self):
        for user_id in (7, 8):
            batch = {"scores": [{"user_id": user_id, "exercise_id": 1, "correct": True}]}

            self.assert_changes_nothing((403, "forbidden", "POST", "/scores/batch", batch))

    def test_keeps_the_attempts_from_all_but_their_owner(self):
        path = f"/scores/{self.theirs}/history"

        self.assert_fails(self.send("GET", path), 403, "forbidden")
        self.assertEqual(self.send("GET", path, headers=OTHER).status_code, 200)
        self.assertEqual(self.send("GET", path, headers=ADMIN).status_code, 200)

    def test_shows_in_a_list_of_ones_own_nothing_else(self):
        for query in ("", "?exercise_id=1", "?correct=false", "?limit=1"):
            with self.subTest(query):
                answer = self.send("GET", f"/scores/user{query}").get_json()

                owners = {score["user_id"] for score in answer["data"]["scores"]}
                self.assertLessEqual(owners, {7})
        self.assert_fails(self.send("GET", "/scores/user?user_id=8"), 400, "invalid_query")

    def test_goes_on_from_nobody_elses_page(self):
        for exercise_id in (3, 4):
            add_score(user_id=8, exercise_id=exercise_id)
        page = self.send("GET", "/scores/user?limit=1", headers=OTHER).get_json()["data"]

        answer = self.send("GET", f"/scores/user?limit=1&cursor={page['next_cursor']}")

        self.assert_fails(answer, 400, "invalid_query")

    def test_answers_no_key_of_another(self):
        """With the key and the very body of user 8, user 7 gets an answer of its own."""
        body = {"exercise_id": 9, "correct": True}
        theirs = self.send("PATCH", "/scores", body, OTHER | {"Idempotency-Key": "k"})
        before = self.stored()["scores"]

        mine = self.send("PATCH", "/scores", body, LEARNER | {"Idempotency-Key": "k"})

        self.assertNotIn("Idempotency-Replayed", mine.headers)
        self.assertEqual(theirs.get_json()["data"]["user_id"], 8)
        self.assertEqual(mine.get_json()["data"]["user_id"], 7)
        self.assertEqual(set(before) - set(self.stored()["scores"]), set())

    def test_takes_no_name_for_a_principal(self):
        """A key that looks like somebody's is still the key of who sends it."""
        for key in ("user:8", 'user:8"', "8", "address:127.0.0.1"):
            self.send("POST", "/counters/c/increment", {}, OTHER | {"Idempotency-Key": key})
            answer = self.send(
                "POST", "/counters/c/increment", {}, LEARNER | {"Idempotency-Key": key}
            )

            self.assertNotIn("Idempotency-Replayed", answer.headers)

    def test_tells_nobody_whose_key_was_used(self):
        """A refusal, or its lack, tells nothing of the keys of others."""
        self.send("POST", "/counters/a/increment", {}, OTHER | {"Idempotency-Key": "k"})

        answer = self.send("POST", "/counters/b/increment", {}, LEARNER | {"Idempotency-Key": "k"})

        self.assertEqual(answer.status_code, 200)


class TestApi2BrokenAuthentication(AttackTestCase):
    """A token that we did not sign speaks for nobody."""

    @classmethod
    def setUpClass(cls):
        known = {"SECRET_KEY": SECRET, "USERS_SERVICE_URL": None}
        cls.own_app = create_app(type("Own", (TestingConfig,), known))

    def setUp(self):
        super().setUp()
        self.client = self.own_app.test_client()

    def claims(self, **others):
        exp = int(time.time()) + 60
        return {"iss": "eval-service", "sub": "7", "exp": exp, "roles": ["admin"]} | others

    def assert_speaks_for_nobody(self, token):
        answer = self.client.get("/ping", headers={"Authorization": f"Bearer {token}"})

        self.assert_fails(answer, 401, "invalid_token")

    def test_takes_no_role_that_was_written_into_a_token(self):
        token = Tokens(SECRET).issue(User(7), days=1)
        head, _, signature = token.split(".")
        forged = jwt.encode(self.claims(), "x" * 32).split(".")[1]

        self.assert_speaks_for_nobody(f"{head}.{forged}.{signature}")

    def test_lets_no_header_choose_the_algorithm(self):
        """None; a public key as HMAC secret; the header's own key; a file or row as key."""
        unsigned = jwt.encode(self.claims(), None, algorithm="none")
        self.assert_speaks_for_nobody(unsigned)
        self.assert_speaks_for_nobody(jwt.encode(self.claims(), SECRET, "HS512"))
        for header in (
            {"alg": "none"},
            {"alg": "nOnE"},
            {"alg": "RS256"},
            {"alg": "HS512"},
            {"alg": "HS256", "kid": "/dev/null"},
            {"alg": "HS256", "kid": "x' UNION SELECT 'secret"},
            {"alg": "HS256", "jku": "http://127.0.0.1/keys", "x5u": "http://127.0.0.1/cert"},
            {"alg": "HS256", "crit": ["exp"], "b64": False},
        ):
            for secret in ("", "\0" * 32, "x" * 32):
                with self.subTest(header=header, secret=secret):
                    head, body = (part(json.dumps(it)) for it in (header, self.claims()))
                    signature = hmac.digest(secret.encode(), f"{head}.{body}".encode(), "sha256")
                    self.assert_speaks_for_nobody(f"{head}.{body}.{part(signature)}")

    def test_compares_signatures_in_constant_time(self):
        """What the library compares, it compares by hmac.compare_digest; so do cursors."""
        message, _, _ = Tokens(SECRET).issue(User(7), days=1).rpartition(".")
        forged = f"{message}.{part(bytes(32))}"
        with mock.patch("hmac.compare_digest", wraps=hmac.compare_digest) as compare:
            self.assert_speaks_for_nobody(forged)
            by_token = compare.call_count
            self.client.get("/scores?cursor=00")

        self.assertEqual((by_token, compare.call_count), (1, 2))

    def test_looks_a_token_up_by_its_hash(self):
        """How long a look into the caches takes tells nothing of the tokens in them."""
        tokens = Tokens(SECRET)
        token = tokens.issue(User(7), days=1)
        tokens.verify(token)

        self.assertNotIn(token, repr(vars(tokens)["_verified"]))
        self.assertEqual({len(key) for key in tokens._verified}, {32})

    def test_ends_with_its_time_though_it_was_verified_before(self):
        tokens = Tokens(SECRET)
        token = tokens.issue(User(7), days=1)
        tokens.verify(token)

        with mock.patch("project.tokens.time.time", return_value=time.time() + 86_401):
            self.assertIsNone(tokens.known(token))

    def test_reads_no_token_where_it_would_be_kept(self):
        """Neither from the address, which stands in logs, nor from a cookie, nor from a body."""
        token = Tokens(SECRET).issue(User(7), days=1)
        self.client.set_cookie("session", token)
        self.client.set_cookie("Authorization", f"Bearer {token}")

        self.assert_fails(self.client.get("/ping"), 403, "token_required")
        query = self.client.get(f"/ping?access_token={token}")
        self.assert_fails(query, 400, "invalid_query")


class TestApi3BrokenObjectPropertyLevelAuthorization(AttackTestCase):
    """Mass assignment: nobody sets what the service decides, or is told more than is meant."""

    def test_sets_no_field_that_is_not_the_callers(self):
        add_score(user_id=7)
        for name, value in {
            "id": 1,
            "attempts": 100,
            "solved_at": "2020-01-01T00:00:00Z",
            "created_at": "2020-01-01T00:00:00Z",
            "updated_at": "2020-01-01T00:00:00Z",
            "correct_attempts": 100,
            "actor": 8,
            "is_admin": True,
            "roles": ["admin"],
            "__class__": {},
            "user_id ": 8,
            "USER_ID": 8,
        }.items():
            score = {"exercise_id": 1, "correct": True, name: value}
            self.assert_changes_nothing(
                (400, "invalid_payload", "POST", "/scores", score),
                (400, "invalid_payload", "PATCH", "/scores", score),
                (400, "invalid_payload", "PUT", "/scores/1", score),
                (400, "invalid_payload", "POST", "/counters/c/increment", {"by": 1, name: value}),
            )

    def test_shows_of_a_score_and_a_counter_what_the_document_says(self):
        """And not the version, the shards or the principal behind it."""
        score = add_score(user_id=7).id
        add_counter("visits")

        shown = self.send("GET", f"/scores/{score}").get_json()["data"]
        counter = self.send("GET", "/counters/visits").get_json()["data"]

        schemas = self.document()["components"]["schemas"]
        self.assertEqual(set(shown), set(schemas["ScoreAnswer"]["properties"]))
        self.assertEqual(set(counter), set(schemas["CounterAnswer"]["properties"]))


class TestApi4UnrestrictedResourceConsumption(AttackTestCase):
    """Whatever is asked for has an end, and is refused quickly where it is beyond it."""

    def setUp(self):
        super().setUp()
        self.began = time.monotonic()

    def tearDown(self):
        self.assertLess(time.monotonic() - self.began, PATIENCE_SECONDS)
        super().tearDown()

    def test_ends_every_page(self):
        for operation in operations(self.document()):
            for place, name in operation.places:
                if name in {"limit", "span"}:
                    for value in (1001, 10**9, 10**30, -1):
                        with self.subTest(operation.id, name=name, value=value):
                            answer = self.client.open(**operation.request(place, name, value),
                                                      **self.token())  # fmt: skip
                            self.assert_fails(answer, 400, "invalid_query")

    def token(self):
        return {"environ_overrides": {"HTTP_AUTHORIZATION": ADMIN["Authorization"]}}

    def test_ends_every_batch(self):
        scores = [{"user_id": n, "exercise_id": 1, "correct": True} for n in range(1, 1002)]
        increments = {f"c{number}": 1 for number in range(MOST_NAMES + 1)}

        self.assert_changes_nothing(
            (400, "invalid_payload", "POST", "/scores/batch", {"scores": scores}, ADMIN),
            (400, "invalid_payload", "POST", "/counters/increment", {"increments": increments}),
        )

    def test_ends_every_body_name_and_key(self):
        long = "x" * 1_100_000
        self.assert_changes_nothing(
            (413, "payload_too_large", "POST", "/scores", {"exercise_id": long}),
            (400, "invalid_payload", "POST", f"/counters/{'c' * 129}/increment", {}),
            (400, "invalid_payload", "POST", "/counters/increment",
             {"increments": {"c" * 129: 1}}),
            (400, "invalid_payload", "POST", "/counters/c/increment", {},
             LEARNER | {"Idempotency-Key": "k" * 256}),
        )  # fmt: skip

    def test_ends_every_number(self):
        add_counter("full", 10**12)
        for by in (10**12 + 1, -(10**12) - 1, LARGEST_BIGINT + 1):
            self.assert_changes_nothing(
                (400, "invalid_payload", "POST", "/counters/full/increment", {"by": by})
            )

    def test_ends_every_history(self):
        add_counter("visits")
        for query in ("since=0001-01-01T00:00:00Z", "interval=hour&since=1900-01-01T00:00:00Z"):
            answer = self.send("GET", f"/counters/visits/history?{query}")

            self.assert_fails(answer, 400, "invalid_query")

    def test_ends_every_picture(self):
        add_counter("visits")
        drawn = self.send("GET", f"/counters/visits/badge.svg?label={'W' * 64}")

        self.assertLess(len(drawn.data), 4096)
        beyond = self.send("GET", f"/counters/visits/badge.svg?label={'W' * 65}")
        self.assert_fails(beyond, 400, "invalid_query")

    def test_limits_who_has_no_token_whatever_address_it_claims(self):
        """By the socket's address: a header can be made up for each request."""
        known = {"ANONYMOUS_LIMIT": "3/minute", "USERS_SERVICE_URL": None}
        client = create_app(type("Tight", (TestingConfig,), known)).test_client()
        add_counter("public:c")

        statuses = [
            client.post(
                "/counters/public:c/increment",
                headers={"X-Forwarded-For": f"10.0.0.{n}", "Forwarded": f"for=10.0.0.{n}",
                         "X-Real-IP": f"10.0.0.{n}"},
            ).status_code
            for n in range(6)
        ]  # fmt: skip

        self.assertEqual(statuses, [200, 200, 200, 429, 429, 429])

    def test_reads_no_pattern_that_never_ends(self):
        """Every text of a caller goes through patterns that look at each character once."""
        hostile = "a" * 5000 + "!"
        for path in (
            f"/scores?cursor={'0' * 999}x",
            f"/counters?prefix={hostile}",
            f"/scores?updated_since={'1' * 5000}",
            f"/counters/x/badge.svg?color={'f' * 5000}",
            f"/scores/user/progress?tz={hostile}",
        ):
            with self.subTest(path[:40]):
                self.assertIn(self.send("GET", path).status_code, (400, 404))


class TestApi5BrokenFunctionLevelAuthorization(AttackTestCase):
    """What only administrators and services may do, learners may not, whatever they send."""

    def setUp(self):
        super().setUp()
        self.score = add_score(user_id=7).id
        add_counter("visits")

    def test_keeps_administration_from_learners(self):
        any_version = LEARNER | {"If-Match": "*"}
        batch = {"scores": [{"user_id": 7, "exercise_id": 1, "correct": True}]}

        self.assert_changes_nothing(
            (403, "forbidden", "DELETE", f"/scores/{self.score}", None),
            (403, "forbidden", "POST", "/scores/batch", batch),
            (403, "forbidden", "PUT", "/counters/visits", {"value": 0}, any_version),
            (403, "forbidden", "DELETE", "/counters/visits", None),
        )

    def test_keeps_administration_from_services(self):
        """A service writes scores for others; it deletes and resets nothing."""
        token = self.app.extensions["tokens"].issue(User(1, is_service=True), days=1)
        service = {"Authorization": f"Bearer {token}"}

        self.assert_changes_nothing(
            (403, "forbidden", "DELETE", f"/scores/{self.score}", None, service),
            (403, "forbidden", "PUT", "/counters/visits", {"value": 0},
             service | {"If-Match": "*"}),
            (403, "forbidden", "DELETE", "/counters/visits", None, service),
        )  # fmt: skip

    def test_is_not_talked_into_another_method(self):
        for header in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
            answer = self.send("GET", "/counters/visits", headers=ADMIN | {header: "DELETE"})
            self.assertEqual(answer.status_code, 200)
        query = self.send("GET", "/counters/visits?_method=DELETE", headers=ADMIN)
        self.assertIn(query.status_code, (200, 400))
        self.assertEqual(self.send("GET", "/counters/visits").status_code, 200)

    def test_asks_for_a_token_wherever_the_document_says_so(self):
        for operation in operations(self.document()):
            if operation.needs_token:
                with self.subTest(operation.id):
                    answer = self.client.open(**operation.request())

                    self.assert_fails(answer, 403, "token_required")

    def test_has_open_to_all_only_what_is_named_so(self):
        for name in ("visits", "Public:visits", "PUBLIC:x", "xpublic:x", "public", ".public:x"):
            with self.subTest(name):
                answer = self.client.post(f"/counters/{name}/increment")

                self.assert_fails(answer, 403, "token_required")


class TestApi6UnrestrictedAccessToSensitiveBusinessFlows(AttackTestCase):
    """The flow worth abusing is a high score: repeating an answer gains nothing."""

    def test_counts_an_exercise_once_however_often_it_is_solved(self):
        for _ in range(5):
            self.send("PATCH", "/scores", {"exercise_id": 1, "correct": True})

        entries = self.send("GET", "/scores/leaderboard").get_json()["data"]["entries"]
        self.assertEqual([(entry["user_id"], entry["solved"]) for entry in entries], [(7, 1)])

    def test_lets_nobody_forget_wrong_answers(self):
        self.send("PATCH", "/scores", {"exercise_id": 1, "correct": False})
        score = self.send("PATCH", "/scores", {"exercise_id": 1, "correct": True}).get_json()
        path = f"/scores/{score['data']['id']}/history"

        attempts = self.send("GET", path).get_json()["data"]["attempts"]

        self.assertEqual([attempt["correct"] for attempt in attempts], [False, True])


class TestApi7ServerSideRequestForgery(AttackTestCase):
    """The service asks one address, which a setting names, and no other."""

    def test_asks_nobody_whom_a_request_names(self):
        """Whatever the headers say, the only address asked is that of users-service."""
        before = users_service().questions
        answer = self.send(
            "GET",
            "/ping",
            headers=LEARNER | {"Host": "169.254.169.254", "X-Forwarded-Host": "169.254.169.254",
                               "Forwarded": "host=169.254.169.254", "Referer": "http://169.254.169.254/"},
        )  # fmt: skip

        self.assertEqual(answer.status_code, 200)
        self.assertLessEqual(users_service().questions - before, 1)

    def test_follows_users_service_nowhere(self):
        with fakes.FakeUsersService() as elsewhere, fakes.FakeUsersService() as fake:
            fake.behaviour = fakes.redirects_to(f"{elsewhere.url}/auth/status")
            service = UsersService(fake.url)
            self.addCleanup(service.close)

            with self.assertRaises(UsersUnavailable):
                service.who_is("test")

            self.assertEqual(elsewhere.questions, 0)

    def test_asks_users_service_for_nothing_but_a_token(self):
        """A token can neither end its header nor change the path."""
        with fakes.FakeUsersService() as fake:
            service = UsersService(fake.url)
            self.addCleanup(service.close)

            for token in ("a\r\nX-Admin: 1", "a\nGET /admin", "\0", "a" * 9000):
                self.assertIsNone(service.who_is(token))

            self.assertEqual(fake.questions, 0)


class TestApi8SecurityMisconfiguration(AttackTestCase):
    """Nothing is open because somebody forgot to close it."""

    def test_serves_no_debugger_and_no_trace(self):
        for base in (StagingConfig, ProductionConfig):
            self.assertFalse(base.DEBUG or base.TESTING)
        for path in ("/console", "/?__debugger__=yes&cmd=resource&f=debugger.js", "/debug"):
            self.assertNotIn(b"Werkzeug", self.client.get(path).data)

    def test_answers_no_method_that_nobody_needs(self):
        for method in ("TRACE", "CONNECT", "PROPFIND", "DEBUG", "PURGE"):
            with self.subTest(method):
                answer = self.client.open("/scores", method=method)

                self.assert_fails(answer, 405, "method_not_allowed")

    def test_reads_no_file_but_those_that_are_meant(self):
        for path in (
            "/static/../config.py",
            "/static/..%2fconfig.py",
            "/static/%2e%2e/config.py",
            "/static//etc/passwd",
            "/static/%00",
            "/static/",
            "/.git/config",
            "/.env",
            "/instance/secret_key",
        ):
            with self.subTest(path):
                self.assert_fails(self.client.get(path), 404, "not_found")


class TestApi9ImproperInventoryManagement(AttackTestCase):
    """What is served is known, described, and of one version."""

    def test_serves_nothing_that_the_document_does_not_name(self):
        named = {operation.id for operation in operations(self.document())}
        served = {rule.endpoint.rpartition(".")[2] for rule in self.app.url_map.iter_rules()}

        self.assertEqual(served - named, {"static", "spec"})

    def test_has_no_older_version_and_no_back_door(self):
        for path in (
            "/v1/scores",
            "/api/scores",
            "/api/v1/scores",
            "/admin",
            "/internal",
            "/eval",
            "/scores/",
            "/SCORES",
            "/metrics/",
            "/actuator",
            "/swagger.json",
        ):
            with self.subTest(path):
                self.assertEqual(self.client.get(path).status_code, 404)


class TestApi10UnsafeConsumptionOfApis(AttackTestCase):
    """users-service may be wrong, or somebody else: what it says is checked like any input."""

    def test_believes_of_users_service_only_what_makes_sense(self):
        def yes(**data):
            known = {"status": "success", "data": {"id": 7, "active": True} | data}
            return fakes.answers(200, known)

        for number, behaviour in enumerate(
            [
                yes(id=True),
                yes(id="7"),
                yes(id=7.0),
                yes(id=0),
                yes(id=-1),
                yes(id=2**63),
                yes(id=None),
                yes(id=[7]),
                yes(active="false"),
                yes(active=1),
                fakes.answers(200, b"<html>", "text/html"),
                fakes.answers(200, [1]),
                fakes.answers(200, b"[" * 100_000),
                fakes.answers(204, b""),
                fakes.flood,
            ]
        ):
            with self.subTest(number), fakes.FakeUsersService() as fake:
                fake.behaviour = behaviour
                service = UsersService(fake.url)
                self.addCleanup(service.close)

                with self.assertRaises(UsersUnavailable):
                    service.who_is("test")

    def test_makes_an_administrator_of_nobody_by_something_like_true(self):
        for admin in ("true", 1, [True], {"yes": True}, "admin", None, "True"):
            with self.subTest(admin), fakes.FakeUsersService() as fake:
                person = {"id": 7, "active": True, "admin": admin}
                fake.behaviour = fakes.answers(200, {"status": "success", "data": person})
                service = UsersService(fake.url)
                self.addCleanup(service.close)

                self.assertEqual(service.who_is("test"), User(7))


def part(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return jwt.utils.base64url_encode(raw).decode()
