"""Many callers, one commit.

A commit waits until the disk has the data, and a disk does that only so many times a second,
however many callers wait for it. But one commit can carry any number of writes. So whoever
comes while a commit is under way does not start another: it queues up, and when the commit is
done, the caller who has waited longest takes the whole queue along in the next one.

    caller A   |--- flush [A] ---|
    caller B      |..............|--- flush [B, C, D] ---|
    caller C          |..........|.......................|
    caller D               |.....|.......................|

Nobody leads by profession: the leader is one of the callers, in its own thread. Nothing waits
while nothing is under way: a lone caller flushes at once. And nobody is answered before the
commit that carries it is done. (The database world knows this as group commit, the literature
on data structures as flat combining.)

What can go wrong, and what the caller then knows:

- The flush fails as a whole (`undivided`: the database is away, or was lost during the commit).
  Every caller that it carried gets that exception, and knows as much as the leader.
- The flush is refused because of one item. Then nothing was written, and the items are flushed
  one by one: the poisoned one fails alone.
- A caller has waited for too long. Still in the queue, it leaves: `Overdue`, certainly not
  written. Already on its way, it gives up: `StillUnderway`, and nobody knows.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from threading import Lock
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGEST_BATCH = 500


class Overdue(Exception):
    """The item waited for too long in the queue, and was certainly not written."""


class StillUnderway(Exception):
    """The item has been under way for too long; whether it was written is not known."""


class _Ticket(Generic[Item, Result]):
    """One caller: what it brought, and what came of it."""

    __slots__ = ("error", "item", "leads", "queued_at", "result", "wake")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.result: Result
        self.error: BaseException | None = None
        self.leads = False
        self.queued_at = 0.0
        # Held until somebody wakes the caller: the cheapest way to sleep that there is.
        self.wake = Lock()

    def settle(self) -> Result:
        """Return the result, or raise what went wrong: an exception of its own for each caller."""
        if self.error is not None:
            raise copy(self.error) from self.error
        return self.result


class Combiner(Generic[Item, Result]):
    """Writes the items of many callers together."""

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        undivided: tuple[type[Exception], ...] = (),
        patience_seconds: float = 2.0,
        observe: Callable[[int, float, float], None] = lambda *_: None,
    ) -> None:
        """Have items written by `flush`.

        `flush` is given items in the order in which they came, and returns the result of each
        once all are durable. Where it raises, nothing was written, except for the exceptions in
        `undivided`, after which trying again one by one makes no sense. `observe` is told of
        each flush: how many items, how long the first waited, how long it took, in seconds.
        """
        self._flush = flush
        self._undivided = undivided
        self._patience_seconds = patience_seconds
        self._observe = observe
        # Guards the two below; never held while anybody waits or flushes.
        self._lock = Lock()
        self._queue: deque[_Ticket[Item, Result]] = deque()
        self._underway = False

    def submit(self, item: Item) -> Result:
        """Have the item written with its neighbours; return its result once that is durable.

        Raise Overdue or StillUnderway where that takes too long, and else what `flush` raised.
        """
        ticket: _Ticket[Item, Result] = _Ticket(item)
        if self._must_queue(ticket):
            self._await(ticket)
            if not ticket.leads:
                return ticket.settle()
        self._lead(ticket)
        return ticket.settle()

    def _must_queue(self, ticket: _Ticket[Item, Result]) -> bool:
        with self._lock:
            if not self._underway:
                self._underway = True
                return False
            ticket.queued_at = time.perf_counter()
            ticket.wake.acquire()
            self._queue.append(ticket)
            return True

    def _await(self, ticket: _Ticket[Item, Result]) -> None:
        """Sleep until the ticket was carried, or has to lead."""
        if ticket.wake.acquire(timeout=self._patience_seconds):
            return
        with self._lock:
            if ticket in self._queue:
                self._queue.remove(ticket)
                raise Overdue
        if not ticket.wake.acquire(timeout=self._patience_seconds):
            raise StillUnderway

    def _lead(self, ticket: _Ticket[Item, Result]) -> None:
        """Flush the ticket and the queue behind it; then wake the next leader and the carried."""
        batch = [ticket]
        try:
            if ticket.leads:
                time.sleep(0)  # whoever is just about to queue up comes along
            with self._lock:
                while self._queue and len(batch) < LARGEST_BATCH:
                    batch.append(self._queue.popleft())
            self._carry(batch)
        except BaseException:  # whatever becomes of the leader, nobody is left asleep
            for carried in batch:
                carried.error = StillUnderway()
            raise
        finally:
            self._pass_on()
            for carried in batch:
                if carried is not ticket:
                    carried.wake.release()

    def _pass_on(self) -> None:
        """Wake the next leader, before those that were carried: the disk waits for it."""
        with self._lock:
            if self._queue:
                heir = self._queue.popleft()
                heir.leads = True
                heir.wake.release()
            else:
                self._underway = False

    def _carry(self, batch: list[_Ticket[Item, Result]]) -> None:
        """Flush the batch, and give each ticket its result or its error."""
        began = time.perf_counter()
        try:
            results = self._flush([ticket.item for ticket in batch])
        except self._undivided as error:
            for ticket in batch:
                ticket.error = error
        except Exception as error:  # noqa: BLE001  every error belongs to a caller
            if len(batch) == 1:
                batch[0].error = error
            else:
                for ticket in batch:
                    self._carry([ticket])
        else:
            for ticket, result in zip(batch, results, strict=True):
                ticket.result = result
            waited = began - batch[0].queued_at if batch[0].queued_at else 0.0
            self._observe(len(batch), waited, time.perf_counter() - began)
