"""The OpenAPI document: what APIFlask reads off the views, and what it cannot know, added.

A view says with `@may_answer` which errors it has besides those that its decorators bring
along: who authenticates may answer 401, who takes a body 415, and everybody 500.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from apiflask import APIFlask
from flask import Response, jsonify, make_response, request
from pydantic import BaseModel, Field
from werkzeug.routing import Rule

from project.api import errors, examples
from project.api.errors import ApiError
from project.api.fields import LARGEST_BIGINT, MAX_NAME_LENGTH, NAME_PATTERN
from project.pages import constant

View = TypeVar("View", bound=Callable[..., Any])
Schema = dict[str, Any]

DESCRIPTION = """
Which learner solved which exercise, and how often anything happened: exactly, and safe to repeat.

**Callers** send `Authorization: Bearer <token>`; what has no lock here is open to everybody.
**Answers** are `{"status": "success", "message"?, "data"?}`. **Errors** are `{"status": "fail" |
"error", "message", "code", "errors"?}`, where `code` is for programs and `errors` names each
refused field by its path, such as `exercise_id` or `scores[400].user_id`. With `Accept:
application/problem+json` they come as RFC 9457; a browser that asks for `text/html` gets a page.
A path that is not here answers 404 `not_found`, a method 405 `method_not_allowed`. **Times** are
RFC 3339 in UTC, **ids** 64-bit integers.

**To repeat a write** is safe with an `Idempotency-Key`: for 24 hours the same request gets the
same answer, with `Idempotency-Replayed: true`. **To ask again** costs little with `If-None-Match`.

