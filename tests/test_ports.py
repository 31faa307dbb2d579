"""A port that another program took is no failure of the program under test; anything else is."""

from __future__ import annotations

import pytest
from ports import TRIES, on_a_free_port


def test_taken_port_is_replaced_by_another() -> None:
    asked: list[int] = []

    def start(port: int) -> int:
        asked.append(port)
        if len(asked) < TRIES:
            raise RuntimeError("Port 1 is taken")
        return port

    assert on_a_free_port(start, "is taken") == asked[-1]
    assert len(asked) == TRIES


@pytest.mark.parametrize(("message", "times"), [("No model.", 1), ("Port 1 is taken", TRIES)])
def test_other_errors_are_raised_at_once_and_lost_ports_after_some_tries(message: str, times: int) -> None:
    asked: list[int] = []

    def start(port: int) -> None:
        asked.append(port)
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=message):
        on_a_free_port(start, "is taken")
    assert len(asked) == times
