"""The settings: what each environment takes, and what it says about a wrong one."""

import os
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from unittest import TestCase, mock

from project import create_app, postgres
from project.config import (
    BaseConfig,
    DevelopmentConfig,
    ProductionConfig,
    SettingError,
    Settings,
    StagingConfig,
    TestingConfig,
    chosen,
    kept_secret,
    load_environment,
    read,
)
from project.tests.processes import ROOT, environment

SECRET = "a secret of these tests, long enough"
PASSWORD = "hunter2"
URL = f"postgresql://somebody:{PASSWORD}@127.0.0.1:1/scores"
# What an environment has to be told. An app asks no database until somebody asks the app.
TOLD = {
    "SECRET_KEY": SECRET,
    "SQLALCHEMY_DATABASE_URI": URL,
    "USERS_SERVICE_URL": None,
    "CORS_ORIGINS": "https://learn.example.org",
    "HOST": "127.0.0.1",
    "PORT": "5002",
    "WORKERS": "2",
    "THREADS": "4",
    "LOG_LEVEL": "INFO",
    "STATEMENT_TIMEOUT_SECONDS": "2.5",
}


def app_with(base=ProductionConfig, **settings):
    return create_app(type("ToldConfig", (base,), TOLD | settings))


def connect_arguments(settings):
    """Return what libpq is given to connect."""
    options = postgres.engine_options(settings, None)
    _, arguments = postgres.DIALECT.create_connect_args(settings.postgres_url)
    return arguments | options["connect_args"]


def refusal(start):
    """Return what a start is refused with, or nothing where it is not."""
    try:
        start()
    except SettingError as error:
        return error.message
    return ""


class TestClasses(TestCase):
    def test_say_what_they_are_for(self):
        for config, debug, testing, self_sufficient in [
            (BaseConfig, False, False, False),
            (DevelopmentConfig, True, False, True),
            (TestingConfig, True, True, True),
            (StagingConfig, False, False, False),
            (ProductionConfig, False, False, False),
        ]:
            with self.subTest(config.__name__):
                self.assertEqual(
                    (config.DEBUG, config.TESTING, config.SELF_SUFFICIENT),
                    (debug, testing, self_sufficient),
                )

    def test_make_an_app_by_their_names(self):
        for name in ("DevelopmentConfig", "TestingConfig", "StagingConfig", "ProductionConfig"):
            told = mock.patch.multiple(f"project.config.{name}", create=True, **TOLD)
            with self.subTest(name), told:
                app = create_app(f"project.config.{name}")

                self.assertEqual(app.testing, name == "TestingConfig")
                self.assertEqual(app.extensions["settings"].secret_key, SECRET)

    def test_are_chosen_by_app_settings(self):
        for said, name in [
            ({"APP_SETTINGS": "project.config.StagingConfig"}, "project.config.StagingConfig"),
            ({"APP_SETTINGS": ""}, "project.config.DevelopmentConfig"),
            ({}, "project.config.DevelopmentConfig"),
        ]:
            with self.subTest(said), mock.patch.dict(os.environ, said, clear=True):
                self.assertEqual(chosen(), name)


