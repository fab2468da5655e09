"""What can go wrong: a class for each `code` of the service."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

# What may well succeed later: said by the service, or by a gateway that could not reach it.
PASSING = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}


class EvalError(Exception):
    """A call did not succeed.

    If it `may_pass`, the same request may succeed later, and not before `retry_after_seconds`
    if the service says so. `written` is how many of the first items of `upsert_many()` or
    `increment_many()` were written before it.
    """

    may_pass: bool = False
    retry_after_seconds: float | None = None
    written: int = 0


class Unreachable(EvalError):
    """No answer came, however often it was asked for; what a write did is not known."""

    may_pass = True


class ApiError(EvalError):
    """The service answered that it did not do what was asked."""

    kind: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        code: str = "",
        status: int = 0,
        errors: Mapping[str, list[str]] | None = None,
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        # All of them, so that the exception can be pickled.
        super().__init__(message, code, status, errors, request_id, retry_after_seconds)
        self.message = message
        self.code = code
        self.status = status
        self.errors = dict(errors or {})
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
        self.may_pass = status in PASSING or isinstance(self, RequestInProgress)

    def __str__(self) -> str:
        reasons = [f"{field}: {' '.join(why)}" for field, why in self.errors.items()]
        text = " ".join([self.message, *reasons])
        return f"{text} ({self.status} {self.code or 'without code'}, request {self.request_id})"


class InvalidPayload(ApiError):
    """A field of the body is missing, wrong or unknown.

    `errors` has the reasons by the path of the field: `exercise_id`, `scores[400].user_id`.
    """

    kind = "invalid_payload"


class InvalidQuery(ApiError):
    """A parameter is wrong; `errors` says which and why."""

    kind = "invalid_query"


class ScoreExists(ApiError):
    """The user has a score for the exercise already."""

    kind = "score_exists"


class ScoreMismatch(ApiError):
    """The id is not that of the user's score for the exercise."""

    kind = "score_mismatch"


class InvalidToken(ApiError):
    """The token was rejected."""

    kind = "invalid_token"


class TokenExpired(ApiError):
    """The token was valid, and its time is over. Get a new one."""

    kind = "token_expired"


class TokenRequired(ApiError):
    """What was asked for needs a token."""

    kind = "token_required"


class Forbidden(ApiError):
    """Whom the token speaks for may not do that."""

    kind = "forbidden"


class ScoreNotFound(ApiError):
    """There is no such score."""

    kind = "score_not_found"


class CounterNotFound(ApiError):
    """There is no such counter."""

    kind = "counter_not_found"


class NotFound(ApiError):
    """Nothing is at this address."""

    kind = "not_found"


class PayloadTooLarge(ApiError):
    """The body is too large."""

    kind = "payload_too_large"


class CounterOverflow(ApiError):
    """The counter would leave 64 bits; nothing was changed."""

    kind = "counter_overflow"


class RequestInProgress(ApiError):
    """Somebody else is at work with the same Idempotency-Key."""

    kind = "request_in_progress"


class PreconditionFailed(ApiError):
    """The counter is not as `if_match` says, or exists already."""

    kind = "precondition_failed"


class IdempotencyKeyReused(ApiError):
    """The Idempotency-Key was used for another request."""

    kind = "idempotency_key_reused"


class RateLimited(ApiError):
    """Too many requests; `retry_after_seconds` says when to go on."""

    kind = "rate_limited"


class Internal(ApiError):
    """A mistake of the service; `request_id` finds it in its log."""

    kind = "internal"


class Unavailable(ApiError):
    """The service's database or its users-service is away."""

    kind = "unavailable"


_KINDS = {error.kind: error for error in ApiError.__subclasses__()}


def from_answer(
    status: int, body: Any, request_id: str | None, retry_after_seconds: float | None
) -> ApiError:
    """Return the error that an answer tells of, whoever gave it: a proxy has no code."""
    told = body if isinstance(body, dict) else {}
    code = told.get("code", "")
    message = told.get("message", "An answer that is none of eval-service's.")
    kind = _KINDS.get(code, ApiError)
    return kind(message, code, status, told.get("errors"), request_id, retry_after_seconds)
