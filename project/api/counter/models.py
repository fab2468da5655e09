"""The tables of counters."""

from datetime import date, datetime
from decimal import Decimal

from sqlalchemy import BigInteger, Date, DateTime, Index, Numeric, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from project.extensions import db


class Counter(db.Model):  # type: ignore[name-defined,misc]
    """How often something happened; it exists from its first increment."""

    __tablename__ = "counters"

    # In the order of its bytes, which is the same on every machine, and which a prefix can use.
    name: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
    # Grows with every write, also where the value comes back to what it was: the ETag.
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class CounterHour(db.Model):  # type: ignore[name-defined,misc]
    """The ledger: by how much a counter changed in an hour.

    It is written in the transaction that changes the value, so that the sum of `added` and
    `adjusted` over all hours is the value, always. Both are wider than the value: within an
    hour it can be set from one end of its range to the other and back.
    """

    __tablename__ = "counter_hours"

    name: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    hour: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    added: Mapped[Decimal] = mapped_column(Numeric, server_default="0")
    adjusted: Mapped[Decimal] = mapped_column(Numeric, server_default="0")


class CounterUsage(db.Model):  # type: ignore[name-defined,misc]
    """How many counters a principal with a quota has created on a day (UTC)."""

    __tablename__ = "counter_usage"
    __table_args__ = (Index(None, "day"),)

    principal: Mapped[str] = mapped_column(Text, primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    counters: Mapped[int] = mapped_column(BigInteger)
