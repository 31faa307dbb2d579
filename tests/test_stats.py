"""Intervals and tests against values worked out by hand, by another way, or by drawing many times."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize
from sklearn.metrics import f1_score

from inference.compare import stats


@pytest.mark.parametrize(("percentile", "least"), [(50, 11), (90, 64), (95, 130), (99, 662)])
def test_enough_samples_for_a_percentile(percentile: int, least: int) -> None:
    assert not stats.enough_samples(least - 1, percentile)
    assert stats.enough_samples(least, percentile)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    # 12 rows differ, 10 and 2: twice the lower tail of 12 coin tosses, 2 * (1 + 12 + 66) / 4096.
    assert stats.mcnemar(10, 2) == pytest.approx(2 * 79 / 4096)
    assert stats.mcnemar(0, 0) == 1.0
    assert stats.mcnemar(0, 5) == pytest.approx(2 / 32)


def test_a_share_has_the_wilson_interval() -> None:
    estimate = stats.share(90, 100)
    z, p, n = 1.959964, 0.9, 100
    centre, half = (
        (p + z * z / 2 / n) / (1 + z * z / n),
        z / (1 + z * z / n) * math.sqrt(p * 0.1 / n + z * z / 4 / n / n),
    )
    assert (estimate.low, estimate.high) == pytest.approx((centre - half, centre + half), abs=1e-6)


@pytest.mark.parametrize(("broken", "fixed", "rows"), [(12, 2, 100), (4, 5, 872), (0, 3, 60), (7, 0, 44)])
def test_tangos_interval_ends_where_the_score_test_rejects(broken: int, fixed: int, rows: int) -> None:
    """The score statistic with the constrained likelihood maximised numerically is just z at both ends."""

    def statistic(delta: float) -> float:
        def loss(q: float) -> float:  # q: share of rows that only the first has right, q + delta: only the second
            return -sum(
                count * math.log(share)
                for count, share in ((broken, q), (fixed, q + delta), (rows - broken - fixed, 1 - 2 * q - delta))
                if count
            )

        low, high = max(0.0, -delta), (1 - delta) / 2
        q = optimize.minimize_scalar(
            loss, bounds=(low + 1e-12, high - 1e-12), method="bounded", options={"xatol": 1e-12}
        ).x
        return (fixed - broken - rows * delta) / math.sqrt(rows * (2 * q + delta - delta * delta))

    estimate = stats.paired_difference(broken, fixed, rows, level=0.95)
    assert statistic(estimate.low) == pytest.approx(1.96, abs=0.01)
    assert statistic(estimate.high) == pytest.approx(-1.96, abs=0.01)
    assert estimate.low < estimate.value < estimate.high


def test_interval_of_rows_that_all_agree_depends_on_their_number() -> None:
    # Were one row in n truly broken, none of 50 would show it with probability (1 - p)^50 = 5%.
    assert stats.paired_difference(0, 0, 50).low == pytest.approx(-(1 - 0.05 ** (1 / 50)))
    assert stats.paired_difference(0, 0, 5000).low == pytest.approx(-0.0006, abs=1e-5)
    assert stats.accuracy_bootstrap(0, 0, 50, seed=0) == stats.Estimate(0, 0, 0)  # why the bootstrap does not decide


def test_loss_at_the_margin_passes_in_at_most_one_of_twenty_trials() -> None:
    rng = np.random.default_rng(7)
    # Truly 2% worse, and that is the margin: 4% of rows broken, 2% fixed.
    draws = rng.multinomial(1500, [0.04, 0.02, 0.94], size=600)
    passed = sum(stats.paired_difference(int(b), int(f), 1500).low > -0.02 for b, f, _ in draws)
    assert passed / 600 < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 600)


def test_the_same_classifier_twice_is_not_called_different() -> None:
    """200 seeded trials: the second disagrees with the first on about 3% of rows, right as often as wrong."""
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(200):
        broken, fixed, _ = rng.multinomial(900, [0.015, 0.015, 0.97])
        called += stats.mcnemar(int(broken), int(fixed)) < 0.05
    assert called <= 10


def test_the_bootstrap_of_accuracy_agrees_with_drawing_rows() -> None:
    difference = np.repeat([-1.0, 1.0, 0.0], [30, 12, 458])
    rng = np.random.default_rng(3)
    drawn = [rng.choice(difference, 500).mean() for _ in range(3000)]
    estimate = stats.accuracy_bootstrap(30, 12, 500, seed=0)
    assert estimate.value == pytest.approx(-18 / 500)
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.003)


@pytest.mark.slow
def test_the_bootstrap_of_macro_f1_agrees_with_scikit_learn_on_drawn_rows() -> None:
    rng = np.random.default_rng(5)
    true = rng.integers(3, size=300)
    first = np.where(rng.random(300) < 0.8, true, rng.integers(3, size=300))
    second = np.where(rng.random(300) < 0.9, first, rng.integers(3, size=300))

    def macro(rows: np.ndarray, answers: np.ndarray) -> float:
        return float(f1_score(true[rows], answers[rows], average="macro"))

    every = np.arange(300)
    drawn = [
        (macro(i, second), macro(i, second) - macro(i, first))
        for i in (rng.integers(300, size=300) for _ in range(600))
    ]
    own, gain = stats.macro_f1_bootstrap(true, first, second, 4, seed=0)  # a fourth label that never occurs
    assert own.value == pytest.approx(macro(every, second))
    assert gain.value == pytest.approx(macro(every, second) - macro(every, first))
    for estimate, column in ((own, 0), (gain, 1)):
        assert (estimate.low, estimate.high) == pytest.approx(
            np.quantile([d[column] for d in drawn], [0.025, 0.975]), abs=0.012
        )


def test_labels_missing_from_a_draw_do_not_lower_macro_f1() -> None:
    true = np.arange(100)  # one row each: a third of the labels is missing from every draw
    assert stats.macro_f1_bootstrap(true, true, true, 100, seed=0)[0] == stats.Estimate(1, 1, 1)
    worse = true.copy()
    worse[:20] = (worse[:20] + 1) % 100
    for estimate in stats.macro_f1_bootstrap(true, true, worse, 100, seed=0):
        assert estimate.low < estimate.value < estimate.high


def test_rows_needed_follow_the_rule_of_thumb() -> None:
    # 2% of rows differ: about 1,240 rows for 1 percentage point, 4,950 for half a point.
    assert stats.rows_to_settle(10, 10, 1000, 0.01) == 1237
    assert stats.rows_to_settle(10, 10, 1000, 0.005) == 4947
    assert stats.rows_to_settle(0, 0, 50, 0.005) == 4947  # none seen in 50 is taken as one in 50
    assert stats.rows_to_settle(0, 0, 500, 0.005) == 598  # the formula says 495, which would not do
    assert stats.rows_to_settle(5, 0, 1000, 0.005) is None


def test_percentiles_ignore_nan() -> None:
    blocks = np.array([[1.0, 2.0, np.nan], [3.0, 4.0, 100.0]])
    draws = stats.Draws(np.array([[0, 1]]), 1.0)
    (estimate,) = stats.percentile_intervals(blocks, draws, [50])
    assert estimate.value == estimate.low == estimate.high == 3.0
    (p90,) = stats.percentile_intervals(blocks, draws, [90])
    assert p90.value == pytest.approx(np.percentile([1, 2, 3, 4, 100], 90))


def test_blocks_are_drawn_within_the_starts_that_were_drawn() -> None:
    draws = stats.resample_blocks([0, 0, 1, 1, 2, 2], np.random.default_rng(0), 500)
    assert draws.blocks.shape == (500, 6)
    assert draws.stretch == pytest.approx(4.303 / 1.96 * math.sqrt(3 / 2), abs=1e-3)  # Student's t with 2 degrees
    starts = draws.blocks // 2
    # Each line is three picks of a start, two blocks of it each.
    assert (starts[:, 0::2] == starts[:, 1::2]).all()
    assert {len(set(line)) for line in starts.tolist()} == {1, 2, 3}


def test_coverage_of_the_interval_of_a_median() -> None:
    """Six starts, each with a luck of its own, four rounds of 32 texts: the true median is inside 95 times of 100."""
    rng = np.random.default_rng(11)
    inside = 0
    for trial in range(200):
        luck = np.repeat(rng.normal(0, 0.04, 6), 4)[:, None]
        blocks = np.exp(luck + rng.normal(0, 0.4, (24, 32)))
        draws = stats.resample_blocks(np.repeat(range(6), 4).tolist(), np.random.default_rng(trial), 300)
        (estimate,) = stats.percentile_intervals(blocks, draws, [50])
        inside += estimate.low < 1 < estimate.high
    assert inside >= 186  # 190 less two standard deviations and a little


@pytest.mark.slow
@pytest.mark.parametrize("luck", [0.0, 0.05])
def test_a_speed_up_of_noise_is_not_called_different(luck: float) -> None:
    """A/A, 200 seeded trials: two backends of one speed and the control, each start of each with a luck of its own."""
    from inference.compare.results import exceeds_noise

    rng = np.random.default_rng(2)
    called = 0
    for trial in range(200):
        a, b, control = (
            np.exp(np.repeat(rng.normal(0, luck, 6), 4)[:, None] + rng.normal(0, 0.1, (24, 32))) for _ in range(3)
        )
        draws = stats.resample_blocks(np.repeat(range(6), 4).tolist(), np.random.default_rng(trial), 300)
        own = stats.ratio_interval(a, control, draws)
        called += exceeds_noise(stats.ratio_interval(a, b, draws), max(own.high, 1 / own.low))
    assert called <= 10


@pytest.mark.parametrize(
    ("low", "high", "different"), [(1.2, 1.5, True), (1.05, 1.5, False), (0.95, 1.3, False), (0.7, 0.8, True)]
)
def test_speeds_differ_when_their_ratio_lies_beyond_the_noise_on_one_side(
    low: float, high: float, different: bool
) -> None:
    from inference.compare.results import exceeds_noise

    assert exceeds_noise(stats.Estimate(1.0, low, high), 1.1) is different


def test_a_true_speed_up_is_found() -> None:
    rng = np.random.default_rng(4)
    slow, fast = (scale * np.exp(rng.normal(0, 0.1, (24, 20))) for scale in (3.0, 1.0))
    estimate = stats.ratio_interval(slow, fast, stats.resample_blocks([0] * 24, rng))
    assert estimate.low < 3 < estimate.high
    assert estimate.high - estimate.low < 0.3


def test_calibration_error_is_the_mean_gap_weighted_by_rows() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False, True, False])
    error, bins = stats.calibration(confidence, right, bins=10)
    # Four rows say 0.95 and 3/4 are right; two say 0.55 and 1/2 are right.
    assert error == pytest.approx((4 * 0.20 + 2 * 0.05) / 6)
    assert [(b["rows"], b["low"]) for b in bins] == [(2, pytest.approx(0.5)), (4, pytest.approx(0.9))]


def test_a_confidence_of_one_falls_into_the_last_bin() -> None:
    error, bins = stats.calibration(np.array([1.0, 1.0]), np.array([True, True]))
    assert error == 0
    assert bins == [{"low": pytest.approx(14 / 15), "high": 1.0, "rows": 2, "confidence": 1.0, "accuracy": 1.0}]


def test_coverage_and_the_accuracy_of_what_is_covered() -> None:
    confidence, right = np.array([0.9, 0.5, 0.7, 0.3]), np.array([True, False, True, False])
    coverage, accuracy = stats.coverage_curve(confidence, right, np.array([0.0, 0.5, 0.6, 0.9, 0.95]))
    assert coverage.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert accuracy[:4].tolist() == pytest.approx([0.5, 2 / 3, 1.0, 1.0])
    assert np.isnan(accuracy[4])
