"""Our own tokens: issued to sibling services and administrators, verified without asking anyone."""

import hashlib
import json
import re
import time
from threading import Lock
from typing import Any

import jwt
from cachetools import LRUCache
from jwt.utils import base64url_decode

from project.users import User

ISSUER = "eval-service"
ALGORITHM = "HS256"
LARGEST_ID = 2**63 - 1
SUBJECT = re.compile("[1-9][0-9]{0,18}")
MOST_VERIFIED = 10_000
DAY_SECONDS = 24 * 60 * 60


class TokenInvalid(Exception):
    """The token names us as its issuer, but we did not issue it."""


class TokenExpired(Exception):
    """We issued the token, and its time is over."""


class Tokens:
    """Issues JSON Web Tokens (RFC 7519) with one secret; verifies those of earlier ones, too."""

    def __init__(self, secret: str, *earlier: str) -> None:
        self._secret = secret
        self._earlier = earlier
        # Whom a token that was verified speaks for, and until when; by its hash, so that no
        # token lies in memory for longer than its request.
        self._verified: LRUCache[bytes, tuple[User, float]] = LRUCache(MOST_VERIFIED)
        self._lock = Lock()

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

    def known(self, token: str) -> User | None:
        """Return whom a token speaks for that was verified before and is still valid, or None."""
        with self._lock:
            user, expires_at = self._verified.get(_digest(token), (None, 0.0))
        return user if time.time() < expires_at else None

    def verify(self, token: str) -> User:
        """Return the user of one of our tokens.

        Raise TokenExpired if its signature is valid and its time is over, and TokenInvalid if
        anything else is wrong with it.
        """
        claims = self._claims(token)
        subject, roles = claims["sub"], claims.get("roles", [])
        if not (SUBJECT.fullmatch(subject) and int(subject) <= LARGEST_ID):
            raise TokenInvalid
        if not isinstance(roles, list):
            raise TokenInvalid
        user = User(int(subject), is_admin="admin" in roles, is_service="service" in roles)
        with self._lock:
            self._verified[_digest(token)] = user, float(claims["exp"])
        return user

    def _claims(self, token: str) -> dict[str, Any]:
        for secret in (self._secret, *self._earlier):
            try:
                return _decode(token, secret)
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError as error:  # raised after the signature was verified
                raise TokenExpired from error
            except jwt.InvalidTokenError as error:
                raise TokenInvalid from error
        raise TokenInvalid


def _decode(token: str, secret: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(
        token,
        secret,
        algorithms=[ALGORITHM],
        issuer=ISSUER,
        # When it was issued decides nothing (RFC 7519, section 4.1.6), and may lie in the
        # future where a clock was set back.
        options={"require": ["exp", "iss", "sub"], "verify_iat": False},
    )
    return claims


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def claims_to_be_ours(token: str) -> bool:
    """Return whether a token names us as its issuer; whether that is true is not checked."""
    try:
        claims = json.loads(base64url_decode(token.split(".")[1]))
    except (IndexError, ValueError, RecursionError):
        return False
    return isinstance(claims, dict) and claims.get("iss") == ISSUER
