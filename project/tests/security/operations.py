"""What the OpenAPI document says that may be sent, so that what is new is attacked as well."""

from dataclasses import dataclass, field
from urllib.parse import quote

METHODS = ("get", "put", "post", "delete", "patch")
# What is right, where something else in the same request is to be wrong.
RIGHT = {
    "score_id": "1",
    "exercise_id": 1,
    "user_id": 7,
    "name": "visits",
    "correct": True,
    "at": "2026-11-20T08:30:00Z",
    "by": 1,
    "value": 1,
}


@dataclass
class Operation:
    """One operation of the document, and the names of all that it reads."""

    id: str
    method: str
    path: str
    needs_token: bool
    places: list[tuple[str, str]] = field(default_factory=list)  # (place, name)
    body: dict | None = None

    def request(self, place=None, name=None, value=None):
        """Return the arguments of a request that is right, but for one value."""
        path, query, headers = self.path, {}, {}
        for where, what in self.places:
            sent = value if (where, what) == (place, name) else RIGHT.get(what)
            if where == "path":
                path = path.replace(f"{{{what}}}", quote(str(sent), safe=""))
            elif sent is value and where == "query":
                query[what] = value
            elif sent is value and where == "header":
                headers[what] = value
        body = dict(self.body) if self.body is not None else None
        if place == "body":
            body[name] = value
        return {"path": path, "method": self.method, "query_string": query, "json": body,
                "headers": headers}  # fmt: skip


def operations(document):
    """Give every operation that takes part in the API, with all that it reads."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield _operation(document, path, method, item[method])


def _operation(document, path, method, said):
    places = []
    for parameter in said.get("parameters", []):
        known = _resolved(document, parameter)
        places.append((known["in"], known["name"]))
    needs_token = said.get("security") == [{"bearer": []}]  # without {}: also without
    found = Operation(said["operationId"], method.upper(), path, needs_token, places)
    if "requestBody" in said:
        schema = said["requestBody"]["content"]["application/json"]["schema"]
        fields = _resolved(document, schema)["properties"]
        found.body = {name: _right(document, name, fields[name]) for name in fields}
        found.places += [("body", name) for name in fields]
    return found


def _right(document, name, schema):
    if name in RIGHT:
        return RIGHT[name]
    known = _resolved(document, schema)
    if known["type"] == "array":
        item = _resolved(document, known["items"])
        return [{field: RIGHT[field] for field in item["properties"]}]
    return {"visits": 1}


def _resolved(document, node):
    while "$ref" in node:
        kind, name = node["$ref"].split("/")[-2:]
        node = document["components"][kind][name]
    return node