class TestDatabaseUrl(TestCase):
    def test_may_have_either_scheme(self):
        """Both reach PostgreSQL through the driver that is installed."""
        for scheme in ("postgres", "postgresql", "postgresql+psycopg2"):
            with self.subTest(scheme):
                app = app_with(SQLALCHEMY_DATABASE_URI=URL.replace("postgresql", scheme))

                url = app.extensions["settings"].postgres_url
                self.assertEqual(url.drivername, "postgresql+psycopg2")
                self.assertEqual((url.host, url.port, url.database), ("127.0.0.1", 1, "scores"))
                self.assertEqual(url.password, PASSWORD)

    def test_is_refused_where_it_is_none(self):
        for wrong in [
            f"mysql://somebody:{PASSWORD}@localhost/scores",
            f"sqlite:///{PASSWORD}",
            f"mongodb://somebody:{PASSWORD}@localhost",
            PASSWORD,
            f"://{PASSWORD}",
            f"postgresql:{PASSWORD}",
            f"postgresql://somebody:{PASSWORD}@localhost:port/scores",
            f"postgresql://somebody@localhost:{PASSWORD}/scores",
        ]:
            with self.subTest(wrong):
                sentence = refusal(lambda wrong=wrong: app_with(SQLALCHEMY_DATABASE_URI=wrong))

                self.assertRegex(sentence, "^The setting DATABASE_URL is wrong: [^\n]*[.]$")
                self.assertNotIn(PASSWORD, sentence)

    def test_database_url_passes_libpq_parameters_on(self):
        settings = app_with(
            SQLALCHEMY_DATABASE_URI=f"{URL}?sslmode=verify-full&sslrootcert=/etc/ca.pem"
            "&target_session_attrs=read-write&connect_timeout=7"
        ).extensions["settings"]

        arguments = connect_arguments(settings)

        self.assertEqual(arguments["sslmode"], "verify-full")
        self.assertEqual(arguments["sslrootcert"], "/etc/ca.pem")
        self.assertEqual(arguments["target_session_attrs"], "read-write")
        self.assertEqual(arguments["connect_timeout"], "7")
        self.assertEqual(arguments["application_name"], "eval-service")

    def test_database_url_takes_hosts_as_libpq_does(self):
        for host, expected in [
            ("a.example:5433", {"host": "a.example", "port": 5433}),
            ("a.example:1,b.example:2", {"host": "a.example,b.example", "port": "1,2"}),
            ("a.example,b.example", {"host": "a.example,b.example", "port": ","}),
            ("[::1]:5433", {"host": "::1", "port": 5433}),
            ("%2Fvar%2Frun%2Fpostgresql", {"host": "/var/run/postgresql"}),
            ("%2Frun:5433", {"host": "/run", "port": 5433}),
        ]:
            with self.subTest(host):
                url = f"postgresql://somebody:pa,ss/%40word@{host}/scores?sslmode=disable"
                settings = app_with(SQLALCHEMY_DATABASE_URI=url).extensions["settings"]

                arguments = connect_arguments(settings)

                self.assertLessEqual(expected.items(), arguments.items())
                self.assertEqual(arguments["user"], "somebody")
                self.assertEqual(arguments["password"], "pa,ss/@word")
                self.assertEqual(arguments["dbname"], "scores")
                self.assertEqual(arguments["sslmode"], "disable")

    def test_database_url_rejects_parameters_that_libpq_does_not_know(self):
        for base, name in [
            (ProductionConfig, "DATABASE_URL"),
            (TestingConfig, "DATABASE_TEST_URL"),
        ]:
            for parameter, value in [
                ("schema", "public"),
                ("pgbouncer", "true"),
                ("ssl", "true"),
                ("cursor_factory", "x"),
            ]:
                with self.subTest(name, parameter=parameter):
                    url = f"{URL}?sslmode=require&{parameter}={value}"

                    sentence = refusal(lambda b=base, u=url: app_with(b, SQLALCHEMY_DATABASE_URI=u))

                    self.assertRegex(
                        sentence, f"^The setting {name} is wrong: .* parameter {parameter}, .*[.]$"
                    )
                    self.assertNotIn(PASSWORD, sentence)

    def test_database_url_rejects_options_that_are_not_settings(self):
        sentence = refusal(lambda: app_with(SQLALCHEMY_DATABASE_URI=f"{URL}?options=-e"))

        self.assertEqual(
            sentence,
            "The setting DATABASE_URL is wrong: it has options other than -c name=value.",
        )

    def test_has_another_name_in_tests(self):
        with self.assertRaisesRegex(SettingError, "The setting DATABASE_TEST_URL is wrong"):
            app_with(TestingConfig, SQLALCHEMY_DATABASE_URI="mysql://localhost")


