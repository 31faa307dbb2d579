"""What a static page shows beside the model: design tokens, names that Python decides, the recorded comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dashboard.report_page import basic_plotly, report
from inference.assets import ASSETS
from inference.backends import RUNTIMES
from inference.compare.overall import decide_overall, is_timed, others_in_words
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
    paths = [path for path in sorted(receipts.glob("*.json")) if _is_of(path, bundle)]
    recorded = {path.name: read_receipt(path) for path in paths}
    page = {
        "runtimes": {name: {"title": runtime.title, "glyph": runtime.glyph} for name, runtime in RUNTIMES.items()},
        "text_names": TEXT_NAMES,
        "label_names": LABEL_NAMES,
        "recorded": summary(recorded) if any(map(is_timed, recorded.values())) else None,
    }
    files = {"tokens.css": tokens() + look(), "page.json": json.dumps(page, ensure_ascii=False)}
    files |= {name: read(name) for name in SCRIPTS}
    if recorded:
        files["comparison.html"] = report(list(recorded.values()), library=basic_plotly(), home=HOME)
    return {name: content.encode() for name, content in files.items()}


def summary(receipts: Mapping[str, Receipt]) -> dict[str, Any]:
    """Return what to ship in a few words, and a small table, from the receipt with times that has the most rows.

    Args:
        receipts: by the names of their files, which are returned with their numbers of rows and of texts.
    """
    largest = max(filter(is_timed, receipts.values()), key=lambda receipt: len(receipt["data"]["row_numbers"]))
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
    overall = decide_overall(receipts, ShipLimits())
    sentence = f"{overall.headline}: {overall.because} {others_in_words(overall)}".rstrip()
    return {"sentence": sentence, "rows": rows, "source": provenance(largest), "receipts": counts}


def _is_of(path: Path, bundle: Bundle) -> bool:
    return dict(peek_receipt(path)["model"]["files"]) == dict(bundle.files)
