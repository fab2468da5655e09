"""The endpoints of scores: take apart, call, answer."""

from apiflask import APIBlueprint
from flask import Response

from project.api import errors
from project.api.auth import acting_for, authenticate, only_admin
from project.api.documents import may_answer, takes_key
from project.api.fields import PageQuery
from project.api.idempotency.keys import submit
from project.api.pagination import Page
from project.api.responses import Done, success, unchanged
from project.api.scores import queries, writes
from project.api.scores.queries import Attempt, ScoreRow
from project.api.scores.schemas import (
    ManyScores,
    NewScore,
    OneScore,
    OwnScoreFilter,
    ScoreFilter,
    ScoreId,
)
from project.users import User

scores_blueprint = APIBlueprint("scores", __name__)
scores_blueprint.record_once(lambda state: state.app.url_map.converters.update(score_id=ScoreId))


@scores_blueprint.get("/scores")
@scores_blueprint.input(ScoreFilter, location="query")
@scores_blueprint.output(ManyScores)
def list_scores(query_data: ScoreFilter) -> Response:
    """List scores in the order of their ids."""
    return _page(query_data)


@scores_blueprint.get("/scores/<score_id:score_id>")
@scores_blueprint.output(OneScore)
@may_answer(errors.ScoreNotFound)
def get_score(score_id: int) -> Response:
    """Get one score."""
    return _one(queries.select_score(score_id))


@scores_blueprint.get("/scores/user")
@authenticate
@scores_blueprint.input(OwnScoreFilter, location="query")
@scores_blueprint.output(ManyScores)
def list_own_scores(caller: User, query_data: OwnScoreFilter) -> Response:
    """List the caller's scores in the order of their ids."""
    return _page(query_data, user_id=caller.user_id)


@scores_blueprint.get("/scores/user/<score_id:score_id>")
@authenticate
@scores_blueprint.output(OneScore)
@may_answer(errors.ScoreNotFound)
def get_own_score(caller: User, score_id: int) -> Response:
    """Get one of the caller's scores."""
    return _one(queries.select_score(score_id, caller.user_id))


@scores_blueprint.post("/scores")
@authenticate
@scores_blueprint.input(NewScore)
@scores_blueprint.output(OneScore, status_code=201)
@takes_key
@may_answer(errors.ScoreExists, errors.Forbidden)
def add_score(caller: User, json_data: NewScore) -> Response:
    """Record whether the caller solved an exercise."""
    return submit(_attempt(caller, json_data), caller, writes.add)


@scores_blueprint.put("/scores/<score_id:score_id>")
@authenticate
@scores_blueprint.input(NewScore)
@scores_blueprint.output(OneScore)
@takes_key
@may_answer(errors.ScoreMismatch, errors.ScoreNotFound, errors.Forbidden)
def update_score(caller: User, score_id: int, json_data: NewScore) -> Response:
    """Record another answer of the caller to an exercise that it has a score for."""
    return submit(_attempt(caller, json_data, score_id), caller, writes.update)


@scores_blueprint.patch("/scores")
@authenticate
@scores_blueprint.input(NewScore)
@scores_blueprint.output(OneScore)
@takes_key
@may_answer(errors.Forbidden, created=OneScore)
def upsert_score(caller: User, json_data: NewScore) -> Response:
    """Record an answer of the caller to an exercise, whether it is the first one or not."""
    return submit(_attempt(caller, json_data), caller, writes.upsert)


# With an id there is a score already, or the id is wrong: then nothing can be new.
scores_blueprint.patch("/scores/<score_id:score_id>", endpoint="patch_score")(update_score)


@scores_blueprint.delete("/scores/<score_id:score_id>")
@authenticate
@scores_blueprint.output(Done)
@may_answer(errors.ScoreNotFound, errors.Forbidden)
def delete_score(caller: User, score_id: int) -> Response:
    """Delete a score; administrators only."""
    only_admin(caller)
    if not queries.delete_score(score_id):
        raise errors.ScoreNotFound
    return success(message="Score was deleted!")


def _page(query: PageQuery, **owner: int) -> Response:
    page = Page(query, **owner)
    filters = query.model_dump(exclude={"limit", "cursor"}) | owner
    rows = queries.select_page(after=int(page.after or 0), limit=page.limit, **filters)
    return page.answer("scores", rows, place=lambda score: score.id)


def _one(score: ScoreRow | None) -> Response:
    if score is None:
        raise errors.ScoreNotFound
    etag = f"{score.id}-{score.attempts}"
    return unchanged(etag) or success(score, headers={"ETag": f'"{etag}"'})


def _attempt(caller: User, body: NewScore, score_id: int | None = None) -> Attempt:
    return Attempt(acting_for(caller, body), body.exercise_id, body.correct, score_id)