class TestTrustedProxies(TestCase):
    """An app that allows an address one increment; nothing of it is written, without a database."""

    def statuses(self, proxies, *forwarded):
        client = app_with(TRUSTED_PROXIES=proxies, ANONYMOUS_LIMIT="1/hour").test_client()
        path = "/counters/public:visits/increment"
        with self.assertLogs():  # that there is no database
            return [
                client.post(path, json={}, headers={"X-Forwarded-For": addresses}).status_code
                for addresses in forwarded
            ]

    def test_are_none_where_nobody_says(self):
        """Who says that it comes from elsewhere is counted where it comes from."""
        self.assertEqual(self.statuses("0", "10.0.0.1", "10.0.0.2"), [503, 429])

    def test_tell_whose_request_it_is(self):
        self.assertEqual(self.statuses("1", "10.0.0.1", "10.0.0.2", "10.0.0.1"), [503, 503, 429])

    def test_are_believed_no_further_than_they_reach(self):
        """The last address is the proxy's word, those before it are the caller's."""
        forged = ("6.6.6.6, 10.0.0.1", "7.7.7.7, 10.0.0.1", "10.0.0.1, 10.0.0.2")

        self.assertEqual(self.statuses("1", *forged), [503, 429, 503])

    def test_may_be_several(self):
        forged = ("6.6.6.6, 10.0.0.1, 192.0.2.1", "7.7.7.7, 10.0.0.1, 192.0.2.2")

        self.assertEqual(self.statuses("2", *forged), [503, 429])


