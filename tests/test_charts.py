"""Charts are true to the receipt: what they draw, what they say, what they leave out."""

from __future__ import annotations

import re
from typing import Any

import made
import pytest

from dashboard.charts import accuracy, formatting, labels, latency, overview, size
from dashboard.charts import slices as slice_charts
from dashboard.charts.style import Chart
from inference.backends import RUNTIMES
from inference.compare.results import results
from inference.compare.slices import LABEL, groups, slices

ROWS = 200
HOSTILE = ["<script>alert(1)</script>", "**bold** [x](javascript:alert(1)) $x$ :red[y]", "", "a" * 300]


def one(**changes: Any) -> Any:
    """A receipt of 200 rows: ONNX answers as PyTorch does, INT8 breaks two rows and fixes one."""
    true, base = made.answers(ROWS, 12)
    wrong = [i for i in range(ROWS) if true[i] != base[i]]
    right = [i for i in range(ROWS) if true[i] == base[i]]
    given = {"pytorch": base, "onnx": base, "int8": made.flip(base, [*right[:2], wrong[0]])}
    return made.receipt(true, {name: given[name] for name in changes.pop("backends", given)}, **changes)


def every_chart(receipt: Any) -> dict[str, Chart]:
    """All there are for this receipt, by name."""
    task = next(iter(receipt["data"]["labels"]))
    drawn: dict[str, Chart | None] = {
        "percentiles": latency.percentiles(receipt),
        "distribution": latency.distribution(receipt),
        "by_length": latency.by_length(receipt),
        "batches": latency.batches(receipt),
        "stages": latency.stages(receipt),
        "cold_start": latency.cold_start(receipt),
        "threads": latency.threads(receipt),
        "shapes": latency.shapes(receipt),
        "model": size.model(receipt),
        "dtypes": size.dtypes(receipt),
        "libraries": size.libraries(receipt),
        "memory": size.memory(receipt),
        "accuracy": accuracy.scores(receipt, task),
        "macro_f1": accuracy.scores(receipt, task, "macro_f1"),
        "differences": accuracy.differences(receipt, task, 0.005),
        "reliability": accuracy.reliability(receipt, task),
        "coverage": accuracy.coverage(receipt, task, 0.5),
        **{f"confusion {name}": labels.confusion(receipt, task, name) for name in receipt["settings"]["backends"]},
    }
    _, *others = receipt["settings"]["backends"]
    if others:
        parts = slices(receipt, task, others[-1], groups(receipt, task)[LABEL])
        drawn["changes"] = labels.changes(receipt, task, others[-1])
        drawn["by_label"] = slice_charts.differences(receipt, others[-1], LABEL, parts)
    return {name: chart for name, chart in drawn.items() if chart is not None}


@pytest.fixture(scope="module")
def receipt() -> Any:
    return one()


@pytest.fixture(scope="module")
def charts(receipt: Any) -> dict[str, Chart]:
    return every_chart(receipt)


def trace(chart: Chart, name: str) -> Any:
    return next(data for data in chart.figure.data if data.name == name)


def test_every_chart_has_a_takeaway_an_alt_text_and_a_table(charts: dict[str, Chart]) -> None:
    assert len(charts) == 22
    for name, chart in charts.items():
        assert chart.takeaway.endswith("."), name
        assert len(chart.alt) > 20, name
        assert chart.table, name
        assert len({tuple(line) for line in chart.table}) == 1 or name == "per_class", name
        assert "nan" not in (chart.takeaway + chart.alt + chart.note).lower().split(), name


def test_every_chart_leaves_the_background_to_the_theme(charts: dict[str, Chart]) -> None:
    for name, chart in charts.items():
        layout = chart.figure.layout
        assert (layout.paper_bgcolor, layout.plot_bgcolor) == ("rgba(0,0,0,0)", "rgba(0,0,0,0)"), name
        assert not [key for key in layout.to_plotly_json() if key in ("xaxis2", "yaxis2")], f"{name} has two axes"


def test_a_backend_has_the_same_colour_in_every_chart(charts: dict[str, Chart]) -> None:
    titles = {"PyTorch": "pytorch", "ONNX": "onnx", "INT8": "int8"}
    for chart in charts.values():
        for data in chart.figure.data:
            if data.name in titles:
                drawn = data.marker.color or data.line.color
                assert drawn == RUNTIMES[titles[data.name]].color


