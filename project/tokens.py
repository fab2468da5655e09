"""Our own tokens: issued to sibling services and administrators, verified without asking anyone."""

import time

import jwt

from project.users import User

ISSUER = "eval-service"
ALGORITHM = "HS256"
LARGEST_ID = 2**63 - 1
DAY_SECONDS = 24 * 60 * 60


class TokenInvalid(Exception):
    """The token says that it is ours, but is not, or not any more."""


class Tokens:
    """Issues and verifies JSON Web Tokens (RFC 7519) with one secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def issue(self, user: User, days: float) -> str:
        """Return a token that speaks for `user` for that many days."""
        roles = [
            role for role, has in (("admin", user.is_admin), ("service", user.is_service)) if has
        ]
        now = time.time()
        claims = {
            "iss": ISSUER,
            "sub": str(user.user_id),
            "iat": int(now),
            "exp": int(now + days * DAY_SECONDS),
            "roles": roles,
        }
        return jwt.encode(claims, self._secret, ALGORITHM)

    def verify(self, token: str) -> User:
        """Return whom one of our tokens speaks for; raise TokenInvalid where that is nobody."""
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                options={"require": ["exp", "iss", "sub"]},
            )
        except jwt.InvalidTokenError as error:
            raise TokenInvalid from error
        subject, roles = claims["sub"], claims.get("roles", [])
        if not (subject.isascii() and subject.isdigit() and 1 <= int(subject) <= LARGEST_ID):
            raise TokenInvalid
        if not isinstance(roles, list):
            raise TokenInvalid
        return User(int(subject), is_admin="admin" in roles, is_service="service" in roles)


def claims_to_be_ours(token: str) -> bool:
    """Return whether a token names us as its issuer; whether that is true is not checked."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return False
    return bool(claims.get("iss") == ISSUER)
