"""Client of eval-service: which learner solved which exercise, and how often anything happened.

    with EvalClient("http://localhost:5002", token="…") as client:
        client.scores.upsert(exercise_id=1, correct=True)
        client.counters.increment("visits")

What goes wrong is an EvalError: `eval_client.errors` has a class for each code of the service.
"""

from eval_client.client import EvalClient
from eval_client.errors import ApiError, EvalError, Unreachable
from eval_client.models import NewScore

__all__ = ["ApiError", "EvalClient", "EvalError", "NewScore", "Unreachable"]
