"""Client addresses: one client is one client, however a proxy writes its address."""

import unittest

from project import create_app
from project.api.addresses import client_address, client_network
from project.config import TestingConfig
from project.tests.base import LEARNER, BaseTestCase, users_service
from project.tests.utils import add_counter

PATH = "/counters/public:visits/increment"


class TestClientAddress(unittest.TestCase):
    def test_client_address_is_canonical(self) -> None:
        for written, address in [
            ("203.0.113.5", "203.0.113.5"),
            ("203.0.113.5:40001", "203.0.113.5"),
            (" 203.0.113.5 ", "203.0.113.5"),
            ("[203.0.113.5]:40001", "203.0.113.5"),
            ("::ffff:203.0.113.5", "203.0.113.5"),
            ("::FFFF:CB00:7105", "203.0.113.5"),
            ("[::ffff:203.0.113.5]:40001", "203.0.113.5"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:DB8:0:0::0001", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:40001", "2001:db8::1"),
            ("2001:db8:1:2:3:4:5:6:40001", "2001:db8:1:2:3:4:5:6"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%eth0]:40001", "fe80::1"),
        ]:
            with self.subTest(written):
                self.assertEqual(client_address(written), address)

    def test_client_network_is_the_address_or_the_64_of_it(self) -> None:
        for written, network in [
            ("203.0.113.5:40001", "203.0.113.5"),
            ("::ffff:203.0.113.5", "203.0.113.5"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("[2001:db8:1:2::]:40001", "2001:db8:1:2::/64"),
            ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
            ("::1", "::/64"),
        ]:
            with self.subTest(written):
                self.assertEqual(client_network(written), network)

    def test_clients_without_an_address_are_one_client(self) -> None:
        """Otherwise each made-up text is another client, and is kept whole."""
        made_up = [
            "unknown",
            "_hidden",
            "203.0.113.500:1",
            "1.2.3",
            ":",
            "[]:1",
            "[",
            "%",
            "",
            None,
        ]
        made_up += ["<script>", "2130706433", "0177.0.0.1", "\xe9", "x" * 30_000]
        for text in made_up:
            with self.subTest(str(text)[:20]):
                self.assertEqual(client_address(text), "unknown")
                self.assertEqual(client_network(text), "unknown")


class TestForwardedAddress(BaseTestCase):
    def setUp(self) -> None:
        super().setUp()
        add_counter("public:visits", 0)

    def increment(self, forwarded: str, *, key: str | None = None):
        headers = {"X-Forwarded-For": forwarded} | ({"Idempotency-Key": key} if key else {})
        return self.client.post(PATH, headers=headers)

    def limited_to(self, limit: str) -> None:
        settings = {
            "ANONYMOUS_LIMIT": limit,
            "TRUSTED_PROXIES": "1",
            "USERS_SERVICE_URL": users_service().url,
        }
        self.client = create_app(type("Limited", (TestingConfig,), settings)).test_client()

    def test_rate_limit_counts_one_client_at_any_port_and_in_its_64(self) -> None:
        for addresses in (
            ["203.0.113.5:40001", "203.0.113.5:40002", "203.0.113.5", "::ffff:203.0.113.5"],
            ["[2001:db8::1]:40001", "2001:db8::2", "[2001:db8::ffff]", "2001:DB8:0:0:1:2:3:4"],
        ):
            with self.subTest(addresses[0]):
                self.limited_to("3/hour")

                statuses = [self.increment(address).status_code for address in addresses]

                self.assertEqual(statuses, [200, 200, 200, 429])

    def test_rate_limit_counts_other_clients_separately(self) -> None:
        self.limited_to("1/hour")

        for address in ("203.0.113.5", "203.0.113.6:1", "2001:db8::1", "[2001:db8:0:1::1]:1"):
            self.assertEqual(self.increment(address).status_code, 200)

    def test_rate_limit_counts_all_made_up_addresses_as_one_client(self) -> None:
        self.limited_to("3/hour")

        statuses = [self.increment(f"garbage-{number}").status_code for number in range(4)]

        self.assertEqual(statuses, [200, 200, 200, 429])

    def test_rate_limit_ignores_addresses_that_no_trusted_proxy_wrote(self) -> None:
        """A client may send X-Forwarded-For itself; the proxy appends the real address."""
        self.limited_to("3/hour")
        long = ", ".join(["10.0.0.1"] * 3000)

        statuses = [
            self.increment(f"{forged}203.0.113.5").status_code
            for forged in ("", "198.51.100.1, ", f"{long}, ", "<script>, ", ",,, ", "fe80::1%25x, ")
        ]

        self.assertEqual(statuses, [200, 200, 200, 429, 429, 429])

    def test_rate_limit_counts_the_connection_if_a_proxy_wrote_no_address(self) -> None:
        self.limited_to("3/hour")

        statuses = [self.increment(forwarded).status_code for forwarded in ("", ",", " ", ", ,")]
        other = self.increment("203.0.113.5").status_code

        self.assertEqual(statuses, [200, 200, 200, 429])
        self.assertEqual(other, 200)

    def test_idempotency_key_belongs_to_the_address_without_its_port(self) -> None:
        self.limited_to("100/hour")
        for first, again, other in [
            ("203.0.113.5:40001", "203.0.113.5:40002", "203.0.113.6:40001"),
            ("203.0.113.7", "::ffff:203.0.113.7", "203.0.113.8"),
            ("[2001:db8::1]:40001", "2001:DB8::0:1", "2001:db8::2"),
        ]:
            with self.subTest(first):
                value = self.increment(first, key="k").get_json()["data"]["value"]

                replay = self.increment(again, key="k")
                counted = self.increment(other, key="k")

                self.assertEqual(replay.get_json()["data"]["value"], value)
                self.assertEqual(replay.headers["Idempotency-Replayed"], "true")
                self.assertEqual(counted.get_json()["data"]["value"], value + 1)

    def test_idempotency_key_of_a_caller_is_independent_of_its_address(self) -> None:
        self.limited_to("100/hour")
        headers = {**LEARNER, "Idempotency-Key": "k"}

        first, again = (
            self.client.post(PATH, headers={**headers, "X-Forwarded-For": address})
            for address in ("203.0.113.5", "203.0.113.6")
        )

        self.assertEqual(first.get_json(), again.get_json())
