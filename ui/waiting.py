"""Gradio's queue, with turns: nobody's questions hold up another's, and what nobody listens to is never run.

Gradio answers in the order of arrival, whether or not anybody reads the answer, and refuses everybody once a number of
questions wait. One visitor who asks and does not listen could so keep all others out for minutes. Here

- a question is run once its asker listens for the answer, and forgotten where that takes longer than `UNHEARD_S`;
- askers take turns, however many questions each has;
- one session may have a few questions waiting, and an address that names no session somewhat more.

It replaces `Blocks._queue`, which is internal to Gradio: the version is pinned, and tests/test_waiting.py fails where
the parts used here change.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.queueing import Event, Queue

UNHEARD_S = 10
MAX_UNHEARD = 256
MAX_PER_SESSION = 16
MAX_WITHOUT_SESSION = 160
FULL = "queue_full"  # Gradio answers 503 to it, and its page says that the application is busy
BUSY = "Too many questions wait already. Try again in a few seconds."


class FairQueue(Queue):  # type: ignore[misc]
    """The queue of a page. Streams of answers are announced to it: `start_listening`."""

    def __init__(self, page: gr.Blocks) -> None:
        super().__init__(
            live_updates=False,  # everybody's place once a second: at every event it is most of the work
            concurrency_count=page.max_threads,
            update_intervals=1,
            max_size=None,
            blocks=page,
        )
        self.ANALYTICS_MAX_EVENTS = 1  # for a monitoring page that is off
        self._listeners: Counter[str] = Counter()
        self._turn = 0
        self._last_turns: OrderedDict[Any, int] = OrderedDict()

    def start_listening(self, session: str) -> None:
        """Count a listener to the answers of this session."""
        self._listeners[session] += 1

    def stop_listening(self, session: str, is_gone: bool) -> None:
        """Count a listener out. What nobody waits for any more is forgotten.

        Args:
            is_gone: the listener left before the last answer; else the stream ended, and another may follow.
        """
        self._listeners[session] -= 1
        if self._listeners[session] <= 0:
            del self._listeners[session]
            if is_gone or not self._has_events(session):
                self._forget(session)

    def session_of(self, event_id: str) -> str | None:
        """The session whose answers hold that of this question; None where there is no such question."""
        event = self.event_ids_to_events.get(event_id)
        if event is not None:
            return str(event.session_hash)
        sessions = self.pending_event_ids_session.items()
        return next((session for session, event_ids in sessions if event_id in event_ids), None)

    def is_known(self, session: str) -> bool:
        """Whether anything of this session is waiting, running or answered and not read."""
        return session in self.pending_messages_per_session

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Add a question, unless its asker has too many that wait."""
        client = (request.client.host if request.client else "", body.session_hash)
        # Without a session, everybody at one address is one client: what one of them never fetches must not keep the
        # others out.
        waiting = sum(
            event.asker == client and (body.session_hash is not None or self._is_heard(event))
            for event in self._waiting()
        )
        if waiting >= (MAX_PER_SESSION if body.session_hash else MAX_WITHOUT_SESSION):
            return False, BUSY, FULL
        self._forget_unheard()
        pushed = await super().push(body, request, username)
        if pushed[0]:
            event = self.event_ids_to_events[pushed[1]]
            event.asker = client
            event.turn = max(self._turn, self._last_turns.get(client, 0) + 1)
            self._last_turns[client] = event.turn
            self._last_turns.move_to_end(client)
            while len(self._last_turns) > 1000 and next(iter(self._last_turns.values())) <= self._turn:
                self._last_turns.popitem(last=False)
        return pushed

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """The next question that is to be run, of a lane that has room: of those that are listened to, by turns."""
        lanes = [
            lane
            for lane in self.event_queue_per_concurrency_id.values()
            if lane.queue and (lane.concurrency_limit is None or lane.current_concurrency < lane.concurrency_limit)
        ]
        random.shuffle(lanes)
        for lane in lanes:
            heard = [event for event in lane.queue if self._is_heard(event)]
            if heard:
                event = min(heard, key=lambda event: event.turn)
                lane.queue.remove(event)
                self._turn = max(self._turn, event.turn)
                return [event], False, lane.concurrency_id
        return None

    def _is_heard(self, event: Event) -> bool:
        return event.session_hash in self._listeners

    def _waiting(self) -> Iterator[Event]:
        return itertools.chain.from_iterable(lane.queue for lane in self.event_queue_per_concurrency_id.values())

    def _forget_unheard(self) -> None:
        """Drop the questions that nobody has listened to for too long, and the oldest where there are too many."""
        unheard = sorted(
            (event for event in self._waiting() if not self._is_heard(event)),
            key=lambda event: event.enqueue_time,
        )
        oldest = time.monotonic() - UNHEARD_S
        too_many = len(unheard) - MAX_UNHEARD
        for number, event in enumerate(unheard):
            if number <= too_many or event.enqueue_time < oldest:
                self._remove(event)
        for session in list(self.pending_messages_per_session):
            if session not in self._listeners and not self._has_events(session):
                self._forget(session)

    def _has_events(self, session: str) -> bool:
        """Whether a question of this session waits or runs."""
        return any(event in self.event_ids_to_events for event in self.pending_event_ids_session.get(session, ()))

    def _remove(self, event: Event) -> None:
        self.event_queue_per_concurrency_id[event.concurrency_id].queue.remove(event)
        self.event_ids_to_events.pop(event._id, None)
        self.pending_event_ids_session.get(event.session_hash, set()).discard(event._id)

    def _forget(self, session: str) -> None:
        """Drop what waits or runs for a session that nobody listens to, and the answers that nobody read."""
        for event in [event for event in self._waiting() if event.session_hash == session]:
            self._remove(event)
        for running in self.active_jobs:
            for event in running or ():
                if event.session_hash == session:
                    event.alive = False
        self.pending_event_ids_session.pop(session, None)
        self.pending_messages_per_session.pop(session, None)
