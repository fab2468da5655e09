"""The endpoints of scores: take apart, call, answer."""

from apiflask import APIBlueprint
from flask import Response

from project.api import errors
from project.api.auth import acting_for, authenticate, only_admin
from project.api.documents import may_answer
from project.api.fields import PageQuery
from project.api.pagination import Page
from project.api.responses import Done, success, unchanged
from project.api.scores import queries
from project.api.scores.queries import ScoreRow
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

ADDED = "New score was added!"
UPDATED = "Score was updated!"


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
@may_answer(errors.ScoreExists)
def add_score(caller: User, json_data: NewScore) -> Response:
    """Record whether the caller solved an exercise."""
    user_id = acting_for(caller, json_data)
    score = queries.insert_score(user_id, json_data.exercise_id, json_data.correct)
    if score is None:
        raise errors.ScoreExists
    return _added(score)


@scores_blueprint.put("/scores/<score_id:score_id>")
@authenticate
@scores_blueprint.input(NewScore)
@scores_blueprint.output(OneScore)
@may_answer(errors.ScoreMismatch, errors.ScoreNotFound)
def update_score(caller: User, score_id: int, json_data: NewScore) -> Response:
    """Record another answer of the caller to an exercise it has a score for."""
    user_id = acting_for(caller, json_data)
    score = queries.update_score(score_id, user_id, json_data.exercise_id, json_data.correct)
    if score is None:
        raise errors.ScoreMismatch
    return success(score, UPDATED)


@scores_blueprint.patch("/scores")
@authenticate
@scores_blueprint.input(NewScore)
@scores_blueprint.output(OneScore)
@may_answer(created=OneScore)
def upsert_score(caller: User, json_data: NewScore) -> Response:
    """Record an answer of the caller to an exercise, whether it is the first one or not."""
    user_id = acting_for(caller, json_data)
    sent = queries.NewScore(user_id, json_data.exercise_id, json_data.correct)
    [score] = queries.upsert_scores([sent])
    return _added(score) if score.attempts == 1 else success(score, UPDATED)


# With an id there is a score already, or the id is wrong: then nothing can be new.
scores_blueprint.patch("/scores/<score_id:score_id>", endpoint="patch_score")(update_score)


@scores_blueprint.delete("/scores/<score_id:score_id>")
@authenticate
@scores_blueprint.output(Done)
@may_answer(errors.ScoreNotFound)
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


def _added(score: ScoreRow) -> Response:
    return success(score, ADDED, 201, {"Location": f"/scores/{score.id}"})
