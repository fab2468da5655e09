"""The endpoints of scores: take apart, call, answer."""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import orjson
from apiflask import APIBlueprint
from flask import Response, request

from project.api import errors
from project.api.auth import (
    acting_for,
    authenticate,
    authenticate_where,
    only_admin,
    only_services,
    requires,
)
from project.api.documents import has_version, may_answer, takes_key
from project.api.fields import PageQuery
from project.api.idempotency.keys import submit
from project.api.pagination import Page
from project.api.requests import takes_up_to
from project.api.responses import (
    Done,
    known_etags,
    not_modified,
    success,
    unchanged,
    versioned,
)
from project.api.scores import activity, queries, standings, time_zones, writes
from project.api.scores.activity import Window
from project.api.scores.queries import AnswerPosition, NewAttempt, ScoreRow
from project.api.scores.schemas import (
    Activity,
    ActivityQuery,
    ExerciseId,
    Failures,
    FailuresQuery,
    Leaderboard,
    LeaderboardQuery,
    ManyAttempts,
    ManyScores,
    NewScore,
    NewScores,
    OneScore,
    OwnScoreFilter,
    Progress,
    ProgressQuery,
    ScoreFilter,
    ScoreId,
    Stats,
    Written,
)
from project.api.scores.standings import Standing, Tie
from project.heavy_reads import heavy_reads
from project.listings import Listing
from project.users import User

scores_blueprint = APIBlueprint("scores", __name__)
scores_blueprint.record_once(
    lambda state: state.app.url_map.converters.update(score_id=ScoreId, exercise_id=ExerciseId)
)

MEBIBYTE = 1024 * 1024
SPAN = 5


@scores_blueprint.get("/scores")
@scores_blueprint.input(ScoreFilter, location="query")
@scores_blueprint.output(ManyScores)
@has_version
def list_scores(query_data: ScoreFilter) -> Response:
    """List scores in the order of their ids.

    The next page begins at `next_cursor`, or where the header `Link` leads.
    """
    return _page(query_data)


@scores_blueprint.get("/scores/<score_id:score_id>")
@scores_blueprint.output(OneScore)
@has_version
@may_answer(errors.ScoreNotFound)
def get_score(score_id: int) -> Response:
    """Get one score.

    Whatever cannot be the id of a score is one that does not exist.
    """
    return _one(*_existing(score_id))


@scores_blueprint.get("/scores/user")
@authenticate
@scores_blueprint.input(OwnScoreFilter, location="query")
@scores_blueprint.output(ManyScores)
@has_version
def list_own_scores(caller: User, query_data: OwnScoreFilter) -> Response:
    """List the caller's scores in the order of their ids.

    The next page begins at `next_cursor`, or where the header `Link` leads.
    """
    return _page(query_data, user_id=caller.user_id)


@scores_blueprint.get("/scores/user/<score_id:score_id>")
@authenticate
@scores_blueprint.output(OneScore)
@has_version
@may_answer(errors.ScoreNotFound)
def get_own_score(caller: User, score_id: int) -> Response:
    """Get one of the caller's scores.

    Those of others do not exist here.
    """
    return _one(*_existing(score_id, caller.user_id))


@scores_blueprint.post("/scores")
@authenticate
@scores_blueprint.input(NewScore)
@scores_blueprint.output(OneScore, status_code=201)
@takes_key
@may_answer(errors.ScoreExists, errors.Forbidden)
def add_score(caller: User, json_data: NewScore) -> Response:
    """Record whether the caller solved an exercise.

    For an exercise that has no score of the caller yet. Services and administrators may name any
    user.
    """
    return submit(_attempt(caller, json_data), caller, writes.add)


@scores_blueprint.put("/scores/<score_id:score_id>")
@authenticate
@scores_blueprint.input(NewScore)
@scores_blueprint.output(OneScore)
@takes_key
@may_answer(errors.ScoreMismatch, errors.ScoreNotFound, errors.Forbidden)
def update_score(caller: User, score_id: int, json_data: NewScore) -> Response:
    """Record another answer of the caller to an exercise that it has a score for.

    The id and the exercise have to be those of one score. Services and administrators may name any
    user.
    """
    return submit(_attempt(caller, json_data, score_id), caller, writes.update)


@scores_blueprint.patch("/scores")
@authenticate
@scores_blueprint.input(NewScore)
@scores_blueprint.output(OneScore)
@takes_key
@may_answer(errors.Forbidden, created=OneScore)
def upsert_score(caller: User, json_data: NewScore) -> Response:
    """Record an answer of the caller to an exercise, whether it is the first one or not.

    201 where it is, 200 where it is not. Services and administrators may name any user.
    """
    return submit(_attempt(caller, json_data), caller, writes.upsert)


