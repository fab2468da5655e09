"""A request as this API takes it: JSON without ambiguity, no parameter unread, an id of its own."""

import json
import re
import uuid
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from apiflask import APIFlask
from flask import Request, Response, current_app, g, request
from flask.sessions import NullSession, SessionInterface

from project.api.errors import InvalidPayload, InvalidQuery, UnsupportedMediaType

REQUEST_ID = "X-Request-ID"
View = TypeVar("View", bound=Callable[..., Any])
SHORT_AND_PRINTABLE = re.compile(r"[\x21-\x7e]{1,128}")


class _Ambiguous(ValueError):
    """The JSON text can be read in more ways than one, or is no JSON by RFC 8259."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; refuse a name that stands in it twice (RFC 8259, section 4)."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in fields if names.count(name) > 1)
        raise _Ambiguous(f"The name {twice!a} stands twice in one object")
    return fields


def _constant(name: str) -> NoReturn:
    raise _Ambiguous(f"{name} is no JSON")


class JsonRequest(Request):
    """A request whose body, where it has one, is a JSON object."""

    def get_json(self, *_: Any, cache: bool = True, **__: Any) -> Any:
        """Return the body as a dictionary, or None where it is empty.

        Raise InvalidPayload where it is anything but a JSON object, and UnsupportedMediaType
        where it does not say that it is one.
        """
        body = self.get_data(cache=cache)
        if not body:
            return None
        if self.mimetype != "application/json":
            raise UnsupportedMediaType
        try:
            parsed = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_constant)
        except _Ambiguous as error:
            raise InvalidPayload({"body": [f"{error}."]}) from None
        except (ValueError, RecursionError):
            raise InvalidPayload({"body": ["The body should be valid JSON in UTF-8."]}) from None
        if not isinstance(parsed, dict):
            raise InvalidPayload({"body": ["The body should be a JSON object."]})
        return parsed


class NoSession(SessionInterface):
    """The service keeps no session: opening one costs every request a look for its cookie."""

    _none = NullSession()

    def open_session(self, _app: Any, _request: Any) -> NullSession:
        """Return the one session, which is nobody's and cannot be written."""
        return self._none


def page(view: View) -> View:
    """Mark a view as a page for people, which takes any query string."""
    view.is_page = True  # type: ignore[attr-defined]
    return view


def refuse_unread_parameters() -> None:
    """Raise InvalidQuery where the query string has a parameter twice, or one that nobody reads."""
    if not request.query_string or not request.endpoint:
        return
    view = current_app.view_functions[request.endpoint]
    if not request.blueprint or request.blueprint == "openapi" or hasattr(view, "is_page"):
        return
    known = _parameters_of(view)
    errors = {
        name: ["Unknown parameter." if name not in known else "Given more than once."]
        for name, values in request.args.lists()
        if name not in known or len(values) > 1
    }
    if errors:
        raise InvalidQuery(errors)


def _parameters_of(view: Callable[..., Any]) -> set[str]:
    """Return the names of the query parameters that a view reads."""
    inputs = getattr(view, "_spec", {}).get("args") or []
    return {name for schema, place in inputs if place == "query" for name in schema.model_fields}


def name_request() -> None:
    """Give the request its id: the caller's, where that is short and printable, or a new one."""
    sent = request.headers.get(REQUEST_ID)
    g.request_id = sent if sent and SHORT_AND_PRINTABLE.fullmatch(sent) else uuid.uuid4().hex


def sign_response(response: Response) -> Response:
    """Have the answer carry the request's id."""
    response.headers[REQUEST_ID] = g.request_id
    return response


def register(app: APIFlask) -> None:
    """Have every request of the app taken in this way."""
    app.request_class = JsonRequest
    app.session_interface = NoSession()
    app.before_request(name_request)
    app.before_request(refuse_unread_parameters)
    app.after_request(sign_response)