The examples work on a service that `python manage.py seed_db` has filled, once each, with the
token that `sh run.sh` prints.
"""

# Where APIFlask sends the document.
ENDPOINT = "openapi.spec"

SETTINGS = {
    "OPENAPI_VERSION": "3.1.0",
    "AUTO_404_RESPONSE": False,
    "AUTO_VALIDATION_ERROR_RESPONSE": False,
    "AUTO_AUTH_ERROR_RESPONSE": False,
    "AUTO_SERVERS": False,
    "DESCRIPTION": DESCRIPTION,
    "LICENSE": {"name": "MIT", "identifier": "MIT"},
    "SECURITY_SCHEMES": {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A token of users-service, or one of `python manage.py issue_token`. "
            "401 `token_expired` asks for a new one.",
        }
    },
    "TAGS": [
        {"name": "Scores", "description": "Which learner solved which exercise."},
        {"name": "Counter", "description": "How often anything happened."},
        {"name": "Dashboard", "description": "What the service keeps, at a glance."},
        {"name": "Eval", "description": "How the service is."},
    ],
}

ID_SCHEMA = {"type": "integer", "minimum": 1, "maximum": LARGEST_BIGINT}
PATH_SCHEMAS = {
    "score_id": ID_SCHEMA,
    "exercise_id": ID_SCHEMA,
    "name": {"type": "string", "pattern": NAME_PATTERN, "maxLength": MAX_NAME_LENGTH},
}
PATHS = {
    "score_id": "The id of a score.",
    "exercise_id": "The id of an exercise.",
    "name": "The name of a counter.",
}
HEADERS = {
    "If-Match": "The ETag of the counter as you saw it, or * however it is.",
    "If-None-Match": "* where the counter is to be created.",
}
REQUEST_ID_HEADER = {
    "description": "The id of the request: the caller's own, or a new one.",
    "schema": {"type": "string"},
}
ETAG_HEADER = {
    "description": "The version of what is shown.",
    "schema": {"type": "string"},
}

IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    "required": False,
    "description": "The ETag of what you have: where it is still so, the answer is a bare 304.",
    "schema": {"type": "string"},
}

IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "description": "With it the request may be sent again: it is done once, and answered alike. "
    "Bare, or in double quotes.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": 255,
        "pattern": "^[!#-~]([ -~]*[!-~])?$",
    },
}


class Failure(BaseModel):
    """The envelope of an answer that says what went wrong."""

    status: Literal["fail", "error"]
    message: str
    code: str
    errors: dict[str, list[str]] | None = Field(
        None,
        description="Why each field was refused, by its path: `scores[400].user_id`. At most 20 "
        "entries; `message` says how many there are.",
    )
    request_id: str | None = Field(None, description="With a 500: what to look for in the log.")


class Problem(BaseModel):
    """The same by RFC 9457, for who asks for `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: dict[str, list[str]] | None = None
    request_id: str | None = None


def may_answer(
    *failures: type[ApiError],
    created: type[BaseModel] | None = None,
    headers: Sequence[str] = (),
) -> Callable[[View], View]:
    """Say which errors a view has of its own, and what it answers with 201 besides its 200.

    `headers` are those of the request that it reads.
    """

    def decorator(view: View) -> View:
        spec: Schema = _annotations(view)
        spec["failures"] = failures
        spec["created"] = created
        spec["headers"] = headers
        return view

    return decorator


def takes_key(view: View) -> View:
    """Say that a view reads the Idempotency-Key."""
    _annotations(view)["takes_key"] = True
    return view


def has_version(view: View) -> View:
    """Say that a view answers with an ETag, and with 304 to who has that version."""
    _annotations(view)["has_version"] = True
    return view


def shows_picture(view: View) -> View:
    """Say that a view answers with SVG."""
    _annotations(view)["responses"] = {
        200: {
            "description": "A picture.",
            "content": {"image/svg+xml": {"schema": {"type": "string"}}},
        }
    }
    return view


def shows_page(view: View) -> View:
    """Say that a view answers with HTML."""
    _annotations(view)["responses"] = {
        200: {"description": "A page.", "content": {"text/html": {"schema": {"type": "string"}}}}
    }
    return view


def shows_text(view: View) -> View:
    """Say that a view answers with plain text."""
    _annotations(view)["responses"] = {
        200: {"description": "Text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    }
    return view


def _annotations(view: Any) -> Schema:
    if not hasattr(view, "_spec"):
        view._spec = {}
        view._sync_ensured = True  # no coroutine: else APIFlask asks that in each request
    spec: Schema = view._spec
    return spec


def register(app: APIFlask) -> None:
    """Have the app's document completed here, and made once."""
    app.config.update(SETTINGS)
    document = app.view_functions[ENDPOINT]

    def with_servers() -> Response:
        """Return the document; behind a path prefix it names that as the server."""
        servers = {"servers": [{"url": request.root_path}]} if request.root_path else {}
        return jsonify(make_response(document()).get_json() | servers)

    app.view_functions[ENDPOINT] = constant(with_servers)

    @app.spec_processor
    def _complete(document: Any) -> Schema:
        return complete(app, document)


def complete(app: APIFlask, document: Schema) -> Schema:
    """Return the document with everything that APIFlask cannot know."""
    for rule, operation in _operations(app, document):
        view = app.view_functions[rule.endpoint]
        spec = getattr(view, "_spec", {})
        operation["tags"] = [rule.endpoint.partition(".")[0].capitalize()]
        operation["operationId"] = rule.endpoint.rpartition(".")[2]
        _describe_parameters(operation)
        _describe_headers(operation, spec)
        _describe_body(operation, spec)
        _describe_success(operation, spec)
        _describe_failures(operation, _failures(spec))
    document["components"]["headers"] = {"X-Request-ID": REQUEST_ID_HEADER, "ETag": ETAG_HEADER}
    document["components"]["parameters"] = {
        "Idempotency-Key": IDEMPOTENCY_KEY,
        "If-None-Match": IF_NONE_MATCH,
    }
    for model in (Failure, Problem):
        document["components"]["schemas"][model.__name__] = model.model_json_schema()
    _tidy(document)
    schemas = document["components"]["schemas"]
    document["components"]["schemas"] = {_last(name): schemas[name] for name in sorted(schemas)}
    for _, operation in _operations(app, document):
        _exemplify(operation, document["components"]["schemas"])
    return document


def _operations(app: APIFlask, document: Schema) -> Iterator[tuple[Rule, Schema]]:
    for rule in app.url_map.iter_rules():
        path = rule.rule
        for argument in rule.arguments:
            converter = type(rule._converters[argument])
            for name, known in app.url_map.converters.items():
                if known is converter:
                    path = path.replace(f"<{name}:{argument}>", f"<{argument}>")
            path = path.replace(f"<{argument}>", f"{{{argument}}}")
        for method, operation in document["paths"].get(path, {}).items():
            if method.upper() in (rule.methods or ()):
                yield rule, operation


def _describe_parameters(operation: Schema) -> None:
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            parameter["schema"] = PATH_SCHEMAS[parameter["name"]]
            parameter["description"] = PATHS[parameter["name"]]
        elif description := parameter["schema"].pop("description", None):
            parameter["description"] = description


def _describe_headers(operation: Schema, spec: Schema) -> None:
    for name in spec.get("headers", ()):
        operation["parameters"].append(
            {
                "in": "header",
                "name": name,
                "required": False,
                "description": HEADERS[name],
                "schema": {"type": "string"},
            }
        )
    if spec.get("takes_key"):
        operation["parameters"].append({"$ref": "#/components/parameters/Idempotency-Key"})
    if spec.get("has_version"):
        operation["parameters"].append({"$ref": "#/components/parameters/If-None-Match"})


def _describe_body(operation: Schema, spec: Schema) -> None:
    model = spec.get("body")
    if model is not None:
        fields = model.model_fields.values()
        operation["requestBody"]["required"] = any(field.is_required() for field in fields)


def _describe_success(operation: Schema, spec: Schema) -> None:
    if created := spec.get("created"):
        operation["responses"]["201"] = {
            "description": "It is new.",
            "content": {
                "application/json": {"schema": {"$ref": f"#/components/schemas/{created.__name__}"}}
            },
        }
    if spec.get("has_version"):
        operation["responses"]["304"] = {"description": "It is as you have it."}
    for answer in operation["responses"].values():
        answer["headers"] = {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}}
        if spec.get("has_version"):
            answer["headers"]["ETag"] = {"$ref": "#/components/headers/ETag"}


def _failures(spec: Schema) -> list[type[ApiError]]:
    """Return every error that a view can answer with."""
    failures = [*spec.get("failures", ()), errors.InvalidQuery, errors.Internal]
    if spec.get("security"):
        failures += [errors.InvalidToken, errors.TokenExpired, errors.TokenRequired]
        failures += [errors.RateLimited]
    if spec.get("body"):
        failures += [errors.InvalidPayload, errors.PayloadTooLarge, errors.UnsupportedMediaType]
    if spec.get("takes_key"):
        failures += [errors.RequestInProgress, errors.IdempotencyKeyReused]
    return list(dict.fromkeys([*failures, errors.Unavailable]))


def _describe_failures(operation: Schema, failures: list[type[ApiError]]) -> None:
    for status in sorted({failure.status for failure in failures}):
        same = [failure for failure in failures if failure.status == status]
        operation["responses"][str(status)] = {
            "description": " ".join((failure.__doc__ or "").split("\n")[0] for failure in same),
            "headers": {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}},
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Failure"},
                    "examples": {
                        failure.slug: {"value": errors.envelope(failure())} for failure in same
                    },
                },
                "application/problem+json": {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {
                        failure.slug: {"value": errors.problem(failure())} for failure in same
                    },
                },
                "text/html": {"schema": {"type": "string"}},
            },
        }


def _exemplify(operation: Schema, schemas: Schema) -> None:
    """Give every parameter, body and answer of an operation its example."""
    name = operation["operationId"]
    for parameter in operation["parameters"]:
        example = examples.of_parameter(name, parameter)
        if example is not None:
            parameter["example"] = example
    if "requestBody" in operation:
        [content] = operation["requestBody"]["content"].values()
        content["example"] = examples.of_body(name, content["schema"], schemas)
    for status, answer in operation["responses"].items():
        content = answer.get("content", {}).get("application/json")
        if content is not None and "examples" not in content:
            content["example"] = examples.of_answer(
                name, content["schema"], schemas, created=status == "201"
            )


def _last(name: str) -> str:
    """Return the model's own name; APIFlask puts the one that uses it before it."""
    return name.rpartition(".")[2]


def _drop_null(node: Schema) -> None:
    choices = [choice for choice in node.pop("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        node.update(choices[0] | node)
    elif choices:
        node["anyOf"] = choices


def _tidy(node: Any) -> None:
    """Shorten references, and say of what may be left out that it is not null."""
    if isinstance(node, list):
        for item in node:
            _tidy(item)
    elif isinstance(node, dict):
        if "default" in node and node["default"] is None:
            del node["default"]
            _drop_null(node)
        if isinstance(node.get("$ref"), str):
            place, _, name = node["$ref"].rpartition("/")
            node["$ref"] = f"{place}/{_last(name)}"
        for value in node.values():
            _tidy(value)
