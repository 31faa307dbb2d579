"""Stage a Hugging Face Space in a folder, check it, start it from there, and upload it.

    python -m deploy.space --out DIR --to OWNER/NAME

A Gradio and a Docker Space serve page, dashboard and API on one port, by `serve.py`, which a Gradio Space calls
`app.py`. The staged model replaces the demo model, which it serves by default: a Space sets none of our environment
variables. A static Space has no server: the model runs in the visitor's browser.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.card import KINDS, Details, is_demo
from deploy.publication import agreement, lines, publication
from deploy.staging import prepare, stage
from deploy.starting import check_staged
from deploy.uploading import check_target, upload
from inference.assets import python_command
from inference.commands import options
from inference.errors import InputError
from inference.formats.describe import describe
from training.licence import LANGUAGE_HELP, LICENCE_HELP

STARTED = "The Space starts and answers."
NOT_STARTED = "No Chromium here, so the page was not started: try it in a browser."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    p = argparse.ArgumentParser(
        "python -m deploy.space", description="Stage a Hugging Face Space, start it from its folder, and upload it."
    )
    p.set_defaults(run=_run)
    options.add_model(p, cache=False)
    p.add_argument("--out", type=Path, required=True, help="a new or empty folder, or one staged before")
    p.add_argument("--kind", choices=KINDS, default="gradio", help="(default: %(default)s)")
    p.add_argument(
        "--examples", type=Path, metavar="FILE", help="table of texts to show on the page (they become public)"
    )
    p.add_argument("--licence", "--license", help=LICENCE_HELP.replace("none is named", "what the model's folder says"))
    p.add_argument("--language", help=LANGUAGE_HELP.replace("none is named", "what the model's folder says"))
    p.add_argument("--to", metavar="OWNER/NAME", help="upload to this Space")
    p.add_argument("--yes", action="store_true", help="upload what was shown, without asking")
    p.add_argument("--token", help="a token with write access (default: $HF_TOKEN)")
    return options.run(p, arguments)


def _run(args: argparse.Namespace) -> None:
    token = (args.token or os.environ.get("HF_TOKEN") or "").strip()
    if args.to and not token:
        raise InputError("--to needs a token with write access. Set HF_TOKEN or pass --token.")
    if args.to:
        check_target(args.to, token)  # before minutes of staging
    if args.pairs is not None and describe(args.model, args.base).pairs != args.pairs:
        raise InputError(
            f'A Space serves what the folder says: put "pairs": {json.dumps(args.pairs)} into its config.json.'
        )
    details = Details(args.licence, tuple(options.names(args.language)), args.examples)
    bundle = prepare(args.kind, args.model, args.base, details)
    asks = bool(args.to) and not args.yes and not (is_demo(bundle) and args.examples is None)
    if asks and (args.json or not sys.stdin.isatty()):
        raise InputError(
            f"{bundle.name} would become public. Run this without --to, read what is shown, then pass --to with --yes."
        )
    files = stage(args.out, args.kind, args.model, args.base, details, args.progress)
    size = sum((args.out / name).stat().st_size for name in files)
    public = publication(args.out, bundle)
    if not args.json:
        print(*lines(public), sep="\n")
        print(f"{len(files)} files, {size / 1e6:.1f} MB, in {args.out}. Starting it to test it …", flush=True)
    state = STARTED if check_staged(args.out) else NOT_STARTED
    if asks and input(f"{state} Publish it as {args.to}? [y/N] ").strip().lower() not in (
        "y",
        "yes",
    ):
        raise InputError(f"Not uploaded. {args.out} is ready: pass --yes to upload it.")
    url = upload(args.out, args.to, token) if args.to else None
    if args.json:
        document = {"folder": str(args.out), "kind": args.kind, "files": files, "bytes": size, "url": url}
        print(json.dumps(document | {"public": public, "started": state == STARTED}))
    else:
        upload_note = f"Uploaded to {url}" if url else "Not uploaded; pass --to OWNER/NAME to upload."
        print(f"{state} {upload_note}")
        if args.kind == "static":
            command = python_command("http.server", "--bind", "127.0.0.1", "-d", args.out)
            print(*agreement(args.out), f"To look at it: {command}", sep="\n")


if __name__ == "__main__":
    sys.exit(main())
