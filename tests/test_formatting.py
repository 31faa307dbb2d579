from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import ROOT

from inference.calls import formatting

VALUES = [0, 1, -1, 0.00049, 0.0005, 0.001, 0.0123, 0.125, 0.5, 0.99949, 0.9996, 0.999999, 1.005, 1.25, 2.5, 5.94]
VALUES += [9.996, 12.0437, 99.95, 999.5, 1234.5, 12345.6, 99_950, 466_247, 24_341_115, 999_960_000, 1_130_664_069]
VALUES += [-0.0004, -0.25, -1.885, -1234.5]


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (formatting.digits, 0.0, "0"),
        (formatting.digits, 12.0437, "12.0"),
        (formatting.digits, -0.00123, "−0.00123"),
        (formatting.digits, 12345.6, "12,346"),
        (formatting.digits, 1e300, f"{int(1e300):,}"),
        (formatting.ms, 1.8549, "1.85 ms"),
        (formatting.percent, 0.70556, "70.6%"),
        (formatting.percent, 1.0, "100%"),
        (formatting.percent, 0.99999, "99.9%"),
        (formatting.percent, 0.0001, "<0.1%"),
        (formatting.percent, 0, "0%"),
        (formatting.points, -0.0004, "−0.04 pp"),
        (formatting.points, 0.0012, "+0.12 pp"),
        (formatting.points, -0.000001, "0 pp"),
        (formatting.times, 5.9432, "5.9×"),
        (formatting.times, 0.423, "0.42×"),
        (formatting.mb, 24_341_115, "24.3 MB"),
        (formatting.mb, 8_105, "8.1 kB"),
        (formatting.mb, 1_130_664_069, "1.1 GB"),
        (formatting.confidence, 0.93691, "0.9369"),
    ],
)
def test_numbers_are_written_as_people_read_them(write: Callable[[float], str], value: float, text: str) -> None:
    assert write(value) == text


def test_lists_are_written_as_people_read_them() -> None:
    assert [formatting.joined(list(parts)) for parts in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
    assert formatting.joined(list("abcd"), most=3) == "a, b and 2 more"
    assert formatting.joined(list("abc"), most=3) == "a, b and c"


def test_the_static_page_writes_numbers_as_python_does(browser: Any) -> None:
    page = browser.new_page()
    written = page.evaluate(
        """async ([source, values]) => {
          const { confidence, digits, duration, mb, percent, signed, times } =
            await import(`data:text/javascript,${encodeURIComponent(source)}`);
          return values.map((v) => [
            digits(v), duration(v), percent(v), times(v), confidence(v), signed(v, 2), v < 0 ? "" : mb(v)]);
        }""",
        [(ROOT / "static/format.js").read_text(encoding="utf-8"), VALUES],
    )
    f = formatting
    assert written == [
        [f.digits(v), f.ms(v), f.percent(v), f.times(v), f.confidence(v), f.fixed(v, 2, "+"), "" if v < 0 else f.mb(v)]
        for v in VALUES
    ]
    page.close()
