"""Flask, without what no request of this service needs.

Flask is made for any application. This one has no coroutines, no subdomains, no session, one
thing to do before a request and one after it; to look for all else costs each request about as
much as to serve it. The overrides are of Flask 3.1, which pyproject.toml holds fast.
"""

import os
import re
from collections.abc import Callable, Mapping, Set
from contextlib import AbstractContextManager
from functools import cached_property
from time import perf_counter
from typing import Any

from apiflask import APIFlask
from flask import Config, Request, Response
from flask.globals import request_ctx
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter

from project.logs import Served
from project.places import Places
from project.users import User

# What every answer says unless its view has said otherwise.
GUARDS = (("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"))
PERSONAL = ("Cache-Control", "no-store")
# May be kept, but not shown again unasked: numbers are exact at the moment of the answer.
COMMON = ("Cache-Control", "no-cache")
# Where a request has the moment at which it began, by the clock of perf_counter().
BEGAN = "eval.began"
SHORT_AND_PRINTABLE = re.compile(r"[\x21-\x7e]{1,128}")


class ObservedConfig(Config):
    """Configuration that reports the objects that are loaded into it later."""

    on_load: Callable[[Any], None] | None = None

    def from_object(self, obj: Any) -> None:
        """Load an object, or the one of that name, and report it."""
        super().from_object(obj)
        if self.on_load is not None:
            self.on_load(obj)


class NoSession(SessionInterface):
    """A session that is nobody's: opening a real one costs every request a look for its cookie."""

    _none = NullSession()

    def open_session(self, _app: Any, _request: Any) -> NullSession:
        """Return the one session, which cannot be written."""
        return self._none


class NamedRequest(Request):
    """A request with an id, by which the log and the caller speak of it."""

    caller: User | None = None

    @cached_property
    def id(self) -> str:
        """The caller's id for the request, where that is short and printable, or a new one."""
        sent = self.environ.get("HTTP_X_REQUEST_ID")
        return sent if sent and SHORT_AND_PRINTABLE.fullmatch(sent) else os.urandom(16).hex()


class PlainResponse(Response):
    """A response that goes out as it is: its body is at hand, and its headers are complete."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Send the response; what HTTP has rules for besides goes Werkzeug's way."""
        whole = isinstance(self.response, list) and self.status_code not in {204, 304}
        if not whole or environ["REQUEST_METHOD"] == "HEAD" or self._on_close:
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        return self.response


def guard(response: Response, *, personal: bool) -> None:
    """Have an answer taken for nothing but what it is, and kept by nobody whom it is not for.

    An error is a matter of its moment: a cache should not give it to others, or later.
    """
    headers = response.headers
    said = {name.lower() for name, _ in headers}
    caching = PERSONAL if personal or response.status_code >= 400 else COMMON
    for name, value in (*GUARDS, caching):
        if name.lower() not in said:
            headers.add(name, value)


class Service(APIFlask):
    """The WSGI application."""

    config_class = ObservedConfig
    config: ObservedConfig
    session_interface = NoSession()
    response_class = PlainResponse
    # What takes a request in, and may refuse it; and what completes its answer.
    take_in: Callable[[Any], None]
    # For how many requests there is room at a time, but for those to `unbounded` endpoints.
    places: Places
    unbounded: Set[str] = frozenset()
    complete: Callable[[Any, Response], None]
    # Notes an answered request in the log; where this process serves, and the log wants to know.
    log_request: Callable[[Served], None] | None = None
    # What another service is asked within: gives the headers that carry the trace to it.
    asking: Callable[[], AbstractContextManager[Mapping[str, str]]]

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Answer a request, which begins here."""
        environ[BEGAN] = perf_counter()
        return self.wsgi_app(environ, start_response)

    def ensure_sync(self, func: Any) -> Any:
        """Return the function: none of ours is a coroutine, and to ask each time costs."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return the URL adapter of a request: it matches by path, whatever the host is.

        URLs that it builds begin with the path prefix that the application is mounted at.
        """
        if request is None:
            return super().create_url_adapter(None)
        prefix = f"{request.root_path}/"
        return MapAdapter(
            self.url_map, "", prefix, "", request.scheme, request.path, request.method
        )

    def preprocess_request(self) -> None:
        """Take the request in."""
        self.take_in(request_ctx.request)

    def dispatch_request(self) -> Any:
        """Have the view answer, where there is a place; raise NoPlace where there is none."""
        if request_ctx.request.endpoint in self.unbounded:
            return super().dispatch_request()
        with self.places.taken():
            return super().dispatch_request()

    def process_response(self, response: Response) -> Response:
        """Complete the answer; Flask-CORS sees it where there is an origin to allow."""
        request = request_ctx.request
        self.complete(request, response)
        guard(response, personal="HTTP_AUTHORIZATION" in request.environ)
        if "HTTP_ORIGIN" in request.environ:
            return super().process_response(response)
        return response
