"""What to ship: planted cases whose right verdict is known."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import made
import pytest

from inference.assets import SHOWCASE
from inference.compare.caveats import HARD
from inference.compare.verdict import INCONCLUSIVE, NO, SHIP, ShipLimits, decide


def three(rows: int, wrong: int, flipped: int, **options: object) -> dict:
    """PyTorch with so many wrong rows, ONNX with the same answers, INT8 with some other labels, half of them right."""
    true, given = made.answers(rows, wrong)
    bad = [i for i in range(rows) if true[i] != given[i]][: flipped // 2]
    good = [i for i in range(rows) if true[i] == given[i]][: flipped - flipped // 2]
    return made.receipt(true, {"pytorch": given, "onnx": given, "int8": made.flip(given, {*bad, *good})}, **options)


def test_backends_that_agree_on_enough_rows_ship() -> None:
    verdict = decide(three(5000, 500, 40))
    assert {name: one.decision for name, one in verdict.backends.items()} == dict.fromkeys(made.MS, SHIP)
    assert verdict.exit_code() == 0
    assert verdict.sentence.startswith("Ship INT8: 6.0× as fast as PyTorch (2.00 ms instead of 12.0 ms per text), 17")
    assert {s: c.backend for s, c in verdict.recommended.items()} == {
        "CPU service": "int8",
        "GPU service": None,
        "serverless": "int8",
        "edge": "int8",
        "notebook": "pytorch",
    }


@pytest.mark.parametrize(("ms", "best"), [(1.0, "fourth"), (7.0, "onnx")])
def test_further_runtime_is_judged_like_int8_and_shipped_if_it_is_the_fastest(
    ms: float, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.add_runtime(monkeypatch)
    true, given = made.answers(5000, 500)
    wrong = [i for i in range(5000) if true[i] != given[i]]
    answers = {"pytorch": given, "onnx": given, "fourth": made.flip(given, wrong[:3])}
    verdict = decide(made.receipt(true, answers, ms=made.FOUR | {"fourth": ms}))
    assert list(verdict.backends) == ["pytorch", "onnx", "fourth"]
    assert verdict.backends["fourth"].decision == SHIP
    assert verdict.recommended["CPU service"].backend == best
    broken = answers | {"fourth": [1] * 5000}
    assert decide(made.receipt(true, broken, ms=made.FOUR)).backends["fourth"].decision == NO


def test_backend_with_a_constant_answer_is_rejected() -> None:
    true, given = made.answers(600, 60)
    verdict = decide(made.receipt(true, {"pytorch": given, "onnx": given, "int8": [1] * 600}))
    assert verdict.backends["int8"].decision == NO
    assert any("gives the same label to all" in reason.text for reason in verdict.backends["int8"].reasons)
    assert verdict.backends["onnx"].decision == SHIP
    assert verdict.exit_code() == 1
    assert verdict.exit_code("onnx") == 0
    assert verdict.recommended["CPU service"].backend == "onnx"
    assert "Not INT8" in verdict.sentence


def test_four_broken_rows_of_fifty_are_inconclusive() -> None:
    true, given = made.answers(50, 5)
    right = [i for i in range(50) if true[i] == given[i]]
    for broken in (3, 4):  # the exact test says p = 0.125 and 0.0625
        flipped = made.flip(given, set(right[:broken]))
        assert decide(made.receipt(true, {"pytorch": given, "int8": flipped})).backends["int8"].decision == INCONCLUSIVE


@pytest.mark.parametrize("flipped", [0, 2])
def test_fifty_rows_are_inconclusive(flipped: int) -> None:
    verdict = decide(three(50, 5, flipped))
    assert {verdict.backends[name].decision for name in ("onnx", "int8")} == {INCONCLUSIVE}
    assert verdict.exit_code() == 3
    needed = verdict.backends["int8"].rows_needed
    assert needed is not None and needed > 4000
    words = f"about {needed:,} labelled rows in all would settle whether accuracy on mood stays within the limit"
    assert f"INT8 is inconclusive: {words}." in verdict.sentence
    assert verdict.backends["int8"].reasons[0].text.endswith(f"; {words}")


def test_runtime_that_is_the_same_to_rounding_ships_on_few_rows() -> None:
    receipt = three(50, 5, 0)
    for gap, decision in ((1e-4, SHIP), (1.1e-4, INCONCLUSIVE)):
        receipt["results"]["paired"]["mood"]["onnx"]["max_abs_dp"] = gap
        verdict = decide(receipt)
        assert verdict.backends["onnx"].decision == decision
    receipt["results"]["paired"]["mood"]["onnx"]["max_abs_dp"] = 1e-6
    verdict = decide(receipt)
    assert verdict.sentence.startswith("Ship ONNX: ")
    assert "numerically the same." in verdict.sentence
    assert verdict.backends["onnx"].reasons[0].text == (
        "mood: numerically the same as PyTorch: all 50 labels are equal, and no probability differs by more than 0.0001"
    )
    receipt["results"]["paired"]["mood"]["onnx"]["flips"] = 1
    assert decide(receipt).backends["onnx"].decision == INCONCLUSIVE


def test_reference_is_not_shipped_but_may_be_ruled_out() -> None:
    receipt = three(5000, 500, 40)
    assert decide(receipt).in_words("pytorch") == "the reference"
    assert decide(receipt).in_words("int8") == SHIP
    assert decide(receipt, ShipLimits(max_size_mb=1e-6)).in_words("pytorch") == NO


def test_rows_needed_are_enough_to_settle_the_verdict() -> None:
    few = decide(three(800, 80, 16))
    assert few.backends["int8"].decision == INCONCLUSIVE
    assert decide(three(2 * few.backends["int8"].rows_needed, 80, 16)).backends["int8"].decision == SHIP


def test_real_loss_is_rejected_unless_the_limit_allows_it() -> None:
    true, given = made.answers(3000, 300)
    right = [i for i in range(3000) if true[i] == given[i]]
    worse = made.receipt(true, {"pytorch": given, "int8": made.flip(given, set(right[:60]))})  # 2 pp
    assert decide(worse).backends["int8"].decision == NO
    assert decide(worse, ShipLimits(max_drop=0.03)).backends["int8"].decision == SHIP


def test_rows_with_a_single_label_are_inconclusive() -> None:
    true, given = [1] * 900, [0] * 90 + [1] * 810
    constant = decide(made.receipt(true, {"pytorch": given, "int8": [1] * 900})).backends["int8"]
    assert constant.decision == NO
    same = decide(made.receipt(true, {"pytorch": given, "int8": given})).backends["int8"]
    assert same.decision == INCONCLUSIVE
    assert "rows with other labels are needed" in same.reasons[0].text


def test_duplicate_rows_are_inconclusive() -> None:
    true, given = made.answers(2000, 200)
    copied = made.receipt(true, {"pytorch": given, "int8": given})
    copied["data"]["copies"] = 1800
    verdict = decide(copied).backends["int8"]
    assert verdict.decision == INCONCLUSIVE
    assert "duplicates, which add no evidence" in verdict.reasons[0].text


def test_identical_classifiers_are_rarely_called_worse() -> None:
    """200 seeded A/A trials: answers that differ at random on 3% of rows, right as often as not."""
    import numpy as np

    from inference.compare import stats

    rng = np.random.default_rng(8)
    refused = 0
    for _ in range(200):
        broken, fixed, _ = (int(n) for n in rng.multinomial(900, [0.015, 0.015, 0.97]))
        change = stats.paired_difference(broken, fixed, 900)
        refused += change.high < -0.005 and broken > fixed and stats.mcnemar(broken, fixed) / 2 < 0.05
    assert refused <= 10


def test_lost_label_is_rejected_despite_a_small_drop_in_accuracy() -> None:
    true = [0] * 4900 + [1] * 100
    given = list(true)
    lost = [0] * 4910 + [1] * 90  # a tenth of a rare label: 0.2 pp of accuracy
    verdict = decide(made.receipt(true, {"pytorch": given, "int8": lost})).backends["int8"]
    assert verdict.decision == NO
    assert [reason.decision for reason in verdict.reasons] == [SHIP, NO]
    assert "macro-F1" in verdict.reasons[1].text


@pytest.mark.parametrize(
    ("limits", "decision"),
    [
        (ShipLimits(max_p95_ms=5), SHIP),
        (ShipLimits(max_p95_ms=1), NO),
        (ShipLimits(max_p95_ms=2.0675), INCONCLUSIVE),
        (ShipLimits(max_size_mb=16), SHIP),
        (ShipLimits(max_size_mb=15.9), NO),
        (ShipLimits(max_flips=40), SHIP),
        (ShipLimits(max_flips=39), NO),
        (ShipLimits(min_speedup=5), SHIP),
        (ShipLimits(min_speedup=7), NO),
        (ShipLimits(min_speedup=6.0), INCONCLUSIVE),
        (ShipLimits(min_speedup=5.97), INCONCLUSIVE),  # within what two processes of one backend differ by
    ],
)
def test_each_limit_decides(limits: ShipLimits, decision: str) -> None:
    verdict = decide(three(5000, 500, 40), limits).backends["int8"]
    assert verdict.decision == decision
    assert verdict.reasons[-1].decision == decision


@pytest.mark.parametrize(
    ("limits", "field", "step"),
    [
        (ShipLimits(max_drop=0.001), "max_drop", -0.001),
        (ShipLimits(max_p95_ms=1), "max_p95_ms", -0.01),
        (ShipLimits(max_p95_ms=2.0675), "max_p95_ms", -0.01),
        (ShipLimits(max_size_mb=15.9), "max_size_mb", -0.1),
        (ShipLimits(max_flips=3), "max_flips", -1),
        (ShipLimits(min_speedup=7), "min_speedup", 0.1),
    ],
)
def test_nearest_limit_passes_and_no_nearer_one_does(limits: ShipLimits, field: str, step: float) -> None:
    receipt = three(5000, 500, 40)
    (reason,) = [one for one in decide(receipt, limits).backends["int8"].reasons if one.nearest is not None]
    assert reason.limit == field
    assert decide(receipt, replace(limits, **{field: reason.nearest})).backends["int8"].decision == SHIP
    assert decide(receipt, replace(limits, **{field: reason.nearest + step})).backends["int8"].decision != SHIP


def test_no_limit_is_suggested_that_would_not_help_or_is_absurd() -> None:
    assert not [one for one in decide(three(50, 5, 2)).backends["int8"].reasons if one.nearest is not None]
    copies = three(5000, 500, 40)
    copies["data"]["copies"] = 2500
    assert "would pass" not in decide(copies, ShipLimits(max_drop=0.001)).backends["int8"].reasons[0].text


def test_p95_limit_is_inconclusive_with_too_few_texts() -> None:
    short = three(5000, 500, 40, launches=1, rounds=2, calls=20)
    verdict = decide(short, ShipLimits(max_p95_ms=50)).backends["int8"]
    assert verdict.decision == INCONCLUSIVE
    assert verdict.rows_needed is None  # labelled rows would not help
    assert "p95 needs at least 130 different texts; 40 were timed. Measure more rows" in verdict.reasons[-1].text


def test_more_exact_backend_is_recommended_at_equal_speed() -> None:
    even = three(5000, 500, 40, ms={"pytorch": 12.0, "onnx": 2.0, "int8": 1.9}, jitter=0.2)
    verdict = decide(even).recommended["CPU service"]
    assert verdict.backend == "onnx"
    assert "INT8 is not measurably faster" in verdict.why


def test_nothing_is_recommended_if_no_backend_meets_the_limits() -> None:
    verdict = decide(three(5000, 500, 40), ShipLimits(max_p95_ms=0.1))
    assert {c.backend for c in verdict.recommended.values()} == {None}
    assert verdict.sentence.startswith("No runtime is known to meet these limits.")


def test_noise_and_batch_flips_are_caveats() -> None:
    noisy = three(5000, 500, 0, jitter=2.0)
    noisy["backends"]["int8"]["batch_flips"]["tasks"]["mood"] = 3
    caveats = " ".join(decide(noisy).caveats)
    assert "The machine is noisy" in caveats
    assert "INT8: 3 of 10 texts get a different label alone than in a batch" in caveats


def test_showcase_is_said_to_be_hard() -> None:
    receipt = three(200, 20, 0)
    assert HARD not in decide(receipt).caveats
    receipt["data"]["sha256"] = hashlib.sha256(SHOWCASE.read_bytes()).hexdigest()
    assert HARD in decide(receipt).caveats


def test_reference_in_bfloat16_is_a_caveat() -> None:
    receipt = made.receipt(*made.answers(200, 20)[:1], {name: made.answers(200, 20)[1] for name in made.MS})
    assert not any("bfloat16" in caveat for caveat in decide(receipt).caveats)
    receipt["settings"]["dtypes"] = {"pytorch": "bfloat16"}
    assert any(
        "PyTorch, the reference that accuracy is compared with, computed in bfloat16" in caveat
        for caveat in decide(receipt).caveats
    )