# With an id there is a score already, or the id is wrong: then nothing can be new.
scores_blueprint.patch("/scores/<score_id:score_id>", endpoint="patch_score")(update_score)


@scores_blueprint.post("/scores/batch")
@authenticate
@requires(only_services)
@takes_up_to(8 * MEBIBYTE)
@scores_blueprint.input(NewScores)
@scores_blueprint.output(Written)
@takes_key
@may_answer(errors.Forbidden)
def upsert_scores(caller: User, json_data: NewScores) -> Response:
    """Record up to 1000 answers of any users, all of them or none.

    For services and administrators. A batch may hold several answers of a learner to an exercise.
    Answers may have times (`at`) and arrive in any order; without a time, they are given now, in
    the order of the batch.
    """
    attempts: Sequence[NewAttempt] = [
        NewAttempt(score.user_id, score.exercise_id, score.correct, caller.user_id, at=score.at)
        for score in json_data.scores
    ]
    return submit(attempts, caller, writes.upsert_all)


@scores_blueprint.delete("/scores/<score_id:score_id>")
@authenticate
@scores_blueprint.output(Done)
@may_answer(errors.ScoreNotFound, errors.Forbidden)
def delete_score(caller: User, score_id: int) -> Response:
    """Delete a score.

    Administrators only. Its attempts are deleted with it, and all totals follow.
    """
    only_admin(caller)
    if not queries.delete_score(score_id):
        raise errors.ScoreNotFound
    return success(message="Score was deleted!")


@scores_blueprint.get("/scores/<score_id:score_id>/history")
@authenticate
@scores_blueprint.input(PageQuery, location="query")
@scores_blueprint.output(ManyAttempts)
@has_version
@may_answer(errors.ScoreNotFound, errors.Forbidden)
def list_attempts(caller: User, score_id: int, query_data: PageQuery) -> Response:
    """List every answer in order of time.

    For the owner of the score, services and administrators.
    """
    score, _ = _existing(score_id)
    if score.user_id != caller.user_id:
        only_services(caller)
    page = Page(query_data)
    after = None
    if page.after is not None:
        at, seq = page.after.split(" ")
        after = AnswerPosition(datetime.fromisoformat(at), int(seq))
    listing = queries.select_history(score_id, after=after, limit=page.limit, known=known_etags())
    return page.answer("attempts", listing, lambda attempt: f"{attempt['at']} {attempt['seq']}")


@scores_blueprint.get("/scores/user/progress")
@authenticate
@scores_blueprint.input(ProgressQuery, location="query")
@scores_blueprint.output(Progress)
def get_progress(caller: User, query_data: ProgressQuery) -> Response:
    """Tell what the caller has achieved, day by day.

    A day counts the exercises that were solved for the first time on it, in the given time zone.
    A streak is a row of days with at least one; the current one ends today or yesterday.
    """
    return success(standings.select_progress(caller.user_id, time_zones.offsets(query_data.tz)))


@scores_blueprint.get("/scores/exercise/<exercise_id:exercise_id>/stats")
@scores_blueprint.output(Stats)
@may_answer(errors.NotFound)
def get_stats(exercise_id: int) -> Response:
    """Tell how an exercise went with everybody.

    Zeros where nobody has tried it.
    """
    return success(standings.select_stats(exercise_id))


@scores_blueprint.get("/scores/activity")
@scores_blueprint.input(ActivityQuery, location="query")
@scores_blueprint.output(Activity)
@has_version
def get_activity(query_data: ActivityQuery) -> Response:
    """Tell how much happened over time, and today.

    A day is cut into 24 hours, a week into 28 quarters of a day, a month into 30 days, all of UTC;
    the last interval is the one that is not over yet. Today began at midnight in UTC. Whatever
    was deleted since is not counted. Concurrent requests share a result, which may be a second old.
    """
    reads = heavy_reads()
    points = reads.share(activity.select_points, query_data.window)
    return versioned({"points": points, "today": reads.share(activity.select_today)})


@scores_blueprint.get("/scores/failures")
@scores_blueprint.input(FailuresQuery, location="query")
@scores_blueprint.output(Failures)
@has_version
def list_failures(query_data: FailuresQuery) -> Response:
    """List the exercises that got most wrong answers lately, the worst first.

    `day`, `week` and `month` are the last 24 hours, 7 days and 30 days. Of exercises with as many
    wrong answers, that with fewer attempts comes first. Concurrent requests share a result, which
    may be a second old.
    """
    exercises = heavy_reads().share(activity.select_failures, query_data.window, query_data.limit)
    return versioned({"exercises": exercises})


