"""Gradio's queue with turns: no visitor can block the others, and a question that nobody listens to never runs.

Gradio answers in the order of arrival, whether or not anybody reads the answer, and refuses everybody once enough
questions wait. One visitor who asks without listening could lock all others out for minutes. Here

- a question runs only while its client listens for the answer, and is dropped after `MAX_UNHEARD_S` without one;
- addresses take turns, then the sessions of an address, then short questions come before long ones;
- an address may have few questions running, and a session few waiting.

It replaces `Blocks._queue`, which is internal to Gradio: the version is pinned, and tests/test_waiting.py fails if the
parts used here change.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.queueing import Event, EventQueue, Queue

MAX_UNHEARD_S = 10
# A page closes its stream after the last answer, and opens another for a question asked at that moment; that takes
# seconds on a busy machine.
RETURN_S = 5
MAX_UNHEARD = 256
MAX_UNHEARD_BYTES = 16_000_000
MAX_PER_SESSION = 16
MAX_WITHOUT_SESSION = 160
MAX_RUNNING = 3  # questions of one address at the same time, per lane
MAX_CLIENTS = 1000  # clients whose turns are remembered
LOOK_S = 1
FULL = "queue_full"  # makes Gradio answer 503 and its page say that the application is busy
BUSY = "Too many questions are waiting. Try again in a few seconds."


class FairQueue(Queue):  # type: ignore[misc]
    """The queue of a page. It must be told who listens for answers: `start_listening`."""

    def __init__(self, page: gr.Blocks) -> None:
        super().__init__(
            live_updates=False,  # report places once a second: at every event that would be most of the work
            concurrency_count=page.max_threads,
            update_intervals=1,
            max_size=None,
            blocks=page,
        )
        self.ANALYTICS_MAX_EVENTS = 1  # the monitoring page is off
        self._listeners: Counter[str] = Counter()
        self._messages: dict[str, Any] = {}  # session -> its answers, which Gradio deletes when a listener disconnects
        self._left_at: dict[str, float] = {}  # session -> when its last listener left something behind
        self._turns = itertools.count(1)
        # Lane, address, and address with session -> its last turn.
        self._last_turn: OrderedDict[Any, int] = OrderedDict()
        self._looked_at = 0.0

    def start_listening(self, session: str) -> None:
        """Note that somebody listens for the answers of this session."""
        self._listeners[session] += 1
        self._left_at.pop(session, None)
        if session in self.pending_messages_per_session:
            self._messages[session] = self.pending_messages_per_session[session]

    def stop_listening(self, session: str, is_gone: bool) -> None:
        """Note that a listener stopped, and drop what nobody waits for.

        Args:
            is_gone: whether it disconnected before the last answer: its questions are dropped unless another listener
                follows within `RETURN_S`. So are answers that nobody has read, and a session whose answers were all
                sent: a page that reads an answer before the reply to its question listens once more, and if that were
                refused, it would never listen again.
        """
        self._listeners[session] -= 1
        if self._listeners[session] > 0:
            return
        del self._listeners[session]
        messages = self._messages.pop(session, None)
        if messages is not None:
            self.pending_messages_per_session.setdefault(session, messages)
        if is_gone or not self._has_events(session):
            self._left_at[session] = time.monotonic()

    async def clean_events(self, *, session_hash: str | None = None, event_id: str | None = None) -> None:
        """Drop one question. Those of a session, which Gradio drops once a listener is gone, are left to `RETURN_S`."""
        if event_id is not None:
            await super().clean_events(event_id=event_id)

    def session_of(self, event_id: str) -> str | None:
        """Return the session of a question, or None if it is unknown."""
        event = self.event_ids_to_events.get(event_id)
        if event is not None:
            return str(event.session_hash)
        sessions = self.pending_event_ids_session.items()
        return next((session for session, event_ids in sessions if event_id in event_ids), None)

    def is_known(self, session: str) -> bool:
        """Return whether anything of this session waits, runs, or was answered but not read."""
        return session in self.pending_messages_per_session

    def send_message(self, event: Event, event_message: Any) -> None:
        """Send a message, unless the session was dropped while its question was being answered."""
        if event.session_hash in self.pending_messages_per_session:
            super().send_message(event, event_message)

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Add a question unless its client has too many waiting."""
        address = request.client.host if request.client else ""
        asker = (address, body.session_hash)
        # Without a session, everybody at one address counts as one client: unheard questions must not lock others out.
        waiting = sum(
            event.asker == asker and (body.session_hash is not None or self._is_heard(event))
            for event in self._waiting()
        )
        if waiting >= (MAX_PER_SESSION if body.session_hash else MAX_WITHOUT_SESSION):
            return False, BUSY, FULL
        if body.session_hash in self._left_at:  # it is still there, and its next listener may be as late as any other
            self._left_at[body.session_hash] = time.monotonic() + MAX_UNHEARD_S - RETURN_S
        pushed = await super().push(body, request, username)
        if pushed[0]:
            event = self.event_ids_to_events[pushed[1]]
            event.address, event.asker = address, asker
            event.size = sum(4 * len(value) if isinstance(value, str) else 1 for value in body.data)
        self._forget_unheard()
        return pushed

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """Return the next question to run, of a lane that has room."""
        if time.monotonic() - self._looked_at > LOOK_S:
            self._forget_unheard()
        lanes = self.event_queue_per_concurrency_id.values()
        for lane in sorted(lanes, key=lambda lane: self._last_turn.get(lane.concurrency_id, 0)):
            if lane.queue and (lane.concurrency_limit is None or lane.current_concurrency < lane.concurrency_limit):
                event = self._next(lane)
                if event is not None:
                    lane.queue.remove(event)
                    turn = next(self._turns)
                    for client in (lane.concurrency_id, event.address, event.asker):
                        self._last_turn[client] = turn
                        self._last_turn.move_to_end(client)
                    while len(self._last_turn) > MAX_CLIENTS:
                        self._last_turn.popitem(last=False)
                    return [event], False, lane.concurrency_id
        return None

    def _next(self, lane: EventQueue) -> Event | None:
        """Return the question of a lane whose turn it is; None if none may run now."""
        running = Counter(
            event.address
            for job in self.active_jobs
            for event in job or ()
            if event.concurrency_id == lane.concurrency_id
        )
        may_run = (event for event in lane.queue if self._is_heard(event) and running[event.address] < MAX_RUNNING)
        return min(may_run, key=self._place, default=None)

    def _place(self, event: Event) -> tuple[int, int, int]:
        """Return the sort key: the smallest runs first, of equals the one that was asked first."""
        return self._last_turn.get(event.address, 0), self._last_turn.get(event.asker, 0), event.size

    def _is_heard(self, event: Event) -> bool:
        return event.session_hash in self._listeners

    def _waiting(self) -> Iterator[Event]:
        return itertools.chain.from_iterable(lane.queue for lane in self.event_queue_per_concurrency_id.values())

    def _forget_unheard(self) -> None:
        """Drop questions without a listener: old ones, those of clients that left, too many of the busiest address."""
        self._looked_at = time.monotonic()
        unheard = [event for event in self._waiting() if not self._is_heard(event)]
        for event in [event for event in unheard if self._looked_at - event.enqueue_time > MAX_UNHEARD_S]:
            self._remove(event)
            unheard.remove(event)
        while len(unheard) > MAX_UNHEARD or sum(event.size for event in unheard) > MAX_UNHEARD_BYTES:
            counts = Counter(event.address for event in unheard)
            event = next(event for event in unheard if event.address == counts.most_common(1)[0][0])
            self._remove(event)
            unheard.remove(event)
        left = {session for session, at in self._left_at.items() if self._looked_at - at > RETURN_S}
        finished = [session for session in self._left_at if not self.pending_event_ids_session.get(session)]
        left.update(finished[:-MAX_UNHEARD])
        for session in {*self.pending_messages_per_session, *left}:
            is_awaited = session in self._listeners or session in self._left_at or self._has_events(session)
            if session in left or not is_awaited:
                self._forget(session)
        for session in left:
            del self._left_at[session]

    def _has_events(self, session: str) -> bool:
        """Return whether a question of this session waits or runs."""
        return any(event in self.event_ids_to_events for event in self.pending_event_ids_session.get(session, ()))

    def _remove(self, event: Event) -> None:
        self.event_queue_per_concurrency_id[event.concurrency_id].queue.remove(event)
        self.event_ids_to_events.pop(event._id, None)
        self.pending_event_ids_session.get(event.session_hash, set()).discard(event._id)

    def _forget(self, session: str) -> None:
        """Drop the questions and the unread answers of a session."""
        for event in [event for event in self._waiting() if event.session_hash == session]:
            self._remove(event)
        for running in self.active_jobs:
            for event in running or ():
                if event.session_hash == session:
                    event.alive = False
        self.pending_event_ids_session.pop(session, None)
        self.pending_messages_per_session.pop(session, None)
