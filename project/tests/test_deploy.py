"""What the files that deploy the service say has to be what the service does."""

import re
from unittest import TestCase

import yaml

from project.config import Settings
from project.server import GRACE_SECONDS
from project.tests.base import shared_app
from project.tests.processes import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
NAME = {"app.kubernetes.io/name": "eval-service"}
SETTINGS = {"APP_SETTINGS", *(name.upper() for name in Settings.model_fields)}


def compose(name):
    return yaml.safe_load((ROOT / name).read_text())["services"]


def manifest(kind):
    """Return the one object of a kind."""
    found = [yaml.safe_load(path.read_text()) for path in KUBERNETES.glob("*.yaml")]
    [one] = [document for document in found if document["kind"] == kind]
    return one


def pod():
    return manifest("Deployment")["spec"]["template"]["spec"]


def container():
    [one] = pod()["containers"]
    return one


class TestKubernetes(TestCase):
    def test_files_are_all_named_in_the_kustomization(self):
        files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}

        self.assertEqual(set(manifest("Kustomization")["resources"]), files)

    def test_objects_choose_the_pods_that_there_are(self):
        spec = manifest("Deployment")["spec"]
        self.assertEqual(spec["template"]["metadata"]["labels"], NAME)
        for chosen in (
            spec["selector"]["matchLabels"],
            manifest("Service")["spec"]["selector"],
            manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        ):
            self.assertEqual(chosen, NAME)
        target = manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
        self.assertEqual((target["kind"], target["name"]), ("Deployment", "eval-service"))

    def test_probes_ask_routes_that_there_are(self):
        routes = {str(rule) for rule in shared_app().url_map.iter_rules()}
        for probe, path in [
            ("startupProbe", "/health"),
            ("livenessProbe", "/health"),
            ("readinessProbe", "/ready"),
        ]:
            with self.subTest(probe):
                asked = container()[probe]["httpGet"]

                self.assertEqual((asked["path"], asked["port"]), (path, "http"))
                self.assertIn(path, routes)

    def test_pods_may_finish_what_they_accepted(self):
        pause = int(container()["lifecycle"]["preStop"]["exec"]["command"][-1])

        self.assertGreater(pod()["terminationGracePeriodSeconds"], pause + GRACE_SECONDS)

    def test_settings_are_those_of_the_service(self):
        said = set(manifest("ConfigMap")["data"])
        secret = {
            variable["name"]
            for variable in container()["env"]
            if variable["valueFrom"]["secretKeyRef"]["key"] == variable["name"]
        }

        self.assertLessEqual(said | secret, SETTINGS)
        self.assertEqual(secret, {"SECRET_KEY", "DATABASE_URL"})
        self.assertEqual(said & secret, set())

    def test_secrets_stand_in_no_file(self):
        kinds = [yaml.safe_load(path.read_text())["kind"] for path in KUBERNETES.glob("*.yaml")]

        self.assertNotIn("Secret", kinds)

    def test_pods_may_do_no_more_than_they_have_to(self):
        self.assertTrue(pod()["securityContext"]["runAsNonRoot"])
        self.assertIn(f"USER {pod()['securityContext']['runAsUser']}\n", dockerfile("Dockerfile"))
        self.assertEqual(
            container()["securityContext"],
            {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        )


def dockerfile(name):
    return (ROOT / name).read_text()


class TestCompose(TestCase):
    def test_names_and_ports_are_those_of_the_tutorial_by_default(self):
        services = compose("docker-compose.yml")

        self.assertEqual(
            {name: (one["container_name"], one["ports"]) for name, one in services.items()},
            {
                "eval-service": ("eval-service", ["${EVAL_PORT:-5002}:5000"]),
                "eval-db": ("eval-db", ["127.0.0.1:${EVAL_DB_PORT:-5436}:5432"]),
            },
        )

    def test_service_is_started_again_if_it_fails(self):
        self.assertEqual(compose("docker-compose.yml")["eval-service"]["restart"], "on-failure")

    def test_code_is_mounted_at_the_working_directory_of_the_image(self):
        """The tutorial's compose file mounts the code at this path, too."""
        [volume] = compose("docker-compose.yml")["eval-service"]["volumes"]

        self.assertEqual(volume, ".:/usr/src/app")
        self.assertIn("WORKDIR /usr/src/app\n", dockerfile("Dockerfile-local"))

    def test_settings_are_those_of_the_service(self):
        for file in ("docker-compose.yml", "docker-compose.scale.yml"):
            for name, service in compose(file).items():
                if name.startswith("eval-service"):
                    with self.subTest(file, service=name):
                        self.assertLessEqual(service["environment"].keys(), SETTINGS)

    def test_databases_are_those_that_the_image_makes(self):
        made = set(re.findall(r"CREATE DATABASE (\w+)", dockerfile("project/db/create.sql")))
        text = dockerfile("docker-compose.yml") + dockerfile("docker-compose.scale.yml")

        self.assertEqual(made, {"eval_dev", "eval_test", "eval_staging", "eval_prod"})
        self.assertLessEqual(set(re.findall(r":\d+/(\w+)", text)), made)

    def test_nginx_knows_every_replica_and_leaves_each_out(self):
        replicas = {name for name in compose("docker-compose.scale.yml") if "service-" in name}
        upstreams = re.findall(
            r"upstream (\w+) {(.*?)}", dockerfile("deploy/nginx/nginx.conf"), re.DOTALL
        )
        named = {group: set(re.findall(r"server (\S+):5000", body)) for group, body in upstreams}

        self.assertEqual(named.pop("all"), replicas)
        self.assertEqual(named, {f"without_{name[-1]}": replicas - {name} for name in replicas})


class TestImages(TestCase):
    def test_install_what_is_locked(self):
        for file, requirements in [
            ("Dockerfile", "requirements-production.txt"),
            ("Dockerfile-local", "requirements.txt"),
        ]:
            with self.subTest(file):
                self.assertRegex(dockerfile(file), rf"sh .*install.sh .*{requirements} python\n")

    def test_are_built_from_what_every_builder_knows(self):
        """No line asks for another syntax, since that would be an image more to fetch."""
        for path in (*ROOT.glob("Dockerfile*"), *ROOT.glob("deploy/*/Dockerfile")):
            with self.subTest(path.name):
                self.assertNotIn("# syntax", path.read_text())


class TestPipelines(TestCase):
    def test_try_the_same_pythons_and_servers_by_the_same_script(self):
        travis = yaml.safe_load((ROOT / ".travis.yml").read_text())
        actions = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]["cov"]
        matrix = actions["strategy"]["matrix"]
        steps = [f"sh .ci/matrix {phase}" for phase in ("install", "prepare", "test")]

        self.assertEqual(travis["python"], ["3.11", "3.12", "3.13", "3.14"])
        self.assertEqual(matrix["python"], travis["python"])
        self.assertEqual(
            [f"POSTGRES={version}" for version in matrix["postgres"]], travis["env"]["jobs"]
        )
        self.assertEqual(travis["install"] + travis["before_script"] + travis["script"], steps)
        self.assertEqual([step["run"] for step in actions["steps"] if "run" in step], steps)

    def test_installation_is_tried_with_the_same_pythons(self):
        jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
        matrix = jobs["cov"]["strategy"]["matrix"]["python"]
        [set_up] = [step for step in jobs["all"]["steps"] if "setup-python" in step.get("uses", "")]
        pips = re.search(r"OLDEST_PIPS = {(.*)}", (ROOT / ".ci/install.py").read_text())[1]

        self.assertEqual(set_up["with"]["python-version"].split(), matrix)
        self.assertEqual(re.findall(r'"([\d.]+)":', pips), matrix)
