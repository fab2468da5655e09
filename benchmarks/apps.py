"""What the service is compared with, and whom it asks: small Flask apps, each served by granian."""

import os
import socket
import time
from contextlib import suppress
from datetime import datetime
from threading import local
from typing import Any

import jwt
from flask import Flask, Response, jsonify, request
from sqlalchemy import BigInteger, DateTime, Text, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

# Of the users-service that answers here; the service does not know it.
USERS_SECRET = "only users-service of the benchmarks signs with this"  # noqa: S105


def empty() -> Flask:
    """Return the empty route: what Flask and the server cost before anything is done."""
    app = Flask(__name__)

    @app.get("/")
    def answer() -> dict[str, str]:
        return {"status": "success"}

    return app


class _Base(DeclarativeBase):
    pass


class Visits(_Base):
    """A counter as the tutorial keeps it."""

    __tablename__ = "tutorial"
    __table_args__ = {"schema": "rivals"}

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


class Score(_Base):
    """A score of the service, as the ORM reads it."""

    __tablename__ = "scores"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    user_id: Mapped[int] = mapped_column(BigInteger)
    exercise_id: Mapped[int] = mapped_column(BigInteger)
    correct: Mapped[bool]
    attempts: Mapped[int] = mapped_column(BigInteger)
    solved_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))

    def to_json(self) -> dict[str, Any]:
        """Return what an answer shows."""
        return {
            "id": self.id,
            "user_id": self.user_id,
            "exercise_id": self.exercise_id,
            "correct": self.correct,
            "attempts": self.attempts,
            "solved_at": self.solved_at and self.solved_at.isoformat(),
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
        }


def _sessions() -> sessionmaker[Session]:
    url = os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg2:")
    engine = create_engine(url, pool_size=int(os.environ["THREADS"]), max_overflow=0)
    return sessionmaker(engine)


def listing() -> Flask:
    """Return the usual list: the ORM makes objects of the rows, and Flask makes JSON of those."""
    app = Flask(__name__)
    new_session = _sessions()

    @app.get("/")
    def answer() -> Response:
        after, limit = request.args.get("after", 0, int), request.args.get("limit", 1, int)
        page = select(Score).where(Score.id > after).order_by(Score.id).limit(limit)
        with new_session() as session:
            scores = [score.to_json() for score in session.scalars(page)]
        return jsonify({"status": "success", "data": {"scores": scores}})

    return app


def tutorial() -> Flask:
    """Return the tutorial's design: read the value, add one in Python, write it back."""
    app = Flask(__name__)
    new_session = _sessions()

    @app.get("/")
    @app.post("/")
    def increment() -> dict[str, Any]:
        with new_session() as session:
            visits = session.scalars(select(Visits).where(Visits.name == "hot")).one()
            if request.method == "POST":
                visits.value = visits.value + 1
                session.commit()
            return {"status": "success", "data": {"value": visits.value}}

    return app


def redis() -> Flask:
    """Return a counter in Redis."""
    app = Flask(__name__)
    connections = local()

    def ask(*words: str) -> int:
        if not hasattr(connections, "line"):
            line = socket.create_connection(("127.0.0.1", int(os.environ["REDIS_PORT"])))
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections.line, connections.answers = line, line.makefile("rb")
        sent = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        connections.line.sendall(f"*{len(words)}\r\n{sent}".encode())
        return int(connections.answers.readline().removeprefix(b":"))

    @app.get("/")
    def check() -> dict[str, Any]:
        return {"status": "success", "data": {"value": ask("INCRBY", "hot", "0")}}

    @app.post("/")
    def increment() -> dict[str, Any]:
        return {"status": "success", "data": {"value": ask("INCR", "hot")}}

    return app


def users_token(user_id: int) -> str:
    """Return a token as users-service issues them."""
    claims = {"iss": "users-service", "sub": str(user_id), "exp": int(time.time()) + 86400}
    return jwt.encode(claims, USERS_SECRET, "HS256")


def service_token(user_id: int, secret: str) -> str:
    """Return a token as the service itself issues them, with its secret."""
    claims = {"iss": "eval-service", "sub": str(user_id), "exp": int(time.time()) + 86400}
    return jwt.encode(claims, secret, "HS256")


def users() -> Flask:
    """Return a users-service that knows everyone with a token of its own."""
    app = Flask(__name__)

    @app.get("/")
    def check() -> dict[str, str]:
        return {"status": "success"}

    @app.get("/auth/status")
    def status() -> tuple[dict[str, Any], int]:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        with suppress(jwt.InvalidTokenError):
            claims = jwt.decode(token, USERS_SECRET, ["HS256"])
            user = {"id": int(claims["sub"]), "active": True, "admin": False}
            return {"status": "success", "data": user}, 200
        return {"status": "error", "message": "Invalid token."}, 401

    return app
