"""A request as this API takes it: JSON without ambiguity, and no parameter unread."""

import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from time import perf_counter, time
from typing import Any, NoReturn, TypeVar, cast

from flask import Request, Response, current_app, request
from werkzeug.sansio.utils import host_is_trusted

from project import tracing
from project.api.addresses import client_network
from project.api.errors import (
    MAX_FIELD_LENGTH,
    InvalidPayload,
    InvalidQuery,
    NotFound,
    PayloadTooLarge,
    UnsupportedContentEncoding,
    UnsupportedMediaType,
)
from project.app import BEGAN, NamedRequest, Service
from project.logs import Served
from project.metrics import RequestMetrics
from project.slow_clients import LARGE_BODY_BYTES, BodyRead, BodySlots, MeasuredInput

REQUEST_ID = "X-Request-ID"
# A host name (also with underscores, as containers have them) or address, and maybe a port. The
# server joins several Host headers by commas.
HOST = re.compile(r"([\w.~-]{1,253}|\[[0-9a-f:.]{2,45}\])(:[0-9]{0,5})?", re.ASCII | re.IGNORECASE)
WITHOUT_HOST = {"HTTP/1", "HTTP/1.0"}
View = TypeVar("View", bound=Callable[..., Any])


class _Ambiguous(ValueError):
    """The JSON text can be read in more ways than one, or is no JSON by RFC 8259."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; refuse a name that stands in it twice (RFC 8259, section 4)."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        counted = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counted.items() if count > 1)
        raise _Ambiguous(f"The name {twice[:MAX_FIELD_LENGTH]!a} stands twice in one object")
    return fields


def _constant(name: str) -> NoReturn:
    raise _Ambiguous(f"{name} is no JSON")


class JsonRequest(NamedRequest):
    """A request whose body, where it has one, is a JSON object."""

    def _has_no_body(self) -> bool:
        """Return whether the headers say so already (RFC 9112, section 6.3)."""
        return "CONTENT_LENGTH" not in self.environ and "HTTP_TRANSFER_ENCODING" not in self.environ

    def _read(self, read: BodyRead, cache: bool) -> bytes:
        """Return the body; raise PayloadTooLarge, or InvalidPayload if its end is missing."""
        self.environ["wsgi.input"] = MeasuredInput(self.environ["wsgi.input"], read)
        body = self.get_data(cache=cache)
        # Without Content-Length Werkzeug reads up to the limit, and does not look behind it.
        is_chunked = self.content_length is None and len(body) == self.max_content_length
        if is_chunked and self.environ["wsgi.input"].read(1):
            raise PayloadTooLarge
        if self.content_length is not None and len(body) < self.content_length:
            raise InvalidPayload({"body": ["The body is shorter than its Content-Length."]})
        return body

    def get_json(self, *_: Any, cache: bool = True, **__: Any) -> Any:
        """Return the body as a dictionary, or None if it is empty.

        Raise InvalidPayload if it is anything but a JSON object, UnsupportedMediaType if its
        content type is another one, and NoPlace if too many other bodies are read or parsed.
        """
        if self._has_no_body():
            return None
        if self.headers.get("Content-Encoding", "").lower() not in {"", "identity"}:
            raise UnsupportedContentEncoding
        slots: BodySlots = current_app.extensions["body_slots"]
        proxied: dict[str, str] = self.environ.get("werkzeug.proxy_fix.orig", self.environ)
        client, peer = client_network(self.remote_addr), str(proxied.get("REMOTE_ADDR"))
        large = self.content_length is None or self.content_length > LARGE_BODY_BYTES
        with slots.slot(client, peer, large=large) as read:
            body = self._read(read, cache)
            if not body:
                return None
            if self.mimetype != "application/json":
                raise UnsupportedMediaType
            return _parse(body)


def _parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object; raise InvalidPayload if it is not exactly one."""
    try:
        parsed = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except _Ambiguous as error:
        raise InvalidPayload({"body": [f"{error}."]}) from None
    except (ValueError, RecursionError):
        raise InvalidPayload({"body": ["The body should be valid JSON in UTF-8."]}) from None
    if not isinstance(parsed, dict):
        raise InvalidPayload({"body": ["The body should be a JSON object."]})
    return parsed


def takes_up_to(bytes_: int) -> Callable[[View], View]:
    """Have a view take bodies of up to that many bytes."""

    def decorator(view: View) -> View:
        @wraps(view)
        def taking(*args: Any, **kwargs: Any) -> Any:
            request.max_content_length = bytes_
            return view(*args, **kwargs)

        return cast(View, taking)

    return decorator


def reject_ambiguous_address(request: Request) -> None:
    """Raise InvalidPayload if the Host header is not exactly one host, NotFound for `//path`.

    Werkzeug ignores repeated slashes at the start of a path, but a proxy that restricts paths may
    not. HTTP/1.0 has no Host header. Flask's TRUSTED_HOSTS restricts hosts further.
    """
    if request.environ["PATH_INFO"].startswith("//"):
        raise NotFound
    host = request.environ.get("HTTP_HOST") or ""
    if not host and request.environ.get("SERVER_PROTOCOL") in WITHOUT_HOST:
        return
    if not HOST.fullmatch(host):
        reason = "Send exactly one Host header with a host and an optional port."
        raise InvalidPayload({"Host": [reason]})
    trusted = current_app.config["TRUSTED_HOSTS"]
    if trusted and not host_is_trusted(host, trusted):
        raise InvalidPayload({"Host": ["Use a host that this service is configured for."]})


def reject_unread_parameters(request: Request) -> None:
    """Raise InvalidQuery if a query parameter is unknown, repeated, or not UTF-8.

    A preflight has the query of the request that follows, which another view may answer. Files are
    exempt: their addresses carry a version.
    """
    if not request.query_string or not request.blueprint or request.method == "OPTIONS":
        return
    known = _parameters_of(current_app.view_functions[cast(str, request.endpoint)])
    try:
        request.query_string.decode()
    except UnicodeDecodeError:
        raise InvalidQuery({"query": ["The query should be UTF-8."]}) from None
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


def _served(request: JsonRequest, route: str | None, status: int, seconds: float) -> Served:
    caller = request.caller
    return Served(
        time(),
        request.id,
        tracing.trace_id(request.environ),
        request.method,
        route,
        status,
        seconds,
        caller.user_id if caller else None,
    )


def register(app: Service, origins: list[str]) -> None:
    """Have every request of the app taken in in this way, every answer signed and noted."""
    depends_on_origin = origins != ["*"]
    requests = RequestMetrics()

    def take_in(request: JsonRequest) -> None:
        reject_ambiguous_address(request)
        reject_unread_parameters(request)

    def sign(request: JsonRequest, response: Response) -> None:
        response.headers.add(REQUEST_ID, request.id)
        if depends_on_origin:
            response.headers.add("Vary", "Origin")
        route = tracing.route_of(request)
        seconds = perf_counter() - request.environ[BEGAN]
        requests.observe(route, request.method, response.status_code, seconds)
        if app.log_request is not None:
            app.log_request(_served(request, route, response.status_code, seconds))

    app.request_class = JsonRequest
    app.take_in = take_in
    app.complete = sign
    app.asking = lambda: nullcontext(tracing.passed_on(request.environ))