class TestSettings(TestCase):
    def assert_named(self, name, word, base=ProductionConfig, **settings):
        """Assert that the start stops with one sentence that names the setting."""
        sentence = refusal(lambda: app_with(base, **settings))
        self.assertRegex(sentence, f"^The setting {name} is {word}: [^\n]*[.]$")
        self.assertNotIn(PASSWORD, sentence)
        self.assertNotIn(SECRET, sentence)

    def test_are_needed_where_it_counts(self):
        """Missing and empty are the same."""
        for base in (StagingConfig, ProductionConfig):
            for key, name in [
                ("SECRET_KEY", "SECRET_KEY"),
                ("SQLALCHEMY_DATABASE_URI", "DATABASE_URL"),
                ("CORS_ORIGINS", "CORS_ORIGINS"),
            ]:
                for nothing in (None, ""):
                    with self.subTest(base.__name__, key=key, nothing=nothing):
                        self.assert_named(name, "missing", base, **{key: nothing})

    def test_are_not_needed_for_developing(self):
        for base in (DevelopmentConfig, TestingConfig):
            with self.subTest(base.__name__), tempfile.TemporaryDirectory() as folder:
                said = {**TOLD, "SECRET_KEY": None, "SQLALCHEMY_DATABASE_URI": None}
                del said["CORS_ORIGINS"]

                settings = Settings.of(type("BareConfig", (base,), said), Path(folder))

                self.assertIsNone(settings.postgres_url)
                self.assertEqual(settings.secret_key, kept_secret(Path(folder)))
                self.assertEqual(settings.cors_origins, ["*"])

    def test_are_checked(self):
        """Everywhere, also where a default would have served."""
        for base in (DevelopmentConfig, ProductionConfig):
            for name, wrong in [
                ("WORKERS", "abc"),
                ("WORKERS", "0"),
                ("WORKERS", "-1"),
                ("WORKERS", "1.5"),
                ("WORKERS", "1000000"),
                ("THREADS", "many"),
                ("THREADS", "0"),
                ("PORT", "0"),
                ("PORT", "65536"),
                ("PORT", "http"),
                ("TRUSTED_PROXIES", "nginx"),
                ("TRUSTED_PROXIES", "-1"),
                ("LOG_LEVEL", "LOUD"),
                ("STATEMENT_TIMEOUT_SECONDS", "soon"),
                ("STATEMENT_TIMEOUT_SECONDS", "0"),
                ("STATEMENT_TIMEOUT_SECONDS", "-1"),
                ("STATEMENT_TIMEOUT_SECONDS", "nan"),
                ("STATEMENT_TIMEOUT_SECONDS", "inf"),
                ("USERS_SERVICE_URL", "users-service:5000"),
                ("USERS_SERVICE_URL", "ftp://users-service"),
                ("USERS_SERVICE_URL", "http://"),
                ("USERS_SERVICE_URL", f"http://users:{PASSWORD}x"),
                ("CORS_ORIGINS", "learn.example.org"),
                ("CORS_ORIGINS", "https://learn.example.org,"),
                ("CORS_ORIGINS", "https://learn.example.org,*"),
                ("CORS_ORIGINS", "null"),
                ("USERS_SERVICE_TIMEOUT_SECONDS", "0"),
                ("USERS_SERVICE_TIMEOUT_SECONDS", "-1"),
                ("USERS_SERVICE_TIMEOUT_SECONDS", "nan"),
                ("USERS_SERVICE_TIMEOUT_SECONDS", "61"),
                ("USERS_SERVICE_TIMEOUT_SECONDS", "2s"),
                ("CORS_ORIGINS", "capacitor:localhost"),
                ("CORS_ORIGINS", "capacitor://"),
                ("SECRET_KEY", PASSWORD),
                ("SECRET_KEY", "x" * 31),
            ]:
                with self.subTest(base.__name__, name=name, wrong=wrong):
                    self.assert_named(name, "wrong", base, **{name: wrong})

    def test_are_refused_where_the_secret_can_be_guessed(self):
        """That of an example, or of a keyboard on which something lies."""
        for secret in (
            "x" * 64,
            "0123456701234567012345670123456701234567",
            "change me, or anybody can sign tokens",
            "CHANGEME-CHANGEME-CHANGEME-CHANGEME",
            "my_precious_my_precious_my_precious",
            "your-256-bit-secret-your-256-bit-secret",
            "django-insecure-q8f7w6e5r4t3y2u1i0o9p8",
        ):
            for base in (StagingConfig, ProductionConfig):
                with self.subTest(base.__name__, secret=secret):
                    self.assert_named("SECRET_KEY", "wrong", base, SECRET_KEY=secret)

    def test_count_the_bytes_of_the_secret(self):
        app = app_with(DevelopmentConfig, SECRET_KEY="\N{SNOWMAN}" * 11)

        self.assertEqual(len(app.extensions["settings"].secret_key.encode()), 33)

    def test_may_be_as_they_are_in_development(self):
        settings = app_with(CORS_ORIGINS=" https://a.example , http://b.example:3000/ ").extensions[
            "settings"
        ]

        self.assertEqual(settings.cors_origins, ["https://a.example", "http://b.example:3000"])
        self.assertEqual((settings.port, settings.workers, settings.threads), (5002, 2, 4))
        self.assertEqual(app_with(CORS_ORIGINS="*").extensions["settings"].cors_origins, ["*"])

    def test_cors_origins_are_as_browsers_send_them(self):
        for listed, sent in [
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:80/", "http://a.example"),
            ("https://a.example:80", "https://a.example:80"),
            ("http://a.example:443", "http://a.example:443"),
            ("https://a.example:8443", "https://a.example:8443"),
            ("https://a.example:4430", "https://a.example:4430"),
            ("HTTPS://A.Example:443", "https://a.example"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("ionic://localhost", "ionic://localhost"),
            ("capacitor://localhost:443", "capacitor://localhost:443"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ]:
            with self.subTest(listed):
                settings = app_with(CORS_ORIGINS=listed).extensions["settings"]

                self.assertEqual(settings.cors_origins, [sent])

    def test_name_a_configuration(self):
        for wrong in (
            "project.config.NoSuchConfig",
            "project.nowhere.Config",
            "nonsense",
            "project.config",
            "project.config.SHORTEST_SECRET",
            "project.config.Settings",
            "project..config",
            ".",
            "; import os",
        ):
            with self.subTest(wrong):
                sentence = refusal(lambda wrong=wrong: create_app(wrong))

                self.assertRegex(sentence, "^The setting APP_SETTINGS is wrong: [^\n]*[.]$")
                self.assertIn(wrong, sentence)

    def test_show_no_secret(self):
        store = f"memory://:{PASSWORD}@here"
        app = app_with(RATELIMIT_STORAGE_URI=store)
        settings = app.extensions["settings"]

        self.assertIn("workers=2", repr(settings))
        for shown in (settings, app.config, *app.extensions.values()):
            for text in (repr(shown), str(shown)):
                self.assertNotIn(SECRET, text)
                self.assertNotIn(PASSWORD, text)


class TestSources(TestCase):
    """Settings from the environment, from files, and from `.env`."""

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def production(self, **variables):
        """Return the settings of production with these variables and nothing else."""
        told = {"DATABASE_URL": URL, "SECRET_KEY": SECRET, "CORS_ORIGINS": "*"} | variables
        with mock.patch.dict(os.environ, told, clear=True):
            return Settings.of(ProductionConfig, self.folder)

    def file(self, text, name="value"):
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def test_settings_ignore_white_space_around_values(self):
        settings = self.production(
            DATABASE_URL=f"{URL}\n", SECRET_KEY=f"{SECRET}\n", LOG_LEVEL="DEBUG\r\n", PORT=" 8000 "
        )

        self.assertEqual(settings.postgres_url.database, "scores")
        self.assertEqual((settings.secret_key, settings.log_level), (SECRET, "DEBUG"))
        self.assertEqual(settings.port, 8000)

    def test_settings_that_are_empty_are_unset(self):
        required = {"SECRET_KEY", "DATABASE_URL", "CORS_ORIGINS", "TESTING", "SELF_SUFFICIENT"}
        names = {name.upper() for name in Settings.model_fields} - required
        for nothing in ("", " ", "\n"):
            with self.subTest(nothing):
                settings = self.production(**dict.fromkeys(names, nothing))

                self.assertEqual(settings, self.production())

    def test_settings_are_read_from_the_files_that_the_environment_names(self):
        for name, text, field, value in [
            ("SECRET_KEY", f"{SECRET}\n", "secret_key", SECRET),
            ("WORKERS", "7\n", "workers", 7),
            ("USERS_SERVICE_URL", "http://users:5000", "users_service_url", "http://users:5000"),
            ("DATABASE_URL", URL, "postgres_url", self.production().postgres_url),
        ]:
            with self.subTest(name):
                variables = {name: "", f"{name}_FILE": self.file(text)}

                self.assertEqual(getattr(self.production(**variables), field), value)

    def test_app_settings_is_read_from_a_file(self):
        file = self.file("project.config.StagingConfig\n")
        with mock.patch.dict(os.environ, {"APP_SETTINGS_FILE": file}, clear=True):
            self.assertEqual(chosen(), "project.config.StagingConfig")

    def test_file_that_cannot_be_read_is_named(self):
        for file in (str(self.folder / "missing"), str(self.folder)):
            with self.subTest(file):
                sentence = refusal(
                    lambda file=file: self.production(SECRET_KEY="", SECRET_KEY_FILE=file)
                )

                self.assertRegex(
                    sentence, f"^The setting SECRET_KEY_FILE is wrong: {file} cannot be read .*[.]$"
                )

    def test_setting_and_file_exclude_each_other(self):
        sentence = refusal(lambda: self.production(WORKERS="2", WORKERS_FILE=self.file("3")))

        self.assertEqual(
            sentence, "The settings WORKERS and WORKERS_FILE are both set: remove one."
        )

    def test_dotenv_adds_to_the_environment(self):
        path = self.file("WORKERS=7\nPORT=7000\nLOG_LEVEL=DEBUG\n", ".env")
        told = {"PORT": "8000", "LOG_LEVEL": ""}
        with (
            mock.patch.dict(os.environ, told, clear=True),
            mock.patch("project.config.DOTENV", Path(path)),
        ):
            load_environment()

            self.assertEqual(
                (read("WORKERS"), read("PORT"), read("LOG_LEVEL")), ("7", "8000", None)
            )

    def test_dotenv_that_is_not_text_is_named(self):
        (self.folder / ".env").write_bytes(b"PORT=\xff")
        with mock.patch("project.config.DOTENV", self.folder / ".env"):
            sentence = refusal(load_environment)

        self.assertEqual(sentence, f"The file {self.folder}/.env cannot be read (not UTF-8).")


class TestKeptSecret(TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory())) / "not yet" / "there"

    def test_is_made_once(self):
        first = kept_secret(self.folder)
        second = kept_secret(self.folder)

        self.assertEqual(first, second)
        self.assertGreaterEqual(len(first), 32)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["secret_key"])

    def test_is_another_one_elsewhere(self):
        self.assertNotEqual(kept_secret(self.folder), kept_secret(self.folder / "else"))

    def test_is_for_its_owner_only(self):
        before = os.umask(0)
        self.addCleanup(os.umask, before)

        kept_secret(self.folder)

        mode = (self.folder / "secret_key").stat().st_mode
        self.assertEqual(stat.S_IMODE(mode), 0o600)

    def test_kept_secret_names_the_file_when_it_cannot_be_used(self):
        path = self.folder / "secret_key"
        for make in (
            lambda: path.mkdir(parents=True),
            lambda: path.write_bytes(b"\xff" * 40),
            lambda: path.write_text("too short\n"),
        ):
            if path.is_dir():
                path.rmdir()
            make()
            with self.subTest(path.is_dir()):
                sentence = refusal(lambda: kept_secret(self.folder))

                self.assertRegex(sentence, f"^The file {path} [^\n]*SECRET_KEY[.]$")

    def test_is_the_same_for_all_who_come_at_once(self):
        """In each of 20 empty folders 8 threads find one secret, whole."""
        for number in range(20):
            folder, start = self.folder / str(number), Barrier(8)

            def keep(_, folder=folder, start=start):
                start.wait()
                return kept_secret(folder)

            with ThreadPoolExecutor(8) as pool:
                secrets = set(pool.map(keep, range(8)))

            self.assertEqual(secrets, {kept_secret(folder)})
            self.assertEqual([path.name for path in folder.iterdir()], ["secret_key"])


