"""Every number of a receipt is changed a little and the receipt sealed again: it is refused, or docs/receipt.md says
that this number is taken on trust."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import made
import pytest
from conftest import ROOT

from dashboard import receipts as shelf
from dashboard import report
from inference.__main__ import main
from inference.compare.checking import first_difference
from inference.compare.receipt import Receipt, parse_receipt, seal
from inference.compare.results import results
from inference.errors import InputError

Place = tuple[Any, ...]
RECORDED = sorted((ROOT / "assets" / "receipts").glob("*.json"))
NAMES = [path.stem for path in RECORDED]


def small() -> Receipt:
    """A receipt that is quickly checked, with everything in it that one can hold."""
    true, given = made.answers(40, 6, labels=3)
    one = made.receipt(
        true,
        {"pytorch": given, "int8": made.flip(given, [0, 3, 5, 6], labels=3)},
        labels=("a", "b", "oos"),
        confidence={"pytorch": [0.4 + 0.015 * i for i in range(40)], "int8": [0.401 + 0.015 * i for i in range(40)]},
        out_of_scope="oos",
        launches=2,
        calls=12,
        jitter=0.1,
        texts=[f"text {i}" for i in range(40)],
    )
    tried = {"recipe": "static", "held": True, "why": "Every bound holds.", "label_agreement": 0.99, "batch_flips": 0}
    one["backends"]["int8"]["quantized"] = {
        "recipe": "static",
        "summary": "every product",
        "held": True,
        "counts": {"QGemm": 4},
        "kept_float": [],
        "tried": [tried],
    }
    return seal(one)


@pytest.fixture(scope="module")
def receipts() -> dict[str, Receipt]:
    return {"small": small()} | {path.stem: json.loads(path.read_bytes()) for path in RECORDED}


def leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, (*place, key))
    else:
        yield place, value


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def changes(value: Any) -> list[Any]:
    """Other values near this one: a hundredth more or less of a float, one more or less of an integer."""
    if value is None:
        return [0.5]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        return [f"{value}x"]
    if isinstance(value, int):
        return [value + 1, *([value - 1] if value > 0 else [])]
    return [value * 1.01, value * 0.99] if value else [0.01]


def at(value: Any, place: Place) -> Any:
    for key in place:
        value = value[key]
    return value


def changed(receipt: Receipt, place: Place, value: Any) -> bytes:
    """The receipt with this value at this place, sealed again. The receipt itself stays as it is."""
    parent = at(receipt, place[:-1])
    before, parent[place[-1]] = parent[place[-1]], value
    try:
        return json.dumps(seal(receipt)).encode()
    finally:
        parent[place[-1]] = before


def is_refused(content: bytes) -> bool:
    try:
        parse_receipt(content, "r.json")
    except InputError as error:
        assert str(error).startswith("r.json is "), error
        assert "\n" not in str(error)
        return True
    return False


def kind(place: Place) -> Place:
    """The place without the numbers of list entries, the backends and the tasks: what it is a case of."""
    names = {"pytorch", "onnx", "int8", "control", "mood", "sentiment", "emotion", "intent"}
    return tuple("[]" if isinstance(key, int) else "*" if key in names else key for key in place)


def trusted() -> list[Place]:
    """The places that docs/receipt.md lists as taken on trust."""
    text = (ROOT / "docs" / "receipt.md").read_text(encoding="utf-8")
    table = text.split("taken on trust**", 1)[1].split("\n\n", 2)[1]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return [tuple(re.findall(r"\[\]|[^.\[]+", one)) for cell in cells for one in re.findall("`([^`]+)`", cell)]


TRUSTED = trusted()


def is_trusted(place: Place) -> bool:
    keys = ["[]" if isinstance(key, int) else key for key in place]
    return any(
        len(keys) == len(one)
        and all(
            key == part if "[]" in (key, part) else fnmatchcase(key, part) for key, part in zip(keys, one, strict=True)
        )
        for one in TRUSTED
    )


def test_trusted_fields_are_few_and_not_computed(receipts: dict[str, Receipt]) -> None:
    assert 20 < len(TRUSTED) < 50
    places = {place for receipt in receipts.values() for place, value in leaves(receipt) if is_number(value)}
    assert not any(is_trusted(place) for place in places if place[0] == "results")
    for one in TRUSTED:
        assert any(len(place) == len(one) and is_trusted(place) for place in places), one


@pytest.mark.parametrize("name", ["small", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES)])
def test_unchanged_receipt_is_accepted(receipts: dict[str, Receipt], name: str) -> None:
    assert parse_receipt(json.dumps(receipts[name]).encode(), name) == receipts[name]


@pytest.mark.parametrize("name", ["small", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES)])
def test_every_changed_figure_differs_from_the_computed_one(receipts: dict[str, Receipt], name: str) -> None:
    recorded, worked_out = receipts[name]["results"], results(receipts[name])
    assert first_difference(recorded, worked_out) is None
    count = 0
    for place, value in leaves(recorded):
        parent, expected, key = at(recorded, place[:-1]), at(worked_out, place[:-1]), place[-1]
        for other in changes(value):
            parent[key] = other
            # Of the parent alone: to walk the whole tree for each of some thousand figures takes minutes.
            assert first_difference(parent, expected), (place, value, other)
            count += 1
        parent[key] = value
    assert first_difference(recorded, worked_out) is None
    assert count > 1000


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_changed_figure_of_every_kind_is_rejected(receipts: dict[str, Receipt], step: int) -> None:
    receipt = receipts["small"]
    one_of_each = {kind(place): (place, value) for place, value in leaves(receipt["results"])}
    assert len(one_of_each) > 60
    for place, value in list(one_of_each.values())[::step]:
        other = random.Random(str(place)).choice(changes(value))
        assert is_refused(changed(receipt, ("results", *place), other)), (place, value, other)


@pytest.mark.parametrize(
    "place",
    [
        ("speedup", "int8", "value"),
        pytest.param(("shapes", 0, "interval_ms", "onnx", 0), marks=pytest.mark.slow),
        pytest.param(("paired", "sentiment", "int8", "delta_accuracy_bootstrap", "low"), marks=pytest.mark.slow),
        pytest.param(("accuracy", "sentiment", "int8", "per_class", 0, "precision"), marks=pytest.mark.slow),
    ],
)
def test_changed_figure_of_a_recorded_receipt_is_rejected(receipts: dict[str, Receipt], place: Place) -> None:
    value = at(receipts["sentiment"]["results"], place)
    assert is_refused(changed(receipts["sentiment"], ("results", *place), value * 1.01))


@pytest.mark.slow
def test_every_changed_untrusted_number_is_rejected(receipts: dict[str, Receipt]) -> None:
    receipt, count = receipts["small"], 0
    for place, value in list(leaves(receipt)):
        if is_number(value) and place[0] != "results" and not is_trusted(place):
            for other in changes(value):
                assert is_refused(changed(receipt, place, other)), (place, value, other)
                count += 1
    assert count > 400


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sentiment", "showcase"])
def test_changed_untrusted_number_of_every_kind_is_rejected(receipts: dict[str, Receipt], name: str) -> None:
    places: dict[Place, list[Place]] = {}
    for place, value in leaves(receipts[name]):
        if is_number(value) and place[0] != "results" and not is_trusted(place):
            places.setdefault(kind(place), []).append(place)
    assert len(places) > 20
    for one in places.values():
        place = random.Random(name).choice(one)
        value = at(receipts[name], place)
        for other in changes(value):
            assert is_refused(changed(receipts[name], place, other)), (place, value, other)


RAW = [
    *(("latency", "blocks", None, part) for part in ("total_ns", "tokenize_ns", "forward_ns")),
    ("other_threads", 0, "blocks", None, "total_ns"),
    ("throughput", "samples", None, "total_ns"),
    ("shapes", None, "forward_ns"),
    ("backends", "int8", "files", "int8.bin", "bytes"),
    ("backends", "int8", "libraries", "numpy"),
    *(("backends", "int8", "starts", None, part) for part in ("import_s", "load_s", "first_answer_s")),
    ("backends", "int8", "memory", None, "peak_bytes"),
    ("backends", "int8", "predictions", "mood", "confidence"),
    ("backends", "int8", "predictions", "mood", "max_abs_dp"),
]


@pytest.mark.parametrize("place", RAW, ids=lambda place: "/".join(map(str, place)).replace("None", "[]"))
def test_changed_raw_numbers_contradict_the_figures(place: Place) -> None:
    """Five hundredths less everywhere, as a faster or smaller INT8 would have."""
    receipt = small()

    def scale(value: Any) -> Any:
        return [scale(one) for one in value] if isinstance(value, list) else type(value)(value * 0.95)

    def walk(value: Any, keys: Place) -> None:
        if keys[0] is None:
            for one in value:
                if one.get("arm", "int8") == "int8":
                    walk(one, keys[1:])
        elif len(keys) == 1:
            value[keys[0]] = scale(value[keys[0]])
        else:
            walk(value[keys[0]], keys[1:])

    walk(receipt, place)
    assert receipt["results"] != results(receipt)
    assert is_refused(json.dumps(seal(receipt)).encode())


@pytest.mark.parametrize(
    ("field", "step"),
    [("label_ids", 5), *(pytest.param(one, 1, marks=pytest.mark.slow) for one in ("label_ids", "labels"))],
)
def test_one_changed_answer_is_rejected(receipts: dict[str, Receipt], field: str, step: int) -> None:
    receipt = copy.deepcopy(receipts["small"])
    ids = receipt["data"]["labels"]["mood"]
    if field == "label_ids":
        ids = receipt["backends"]["int8"]["predictions"]["mood"]["label_ids"]
    for row, label in list(enumerate(ids))[::step]:
        ids[row] = (label + 1) % 3
        assert is_refused(json.dumps(seal(receipt)).encode()), row
        ids[row] = label


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("latency", "blocks", 0, "disturbed"), True, "does not cover every process"),
        (("latency", "blocks", 0, "arm"), "int8", "does not cover every process"),
        (("latency", "blocks", 0, "total_ns", 0), 1, "contradict the plan or the clock"),
        (("latency", "warm_up"), [{}], "latency/warm_up does not cover every process"),
        (("settings", "best_threads"), False, "other_threads does not follow the plan"),
        (("settings", "launches"), 10**9, "more than 10,000 timed calls"),
        (("settings", "seed"), 7, "latency/rows are not the rows that the seed draws"),
        (("settings", "launches"), 2.0, "at settings/launches: 2.0 is not of type 'integer'"),
        (("data", "row_numbers", 3), 3, "not rows of the file in ascending order"),
        (("data", "rows_in_file"), 39, "not rows of the file in ascending order"),
        (("data", "tokens", 0), 65, "more tokens than the model's limit"),
        (("data", "truncated"), 1, "counts rows that are below the token limit"),
        (("data", "texts", 1), "text 0", "data/copies does not match the texts"),
        (("backends", "int8", "predictions", "mood", "max_abs_dp"), 0.0, "max_abs_dp of int8 on mood"),
        (("backends", "pytorch", "predictions", "mood", "max_abs_dp"), 0.1, "max_abs_dp of pytorch on mood"),
        (("backends", "int8", "memory", 0, "resident_bytes"), 10**12, "uses more memory than its peak"),
        (("backends", "int8", "batch_flips", "tasks", "mood"), 11, "batch_flips of int8"),
        (("backends", "int8", "quantized", "held"), False, "the recipe of int8 is not the last one tried"),
        (
            ("backends", "int8", "quantized", "tried", 0, "batch_flips"),
            1,
            "the recipe of int8 is not the last one tried",
        ),
        (("model", "tasks", "mood", "labels"), ["a", "b"], "an unknown label"),
        (("results", "speedup", "int8", "different"), False, "results/speedup/int8/different is False, but True"),
        (("results", "shapes"), [], "results/shapes has 0 entries, but 10 follow"),
        (("results", "control", "more"), 1.0, "results/control has missing or unexpected figures: more"),
    ],
)
def test_contradictions_are_named(receipts: dict[str, Receipt], place: Place, value: Any, message: str) -> None:
    receipt = copy.deepcopy(receipts["small"])
    at(receipt, place[:-1])[place[-1]] = value
    with pytest.raises(InputError, match=re.escape(message)):
        parse_receipt(json.dumps(seal(receipt)).encode(), "r.json")


@pytest.mark.parametrize("marks", [{"disturbed": True}, {"slowdown": 1.5}, {"steal": 0.2}])
def test_round_that_contradicts_its_marks_is_rejected(receipts: dict[str, Receipt], marks: dict[str, Any]) -> None:
    receipt = copy.deepcopy(receipts["small"])
    for block in receipt["latency"]["blocks"][:3]:
        block |= marks
    with pytest.raises(InputError, match="`disturbed` contradicts its steal and slowdown"):
        parse_receipt(json.dumps(seal(receipt)).encode(), "r.json")


def test_error_names_other_library_versions(receipts: dict[str, Receipt]) -> None:
    receipt = copy.deepcopy(receipts["small"])
    receipt["versions"]["numpy"] = "1.0"
    receipt["results"]["control"]["high"] *= 1.01
    with pytest.raises(InputError, match=r"follows from the measurement \(made with numpy 1.0, .*; checked with numpy"):
        parse_receipt(json.dumps(seal(receipt)).encode(), "r.json")


def test_every_reader_rejects_a_resealed_figure(
    receipts: dict[str, Receipt], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_bytes(json.dumps(receipts["small"]).encode())
    value = receipts["small"]["results"]["speedup"]["int8"]["value"]
    bad.write_bytes(changed(receipts["small"], ("results", "speedup", "int8", "value"), value * 1.01))
    assert main(["receipt", "check", str(good)]) == 0
    assert capsys.readouterr().out == f"{good}: all figures follow from its samples and answers.\n"
    for command in (
        ["receipt", "check", str(good), str(bad)],
        ["receipt", "show", str(bad)],
        ["receipt", "diff", str(good), str(bad)],
        ["verdict", str(bad)],
    ):
        assert main(command) == 2
        assert "results/speedup/int8/value is " in capsys.readouterr().err
    assert report.main([str(bad), "--out", str(tmp_path / "report.html")]) == 2
    assert "results/speedup/int8/value is " in capsys.readouterr().err
    with pytest.raises(InputError, match="results/speedup/int8/value"):
        shelf.load(bad)
    assert not (tmp_path / "report.html").exists()
