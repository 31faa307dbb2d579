"""What to ship for a model with several tasks and measurements: nothing is averaged away, nothing is mixed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import made
import pytest

from dashboard import answer
from dashboard.method import method
from deploy.static_page import summary
from inference.compare.comparable import difference
from inference.compare.overall import (
    NO_SPEED,
    Overall,
    decide_overall,
    left_out_in_words,
    nearest_in_words,
    others_in_words,
)
from inference.compare.verdict import INCONCLUSIVE, NO, SHIP, ShipLimits, decide

TASKS = ("mood", "topic", "tone")
FILES = {"heads.safetensors": "1" * 64}  # of the model in `made`


def measured(task: str, rows: int = 5000, flipped: int = 20, broken: int = 0, **changes: Any) -> Any:
    """A measurement of one of three tasks: INT8 changes as many right labels as wrong ones, and breaks some more."""
    true, given = made.answers(rows, rows // 10)
    wrong = [i for i in range(rows) if true[i] != given[i]]
    right = [i for i in range(rows) if true[i] == given[i]]
    int8 = made.flip(given, {*wrong[: flipped // 2], *right[: flipped - flipped // 2 + broken]})
    answers = {"pytorch": given, "onnx": given, "int8": int8}
    receipt = made.receipt(
        true, {name: answers[name] for name in changes.pop("backends", answers)}, task=task, **changes
    )
    spec = receipt["model"]["tasks"][task]
    receipt["model"]["tasks"] = dict.fromkeys(TASKS, spec)
    receipt["data"]["name"] = f"{task}.csv"
    return receipt


def decided(limits: ShipLimits | None = None, preferred: str | None = None, **receipts: Any) -> Overall:
    return decide_overall(receipts, limits or ShipLimits(), preferred)


@pytest.fixture(scope="module")
def three() -> dict[str, Any]:
    return {task: measured(task) for task in TASKS}


def test_one_backend_is_recommended_for_all_tasks_and_the_others_are_allowed(three: dict[str, Any]) -> None:
    overall = decided(**three)
    assert overall.headline == "Ship INT8"
    assert overall.because.startswith("6.0× as fast as PyTorch, 6.0× smaller, at most 0.")
    assert overall.because.endswith(" less accurate, on all 3 tasks.")
    assert [overall.status(name) for name in overall.backends] == ["reference", "allowed", "recommended"]


def test_one_task_decides_against_a_backend_and_is_named(three: dict[str, Any]) -> None:
    overall = decided(**three | {"topic": measured("topic", broken=150)})
    assert overall.backends["int8"].decision == NO
    assert overall.status("int8") == "ruled out by accuracy on topic"
    assert overall.backends["int8"].by_task == {"mood": SHIP, "topic": NO, "tone": SHIP}
    assert overall.headline == "Ship ONNX"
    assert "at most 0.06 pp less accurate, on all 3 tasks" in overall.because


@pytest.mark.parametrize("max_drop", [0.005, 0.01])
def test_rows_that_would_settle_a_task_are_said_in_the_same_words_everywhere(max_drop: float) -> None:
    limits, receipt = ShipLimits(max_drop=max_drop), measured("tone", rows=300, flipped=8)
    verdict = decide(receipt, limits)
    words = verdict.backends["int8"].reasons[0].remedy
    assert words.endswith(" labelled rows in all would settle whether accuracy on tone stays within the limit")
    assert f"INT8 is inconclusive: {words}." in verdict.sentence
    tasks = {"mood": measured("mood"), "topic": measured("topic", rows=800, flipped=8), "tone": receipt}
    (standing,) = [one for one in answer.standings(decided(limits, **tasks)) if one.backend == "int8"]
    assert standing.nearest.startswith(f"{words}; ")  # of the task that needs the most rows
    facts = [fact for section in method(receipt, limits) for fact in section.facts]
    assert next(text for name, text in facts if name == "tone: INT8" and "broken" in text).endswith(f"; {words}")


def test_task_with_few_rows_leaves_a_backend_open_and_the_nearest_limit_settles_it(three: dict[str, Any]) -> None:
    receipts = three | {"tone": measured("tone", rows=800, flipped=8)}
    overall = decided(**receipts)
    assert overall.status("int8") == "not settled: accuracy on tone"
    nearest = overall.backends["int8"].nearest
    assert nearest is not None
    assert nearest_in_words(overall.limits, nearest).startswith("a drop of ")
    assert decided(nearest, **receipts).recommended == "int8"
    nearer = ShipLimits(max_drop=nearest.max_drop - 0.001)
    assert decided(nearer, **receipts).backends["int8"].decision == INCONCLUSIVE


def test_nearest_limits_hold_for_every_task_and_every_limit(three: dict[str, Any]) -> None:
    limits = ShipLimits(max_p95_ms=1, max_size_mb=10, max_flips=5, min_speedup=20)
    overall = decided(limits, **three)
    assert overall.headline == "Nothing to ship under these limits"
    assert overall.because == "Every runtime fails a limit."
    for name in ("onnx", "int8"):
        nearest = overall.backends[name].nearest
        assert nearest is not None
        assert decided(nearest, **three).backends[name].decision == SHIP


def test_changed_labels_are_counted_over_all_tasks(three: dict[str, Any]) -> None:
    assert decided(ShipLimits(max_flips=60), **three).backends["int8"].decision == SHIP
    overall = decided(ShipLimits(max_flips=59), **three)
    assert overall.status("int8") == "ruled out by changed labels"


def test_task_counts_by_its_largest_measurement_unless_another_is_preferred() -> None:
    receipts = {"small": measured("mood", rows=400), "large": measured("mood")}
    assert decided(**receipts).used == {"mood": "large"}
    assert decided(preferred="small", **receipts).used == {"mood": "small"}
    assert decided(**receipts).unmeasured == ["topic", "tone"]
    assert "on mood (topic and tone not measured)" in decided(**receipts).because


def test_limit_that_a_smaller_measurement_breaks_rules_a_backend_out() -> None:
    overall = decided(large=measured("mood"), small=measured("mood", rows=2000, broken=100))
    assert overall.used == {"mood": "large"}
    assert overall.backends["int8"].decision == NO
    assert any("(measurement small)" in each.reason.text for each in overall.backends["int8"].reasons)


def slow(times: float = 5, **changes: Any) -> Any:
    """A measurement of 2,000 rows that took so many times as long."""
    return measured("mood", rows=2000, calls=150, ms={name: ms * times for name, ms in made.MS.items()}, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "objecting", "field", "step"),
    [
        (ShipLimits(max_p95_ms=3), {"jitter": 0.3}, "max_p95_ms", 0.2),
        (ShipLimits(max_drop=0.005), {"times": 1, "broken": 60}, "max_drop", 0.001),
        (ShipLimits(max_size_mb=20), {}, "max_size_mb", 0.1),
    ],
)
def test_nearest_limit_is_where_another_measurement_no_longer_objects(
    limits: ShipLimits, objecting: dict[str, Any], field: str, step: float
) -> None:
    receipts = {"large": measured("mood", calls=150), "small": slow(**objecting)}
    int8 = decided(limits, **receipts).backends["int8"]
    assert int8.decision == NO and int8.nearest is not None
    assert int8.objections and not any("would pass" in each.reason.text for each in int8.objections)
    assert decided(int8.nearest, **receipts).backends["int8"].decision == SHIP
    stricter = replace(limits, **{field: getattr(int8.nearest, field) - step})
    assert decided(stricter, **receipts).backends["int8"].decision == NO


def test_nearest_speed_up_is_where_another_measurement_no_longer_objects() -> None:
    receipts = {"large": measured("mood"), "small": measured("mood", rows=2000, ms=made.MS | {"int8": 6.0}, jitter=0.2)}
    int8 = decided(ShipLimits(min_speedup=4), **receipts).backends["int8"]
    assert int8.decision == NO and int8.nearest is not None and int8.nearest.min_speedup
    assert decided(int8.nearest, **receipts).backends["int8"].decision == SHIP
    assert decided(ShipLimits(min_speedup=int8.nearest.min_speedup + 0.1), **receipts).backends["int8"].decision == NO


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"machine": {"cpu": "Other CPU"}}, "another processor, Other CPU"),
        ({"machine": {"huge_pages": False}}, "without huge pages"),
        ({"settings": {"threads": 1}}, "1 thread instead of 2"),
        ({"settings": {"reference": "onnx"}}, "compared with ONNX"),
        ({"model": {"files": {"heads.safetensors": "9" * 64}, "name": "second"}}, "another model, second"),
        ({"model": {"max_tokens": 5}}, "labels or settings have changed since"),
        ({"model": {"files": {"heads.safetensors": "1" * 64, "config.json": "9" * 64}}}, "labels or settings have "),
        (
            {"model": {"files": {"heads.safetensors": "1" * 64, "tokenizer_config.json": "9" * 64}}},
            "another model, made",
        ),
        ({"model": {"base": {"files": {"model.safetensors": "9" * 64}}}}, "another model, made"),
        ({"versions": {"torch": "1.0", "onnxruntime": "1.0"}}, "torch 1.0 instead of "),
    ],
)
def test_measurements_that_do_not_compare_are_left_out_with_the_reason(
    three: dict[str, Any], change: dict[str, dict[str, Any]], why: str
) -> None:
    other = measured("topic")
    other |= {part: {**other[part], **values} for part, values in change.items()}
    overall = decided(mood=three["mood"], topic=other)
    assert overall.left_out["topic"].startswith(why)
    assert overall.used == {"mood": "mood"}
    of_this_model = "model" not in change
    assert ("topic measured under other conditions, not counted; tone not measured" in overall.because) is of_this_model
    assert ("topic and tone not measured" in overall.because) is not of_this_model
    assert left_out_in_words(overall) == f"Not counted: 1 measurement ({overall.left_out['topic']})."


def elsewhere(receipt: Any) -> Any:
    """The same measurement, made on another processor."""
    return receipt | {"machine": {**receipt["machine"], "cpu": "Other CPU"}}


def test_largest_measurement_does_not_leave_out_those_of_the_other_tasks(three: dict[str, Any]) -> None:
    receipts = three | {"topic": measured("topic", broken=150), "large": elsewhere(measured("mood", rows=9000))}
    overall = decided(**receipts)
    assert overall.used == {task: task for task in TASKS}
    assert overall.headline == "Ship ONNX"
    chosen = decided(preferred="large", **receipts)
    assert "on mood (topic and tone measured under other conditions, not counted)" in chosen.because
    assert left_out_in_words(chosen) == "Not counted: 3 measurements (another processor, Made CPU)."
    assert left_out_in_words(decided(**three)) == ""


def test_table_of_the_static_page_is_of_a_measurement_that_decides(three: dict[str, Any]) -> None:
    receipts = three | {"large": elsewhere(measured("mood", rows=9000, ms=dict.fromkeys(made.MS, 50.0)))}
    page = summary(receipts)
    assert page is not None
    assert page["sentence"].startswith("Ship INT8: 6.0× as fast")
    assert page["sentence"].endswith("Not counted: 1 measurement (another processor, Other CPU).")
    assert page["rows"][0]["p50_ms"] == pytest.approx(12, rel=0.1)
    assert "Made CPU" in page["source"]
    assert summary({"mood": made.without_speed(three["mood"])}) is None


def test_other_contents_of_the_int8_file_do_not_compare(three: dict[str, Any]) -> None:
    other = measured("topic")
    for file in other["backends"]["int8"]["files"].values():
        file["sha256"] = "8" * 64
    assert decided(mood=three["mood"], topic=other).left_out == {"topic": "other files of INT8"}


@pytest.mark.parametrize("library", ["torch", "onnxruntime", "openvino"])
def test_other_version_of_a_runtime_does_not_compare(three: dict[str, Any], library: str) -> None:
    first, other = ({**three["mood"], "versions": {library: version}} for version in ("1.0", "2.0"))
    assert difference(first, other) == f"{library} 2.0 instead of 1.0"
    assert not difference(first, {**other, "versions": {}})


def test_renamed_folder_of_the_same_model_compares(three: dict[str, Any]) -> None:
    other = measured("topic")
    other["model"]["name"] = "copy"
    assert not decided(mood=three["mood"], topic=other).left_out


def test_backend_that_was_not_measured_on_every_task_is_not_settled(three: dict[str, Any]) -> None:
    overall = decided(mood=three["mood"], topic=measured("topic", backends=("pytorch", "onnx")))
    assert overall.status("int8") == "not measured on topic"
    assert overall.headline == "Ship ONNX"


def test_what_keeps_the_other_runtimes_back_is_said_with_their_figures(three: dict[str, Any]) -> None:
    assert others_in_words(decided(**three)) == ""
    broken = three | {"topic": measured("topic", broken=150)}
    assert others_in_words(decided(**broken)) == (
        "INT8 (6.0× as fast and 6.0× smaller) is ruled out by accuracy on topic."
    )
    untimed = {"mood": made.without_speed(measured("mood", broken=150))}
    assert others_in_words(decided(**untimed)) == "INT8 (6.0× smaller) is ruled out by accuracy."


def test_measurement_of_the_reference_alone_has_nothing_to_ship() -> None:
    overall = decided(mood=measured("mood", backends=("pytorch",)))
    assert overall.headline == "Stay with PyTorch"
    assert overall.because.startswith("Only PyTorch was measured")


def test_no_faster_backend_leaves_the_reference() -> None:
    overall = decided(mood=measured("mood", ms={"pytorch": 5.0, "onnx": 5.0, "int8": 5.0}, jitter=0.1))
    assert overall.headline == "Stay with PyTorch"
    assert "No runtime that meets the limits is measurably faster" in overall.because


def test_measurement_without_times_says_so_and_a_timed_one_goes_first(three: dict[str, Any]) -> None:
    untimed = made.without_speed(measured("mood", rows=6000), "busy")
    assert decided(mood=untimed).headline == NO_SPEED
    assert "ONNX and INT8 would pass the other limits" in decided(mood=untimed).because
    assert decided(untimed=untimed, timed=three["mood"]).used == {"mood": "timed"}


def test_speed_is_claimed_only_for_the_tasks_on_which_it_was_measured(three: dict[str, Any]) -> None:
    receipts = {"mood": three["mood"], "topic": made.without_speed(three["topic"])}
    overall = decided(**receipts)
    assert overall.because.startswith("6.0× as fast as PyTorch (measured on mood alone), 6.0× smaller")
    assert "Speed is not measured on topic." in overall.caveats
    assert answer.figures(overall)[0].label == "as fast as PyTorch on mood, one text at a time"
    assert "alone" not in decided(**three).because
    assert not any("Speed" in caveat for caveat in decided(**three).caveats)


def test_reference_is_the_fastest_only_where_speed_was_measured() -> None:
    receipts = {task: measured(task, ms=dict.fromkeys(made.MS, 5.0), jitter=0.1) for task in ("mood", "topic")}
    overall = decided(mood=receipts["mood"], topic=made.without_speed(receipts["topic"]))
    assert "measurably faster (measured on mood alone), on mood and topic (tone not measured)." in overall.because


def test_model_of_the_same_size_is_said_to_be_so() -> None:
    receipt = measured("mood")
    sizes = receipt["results"]["size"]
    sizes["int8"]["model_bytes"] = sizes["pytorch"]["model_bytes"]
    overall = decided(mood=receipt)
    assert "6.0× as fast as PyTorch, the same size, at most 0." in overall.because
    assert answer.figures(overall)[1][:2] == ("the same size", "as PyTorch")


def test_measurements_that_do_not_count_are_not_said_to_have_fewer_rows() -> None:
    overall = decided(preferred="small", small=measured("mood", rows=400), large=measured("mood"))
    text = "Counted only where a limit is broken: large. Another was chosen, is complete or timed, or has more rows."
    assert text in answer.sources(overall)


def test_difference_in_accuracy_says_what_its_interval_is(three: dict[str, Any]) -> None:
    assert "pp, each bound at 95%, 5,000 rows" in answer.figures(decided(**three))[2].note


def test_caveats_name_the_measurements_that_they_are_about(three: dict[str, Any]) -> None:
    receipts = three | {"topic": measured("topic")}
    receipts["topic"]["data"]["copies"] = 7
    assert "topic: 7 of 5,000 rows repeat a text." in decided(**receipts).caveats


def test_measurement_with_the_most_labels_decides_which_others_compare() -> None:
    receipts = {"mine": measured("mood", rows=100), "recorded": elsewhere(measured("mood"))}
    overall = decided(**receipts)
    assert overall.used == {"mood": "recorded"}
    assert overall.left_out == {"mine": "another processor, Made CPU"}
    assert decided(preferred="mine", **receipts).used == {"mood": "mine"}
    receipts["other"] = measured("mood", rows=9000)
    receipts["other"]["model"] = receipts["other"]["model"] | {"max_tokens": 5}
    assert decided(**receipts).used == {"mood": "recorded"}
