"""The envelope: status, message, data; and what makes JSON of it."""

from collections.abc import Mapping
from typing import Any

import orjson
from flask import Response, current_app, request
from flask.json.provider import JSONProvider
from pydantic import BaseModel
from sqlalchemy import Row

JSON = "application/json"
NO_HEADERS: Mapping[str, str] = {}


def _plain(value: Any) -> Any:
    """Return what orjson can write for a value that it does not know."""
    if isinstance(value, Row):
        return value._asdict()
    raise TypeError(f"{type(value).__name__} is no JSON")


class OrjsonProvider(JSONProvider):
    """Flask's JSON by orjson, which writes times as RFC 3339 does."""

    def dumps(self, obj: Any, **_kwargs: Any) -> str:
        """Return `obj` as JSON."""
        return orjson.dumps(obj, default=_plain).decode()

    def loads(self, s: str | bytes, **_kwargs: Any) -> Any:
        """Return the value of a JSON text."""
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """Return the value, or the keywords as an object, as a response."""
        body = orjson.dumps(self._prepare_response_obj(args, kwargs), default=_plain)
        return current_app.response_class(body, mimetype=JSON)


def success(
    data: Any = None,
    message: str | None = None,
    status: int = 200,
    headers: Mapping[str, str] = NO_HEADERS,
) -> Response:
    """Return an answer that says that all went well, with what came of it."""
    envelope: dict[str, Any] = {"status": "success"}
    if message is not None:
        envelope["message"] = message
    if data is not None:
        envelope["data"] = data
    body = orjson.dumps(envelope, default=_plain)
    return current_app.response_class(body, status, headers, mimetype=JSON)


def unchanged(etag: str) -> Response | None:
    """Return 304 where the caller has this version already (RFC 9110, section 13.1.2), or None."""
    if "If-None-Match" not in request.headers or not request.if_none_match.contains(etag):
        return None
    response = current_app.response_class(status=304)
    response.set_etag(etag)
    return response


class Done(BaseModel):
    """The envelope of an answer without data."""

    status: str
    message: str