def test_every_chart_draws_a_further_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    made.add_runtime(monkeypatch)
    true, base = made.answers(ROWS, 12)
    receipt = made.receipt(true, dict.fromkeys(made.FOUR, base), ms=made.FOUR)
    charts = every_chart(receipt)
    assert len(charts) == 23
    for name, chart in charts.items():
        if not name.startswith("confusion"):
            assert "Fourth" in chart.takeaway + chart.alt + str(chart.table), name
        for data in chart.figure.data:
            if data.name == "Fourth":
                assert (data.marker.color or data.line.color) == RUNTIMES["fourth"].color
    assert trace(charts["percentiles"], "Fourth").marker.pattern.shape == "-"


def test_no_two_backends_look_alike_in_any_cue() -> None:
    for cue in ("color", "marker", "glyph", "dash", "hatching", "title"):
        assert len({getattr(runtime, cue) for runtime in RUNTIMES.values()}) == len(RUNTIMES)


def test_bars_start_at_zero(charts: dict[str, Chart]) -> None:
    for name, chart in charts.items():
        bars = [data for data in chart.figure.data if data.type == "bar"]
        for data in bars:
            axis = chart.figure.layout.xaxis if data.orientation == "h" else chart.figure.layout.yaxis
            assert axis.rangemode == "tozero" or axis.range[0] == 0, name
            assert axis.type != "log", name


def test_bars_tell_backends_apart_without_colour(charts: dict[str, Chart]) -> None:
    shapes = [trace(charts["percentiles"], name).marker.pattern for name in ("PyTorch", "ONNX", "INT8")]
    assert [shape.shape for shape in shapes] == ["", "/", "."]
    # In plotly's other mode the hatching replaces the bar, and nothing is left of it but lines.
    assert {shape.fillmode for shape in shapes} == {"overlay"}


def test_percentile_bars_are_the_receipts_figures_with_their_intervals(receipt: Any, charts: dict[str, Chart]) -> None:
    figures = receipt["results"]["latency"]["int8"]
    bars = trace(charts["percentiles"], "INT8")
    assert list(bars.y) == [figures[f"p{p}_ms"]["value"] for p in (50, 90, 95)]
    for p, value, up, down in zip((50, 90, 95), bars.y, bars.error_y.array, bars.error_y.arrayminus, strict=True):
        assert value + up == pytest.approx(figures[f"p{p}_ms"]["high"])
        assert value - down == pytest.approx(figures[f"p{p}_ms"]["low"])


def test_percentile_with_too_few_samples_is_left_out_with_the_reason(charts: dict[str, Chart]) -> None:
    assert list(charts["percentiles"].figure.layout.xaxis.ticktext) == ["p50", "p90", "p95"]
    assert "p99 needs 662 different texts; 160 were timed." in charts["percentiles"].note


def test_a_limit_is_drawn_where_the_reader_set_it(receipt: Any) -> None:
    assert [line.y0 for line in latency.percentiles(receipt, 7.5).figure.layout.shapes] == [7.5]
    assert [line.x0 for line in size.model(receipt, 50.0).figure.layout.shapes] == [50.0]
    assert not latency.percentiles(receipt).figure.layout.shapes


@pytest.mark.parametrize(("percentile", "samples"), [(90, 64), (95, 130), (99, 662)])
def test_minimum_samples_are_those_of_mlperf(percentile: float, samples: int) -> None:
    assert latency.min_samples(percentile) == samples


def test_only_backends_that_no_other_beats_are_joined(receipt: Any) -> None:
    # ONNX is as accurate as PyTorch and faster; INT8 is faster and less accurate.
    assert overview.front(receipt, "mood") == ["int8", "onnx"]


def test_gain_within_the_noise_is_not_called_a_gain() -> None:
    same = one(ms={"pytorch": 5.0, "onnx": 5.0, "int8": 5.0}, jitter=0.1)
    assert overview.speedup(same).takeaway == "ONNX and INT8 are not measurably faster or slower than PyTorch."
    assert "No runtime is measurably faster" in overview.pareto(same, "mood").takeaway or (
        "No runtime is faster" in overview.pareto(same, "mood").takeaway
    )


