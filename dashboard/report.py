"""Write a report: one HTML file with verdict, charts, disagreements and method, or a summary of one page.

python -m dashboard.report receipt.json --out report.html
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from inference.commands import options
from inference.commands.compare import add_limits, ship_limits
from inference.compare.receipt import read_receipt
from inference.errors import importing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    return options.run(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    p = argparse.ArgumentParser("python -m dashboard.report", description=(__doc__ or "").split("\n\n")[0])
    p.set_defaults(run=write)
    p.add_argument("receipts", type=Path, nargs="+", metavar="RECEIPT")
    p.add_argument("--out", type=Path, default=Path("report.html"), help="(default: %(default)s)")
    p.add_argument("--small", action="store_true", help="write 1.3 MB instead of 5: fetches a smaller plotly.js")
    p.add_argument("--summary", action="store_true", help="write one A4 page on the model, from all its measurements")
    add_limits(p)
    return p


def write(args: argparse.Namespace) -> None:
    receipts = [read_receipt(path) for path in args.receipts]
    if args.summary:
        from dashboard.report_summary import summary_of_files

        args.out.write_text(summary_of_files(args.receipts, receipts, ship_limits(args)), encoding="utf-8")
        print(f"The summary is {args.out}.")
        return
    with importing("A report", "-r requirements.txt"):
        from dashboard.report_page import basic_plotly, report
    library = basic_plotly() if args.small else None
    args.out.write_text(report(receipts, ship_limits(args), library), encoding="utf-8")
    print(f"The report is {args.out}.")


if __name__ == "__main__":
    sys.exit(main())
