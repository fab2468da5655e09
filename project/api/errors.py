"""Exception in, answer out; the only place.

An `ApiError` knows its status, its code and its message, and is raised where the trouble is
seen. Everything else that can go wrong is turned into one of them here, so a caller meets one
envelope: the service's own, or RFC 9457's where it asks for `application/problem+json`. A browser
that asks for a page gets an error page.
"""

from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any, ClassVar, cast

import orjson
import psycopg2
from apiflask import APIFlask
from apiflask.exceptions import HTTPError
from flask import Response, current_app, render_template, request
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from project.app import NamedRequest
from project.combiner import Overdue, StillUnderway
from project.extensions import OutcomeUnknown
from project.heavy_reads import TooManyHeavyReads
from project.metrics import POOL_TIMEOUTS
from project.pages import POLICY
from project.places import NoPlace
from project.refusals import cause_of
from project.users import UsersUnavailable

JSON, HTML = "application/json", "text/html"
PROBLEM_JSON = "application/problem+json"
# The first one that the client accepts as well as any other.
MEDIA_TYPES = (JSON, PROBLEM_JSON, HTML)
RETRY_AFTER_SECONDS = 1
# How many errors an answer lists, and how long the name of a field in it is.
MAX_ERRORS = 20
MAX_FIELD_LENGTH = 200

Errors = Mapping[str, list[str]]


class ApiError(HTTPException):
    """What went wrong, for the caller: a status, a code for programs, a message for people."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    message: ClassVar[str] = "Something went wrong on our side."

    def __init__(
        self,
        errors: Errors | None = None,
        *,
        message: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.code = self.status
        self.errors = _listed(errors) if errors else None
        self.headers = dict(headers or {})
        description = message or self.message
        if errors and len(errors) > MAX_ERRORS:
            description += f" The first {MAX_ERRORS} of {len(errors)} errors are listed."
        super().__init__(description)


def _listed(errors: Errors) -> Errors:
    """Return the first errors, with short names: the caller chooses both names and count."""
    return {_shortened(field): errors[field] for field in islice(errors, MAX_ERRORS)}


def _shortened(field: str) -> str:
    return field if len(field) <= MAX_FIELD_LENGTH else f"{field[:MAX_FIELD_LENGTH]}…"


class InvalidPayload(ApiError):
    """The body is missing, is no JSON object, or a field is missing, wrong or unknown."""

    status, slug, message = 400, "invalid_payload", "Invalid payload."


class InvalidQuery(ApiError):
    """A query parameter is wrong or unknown, or a cursor is not ours."""

    status, slug, message = 400, "invalid_query", "Invalid query."


class ScoreExists(ApiError):
    """The pair has a score already."""

    status, slug = 400, "score_exists"
    message = "Sorry. That score already exists. Please update with a PUT request."


class ScoreMismatch(ApiError):
    """The id is not that of the caller's score for the exercise."""

    status, slug, message = 400, "score_mismatch", "Sorry. That score does not exist."


CHALLENGE = {"WWW-Authenticate": "Bearer"}  # RFC 6750, section 3


class InvalidToken(ApiError):
    """The token was rejected by users-service or by its signature, or the header is malformed."""

    status, slug, message = 401, "invalid_token", "Invalid token."

    def __init__(self) -> None:
        super().__init__(headers=CHALLENGE)


class TokenExpired(ApiError):
    """The token was valid, and its time is over. Get a new one."""

    status, slug, message = 401, "token_expired", "Token expired."

    def __init__(self) -> None:
        super().__init__(headers=CHALLENGE)


class TokenRequired(ApiError):
    """The Authorization header is missing or empty."""

    status, slug, message = 403, "token_required", "Provide a valid auth token."

    def __init__(self) -> None:
        super().__init__(headers=CHALLENGE)


class Forbidden(ApiError):
    """The caller is known, but may not do that."""

    status, slug, message = 403, "forbidden", "You do not have permission to do that."


class NotFound(ApiError):
    """Nothing is at this path."""

    status, slug, message = 404, "not_found", "Not found."


class ScoreNotFound(ApiError):
    """No score has this id."""

    status, slug, message = 404, "score_not_found", "Score does not exist"


class CounterNotFound(ApiError):
    """No counter has this name."""

    status, slug, message = 404, "counter_not_found", "Counter does not exist"


class MethodNotAllowed(ApiError):
    """The path knows other methods; `Allow` names them."""

    status, slug, message = 405, "method_not_allowed", "Method not allowed."


class CounterOverflow(ApiError):
    """The sum does not fit a signed 64-bit integer; nothing was changed."""

    status, slug = 409, "counter_overflow"
    message = "The counter would leave the range of a signed 64-bit integer. Nothing was changed."