def test_unsettled_order_is_named_as_such() -> None:
    close = one(ms={"pytorch": 12.0, "onnx": 4.0, "int8": 4.0}, jitter=0.3)
    assert "the order of ONNX and INT8 is not settled" in latency.percentiles(close).takeaway
    assert re.search(
        "which of (ONNX and INT8|INT8 and ONNX) is faster is not settled", overview.speedup(close).takeaway
    )
    apart = one()
    assert "settled" not in latency.percentiles(apart).takeaway + overview.speedup(apart).takeaway


def test_noise_of_a_single_start_is_called_assumed() -> None:
    quick = one(launches=1, rounds=8)
    assert "each process was started once" in overview.speedup(quick).note
    assert "two processes of PyTorch" in overview.speedup(one(jitter=0.5)).note


def test_the_cost_goes_with_the_price_and_keeps_its_interval(receipt: Any) -> None:
    cheap, dear = (overview.cost(receipt, price) for price in (0.1, 0.2))
    assert dear.table[0]["$ per million"] == pytest.approx(2 * float(str(cheap.table[0]["$ per million"])))
    assert all(float(str(line["from"])) <= float(str(line["$ per million"])) for line in cheap.table)


def test_accuracy_is_drawn_on_a_zoomed_axis_and_says_so(charts: dict[str, Chart]) -> None:
    axis = charts["accuracy"].figure.layout.xaxis
    assert axis.range[0] > 0.5
    assert "zoomed" in axis.title.text


def test_a_small_difference_does_not_fill_the_axis() -> None:
    chart = accuracy.scores(one(), "mood")
    low, high = chart.figure.layout.xaxis.range
    assert high - low >= 0.02


def test_an_interval_that_misses_its_value_is_not_drawn(receipt: Any) -> None:
    odd = {**receipt, "results": results(receipt)}
    odd["results"]["accuracy"]["mood"]["int8"]["macro_f1"] = {"value": 0.9, "low": 0.5, "high": 0.6}
    chart = accuracy.scores(odd, "mood", "macro_f1")
    assert list(chart.figure.data[2].error_x.array) == [0]
    assert chart.note == "No interval for INT8: too few rows per label."


def test_paired_differences_count_what_was_broken_and_fixed(charts: dict[str, Chart]) -> None:
    chart = charts["differences"]
    assert "ONNX gives the same label on every row" in chart.takeaway
    assert "INT8 changes 3 of 200 labels (2 broken, 1 fixed)" in chart.takeaway
    assert chart.table[1]["broken"] == 2
    zero, limit = chart.figure.layout.shapes
    assert (zero.x0, limit.x0) == (0, -0.5)


def test_more_rows_are_asked_for_only_where_equal_labels_are_not_the_same_model() -> None:
    given = made.receipt([0, 1] * 20, dict.fromkeys(("pytorch", "int8"), [0, 1] * 20))
    assert accuracy.differences(given, "mood", 0.005).note.startswith("All rows agree, but unseen rows may differ")
    given["results"]["paired"]["mood"]["int8"]["max_abs_dp"] = 1e-5
    assert accuracy.differences(given, "mood", 0.005).note == ""


def test_the_verdict_of_the_differences_follows_the_limit(receipt: Any) -> None:
    settled = {drop: accuracy.differences(receipt, "mood", drop) for drop in (0.001, 0.2)}
    assert settled[0.001] and "not settled" in settled[0.001].takeaway
    assert settled[0.2] and settled[0.2].takeaway.endswith("(2 broken, 1 fixed): within the limit.")


def test_a_confusion_matrix_of_many_labels_shows_those_in_mistakes() -> None:
    names = [f"label_{i}" for i in range(150)]
    true = list(range(150)) * 2
    given = true.copy()
    given[3], given[4] = 140, 140
    many = made.receipt(true, {"pytorch": given, "int8": given}, labels=names)
    shown = labels.confused_labels(many, "mood")
    assert len(shown) == labels.MAX_SHOWN
    assert {3, 4, 140} <= set(shown)
    chart = labels.confusion(many, "mood", "int8")
    assert "Shown: the 10 labels most often in a mistake, of 150." in chart.note
    assert chart.takeaway == "INT8 is wrong on 2 rows of 300."
    assert chart.table[0]["rows"] == 1 and chart.table[0]["right label"] != chart.table[0]["label given"]


