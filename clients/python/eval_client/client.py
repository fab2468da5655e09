"""The client: one pool of connections, the endpoints in two groups."""

from typing import Self

from eval_client.counters import Counters
from eval_client.scores import Scores
from eval_client.transport import Token, Transport


class EvalClient:
    """Speaks with one eval-service; many threads may share it."""

    def __init__(
        self,
        url: str,
        token: Token = None,
        *,
        timeout_seconds: float = 5.0,
        patience_seconds: float = 30.0,
        pool_size: int = 32,
    ) -> None:
        """Prepare to call the service at `url`; nothing is sent yet.

        `token` is one of users-service or of eval-service itself, or a function that returns
        one, which is asked for each call; without it only what is open to all succeeds.
        Each attempt may wait `timeout_seconds` for a connection, and as long for each part of
        the answer. No attempt begins more than `patience_seconds` after the call.
        """
        self._transport = Transport(url, token, timeout_seconds, patience_seconds, pool_size)
        self._offer()

    def _offer(self) -> None:
        self.scores = Scores(self._transport)
        self.counters = Counters(self._transport)

    def speaking_for(self, token: Token) -> "EvalClient":
        """Return a client with another token, say that of a user, over the same connections."""
        other = object.__new__(EvalClient)
        other._transport = self._transport.speaking_for(token)
        other._offer()
        return other

    def close(self) -> None:
        """Close the idle connections, also those of clients that share them."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