class TestCommandLine(TestCase):
    WELL = {
        "APP_SETTINGS": "project.config.ProductionConfig",
        "DATABASE_URL": URL,
        "SECRET_KEY": SECRET,
        "CORS_ORIGINS": "*",
    }
    WRONG = [
        (["serve"], "WORKERS", {"WORKERS": "abc"}),
        (["db", "upgrade"], "SECRET_KEY", {"SECRET_KEY": PASSWORD}),
        (["recreate_db", "--force"], "DATABASE_URL", {"DATABASE_URL": f"mysql://{PASSWORD}@x/y"}),
        (["serve"], "APP_SETTINGS", {"APP_SETTINGS": "project.config.NoSuchConfig"}),
    ]

    def manage(self, arguments, **settings):
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=environment(**self.WELL | settings),
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )

    def test_stops_with_one_sentence(self):
        """Exit code 1, one line that names the setting, no trace, and nothing that is secret."""
        with ThreadPoolExecutor(2) as pool:
            ends = list(pool.map(lambda wrong: self.manage(wrong[0], **wrong[2]), self.WRONG))

        for (arguments, name, _), end in zip(self.WRONG, ends, strict=True):
            with self.subTest(arguments, name=name):
                self.assertEqual((end.returncode, end.stdout), (1, ""))
                [line] = end.stderr.splitlines()
                self.assertIn(f"The setting {name} is ", line)
                self.assertNotIn(SECRET, line)
                self.assertNotIn(PASSWORD, line)
