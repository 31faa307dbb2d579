"""What a static page shows beside the model: design tokens, names that Python decides, the recorded comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dashboard.report_page import basic_plotly, report
from inference.assets import ASSETS
from inference.backends import RUNTIMES
from inference.compare.overall import MAX_MEASUREMENTS, decide_overall, left_out_in_words, others_in_words
from inference.compare.receipt import peek_receipt, read_receipt
from inference.compare.summary import provenance
from inference.compare.verdict import ShipLimits
from inference.formats.bundle import Bundle
from inference.tables.table import LABEL_NAMES, TEXT_NAMES
from ui.look import SCRIPTS, look, read, tokens

RECEIPTS = ASSETS / "receipts"
HOME = "./"  # of the report's link back

Receipt = Mapping[str, Any]


def page_files(bundle: Bundle, receipts: Path = RECEIPTS) -> dict[str, bytes]:
    """Return tokens.css, shared scripts, page.json, and comparison.html if this model has been measured.

    Args:
        receipts: folder of the measurements, of which those of this very model are shown.

    Raises:
        InputError: a measurement is damaged, or the library of the charts cannot be fetched.
    """
    paths = [path for path in sorted(receipts.glob("*.json")) if _is_of(path, bundle)][:MAX_MEASUREMENTS]
    recorded = {path.name: read_receipt(path) for path in paths}
    page = {
        "runtimes": {name: {"title": runtime.title, "glyph": runtime.glyph} for name, runtime in RUNTIMES.items()},
        "text_names": TEXT_NAMES,
        "label_names": LABEL_NAMES,
        "recorded": summary(recorded) if recorded else None,
    }
    files = {"tokens.css": tokens() + look(), "page.json": json.dumps(page, ensure_ascii=False)}
    files |= {name: read(name) for name in SCRIPTS}
    if recorded:
        files["comparison.html"] = report(list(recorded.values()), library=basic_plotly(), home=HOME)
    return {name: content.encode() for name, content in files.items()}


def summary(receipts: Mapping[str, Receipt]) -> dict[str, Any] | None:
    """Return what to ship in a few words, and a small table of a measurement that counts; None if none has times.

    Args:
        receipts: by the names of their files, which are returned with their numbers of rows and of texts.
    """
    overall = decide_overall(receipts, ShipLimits())
    largest = overall.largest_timed()
    if largest is None:
        return None
    results, settings = largest["results"], largest["settings"]
    rows = [
        {
            "runtime": name,
            "p50_ms": results["latency"][name]["p50_ms"]["value"],
            "model_bytes": results["size"][name]["model_bytes"],
        }
        for name in settings["backends"]
    ]
    counts = {
        name: [len(one["data"]["row_numbers"]), len(one["data"]["texts"] or ())] for name, one in receipts.items()
    }
    parts = f"{overall.headline}: {overall.because}", others_in_words(overall), left_out_in_words(overall)
    return {"sentence": " ".join(filter(None, parts)), "rows": rows, "source": provenance(largest), "receipts": counts}


def _is_of(path: Path, bundle: Bundle) -> bool:
    return dict(peek_receipt(path)["model"]["files"]) == dict(bundle.files)