class RequestInProgress(ApiError):
    """A request with the same Idempotency-Key is being worked on."""

    status, slug = 409, "request_in_progress"
    message = "A request with this Idempotency-Key is in progress. Repeat it in a moment."

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


class PreconditionFailed(ApiError):
    """`If-Match` or `If-None-Match` does not hold; nothing was changed."""

    status, slug = 412, "precondition_failed"
    message = "The precondition does not hold: the counter is not as you saw it."


class PayloadTooLarge(ApiError):
    """The body is larger than this path takes."""

    status, slug, message = 413, "payload_too_large", "Payload too large."


class UnsupportedMediaType(ApiError):
    """The body is not `application/json`, or has a Content-Encoding."""

    status, slug = 415, "unsupported_media_type"
    message = "Unsupported media type. Send application/json."


class UnsupportedContentEncoding(UnsupportedMediaType):
    """The body is compressed."""

    message = "Unsupported content encoding. Send the body without Content-Encoding."

    def __init__(self) -> None:
        super().__init__(headers={"Accept-Encoding": "identity"})  # RFC 9110, section 15.5.16


class IdempotencyKeyReused(ApiError):
    """The Idempotency-Key was used for another request."""

    status, slug = 422, "idempotency_key_reused"
    message = "This Idempotency-Key was used for another request. Use a new key."


class PreconditionRequired(ApiError):
    """The request has to say which version it means to replace."""

    status, slug = 428, "precondition_required"
    message = "Send If-Match with the counter's ETag or *, or If-None-Match: * to create it."


class RateLimited(ApiError):
    """The address has sent too many requests; `Retry-After` says when to go on."""

    status, slug, message = 429, "rate_limited", "Too many requests. Try again later."


class Internal(ApiError):
    """A mistake of ours; the request's id finds it in the log."""

    status, slug = 500, "internal"
    message = "Something went wrong on our side."


class Unavailable(ApiError):
    """The database or users-service is unavailable; `message` names the cause."""

    status, slug, message = 503, "unavailable", "Service unavailable. Try again later."

    def __init__(
        self, message: str | None = None, retry_after_seconds: int = RETRY_AFTER_SECONDS
    ) -> None:
        super().__init__(message=message, headers={"Retry-After": str(retry_after_seconds)})


OUTCOME_UNKNOWN = "so its outcome is unknown. Repeat the request with the same Idempotency-Key."

# What a request waited for in vain, for the log.
OVERLOADED: dict[type[Exception], str] = {
    NoPlace: "all threads of this process are busy.",
    Overdue: "a write waited in the queue for too long.",
    TooManyHeavyReads: "too many expensive reads run in this process.",
    PoolTimeout: "no connection of the pool became free in time.",
}

# What Werkzeug raises by itself, as ours.
BY_STATUS: dict[int, type[ApiError]] = {
    error.status: error for error in (NotFound, MethodNotAllowed, PayloadTooLarge, InvalidPayload)
}


def answer(error: ApiError) -> Response:
    """Return the error response, in the media type that the client prefers."""
    media_type = request.accept_mimetypes.best_match(MEDIA_TYPES, default=JSON)
    if media_type == HTML:
        response = _page(error)
    else:
        body = problem(error) if media_type == PROBLEM_JSON else envelope(error)
        if error.errors:
            body["errors"] = error.errors
        if error.status >= 500:
            body["request_id"] = _request_id()
        response = current_app.response_class(orjson.dumps(body), error.status, mimetype=media_type)
    response.headers.update(error.headers)
    response.vary.add("Accept")
    return response


def _page(error: ApiError) -> Response:
    """Return the error as a page, for a browser."""
    text = render_template(
        "error.html",
        error=error,
        phrase=HTTPStatus(error.status).phrase,
        request_id=_request_id() if error.status >= 500 else None,
    )
    response = current_app.response_class(text, error.status, mimetype=HTML)
    response.headers["Content-Security-Policy"] = POLICY
    return response


def _request_id() -> str:
    return cast(NamedRequest, request).id


def envelope(error: ApiError) -> dict[str, Any]:
    """Return the members of an answer that says what went wrong."""
    ours_or_theirs = "error" if error.status in {401, 403} or error.status >= 500 else "fail"
    return {"status": ours_or_theirs, "message": error.description, "code": error.slug}


def from_envelope(members: Mapping[str, Any]) -> ApiError:
    """Return the error that an envelope was made from."""
    kinds = {kind.slug: kind for kind in ApiError.__subclasses__()}
    return kinds[members["code"]]()


