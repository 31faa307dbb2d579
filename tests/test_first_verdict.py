"""The first verdict, on the rows answered so far: rounds, what waits for what, and that only the last one is kept."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from conftest import Tiny
from test_time_limit import Fake, answers

from inference.compare.answering import FIRST, LARGEST, WarmProcesses, rounds
from inference.compare.receipt import Receipt, seal
from inference.compare.rows import LabelledRows, read_data
from inference.compare.run import measure
from inference.compare.verdict import decide
from inference.formats.bundle import Bundle
from inference.formats.identity import content_key
from inference.tables.source import Source


def labelled(tiny: Tiny) -> LabelledRows:
    """120 labelled rows for the tiny model."""
    lines = [f"it was {word} {i},{label}" for i in range(60) for word, label in (("bad", "down"), ("fine", "up"))]
    return read_data(Source("mood.csv", "\n".join(["text,mood", *lines]).encode()), Bundle.read(tiny.folder).tasks)


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [(0, []), (1, [1]), (FIRST, [FIRST]), (500, [64, 64, 128, 244]), (800, [64, 64, 128, 256, 256, 32])],
)
def test_rounds_double_up_to_a_limit_and_cover_every_row(rows: int, sizes: list[int]) -> None:
    parts = rounds(rows)
    assert [len(part) for part in parts] == sizes
    assert [row for part in parts for row in part] == list(range(rows))


def measured(tiny: Tiny, rows: LabelledRows, processes: dict[str, Any], **options: Any) -> Receipt:
    """The measurement of the rows, without times, on these processes."""
    bundle = Bundle.read(tiny.folder)
    return measure(
        bundle,
        rows,
        backends=list(processes),
        cache=tiny.cache,
        base=tiny.base,
        time_limit=0,
        warm=WarmProcesses(lambda name, _: processes[name], list(processes), content_key(bundle)),
        **options,
    )


class Gated(Fake):
    """A fake that gives its answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Semaphore(0)

    def ask(self, order: str, **details: Any) -> Any:
        while order == "answer" and not self.let.acquire(timeout=0.02):
            self.watch()
        return super().ask(order, **details)


def test_backend_that_is_ready_waits_after_each_round_for_the_slowest() -> None:
    slow, fast = Gated(), Fake()
    collected = answers(500, {"onnx": slow, "int8": fast})
    seen: list[tuple[int, int]] = []

    def report() -> None:
        # Called until all is answered: the slow one goes on when the fast one has as many rows as it may.
        state = (collected.answered["onnx"], collected.answered["int8"])
        if state[1] > state[0] or state == (500, 500):
            if not seen or seen[-1] != state:
                seen.append(state)
                given = collected.given()
                assert len(given.rows) == len(given.tokens) == (state[0] or 64)
                assert given.names == ["onnx", "int8"][not state[0] :]
                known = collected.so_far()["mood"]
                assert (known.reference, known.rows) == (given.names[0], len(given.rows))
                assert known.paired == ({"int8": (0, 0, 0)} if state[0] else {})
                assert given.predictions["int8"]["mood"]["label_ids"] == [row % 2 for row in given.rows]
            if collected.answered["onnx"] == state[0] and not slow.let._value:
                slow.let.release()

    collected.collect(report)
    assert seen[:2] == [(0, 64), (64, 128)]
    assert all(fast <= max(64, 2 * slow, slow + LARGEST) for slow, fast in seen)


def test_reference_of_the_labels_that_change_is_the_first_in_order_that_has_answered() -> None:
    pytorch, onnx = Gated(), Gated()
    collected = answers(10, {"pytorch": pytorch, "onnx": onnx, "int8": Fake(wrong=True)})
    seen: list[tuple[str | None, list[str]]] = []

    def report() -> None:
        known = collected.so_far()["mood"]
        state = known.reference, [*known.paired]
        if state[0] is not None and (not seen or seen[-1] != state):
            seen.append(state)
            ([onnx, pytorch, Gated()][len(seen) - 1]).let.release()

    collected.collect(report)
    assert seen == [("int8", []), ("onnx", ["int8"]), ("pytorch", ["onnx", "int8"])]


