"""Stage a Hugging Face Space in a folder, check it, start it from there, and upload it.

    python -m deploy.space --out DIR --to OWNER/NAME

Both kinds serve page, dashboard and API on one port, by `serve.py`, which a Gradio Space calls `app.py`. The staged
model replaces the demo model, which it serves by default: a Space sets none of our environment variables.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.card import KINDS
from deploy.staging import stage
from deploy.starting import check_staged
from deploy.uploading import upload
from inference.commands import options
from inference.errors import InputError
from inference.formats.describe import describe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    p = argparse.ArgumentParser(
        "python -m deploy.space", description="Stage a Hugging Face Space, start it from its folder, and upload it."
    )
    p.set_defaults(run=_run)
    options.add_model(p, cache=False)
    p.add_argument("--out", type=Path, required=True, help="a new or empty folder, or one staged before")
    p.add_argument("--kind", choices=KINDS, default="gradio", help="(default: %(default)s)")
    p.add_argument("--to", metavar="OWNER/NAME", help="upload to this Space")
    p.add_argument("--token", help="a token with write access (default: $HF_TOKEN)")
    return options.run(p, arguments)


def _run(args: argparse.Namespace) -> None:
    token = (args.token or os.environ.get("HF_TOKEN") or "").strip()
    if args.to and not token:
        raise InputError("--to needs a token with write access. Set HF_TOKEN or pass --token.")
    if args.pairs is not None and describe(args.model, args.base).pairs != args.pairs:
        raise InputError(
            f'A Space serves what the folder says: put "pairs": {json.dumps(args.pairs)} into its config.json.'
        )
    files = stage(args.out, args.kind, args.model, args.base)
    size = sum((args.out / name).stat().st_size for name in files)
    if not args.json:
        print(f"{len(files)} files, {size / 1e6:.1f} MB, in {args.out}. Starting it from there …", flush=True)
    check_staged(args.out)
    url = upload(args.out, args.to, token) if args.to else None
    if args.json:
        print(json.dumps({"folder": str(args.out), "kind": args.kind, "files": files, "bytes": size, "url": url}))
    else:
        upload_note = f"Uploaded to {url}" if url else "Not uploaded; pass --to OWNER/NAME to upload."
        print(f"The Space starts and answers. {upload_note}")


if __name__ == "__main__":
    sys.exit(main())
