"""What a sceptic would ask about a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from inference.assets import SHOWCASE
from inference.backends import TITLES
from inference.compare.benchmark import MAX_SLOWDOWN
from inference.compare.results import unmeasured
from inference.formats.files import sha256

HARD = "The showcase is hard on purpose (irony, mixed feelings, typos): its accuracy says little about other texts."


def caveats(receipt: Mapping[str, Any]) -> list[str]:
    """Return what a sceptic would ask about this receipt."""
    settings, data = receipt["settings"], receipt["data"]
    copies, rows = data["copies"], len(data["row_numbers"])
    notes = [note for note in data["notes"] if not (copies and note.startswith(f"{copies:,} rows repeat "))]
    texts = [note[:1].upper() + note[1:] + "." for note in notes]
    if is_of_showcase(receipt):
        texts.append(HARD)
    if copies:
        texts.append(f"{copies:,} of {rows:,} rows repeat a text.")
    for name, dtype in settings.get("dtypes", {}).items():
        if dtype != "float32":
            role = ", the reference that accuracy is compared with," if name == settings["reference"] else ""
            texts.append(f"{TITLES[name]}{role} computed in {dtype}, which is less exact than float32.")
    if unmeasured(receipt) is None:
        texts += _caveats_on_speed(receipt)
    for name, entry in receipt["backends"].items():
        flips, rows = sum(entry["batch_flips"]["tasks"].values()), entry["batch_flips"]["rows"]
        if flips:
            texts.append(f"{TITLES[name]}: {flips} of {rows:,} texts get a different label alone than in a batch.")
    if data["truncated"]:
        texts.append(f"{data['truncated']:,} texts exceed the model's token limit; the rest of them was not read.")
    return texts


def is_of_showcase(receipt: Mapping[str, Any]) -> bool:
    """Return whether the rows are Triptych's own showcase."""
    return bool(receipt["data"]["sha256"] == _showcase_sha256())


@cache
def _showcase_sha256() -> str:
    return sha256(SHOWCASE) if SHOWCASE.is_file() else ""


def _caveats_on_speed(receipt: Mapping[str, Any]) -> list[str]:
    settings, noise = receipt["settings"], receipt["results"]["control"]["noise"]
    texts = []
    if settings["launches"] == 1:
        texts.append("Every process was started once, so the intervals leave out the variation between starts.")
    slowdowns = [block["slowdown"] for block in receipt["latency"]["blocks"] if not block["disturbed"]]
    slow = sum(slowdown > MAX_SLOWDOWN for slowdown in slowdowns) / len(slowdowns)
    if slow > 0.1:
        texts.append(f"The machine was busy: {slow:.0%} of the rounds that count were timed while it was slow.")
    cold = {arm for start in receipt["latency"]["warm_up"] for arm, state in start.items() if not state["plateau"]}
    if cold:
        names = ", ".join(TITLES.get(arm, f"the second {TITLES[settings['reference']]}") for arm in sorted(cold))
        texts.append(f"In at least one start, the warm-up of {names} ended before its times were stable.")
    if noise > 1.1:
        texts.append(
            f"The machine is noisy: two processes of the same runtime may differ by up to {noise - 1:.0%}. "
            "Smaller gains do not count."
        )
    if receipt["machine"]["steal_share"] > 0.02:
        texts.append(f"The host took {receipt['machine']['steal_share']:.0%} of the CPU time during the run.")
    return texts
