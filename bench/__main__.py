"""`python -m bench`: measure, print the tables, and write the record, the page and the picture."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
ROUNDS = 10


def other_machines(record: Path) -> list[dict[str, Any]]:
    """Return the records beside this one: of peers.json, those called peers-NAME.json."""
    paths = sorted(record.parent.glob(f"{record.stem}-*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def main() -> int:
    """Run the bench; return the exit code."""
    p = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--out", type=Path, default=ROOT / "assets" / "peers.json", help="(default: assets/peers.json)")
    p.add_argument("--page", type=Path, default=PAGE, help="whose tables are written (default: docs/performance.md)")
    p.add_argument("--rounds", type=int, default=ROUNDS, help="(default: %(default)s)")
    p.add_argument("--seconds", type=float, default=0.4, help="of a cell in a round (default: %(default)s)")
    p.add_argument("--rows", type=int, default=500, help="whose labels are compared (default: %(default)s)")
    p.add_argument("--scored-rows", type=int, default=10_000, help="of a file (default: %(default)s)")
    p.add_argument("--data", type=Path, help="folder with <task>/validation.csv (default: texts of assets)")
    p.add_argument("--only", help="keys of entries, separated by commas (default: all)")
    p.add_argument("--cache", type=Path, help="environments and models (default: in the user's cache folder)")
    p.add_argument("--page-only", action="store_true", help="write the page from the record that exists")
    args = p.parse_args()

    from bench import BenchError, document, plan

    picture = args.page.parent.parent / "assets" / document.PICTURE

    def write_page(record: dict[str, Any]) -> None:
        # A trial run, or a page elsewhere, leaves the figures of the README as they are.
        is_full = record["settings"]["rounds"] >= ROUNDS and len(record["entries"]) == len(plan.entries())
        readme = ROOT / "README.md" if is_full and args.page == PAGE else None
        document.write(record, args.page, picture, readme, other_machines(args.out))

    if args.page_only:
        write_page(json.loads(args.out.read_text(encoding="utf-8")))
        return 0

    from bench.run import Settings, measure
    from inference.artifacts.cache import default_cache

    only = args.only.split(",") if args.only else ()
    known = [entry.key for entry in plan.entries()]
    if unknown := [key for key in only if key not in known]:
        p.error(f"--only {','.join(unknown)}: known are {', '.join(known)}")
    if args.data is not None and not any(args.data.glob("*/validation.csv")):
        p.error(f"--data {args.data}: no <task>/validation.csv in it")
    cache = args.cache or default_cache() / "peers"
    settings = Settings(
        cache.resolve(), max(1, args.rounds), args.seconds, only, args.data, args.rows, args.scored_rows
    )
    try:
        record = measure(settings)
    except BenchError as error:
        print(f"Not measured: {error}", file=sys.stderr)
        return 1
    args.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(document.tables(record))
    if args.page.is_file():
        write_page(record)
    print(f"Written: {args.out}, {args.page} and {picture}.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.exit(main())
