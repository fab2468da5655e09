"""Tests that look after the house: its doors, its documents, and that its arrows run one way."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from unittest import TestCase

from openapi_spec_validator import OpenAPIV31SpecValidator

from project.config import Settings
from project.tests.base import BaseTestCase

PACKAGE = Path(__file__).parent.parent
ROOT = PACKAGE.parent

# What anybody may ask; everything else asks who calls.
OPEN = {
    "counter.audit_counter",
    "counter.get_badge",
    "counter.get_counter",
    "counter.get_history",
    "counter.home",
    "counter.list_counters",
    "dashboard.show_dashboard",
    "eval.docs",
    "eval.health",
    "eval.metrics_of_all_workers",
    "eval.ready",
    "openapi.spec",
    "scores.get_activity",
    "scores.get_score",
    "scores.get_stats",
    "scores.list_failures",
    "scores.list_scores",
    "static",
}
# What needs no place in the document: files, and the document itself.
UNDOCUMENTED = {"static", "openapi.spec"}
SETTINGS = {"APP_SETTINGS", *(name.upper() for name in Settings.model_fields)}
METHODS = {"get", "post", "put", "patch", "delete"}


class TestRoutes(BaseTestCase):
    def rules(self):
        return list(self.app.url_map.iter_rules())

    def test_authenticate_or_stand_on_the_list_of_open_ones(self):
        closed = {rule.endpoint for rule in self.rules()} - OPEN

        for endpoint in sorted(closed):
            with self.subTest(endpoint):
                view = self.app.view_functions[endpoint]

                self.assertTrue(getattr(view, "authenticates", False))

    def test_exist_where_they_stand_on_the_list(self):
        self.assertEqual(OPEN - {rule.endpoint for rule in self.rules()}, set())

    def test_are_open_only_to_look(self):
        """Nothing on the list changes anything, save for the page that counts."""
        for rule in self.rules():
            if rule.endpoint in OPEN:
                with self.subTest(rule.endpoint):
                    self.assertLessEqual(rule.methods, {"GET", "HEAD", "OPTIONS"})

    def test_are_open_to_whom_the_document_says(self):
        document = self.client.get("/openapi.json").get_json()
        for rule in self.rules():
            for method in rule.methods & {name.upper() for name in METHODS}:
                if rule.endpoint in UNDOCUMENTED:
                    continue
                operation = document["paths"][template(rule)][method.lower()]
                with self.subTest(rule.endpoint, method=method):
                    needs_token = {"bearer": []} in operation.get("security", [])

                    self.assertEqual(needs_token, rule.endpoint not in OPEN)


def template(rule):
    """Return the path of a rule as OpenAPI writes it."""
    return re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule)


class TestDocument(BaseTestCase):
    def setUp(self):
        super().setUp()
        self.document = self.client.get("/openapi.json").get_json()

    def operations(self):
        for path, item in self.document["paths"].items():
            for method in METHODS & item.keys():
                yield path, method, item[method]

    def test_is_valid(self):
        self.assertEqual(self.document["openapi"], "3.1.0")
        self.assertEqual([str(e) for e in OpenAPIV31SpecValidator(self.document).iter_errors()], [])

    def test_has_every_route_and_no_other(self):
        routes = {
            (template(rule), method.lower())
            for rule in self.app.url_map.iter_rules()
            for method in rule.methods - {"HEAD", "OPTIONS"}
            if rule.endpoint not in UNDOCUMENTED
        }

        documented = {(path, method) for path, method, _ in self.operations()}

        self.assertEqual(documented, routes)

    def test_names_each_operation_once_and_says_what_it_does(self):
        ids = []
        for path, method, operation in self.operations():
            with self.subTest(method=method, path=path):
                ids.append(operation["operationId"])
                self.assertRegex(operation["operationId"], "^[a-z][a-z_]+$")
                self.assertTrue(operation["summary"])
                self.assertTrue(operation.get("tags"))
        self.assertEqual(sorted(ids), sorted(set(ids)))

    def test_explains_every_tag(self):
        explained = {tag["name"] for tag in self.document["tags"] if tag["description"]}

        used = {tag for _, _, operation in self.operations() for tag in operation.get("tags", [])}

        self.assertLessEqual(used, explained)

    def test_describes_every_answer_and_parameter(self):
        for path, method, operation in self.operations():
            with self.subTest(method=method, path=path):
                self.assertIn("500", operation["responses"])
                self.assertTrue({"200", "201"} & operation["responses"].keys())
                for parameter in operation.get("parameters", []):
                    self.assertTrue(parameter.get("schema") or parameter.get("$ref"))
                for answer in operation["responses"].values():
                    self.assertTrue(answer["description"])

    def test_has_a_name_of_its_own_for_every_schema(self):
        """Two models of one name would be told apart by a number, and confuse code generators."""
        for name, schema in self.document["components"]["schemas"].items():
            with self.subTest(name):
                self.assertEqual(schema["title"], name)

    def test_refers_to_nothing_that_is_missing(self):
        text = self.client.get("/openapi.json").get_data(as_text=True)
        for kind, name in re.findall(r'"\$ref":\s*"#/components/(\w+)/([^"]+)"', text):
            self.assertIn(name, self.document["components"][kind])


class TestSettings(TestCase):
    def test_stand_in_the_readme(self):
        readme = (ROOT / "README.md").read_text()
        for name in sorted(SETTINGS - {"TESTING", "SELF_SUFFICIENT"}):
            with self.subTest(name):
                self.assertRegex(readme, rf"\b{name}\b")

    def test_are_read_in_one_room(self):
        """Nobody else looks into the environment for a setting of ours."""
        for name, tree in modules().items():
            if name != "project.config":
                with self.subTest(name):
                    self.assertEqual(environment_names(tree) & SETTINGS, set())


class TestSecurityPage(TestCase):
    def test_names_tests_that_are_there(self):
        page = (ROOT / "docs" / "security.md").read_text()
        tests = {path.name: path.read_text() for path in (PACKAGE / "tests").rglob("test_*.py")}

        for name, more in re.findall(r"`(Test\w+)(…?)`", page):
            with self.subTest(name):
                begun = re.compile(f"^class {name}" + ("" if more else r"\b"), re.MULTILINE)
                self.assertTrue(any(begun.search(text) for text in tests.values()))
        for name in re.findall(r"`(test_\w+\.py)`", page):
            with self.subTest(name):
                self.assertIn(name, tests)


def environment_names(tree):
    """Return the names that a module reads from the environment."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Attribute(attr="environ"), attr="get" | "pop"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names.add(name)
            case ast.Call(
                func=ast.Attribute(attr="getenv"), args=[ast.Constant(value=str(name)), *_]
            ):
                names.add(name)
            case ast.Subscript(
                value=ast.Attribute(attr="environ"),
                slice=ast.Constant(value=str(name)),
                ctx=ast.Load(),
            ):
                names.add(name)
    return names


