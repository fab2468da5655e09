"""The examples of the API document: requests that work as they stand, and what they are answered.

They are of a service that `python manage.py seed_db` has filled, asked by user 1, who is an
administrator: the token that `sh run.sh` prints. An answer is put together from its schema, with
one example for each field.
"""

from typing import Any

Schema = dict[str, Any]

# By field; where the same name means another thing, by the schema's name as well.
FIELDS: dict[str, Any] = {
    "id": 1,
    "user_id": 1,
    "exercise_id": 1,
    "correct": True,
    "attempts": 3,
    "solved_at": "2026-11-20T08:30:12.250000Z",
    "created_at": "2026-11-20T08:28:12.000000Z",
    "updated_at": "2026-11-20T08:32:12.000000Z",
    "next_cursor": None,
    "created": False,
    "seq": 1,
    "actor": 1,
    "at": "2026-11-20T08:00:00.000000Z",
    "rank": 1,
    "solved": 24,
    "last_solved_at": "2026-11-20T08:30:12.250000Z",
    "attempted": 31,
    "accuracy": 0.64,
    "pass_rate": 0.774,
    "current": 3,
    "longest": 11,
    "days": {"2026-11-19": 2, "2026-11-20": 5},
    "failed": 12,
    "users": 17,
    "Today.correct": 40,
    "Today.attempts": 62,
    "FailedExercise.attempts": 29,
    "name": "visits",
    "by": 1,
    "value": 5311,
    "added": 42,
    "ledger_sum": 5311,
    "consistent": True,
    "counters": {"lessons:started": 2212, "visits": 5311},
    "increments": {"lessons:started": 2, "visits": 1},
    "database": "ok",
    "schema_version": "0007",
    "deleted": 12,
    "durable": True,
    "warnings": [],
}
MESSAGES = {
    "ping": "pong!",
    "health": "sanity check!",
    "add_score": "New score was added!",
    "upsert_score": "Score was updated!",
    "update_score": "Score was updated!",
    "patch_score": "Score was updated!",
    "delete_score": "Score was deleted!",
    "set_counter": "Counter was set!",
    "delete_counter": "Counter was deleted!",
    "delete_counters": "Counters were deleted!",
}
# What a message says where something is new.
ADDED = {"upsert_score": "New score was added!", "set_counter": "Counter was added!"}

# Filled in where the API is tried: only what makes sense together, so a filter stays empty.
PARAMETERS: dict[str, Any] = {
    "score_id": 1,
    "exercise_id": 1,
    "name": "visits",
    "limit": 10,
    "window": "week",
    "tie": "competition",
    "tz": "Europe/Berlin",
    "interval": "hour",
    "label": "visits",
    "color": "blue",
    "If-Match": "*",
}
FILTERS: dict[str, dict[str, Any]] = {
    "list_scores": {"user_id": 1},
    "list_counters": {"prefix": "lessons:"},
    "delete_counters": {"prefix": "lessons:"},
}
# An exercise that is none of the seeded course, so nobody has a score for it.
BODIES: dict[str, dict[str, Any]] = {"add_score": {"exercise_id": 61}}
# In an answer only where it was asked for.
SELDOM = {"Entries.me"}
IN_PATH_ONLY = {"exercise_id"}


def of_parameter(operation: str, parameter: Schema) -> Any:
    """Return what stands in a parameter as an example, or None where it stays empty."""
    name: str = parameter.get("name", "")  # none where it is a reference
    if name in IN_PATH_ONLY and parameter["in"] != "path":
        return None
    return FILTERS.get(operation, {}).get(name, PARAMETERS.get(name))


def of_body(operation: str, schema: Schema, schemas: Schema) -> Any:
    """Return a body that an operation takes; what may be left out is left out."""
    body = _of(schema, schemas, required_only=True)
    return body | BODIES.get(operation, {})


def of_answer(operation: str, schema: Schema, schemas: Schema, *, created: bool) -> Any:
    """Return what an operation answers."""
    answer = _of(schema, schemas)
    message = (MESSAGES | ADDED if created else MESSAGES).get(operation)
    if message:
        answer["message"] = message
    else:
        answer.pop("message", None)
    return answer


def _of(node: Schema, schemas: Schema, name: str = "", *, required_only: bool = False) -> Any:
    """Return an example of a schema; `name` is that of its field, with that of its model."""
    if "$ref" in node:
        model = node["$ref"].rpartition("/")[2]
        return _of(schemas[model], schemas, model, required_only=required_only)
    if "properties" in node:
        shown = node["required"] if required_only and "required" in node else node["properties"]
        return {
            field: _of(node["properties"][field], schemas, f"{name}.{field}")
            for field in shown
            if f"{name}.{field}" not in SELDOM
        }
    if "const" in node:
        return node["const"]
    if "items" in node and "$ref" in node["items"]:
        return [_of(node["items"], schemas)]
    if "anyOf" in node and "$ref" in node["anyOf"][0]:
        return _of(node["anyOf"][0], schemas)
    field = name.rpartition(".")[2]
    return FIELDS.get(name, FIELDS.get(field))