def test_both_matrices_of_a_receipt_show_the_same_labels(charts: dict[str, Chart]) -> None:
    axes = {tuple(charts[f"confusion {name}"].figure.layout.yaxis.ticktext) for name in made.MS}
    assert len(axes) == 1


def test_difference_matrix_has_only_what_changed_with_its_sign(charts: dict[str, Chart]) -> None:
    chart = charts["changes"]
    matrix = chart.figure.data[0]
    assert [list(line) for line in matrix.text] == [["", ""], ["+1", "−1"]]
    assert chart.takeaway == "INT8 changes 1.5% of the labels, mostly yes → no (2 rows)."
    color = ",".join(str(int(RUNTIMES["int8"].color[at : at + 2], 16)) for at in (1, 3, 5))
    assert color in matrix.colorscale[-1][1]


def test_labels_of_few_rows_are_hollow_and_no_chance_is_called_a_change(charts: dict[str, Chart]) -> None:
    chart = charts["by_label"]
    assert "No label changes beyond chance. Largest difference: " in chart.takeaway
    assert sum("-open" in data.marker.symbol for data in chart.figure.data) == 0
    few = every_chart(made.receipt([0] * 120 + [1] * 20, dict.fromkeys(made.MS, [0] * 120 + [1] * 20)))["by_label"]
    assert [data.marker.symbol for data in few.figure.data] == ["square", "square-open"]
    assert "Hollow: fewer than 100 rows" in few.note


def test_label_that_changes_beyond_chance_is_named() -> None:
    true = [0] * 200 + [1] * 200
    broken = made.receipt(true, {"pytorch": true, "int8": [*([1] * 30), *true[30:]]})
    assert every_chart(broken)["by_label"].takeaway == "INT8 is right less often on no (−15.00 pp), beyond chance."


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_the_threshold_marks_its_place_on_the_curve(receipt: Any, threshold: float) -> None:
    chart = accuracy.coverage(receipt, "mood", threshold)
    assert f"threshold of {threshold:.2f}" in chart.takeaway
    marks = [data for data in chart.figure.data if data.mode == "markers"]
    assert [list(mark.x) for mark in marks] == [[1.0 if threshold < 1 else 0.0]] * 3


@pytest.mark.parametrize("backends", [["pytorch"], ["onnx", "int8"], ["pytorch", "int8"], ["int8"]])
def test_any_selection_of_backends_can_be_drawn(backends: list[str]) -> None:
    charts = every_chart(one(backends=backends))
    assert ("differences" in charts) == (len(backends) > 1)


def test_a_quick_run_has_no_charts_of_what_it_leaves_out(receipt: Any) -> None:
    quick = {**receipt, "shapes": [], "other_threads": []}
    quick["results"] = results(quick)
    assert not {"shapes", "threads"} & set(every_chart(quick))


def test_few_calls_still_make_charts() -> None:
    charts = every_chart(one(launches=1, rounds=2, calls=10))
    assert "p90 needs 64 different texts" in charts["percentiles"].note


def test_hostile_labels_are_never_markup_in_a_figure() -> None:
    rows = [i % 4 for i in range(40)]
    given = {"pytorch": rows, "int8": [(i + 1) % 4 for i in rows]}
    for name, chart in every_chart(made.receipt(rows, given, labels=HOSTILE)).items():
        assert "<script" not in str(chart.figure.to_json()).replace("\\u003c", "<"), name


def test_note_names_backends_whose_weight_types_are_unknown(receipt: Any) -> None:
    less = {
        **receipt,
        "backends": {n: {**b, "dtypes": {}} if n == "onnx" else b for n, b in receipt["backends"].items()},
    }
    chart = size.dtypes(less)
    assert chart is not None and "Unknown for ONNX" in chart.note
    none = {**receipt, "backends": {n: {**b, "dtypes": {}} for n, b in receipt["backends"].items()}}
    assert size.dtypes(none) is None


def test_counts_agree_with_their_nouns() -> None:
    assert [formatting.many(n, "row") for n in (0, 1, 2000)] == ["no rows", "1 row", "2,000 rows"]
    assert formatting.joined(["a", "b", "c"]) == "a, b and c"
