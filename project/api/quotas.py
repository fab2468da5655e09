"""Daily quotas: how much a principal may add to the database in a day (UTC).

Administrators and services have no quota. Usage is counted in the transaction that adds, in a row
for each principal and day that is locked until the commit, so a quota holds for any number of
workers and replicas.
"""

from datetime import UTC, datetime, timedelta

from flask import request

from project.api.addresses import client_network
from project.api.errors import RateLimited
from project.users import User


def quota_principal(caller: User | None) -> str | None:
    """Return the principal whose quota the current request counts against, or None."""
    if caller is None:
        return f"address:{client_network(request.remote_addr)}"
    return None if caller.is_admin or caller.is_service else f"user:{caller.user_id}"


def quota_exceeded(message: str) -> RateLimited:
    """Return the error for a principal whose quota is used up until midnight UTC."""
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    seconds = (midnight - now).seconds + 1
    return RateLimited(message=message, headers={"Retry-After": str(seconds)})