def modules():
    """Return every module of the service, but for its tests, as a tree by its name."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if "tests" not in parts:
            trees[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return trees


def imports(name, tree, known):
    """Return the modules of ours that a module imports, and others by their full names."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError(f"{name} imports relatively")
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in known else node.module)
    return found - {name}


class TestImports(TestCase):
    def setUp(self):
        self.trees = modules()
        self.imports = {name: imports(name, tree, self.trees) for name, tree in self.trees.items()}

    def test_are_all_seen_here(self):
        self.assertIn("project.api.scores.queries", self.imports["project.api.scores.views"])
        self.assertGreater(len(self.imports), 20)

    def test_never_go_round_in_a_circle(self):
        ours = {
            name: {other for other in others if other in self.trees}
            for name, others in self.imports.items()
        }

        try:
            TopologicalSorter(ours).prepare()
        except CycleError as error:
            self.fail(f"a circle: {' → '.join(error.args[1])}")

    def test_never_go_up_to_the_whole(self):
        """Who is a part of the service knows neither it nor who stands outside."""
        for name, others in self.imports.items():
            with self.subTest(name):
                outside = {other for other in others if re.match(r"manage$|project\.tests", other)}
                whole = {"project"} & others

                self.assertEqual(outside | whole, set())

    def test_never_go_across_from_scores_to_counters_or_back(self):
        for name, others in self.imports.items():
            for feature, other in (("scores", "counter"), ("counter", "scores")):
                if name.startswith(f"project.api.{feature}"):
                    with self.subTest(name):
                        across = [one for one in others if one.startswith(f"project.api.{other}")]

                        self.assertEqual(across, [])

    def test_of_the_ground_lead_nowhere_else(self):
        for name, allowed in {
            "extensions": set(),
            "combiner": set(),
            "bulkhead": set(),
            "circuit_breaker": set(),
            "users": {"project.bulkhead", "project.circuit_breaker"},
        }.items():
            with self.subTest(name):
                others = self.imports[f"project.{name}"]

                ours = {other for other in others if other.startswith("project")}

                self.assertLessEqual(ours, allowed)

    def test_of_queries_and_models_never_go_up_to_views(self):
        """Queries → models → extensions; none of them knows a request."""
        above = {
            "models": ("views", "schemas", "queries", "auth", "requests"),
            "queries": ("views", "schemas", "auth", "requests"),
            "schemas": ("views", "queries", "auth", "requests"),
        }
        for name, others in self.imports.items():
            for room in above.get(name.rpartition(".")[2], ()):
                with self.subTest(name, room=room):
                    up = [one for one in others if one.endswith(f".{room}")]

                    self.assertEqual(up, [])

    def test_of_queries_and_models_know_no_flask(self):
        for name, others in self.imports.items():
            if name.endswith((".queries", ".models")) or name == "project.combiner":
                with self.subTest(name):
                    self.assertEqual(others & {"flask", "apiflask"}, set())

    def test_hide_in_no_function(self):
        for name, tree in self.trees.items():
            functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
            hidden = [
                ast.unparse(node)
                for function in ast.walk(tree)
                if isinstance(function, functions)
                for node in ast.walk(function)
                if isinstance(node, (ast.Import, ast.ImportFrom))
            ]
            with self.subTest(name):
                self.assertEqual(hidden, [])