def problem(error: ApiError) -> dict[str, Any]:
    """Return the members of RFC 9457, section 3.1; `code` and `errors` are extensions (3.2)."""
    return {
        "type": f"/problems/{error.slug}",
        "title": error.message,
        "status": error.status,
        "detail": error.description,
        "code": error.slug,
    }


def from_werkzeug(error: HTTPException) -> Response:
    """Answer what Flask and Werkzeug raise by themselves, or what is ours already."""
    if isinstance(error, ApiError):
        return answer(error)
    ours = BY_STATUS.get(error.code or 500, Internal)
    headers = {name: value for name, value in error.get_headers() if name == "Allow"}
    return answer(ours(headers=headers))


def from_validation(error: HTTPError) -> Response:
    """Answer 400 and name each field of a body or query that does not fit its schema."""
    kind, whole = (InvalidQuery, "query") if "query" in error.detail else (InvalidPayload, "body")
    fields: dict[str, list[str]] = {}
    for reason in cast(ValidationError, error.__cause__).errors():
        field = _path_of(*reason["loc"]) if reason["loc"] else whole
        fields.setdefault(field, []).append(reason["msg"].removeprefix("Value error, "))
    return answer(kind(fields))


def _path_of(field: str | int, *nested: str | int) -> str:
    """Return the path of a field as JSONPath writes it: `scores[400].user_id` (RFC 9535)."""
    if len(nested) > 1 and nested[-1] == "[key]":  # pydantic's mark for the key of a dictionary
        nested = nested[:-1]
    return str(field) + "".join(map(_step_to, nested))


def _step_to(member: str | int) -> str:
    if isinstance(member, int):
        return f"[{member}]"
    if member.isidentifier():
        return f".{member}"
    escaped = member.replace("\\", "\\\\").replace("'", "\\'")
    return f"['{escaped}']"


def from_database(error: DBAPIError | psycopg2.Error) -> Response:
    """Answer 503 with the cause if PostgreSQL is unavailable, 500 if the statement is at fault."""
    cause = cause_of(error)
    if cause is None:
        return internal(error)
    current_app.logger.warning("PostgreSQL %s: %s", cause.name, _root_of(error))
    return answer(Unavailable(f"{cause.description} Try again later."))


def from_lost_commit(error: OutcomeUnknown | StillUnderway) -> Response:
    """Answer 503 and say that the outcome of the write is unknown."""
    if isinstance(error, StillUnderway):
        current_app.logger.warning("PostgreSQL commit timeout: the outcome of a write is unknown.")
        return answer(Unavailable(f"The write did not finish in time, {OUTCOME_UNKNOWN}"))
    current_app.logger.warning("PostgreSQL connection lost during a write: %s", _root_of(error))
    return answer(Unavailable(f"The database was lost during the write, {OUTCOME_UNKNOWN}"))


def _root_of(error: BaseException) -> str:
    """Return the first line of the exception that caused this one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0] or type(error).__name__


def from_waiting(error: PoolTimeout | Overdue | NoPlace | TooManyHeavyReads) -> Response:
    """Return 503 if no thread, connection, slot or place in a batch became free in time."""
    if isinstance(error, PoolTimeout):
        POOL_TIMEOUTS.inc()
    current_app.logger.warning("Overloaded, %s", OVERLOADED[type(error)])
    return answer(Unavailable("The service is overloaded. Try again later."))


def from_users(error: UsersUnavailable) -> Response:
    """Answer 503 while users-service is away: whether the token is good is not known."""
    return answer(
        Unavailable("Users-service is unavailable. Try again later.", error.retry_after_seconds)
    )


def internal(error: Exception) -> Response:
    """Answer 500 with the request's id; the trace goes to the log and nowhere else."""
    current_app.logger.error("Request %s failed.", _request_id(), exc_info=error)
    return answer(Internal())


def register(app: APIFlask) -> None:
    """Have every exception of the app answered here."""
    app.register_error_handler(HTTPException, from_werkzeug)
    app.register_error_handler(HTTPError, from_validation)
    app.register_error_handler(OutcomeUnknown, from_lost_commit)
    app.register_error_handler(StillUnderway, from_lost_commit)
    app.register_error_handler(DBAPIError, from_database)
    app.register_error_handler(psycopg2.Error, from_database)
    app.register_error_handler(PoolTimeout, from_waiting)
    app.register_error_handler(Overdue, from_waiting)
    app.register_error_handler(NoPlace, from_waiting)
    app.register_error_handler(TooManyHeavyReads, from_waiting)
    app.register_error_handler(UsersUnavailable, from_users)
    app.register_error_handler(Exception, internal)