def test_first_verdict_comes_before_the_last_row_and_is_replaced_by_the_one_on_all(tiny: Tiny) -> None:
    rows = labelled(tiny)
    slow, parts, whole = Gated(), list[Receipt](), list[Receipt]()
    slow.let.release()  # the first round; the second when there is a verdict
    processes = {"onnx": slow, "int8": Fake()}

    def first_verdict(part: Receipt) -> None:
        assert not whole
        parts.append(part)
        slow.let.release()

    receipt = measured(tiny, rows, processes, on_part=first_verdict, on_accuracy=whole.append)
    (part,) = parts
    assert part["data"]["unanswered"] == 120 - FIRST
    assert len(part["data"]["row_numbers"]) == len(part["data"]["tokens"]) == FIRST
    assert part["data"]["row_numbers"] == sorted(part["data"]["row_numbers"])
    assert part["results"]["paired"]["mood"]["int8"]["rows"] == FIRST
    sentence = decide(part).sentence
    assert sentence.startswith("First verdict, on 64 of 120 rows. ")
    assert "would settle" not in sentence
    assert "peed" not in sentence
    with pytest.raises(ValueError, match="is not to be stored"):
        seal(part)
    assert "unanswered" not in receipt["data"]
    assert len(receipt["data"]["row_numbers"]) == 120
    assert "First verdict" not in decide(receipt).sentence


def test_reference_that_still_loads_is_replaced_by_the_most_exact_backend_in_the_first_verdict(tiny: Tiny) -> None:
    rows = labelled(tiny)
    slow, parts = Gated(), list[Receipt]()
    processes = {"pytorch": slow, "onnx": Fake(), "int8": Fake(wrong=True)}

    def first_verdict(part: Receipt) -> None:
        parts.append(part)
        if not part["data"]["awaited"] or part["settings"]["backends"] == ["onnx", "int8"]:
            slow.let.release()

    receipt = measured(tiny, rows, processes, on_part=first_verdict)
    both = next(part for part in parts if part["settings"]["backends"] == ["onnx", "int8"])
    assert both["settings"]["reference"] == "onnx"
    assert both["data"]["awaited"] == ["pytorch"]
    assert both["results"]["paired"]["mood"]["int8"]["max_abs_dp"] == pytest.approx(0.5)
    assert decide(both).sentence.startswith(
        "First verdict, on 64 of 120 rows, against ONNX until PyTorch, the reference, has loaded."
    )
    assert parts[-1]["data"]["awaited"] == []
    assert parts[-1]["settings"]["reference"] == "pytorch"
    assert receipt["settings"]["reference"] == "pytorch"
    assert receipt["results"]["paired"]["mood"]["int8"]["flips"] == 120


def test_first_verdict_leaves_out_a_task_of_few_labels_and_keeps_every_row(tiny: Tiny) -> None:
    bundle = Bundle.read(tiny.folder)
    mood, topic = bundle.tasks["mood"].labels, list(bundle.tasks["topic"].labels)
    # A row has the label of one task only; topic has 24 of 120, so fewer than 20 of the first 64.
    lines = [f"it was so {i},{'' if i % 5 == 0 else mood[i % 2]},{topic[0] if i % 5 == 0 else ''}" for i in range(120)]
    rows = read_data(Source("both.csv", "\n".join(["text,mood,topic", *lines]).encode()), bundle.tasks)
    assert set(rows.labels) == {"mood", "topic"}
    judged = rows.take(range(64)).judged()
    assert judged is not None
    assert len(judged) == 64
    assert set(judged.labels) == {"mood"}
    assert rows.take(range(10)).judged() is None


def test_a_verdict_without_the_reference_says_so_even_if_all_its_rows_are_answered(tiny: Tiny) -> None:
    rows = labelled(tiny)
    slow, parts = Gated(), list[Receipt]()
    processes = {"pytorch": slow, "onnx": Fake(), "int8": Fake(wrong=True)}

    def first_verdict(part: Receipt) -> None:
        parts.append(part)
        slow.let.release()

    measured(tiny, rows.take(range(40)), processes, on_part=first_verdict)
    (part,) = parts
    assert part["data"]["unanswered"] == 0
    sentence = decide(part).sentence
    assert sentence.startswith("First verdict, on 40 of 40 rows, against ONNX until PyTorch, the reference, has loaded")
