"""The queue of the page: turns, and what nobody listens to. By hand, without a server."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from fastapi import Request
from gradio.data_classes import PredictBodyInternal
from gradio.server_messages import UnexpectedErrorMessage

from ui import waiting
from ui.waiting import FairQueue


def page() -> gr.Blocks:
    def answer(text: str) -> str:
        return text

    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.api(answer, api_name="quick", concurrency_id="quick", concurrency_limit=1)
        gr.api(answer, api_name="slow", concurrency_id="slow", concurrency_limit=1)
    return blocks


class Asked:
    """A queue, and clients that ask it."""

    def __init__(self) -> None:
        self.queue = FairQueue(page())
        self.queue.server_app = SimpleNamespace(iterators={})

    def ask(self, session: str | None = None, address: str = "192.0.2.1", lane: int = 0, text: str = "a") -> str | None:
        """Ask a question; returns its id, or None where it is refused."""
        scope = {"type": "http", "client": (address, 1), "headers": [], "path": "/", "query_string": b""}
        body = PredictBodyInternal(session_hash=session, data=[text], fn_index=lane, request=None)
        pushed, event, _ = asyncio.run(self.queue.push(body, Request(scope), None))
        return event if pushed else None

    def listen(self, event: str | None) -> None:
        assert event is not None
        session = self.queue.session_of(event)
        assert session is not None
        self.queue.start_listening(session)

    def next(self) -> str | None:
        """The id of the question that is run next."""
        taken: Any = self.queue.get_events()
        return None if taken is None else taken[0][0]._id


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_question_runs_only_once_a_client_listens(asked: Asked) -> None:
    event = asked.ask()
    assert asked.next() is None
    asked.listen(event)
    assert asked.next() == event
    assert asked.next() is None


def test_clients_take_turns(asked: Asked) -> None:
    many = [asked.ask("greedy") for _ in range(5)]
    for event in many:
        asked.listen(event)
    one = asked.ask("modest")
    asked.listen(one)
    two = asked.ask(None, "192.0.2.9")
    asked.listen(two)
    order = [asked.next() for _ in range(7)]
    assert order[0] == many[0]
    assert set(order[1:3]) == {one, two}
    assert order[3:] == many[1:]
    late = asked.ask("modest")
    asked.listen(late)
    assert asked.next() == late


def test_short_questions_come_before_long_ones(asked: Asked) -> None:
    long, short = asked.ask("a", text="a" * 20_000), asked.ask("b")
    asked.listen(long)
    asked.listen(short)
    assert [asked.next(), asked.next()] == [short, long]


def test_many_sessions_of_one_address_do_not_block_another(asked: Asked) -> None:
    for number in range(100):
        asked.listen(asked.ask(f"session{number}"))
    asked.next()
    other = asked.ask("other", "192.0.2.9")
    asked.listen(other)
    assert asked.next() == other


def test_one_address_may_have_few_questions_running(asked: Asked) -> None:
    asked.queue.event_queue_per_concurrency_id.clear()
    for number in range(waiting.MAX_RUNNING + 1):
        asked.listen(asked.ask(f"session{number}"))
    lane = asked.queue.event_queue_per_concurrency_id["quick"]
    lane.concurrency_limit = 10
    for _ in range(waiting.MAX_RUNNING):
        taken: Any = asked.queue.get_events()
        asked.queue.active_jobs.append(taken[0])
    assert asked.next() is None
    other = asked.ask("other", "192.0.2.9")
    asked.listen(other)
    assert asked.next() == other


def test_unheard_questions_take_bounded_memory_and_a_flood_drops_its_own(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()  # on a slow machine the questions would grow too old
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now)
    modest = asked.ask("modest", "192.0.2.9")
    for _ in range(1_000):
        asked.ask(text="a" * 100_000)
    assert sum(event.size for event in asked.queue._waiting()) <= waiting.MAX_UNHEARD_BYTES
    for _ in range(1_000):
        asked.ask()
    asked.listen(modest)
    assert asked.next() == modest


def test_lanes_do_not_wait_for_each_other(asked: Asked) -> None:
    slow, quick = asked.ask(lane=1), asked.ask(lane=0)
    asked.listen(slow)
    asked.listen(quick)
    assert {asked.next(), asked.next()} == {slow, quick}
    asked.queue.event_queue_per_concurrency_id["slow"].current_concurrency = 1
    more = asked.ask(lane=1)
    asked.listen(more)
    assert asked.next() is None


def test_unheard_questions_are_dropped_when_old_or_too_many(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [asked.ask() for _ in range(waiting.MAX_UNHEARD + 10)]
    assert len(asked.queue) == waiting.MAX_UNHEARD
    assert asked.queue.session_of(events[0] or "") is None
    asked.listen(events[-1])
    later = time.monotonic() + waiting.MAX_UNHEARD_S + 1
    monkeypatch.setattr(waiting.time, "monotonic", lambda: later)
    asked.ask("other")
    assert len(asked.queue) == 2
    assert asked.next() == events[-1]
    assert len(asked.queue.event_ids_to_events) == 2


def after(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    later = time.monotonic() + seconds
    monkeypatch.setattr(waiting.time, "monotonic", lambda: later)


def test_questions_of_a_listener_that_has_gone_are_dropped(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, other = asked.ask("a"), asked.ask("b")
    asked.listen(waits)
    asked.listen(other)
    asked.queue.stop_listening("a", is_gone=True)
    after(monkeypatch, waiting.RETURN_S + 0.1)
    asked.queue._forget_unheard()
    assert not asked.queue.is_known("a")
    assert not asked.queue._left_at
    assert asked.queue.session_of(waits or "") is None
    assert asked.next() == other
    assert asked.next() is None


@pytest.mark.parametrize("is_gone", [False, True])
def test_question_asked_while_a_stream_ends_is_kept(
    asked: Asked, is_gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asked.ask("a")
    asked.listen(first)
    asked.next()
    second = asked.ask("a")
    asked.queue.stop_listening("a", is_gone=is_gone)
    assert asked.queue.is_known("a")
    assert asked.next() is None  # nobody listens yet
    asked.listen(second)
    after(monkeypatch, waiting.RETURN_S + 0.1)
    asked.queue._forget_unheard()
    assert asked.next() == second


def test_question_asked_after_a_stream_ended_waits_for_its_own_listener(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.listen(asked.ask("a"))
    asked.next()
    asked.queue.stop_listening("a", is_gone=True)
    after(monkeypatch, waiting.RETURN_S - 0.1)
    second = asked.ask("a")
    after(monkeypatch, 0.2)  # longer since the stream ended than RETURN_S
    asked.queue._forget_unheard()
    assert asked.queue.is_known("a")
    asked.listen(second)
    assert asked.next() == second


def test_question_that_nobody_listens_to_keeps_no_abandoned_work_running(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.listen(asked.ask("a"))
    taken: Any = asked.queue.get_events()
    asked.queue.active_jobs = [taken[0], None]
    asked.queue.stop_listening("a", is_gone=True)
    asked.ask("a")
    after(monkeypatch, waiting.MAX_UNHEARD_S + 0.1)
    asked.queue._forget_unheard()
    assert not taken[0][0].alive
    assert not asked.queue.is_known("a")


@pytest.mark.parametrize("is_gone", [False, True])
def test_question_answered_while_a_stream_ends_can_still_be_read(
    asked: Asked, is_gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = asked.ask("a")
    asked.listen(event)
    taken: Any = asked.queue.get_events()
    del asked.queue.event_ids_to_events[taken[0][0]._id]  # as Gradio does after an answer
    asked.queue.stop_listening("a", is_gone)
    asked.queue._forget_unheard()
    assert asked.queue.is_known("a")
    after(monkeypatch, waiting.RETURN_S + 0.1)
    asked.queue._forget_unheard()
    assert not asked.queue.is_known("a")
    assert not asked.queue._left_at


def test_question_asked_while_gradio_clears_up_after_a_listener_is_kept(asked: Asked) -> None:
    first = asked.ask("a")
    asked.listen(first)
    asked.next()
    second = asked.ask("a")
    messages = asked.queue.pending_messages_per_session["a"]
    del asked.queue.pending_messages_per_session["a"]  # what its stream does when it is cancelled
    asyncio.run(asked.queue.clean_events(session_hash="a"))
    asked.queue.stop_listening("a", is_gone=True)
    assert asked.queue.pending_messages_per_session["a"] is messages
    asked.listen(second)
    assert asked.next() == second


def test_running_question_is_cancelled_when_its_listener_has_gone(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = asked.ask("a")
    asked.listen(event)
    taken: Any = asked.queue.get_events()
    asked.queue.active_jobs = [taken[0], None]
    asked.queue.stop_listening("a", is_gone=True)
    after(monkeypatch, waiting.RETURN_S + 0.1)
    asked.queue._forget_unheard()
    assert not taken[0][0].alive


def test_limits_of_sessions_and_unheard_questions_block_nobody_else(asked: Asked) -> None:
    assert [asked.ask("a") is not None for _ in range(20)] == [True] * waiting.MAX_PER_SESSION + [False] * 4
    for _ in range(400):
        assert asked.ask() is not None
    for _ in range(waiting.MAX_WITHOUT_SESSION):
        asked.listen(asked.ask())
    assert asked.ask() is None
    assert asked.ask(None, "192.0.2.9") is not None
    assert asked.ask("b") is not None


def test_a_page_that_listens_once_more_after_its_last_answer_is_not_refused(asked: Asked) -> None:
    event = asked.ask("a")
    asked.listen(event)
    taken: Any = asked.queue.get_events()
    del asked.queue.event_ids_to_events[taken[0][0]._id]
    asked.queue.pending_event_ids_session["a"].clear()  # it was sent, before the reply to its question has arrived
    asked.queue.stop_listening("a", is_gone=False)
    asked.queue._forget_unheard()
    assert asked.queue.is_known("a")
    asked.queue.start_listening("a")
    later = asked.ask("a")
    assert asked.next() == later  # which this stream is there for


def test_memory_does_not_grow_with_past_clients(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(waiting.MAX_CLIENTS + 100):
        event = asked.ask(f"session{number}")
        asked.listen(event)
        assert asked.next() == event
        asked.queue.event_ids_to_events.pop(event)  # it is answered
        asked.queue.pending_event_ids_session[f"session{number}"].clear()  # and the answer was sent
        asked.queue.stop_listening(f"session{number}", is_gone=False)
    assert len(asked.queue.pending_event_ids_session) <= waiting.MAX_UNHEARD + 1
    after(monkeypatch, waiting.RETURN_S + 0.1)
    asked.queue._forget_unheard()
    assert not asked.queue.pending_messages_per_session
    assert not asked.queue._left_at
    assert not asked.queue.pending_event_ids_session
    assert not asked.queue.event_ids_to_events
    assert len(asked.queue._last_turn) <= waiting.MAX_CLIENTS
    assert len(asked.queue.event_analytics) <= 1


def test_answer_for_a_session_that_was_dropped_is_not_sent(asked: Asked) -> None:
    question = asked.ask("a")
    assert question is not None
    event = asked.queue.event_ids_to_events[question]
    asked.queue.send_message(event, UnexpectedErrorMessage(message="read", session_not_found=True))
    messages = asked.queue.pending_messages_per_session["a"]
    assert [type(messages.get_nowait()) for _ in range(messages.qsize())][-1] is UnexpectedErrorMessage
    asked.queue.pending_messages_per_session.pop("a")
    asked.queue.send_message(event, UnexpectedErrorMessage(message="lost", session_not_found=True))
    assert not asked.queue.is_known("a")
