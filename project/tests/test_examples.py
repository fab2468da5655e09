"""The API document by its examples: each is what its schema says, and works when it is sent."""

import re
from functools import cache

from jsonschema import Draft202012Validator

from project import seeds
from project.tests.base import BaseTestCase
from project.users import User

METHODS = ("get", "put", "post", "patch", "delete")
# What others still need comes last.
ORDER = {"delete": 2, "get": 0}


@cache
def seeded_user(app):
    """Return the headers of whom `sh run.sh` prints a token for."""
    token = app.extensions["tokens"].issue(User(1, is_admin=True), days=1)
    return {"Authorization": f"Bearer {token}"}


class ExamplesTestCase(BaseTestCase):
    def setUp(self):
        super().setUp()
        self.document = self.client.get("/openapi.json").get_json()

    def operations(self):
        for path, item in self.document["paths"].items():
            for method in item:
                self.assertIn(method, METHODS)
                yield path, method, item[method]

    def resolved(self, parameter):
        if "$ref" in parameter:
            return self.document["components"]["parameters"][parameter["$ref"].split("/")[-1]]
        return parameter

    def faults(self, schema, instance):
        """Return what is wrong with a value by a schema of the document."""
        whole = schema | {"components": self.document["components"]}
        return [error.message for error in Draft202012Validator(whole).iter_errors(instance)]


class TestExamples(ExamplesTestCase):
    def test_stand_in_every_operation_with_what_explains_it(self):
        for path, method, operation in self.operations():
            with self.subTest(path, method=method):
                for part in ("summary", "description", "operationId", "tags"):
                    self.assertTrue(operation.get(part), part)
                self.assertTrue(operation["operationId"].isidentifier())
                for parameter in map(self.resolved, operation["parameters"]):
                    self.assertTrue(parameter["description"], parameter["name"])
                    if parameter["required"]:
                        self.assertIn("example", parameter)
                if "requestBody" in operation:
                    self.assertIn(
                        "example", operation["requestBody"]["content"]["application/json"]
                    )
                for answer in operation["responses"].values():
                    for kind, content in answer.get("content", {}).items():
                        if kind.endswith("json"):
                            self.assertTrue({"example", "examples"} & content.keys())

    def test_are_what_their_schemas_say(self):
        checked = 0
        for path, method, operation in self.operations():
            with self.subTest(path, method=method):
                for schema, example in self.examples_of(operation):
                    checked += 1
                    self.assertEqual(self.faults(schema, example), [], example)
        self.assertGreater(checked, 300)

    def examples_of(self, operation):
        """Yield every example of an operation behind its schema."""
        for parameter in map(self.resolved, operation["parameters"]):
            if "example" in parameter:
                yield parameter["schema"], parameter["example"]
        contents = [answer.get("content", {}) for answer in operation["responses"].values()]
        for content in [operation.get("requestBody", {}).get("content", {}), *contents]:
            for media in content.values():
                if "example" in media:
                    yield media["schema"], media["example"]
                for example in media.get("examples", {}).values():
                    yield media["schema"], example["value"]

    def test_name_a_code_for_every_error(self):
        for path, method, operation in self.operations():
            for status, answer in operation["responses"].items():
                if status >= "400":
                    with self.subTest(path, method=method, status=status):
                        for name, example in answer["content"]["application/json"][
                            "examples"
                        ].items():
                            self.assertEqual(example["value"]["code"], name)


class TestDefaults(ExamplesTestCase):
    def test_documented_defaults_are_accepted(self):
        """Generated clients send them whether the caller gave them or not."""
        seeds.sow(100)
        sent = 0
        for path, method, operation in self.operations():
            parameters = list(map(self.resolved, operation["parameters"]))
            defaults = {
                parameter["name"]: parameter["schema"]["default"]
                for parameter in parameters
                if "default" in parameter["schema"]
            }
            if not defaults:
                continue
            places = {p["name"]: str(p["example"]) for p in parameters if p["in"] == "path"}
            with self.subTest(path, method=method):
                answer = self.client.open(
                    re.sub(r"{(\w+)}", lambda name, places=places: places[name[1]], path),
                    method=method.upper(),
                    query_string=defaults,
                    headers=seeded_user(self.app),
                )

                sent += 1
                self.assertEqual(answer.status_code, 200, answer.get_data(as_text=True))
        self.assertGreater(sent, 8)


class TestRequests(ExamplesTestCase):
    def setUp(self):
        super().setUp()
        seeds.sow(5000)

    def send(self, path, method, operation):
        """Send the request that the document has as an example; return the answer."""
        places = {"path": {}, "query": {}, "header": {}}
        for parameter in map(self.resolved, operation["parameters"]):
            if "example" in parameter:
                places[parameter["in"]][parameter["name"]] = str(parameter["example"])
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        return self.client.open(
            re.sub(r"{(\w+)}", lambda name: places["path"][name[1]], path),
            method=method.upper(),
            query_string=places["query"],
            headers=places["header"] | seeded_user(self.app),
            json=body.get("example"),
        )

    def test_work_as_they_stand_and_are_answered_as_documented(self):
        operations = sorted(self.operations(), key=lambda one: ORDER.get(one[1], 1))
        for path, method, operation in operations:
            with self.subTest(path, method=method):
                answer = self.send(path, method, operation)

                self.assertIn(answer.status_code, (200, 201), answer.get_data(as_text=True))
                documented = operation["responses"][str(answer.status_code)]
                [(kind, media)] = documented["content"].items()
                self.assertEqual(answer.mimetype, kind)
                if kind == "application/json":
                    body = answer.get_json()
                    self.assertEqual(self.faults(media["schema"], body), [])
                    self.assertEqual(body.get("message"), media["example"].get("message"))
