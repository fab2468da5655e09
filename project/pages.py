"""Pages for people: how they are sent, as is the document of the API, and what they are made of.

What a page needs comes from this service and stands in files: nothing is loaded from elsewhere,
and neither a script nor a style stands in the page itself. So the policy below can forbid all
else, and what anybody should manage to write into a page is not run.
"""

import gzip
import hashlib
import mimetypes
import os
from collections.abc import Callable
from functools import cache, lru_cache, wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from flask import Response, make_response, render_template, request, url_for
from werkzeug.exceptions import NotFound
from werkzeug.security import safe_join

from project.app import PlainResponse, Service

View = TypeVar("View", bound=Callable[..., Any])

FOLDER = Path(__file__).parent / "static"
# A service has one path prefix; more than a few come only from a client that invents them.
MAX_PREFIXES = 8
YEAR_SECONDS = 365 * 24 * 3600
# Below this a packed text is hardly shorter than the headers that come with it.
WORTH_PACKING = 1024
PACKABLE = ("text/", "application/json", "image/svg+xml")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Asset(NamedTuple):
    """A page, or a file of one, as it is sent."""

    body: bytes
    packed: bytes | None
    mimetype: str
    version: str

    @classmethod
    def of(cls, body: bytes, mimetype: str) -> "Asset":
        """Return what is sent of that, packed where it is worth it."""
        is_packable = len(body) >= WORTH_PACKING and mimetype.startswith(PACKABLE)
        packed = gzip.compress(body, mtime=0) if is_packable else None
        return cls(body, packed, mimetype, hashlib.sha256(body).hexdigest()[:16])


def page(view: View) -> View:
    """Send the response of a view with POLICY."""

    @wraps(view)
    def shown(*args: Any, **kwargs: Any) -> Response:
        response = make_response(view(*args, **kwargs))
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return cast(View, shown)


def versioned(template: str, mimetype: str = "text/html", **values: Any) -> Response:
    """Return a page with its ETag, or 304 where the caller has it as it is (RFC 9110, 13.1.2)."""
    body = render_template(template, **values).encode()
    return _send(Asset.of(body, mimetype), "no-cache")


def constant(view: View) -> View:
    """Call a view once for each path prefix, and send its response as `versioned()` does."""

    @lru_cache(MAX_PREFIXES)
    def answer(_prefix: str) -> Asset:
        response = make_response(view())
        return Asset.of(response.get_data(), str(response.mimetype))

    @wraps(view)
    def sent() -> Response:
        return _send(answer(request.root_path), "no-cache")

    return cast(View, sent)


def register(app: Service) -> None:
    """Have the app send the files, and its pages name them by `asset()`."""
    app.add_url_rule("/static/<path:filename>", "static", send_asset)
    app.jinja_env.globals["asset"] = address
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True


def address(filename: str) -> str:
    """Return the URL of a file; it changes with the file's content."""
    return url_for("static", filename=filename, v=_asset(filename).version)


def send_asset(filename: str) -> Response:
    """Answer with a file; whoever asked for this version of it need never ask again."""
    asset = _asset(filename)
    is_this_one = request.args.get("v") == asset.version
    caching = f"public, max-age={YEAR_SECONDS}, immutable" if is_this_one else "no-cache"
    return _send(asset, caching)


def _send(asset: Asset, caching: str) -> Response:
    response = PlainResponse(asset.body, mimetype=asset.mimetype)
    response.headers["Cache-Control"] = caching
    if asset.packed is not None:
        response.headers["Vary"] = "Accept-Encoding"
        if request.accept_encodings["gzip"]:
            response.set_data(asset.packed)
            response.headers["Content-Encoding"] = "gzip"
    response.set_etag(asset.version, weak=True)  # the same for both encodings
    response.make_conditional(request)
    return response


@cache  # they change with a new version of the service, or while developing, which restarts it
def _asset(filename: str) -> Asset:
    """Return the file of that name; raise NotFound where there is none."""
    path = safe_join(str(FOLDER), filename)
    # Path.is_file raises where the name is too long to be one.
    if path is None or not os.path.isfile(path):
        raise NotFound
    mimetype = mimetypes.guess_type(path)[0] or "text/plain"
    return Asset.of(Path(path).read_bytes(), mimetype)