@scores_blueprint.get("/scores/leaderboard")
@authenticate_where(lambda: request.args.get("around") == "me")
@scores_blueprint.input(LeaderboardQuery, location="query")
@scores_blueprint.output(Leaderboard)
@has_version
def get_leaderboard(caller: User | None, query_data: LeaderboardQuery) -> Response:
    """Rank the users by how many exercises they solved, ever or lately.

    Most solved first; of those with as many, who solved the last of them first. `day`, `week` and
    `month` are the last 24 hours, 7 days and 30 days. Who solved nothing in the window has no
    rank. With `around` the page is the user's neighbors and `limit` is ignored; `me` needs a token.

    Concurrent requests for a page of `day`, `week` or `month` share a result, which may be a second
    old. With `window=all` and with `around`, ranks are exact at the moment of the response.
    """
    if query_data.around is None:
        return _leaderboard(query_data.model_copy(update={"span": None}))
    if query_data.cursor is not None:
        raise errors.InvalidQuery({"cursor": ["Not with around. Leave it out."]})
    return _neighbours(query_data, caller.user_id if caller else int(query_data.around))


def _leaderboard(query: LeaderboardQuery) -> Response:
    page = Page(query)
    if query.window == "all":
        begins, listing = "-", _all_time_page(query.tie, page)
    else:
        begins, listing = heavy_reads().share(
            _window_page, query.window, query.tie, page.after, page.limit
        )

    def place(entry: dict[str, Any]) -> str:
        return f"{entry['solved']} {entry['last_solved_at']} {entry['user_id']} {begins}"

    return page.answer("entries", listing, place)


def _all_time_page(tie: Tie, page: Page) -> Listing:
    after = _standing(page.after)[0] if page.after else None
    return standings.select_leaderboard(
        tie=tie, since=None, after=after, limit=page.limit, known=known_etags()
    )


def _window_page(window: Window, tie: Tie, after: str | None, limit: int) -> tuple[str, Listing]:
    """Return the time at which the window begins, and the page behind `after`."""
    if after is None:
        position, begins = None, (datetime.now(UTC) - activity.LENGTHS[window]).isoformat()
    else:
        # All pages show the same window, however long the client takes.
        position, begins = _standing(after)
    since = datetime.fromisoformat(begins)
    listing = standings.select_leaderboard(
        tie=tie, since=since, after=position, limit=limit, known=()
    )
    return begins, listing


def _standing(place: str) -> tuple[Standing, str]:
    """Return the position that a cursor names, and when its window begins."""
    solved, last_solved_at, user_id, begins = place.split(" ")
    return Standing(int(solved), datetime.fromisoformat(last_solved_at), int(user_id)), begins


def _neighbours(query: LeaderboardQuery, user_id: int) -> Response:
    # Not shared: callers that have just written see their own rank.
    with nullcontext() if query.window == "all" else heavy_reads().slot():
        listing = standings.select_neighbours(
            user_id,
            SPAN if query.span is None else query.span,
            tie=query.tie,
            since=_since(query),
            known=known_etags(),
        )
    if listing.rows is None:
        return not_modified(listing.etag)
    entries = orjson.loads(listing.rows)
    me = next((entry for entry in entries if entry["user_id"] == user_id), None)
    headers = {"ETag": f'"{listing.etag}"'}
    return success({"entries": entries, "next_cursor": None, "me": me}, headers=headers)


def _since(query: LeaderboardQuery) -> datetime | None:
    return None if query.window == "all" else datetime.now(UTC) - activity.LENGTHS[query.window]


def _page(query: PageQuery, **owner: int) -> Response:
    page = Page(query, **owner)
    filters = query.model_dump(exclude={"limit", "cursor"}) | owner
    # The first filter reads the answers since that time; the second one may read all scores.
    is_heavy = filters["updated_since"] is not None or (
        filters["correct"] is not None and filters["user_id"] is None
    )
    with heavy_reads().slot() if is_heavy else nullcontext():
        listing = queries.select_page(
            after=int(page.after or 0), limit=page.limit, known=known_etags(), **filters
        )
    return page.answer("scores", listing, place=lambda score: score["id"])


def _existing(score_id: int, user_id: int | None = None) -> tuple[ScoreRow, str]:
    found = queries.select_score(score_id, user_id)
    if found is None:
        raise errors.ScoreNotFound
    return found


def _one(score: ScoreRow, etag: str) -> Response:
    return unchanged(etag) or success(score, headers={"ETag": f'"{etag}"'})


def _attempt(caller: User, body: NewScore, score_id: int | None = None) -> NewAttempt:
    user_id = acting_for(caller, body)
    return NewAttempt(user_id, body.exercise_id, body.correct, caller.user_id, score_id)
