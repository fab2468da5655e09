"""The envelope: status, message, data; and what makes JSON of it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from flask import Response, request
from flask.json.provider import JSONProvider
from pydantic import BaseModel

from project.app import PlainResponse

JSON = "application/json"
LIST_ETAG = re.compile("[0-9a-f]{1,16}-[0-9]{1,4}")


def _plain(value: Any) -> Any:
    """Return what orjson can write for a value that it does not know, or writes otherwise."""
    if isinstance(value, datetime):
        return _rfc3339(value)
    if hasattr(value, "_asdict"):  # a row
        return value._asdict()
    raise TypeError(f"{type(value).__name__} is no JSON")


def _rfc3339(moment: datetime) -> str:
    """Return a time as RFC 3339 text in UTC, with six digits: 2026-11-25T09:01:24.479240Z."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def integer(value: int) -> orjson.Fragment:
    """Return an integer of any size for JSON; orjson by itself stops at 64 bits."""
    return orjson.Fragment(str(value))


def to_json(value: Any) -> bytes:
    """Return a value as JSON, with times as RFC 3339 writes them."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME)


class OrjsonProvider(JSONProvider):
    """Flask's JSON by orjson."""

    def dumps(self, obj: Any, **_kwargs: Any) -> str:
        """Return `obj` as JSON."""
        return to_json(obj).decode()

    def loads(self, s: str | bytes, **_kwargs: Any) -> Any:
        """Return the value of a JSON text."""
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """Return the value, or the keywords as an object, as a response."""
        body = to_json(self._prepare_response_obj(args, kwargs))
        return PlainResponse(body, content_type=JSON)


@dataclass(slots=True)
class Answer:
    """What a successful request is answered."""

    data: Any = None
    message: str | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    # The body as it was sent before, where this is a repetition.
    kept: bytes | None = None

    def body(self) -> bytes:
        """Return the envelope as JSON."""
        if self.kept is not None:
            return self.kept
        envelope: dict[str, Any] = {"status": "success"}
        if self.message is not None:
            envelope["message"] = self.message
        if self.data is not None:
            envelope["data"] = self.data
        return to_json(envelope)

    def response(self) -> Response:
        """Return the response; its Location begins with the path prefix of this request."""
        headers = dict(self.headers)
        if "Location" in headers:
            headers["Location"] = request.root_path + headers["Location"]
        return PlainResponse(self.body(), self.status, headers, content_type=JSON)


def success(
    data: Any = None,
    message: str | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an answer that says that all went well, with what came of it."""
    return Answer(data, message, status, headers or {}).response()


def versioned(data: Any) -> Response:
    """Return an answer with an ETag that is a hash of it, or 304 where the caller has it."""
    answer = Answer(data)
    etag = hashlib.sha256(answer.body()).hexdigest()[:16]
    return unchanged(etag) or replace(answer, headers={"ETag": f'"{etag}"'}).response()


def known_etags() -> list[str]:
    """Return the ETags of lists that the caller has, or * where any would do."""
    if "If-None-Match" not in request.headers:
        return []
    if request.if_none_match.star_tag:
        return ["*"]
    sent = request.if_none_match.as_set(include_weak=True)
    return [etag for etag in sent if etag and LIST_ETAG.fullmatch(etag)]


def unchanged(etag: str) -> Response | None:
    """Return 304 where the caller has this version already (RFC 9110, section 13.1.2), or None."""
    if "If-None-Match" not in request.headers or not request.if_none_match.contains_weak(etag):
        return None
    return not_modified(etag)


def not_modified(etag: str) -> Response:
    """Return 304: the caller has this version."""
    response = PlainResponse(status=304)
    response.set_etag(etag)
    return response


class Done(BaseModel):
    """The envelope of an answer without data."""

    status: Literal["success"]
    message: str
