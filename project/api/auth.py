"""Who calls: `@authenticate` gives a view its caller."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from flask import current_app, request

from project import tokens
from project.api.addresses import client_network
from project.api.errors import (
    Forbidden,
    InvalidToken,
    RateLimited,
    TokenExpired,
    TokenRequired,
)
from project.api.limits import AddressLimit
from project.app import NamedRequest, Service
from project.bulkhead import BulkheadFull, FairBulkhead
from project.metrics import LOOKUPS_REJECTED
from project.places import STUCK_SECONDS
from project.tokens import Tokens
from project.users import User, UsersService, UsersUnavailable

View = TypeVar("View", bound=Callable[..., Any])

# How long a request waits for a slot if too many others wait for users-service: less than for any
# other slot, so that it frees its own in time.
QUEUE_SECONDS = STUCK_SECONDS / 2


class Callers:
    """Finds out whom a request speaks for."""

    def __init__(
        self,
        own_tokens: Tokens,
        users_service: UsersService | None,
        lookups: FairBulkhead,
        invalid_tokens: AddressLimit,
    ) -> None:
        """Limit the requests that wait for users-service, and the invalid tokens of an address."""
        self._tokens = own_tokens
        self._users_service = users_service
        self._lookups = lookups
        self._invalid_tokens = invalid_tokens

    def of(self, authorization: str) -> User:
        """Return the user of an Authorization header.

        Raise TokenRequired if it is empty, TokenExpired or InvalidToken if it names no user,
        RateLimited if the address has sent too many invalid tokens, and UsersUnavailable if
        users-service does not answer or too many requests wait for it.
        """
        if not authorization:
            raise TokenRequired
        scheme, _, token = authorization.partition(" ")
        token = token.strip(" ")
        # A comma joins the values of several header fields (RFC 9110, section 5.3).
        if scheme.lower() != "bearer" or not token or " " in token or "," in token:
            raise InvalidToken
        return self._speaks_for(token)

    def _speaks_for(self, token: str) -> User:
        users = self._users_service
        known = self._tokens.known(token) or (users.known(token) if users else None)
        return known or self._ask(token)

    def _ask(self, token: str) -> User:
        # A token of ours is never shown to users-service: it can open doors here only.
        if tokens.claims_to_be_ours(token):
            try:
                return self._tokens.verify(token)
            except tokens.TokenExpired:
                raise TokenExpired from None
            except tokens.TokenInvalid:
                raise InvalidToken from None
        if self._users_service is None:
            raise InvalidToken
        user = self._look_up(self._users_service, token)
        if user is None:
            self._invalid_tokens.count(request.remote_addr)
            raise InvalidToken
        return user

    def _look_up(self, users: UsersService, token: str) -> User | None:
        """Return the user of a token as users-service says, or None if it says no.

        Clients that share an address share its limit and its slots, except for tokens that were
        valid before: each of these counts as a client of its own.
        """
        was_valid = users.was_valid(token)
        if not was_valid:
            self._check_limit()
        client = token if was_valid else client_network(request.remote_addr)
        try:
            with (
                self._lookups.slot(client, QUEUE_SECONDS, preferred=was_valid),
                cast(Service, current_app).asking() as headers,
            ):
                return users.who_is(token, client, headers)
        except BulkheadFull as error:
            LOOKUPS_REJECTED.labels("queue").inc()
            current_app.logger.warning("Too many requests wait for users-service.")
            raise UsersUnavailable("too many requests wait") from error

    def _check_limit(self) -> None:
        try:
            self._invalid_tokens.check(request.remote_addr)
        except RateLimited:
            LOOKUPS_REJECTED.labels("rate_limit").inc()
            raise


def _authorization() -> str:
    """Return the Authorization header of the current request; "" if it has none."""
    return str(request.environ.get("HTTP_AUTHORIZATION", "")).strip(" ")


def current_caller() -> User:
    """Return the user that sent the current request."""
    callers: Callers = current_app.extensions["callers"]
    caller = callers.of(_authorization())
    cast(NamedRequest, request).caller = caller
    return caller


def authenticate(view: View) -> View:
    """Give `view` its caller as first argument; refuse the request where there is none."""

    @wraps(view)
    def authenticated(*args: Any, **kwargs: Any) -> Any:
        return view(current_caller(), *args, **kwargs)

    return cast(View, _needs_token(authenticated))


def authenticate_unless(is_open: Callable[..., bool]) -> Callable[[View], View]:
    """Do as `authenticate`, but pass None as caller if `is_open(**path)` and no token was sent."""

    def decorator(view: View) -> View:
        @wraps(view)
        def authenticated(**kwargs: Any) -> Any:
            anonymous = not _authorization() and is_open(**kwargs)
            return view(None if anonymous else current_caller(), **kwargs)

        return cast(View, _needs_token(authenticated, also_without=True))

    return decorator


def authenticate_where(needs_caller: Callable[[], bool]) -> Callable[[View], View]:
    """Do as `authenticate` where the query asks for it; give None as caller where it does not."""

    def decorator(view: View) -> View:
        @wraps(view)
        def authenticated(**kwargs: Any) -> Any:
            return view(current_caller() if needs_caller() else None, **kwargs)

        return cast(View, _needs_token(authenticated, also_without=True))

    return decorator


def _needs_token(view: Any, *, also_without: bool = False) -> Any:
    """Say so in the API document."""
    if not hasattr(view, "_spec"):
        view._spec = {}
    view._spec["security"] = [{"bearer": []}] + [{}] * also_without
    view.authenticates = True
    return view


def requires(check: Callable[[User], None]) -> Callable[[View], View]:
    """Check the role of the caller before the body is read; put it below `@authenticate`."""

    def decorator(view: View) -> View:
        @wraps(view)
        def permitted(caller: User, *args: Any, **kwargs: Any) -> Any:
            check(caller)
            return view(caller, *args, **kwargs)

        return cast(View, permitted)

    return decorator


class _ForUser(Protocol):
    @property
    def user_id(self) -> int | None: ...


def acting_for(caller: User, body: _ForUser) -> int:
    """Return whose scores the caller writes: its own, or those of the user named in the body.

    Raise Forbidden where it may not act for that user.
    """
    user_id = body.user_id
    if user_id is None or user_id == caller.user_id:
        return caller.user_id
    only_services(caller)
    return user_id


def only_services(caller: User) -> None:
    """Raise Forbidden where the caller is neither a service nor an administrator."""
    if not (caller.is_admin or caller.is_service):
        raise Forbidden


def only_admin(caller: User) -> None:
    """Raise Forbidden where the caller is no administrator."""
    if not caller.is_admin:
        raise Forbidden
