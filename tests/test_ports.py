"""A port that a stranger took is no fault of the program under test; anything else is."""

from __future__ import annotations

import pytest
from ports import TRIES, on_a_free_port


def test_a_lost_port_is_given_up_for_another_one() -> None:
    asked: list[int] = []

    def start(port: int) -> int:
        asked.append(port)
        if len(asked) < TRIES:
            raise RuntimeError("Port 1 is taken")
        return port

    assert on_a_free_port(start, "is taken") == asked[-1]
    assert len(asked) == TRIES


@pytest.mark.parametrize(("said", "times"), [("No model.", 1), ("Port 1 is taken", TRIES)])
def test_any_other_end_is_an_error_at_once_and_a_port_that_is_always_lost_in_the_end(said: str, times: int) -> None:
    asked: list[int] = []

    def start(port: int) -> None:
        asked.append(port)
        raise RuntimeError(said)

    with pytest.raises(RuntimeError, match=said):
        on_a_free_port(start, "is taken")
    assert len(asked) == times
