"""Who calls: `@authenticate` gives a view its caller."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from flask import current_app, request

from project import tokens
from project.api.errors import Forbidden, InvalidToken, TokenExpired, TokenRequired
from project.app import NamedRequest, Service
from project.places import NoPlace, Places
from project.tokens import Tokens
from project.users import User, UsersService, UsersUnavailable

View = TypeVar("View", bound=Callable[..., Any])


class Callers:
    """Finds out whom a request speaks for."""

    def __init__(
        self, own_tokens: Tokens, users_service: UsersService | None, lookups: Places
    ) -> None:
        self._tokens = own_tokens
        self._users_service = users_service
        self._lookups = lookups

    def of(self, authorization: str) -> User:
        """Return the user of an Authorization header.

        Raise TokenRequired if it is empty, TokenExpired or InvalidToken if it names no user, and
        UsersUnavailable if only users-service could tell and does not, or too many requests wait
        for it.
        """
        if not authorization:
            raise TokenRequired
        scheme, _, token = authorization.partition(" ")
        token = token.strip(" ")
        if scheme.lower() != "bearer" or not token or " " in token:
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
        try:
            with self._lookups.taken(), cast(Service, current_app).asking() as headers:
                user = self._users_service.who_is(token, headers)
        except NoPlace as error:
            current_app.logger.warning("Too many requests wait for users-service.")
            raise UsersUnavailable("too many requests wait") from error
        if user is None:
            raise InvalidToken
        return user


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
