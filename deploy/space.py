"""Stage a Hugging Face Space in a folder, check it, start it from there, and upload it.

    python -m deploy.space --out DIR --to OWNER/NAME

A Gradio Space runs `app.py`, a Docker Space `serve.py` with the dashboard. The staged model replaces the demo model,
which both serve by default: a Space sets none of our environment variables.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from inference.assets import ASSETS, DEMO_MODEL
from inference.backends import TITLES
from inference.commands import options
from inference.errors import BundleError, InferenceError, InputError, MissingDependencyError
from inference.formats.bundle import Bundle
from inference.formats.describe import describe
from inference.formats.files import inside

ROOT = ASSETS.parent
KINDS = ("gradio", "docker")
ENTRY = {"gradio": "app.py", "docker": "serve.py"}
PORT = 7860
# Copied unchanged from the repository's root.
PAGE_FILES = (
    *("app.py", "ui/**/*.py", "ui/*.css", "ui/*.js", "ui/templates/*.html"),
    *("inference/**/*.py", "inference/**/*.json"),
    *("assets/calibration.txt", "assets/faithfulness.json", "assets/showcase.csv", "LICENSE"),
)
FILES = {"gradio": PAGE_FILES, "docker": (*PAGE_FILES, "serve.py", "dashboard/**/*.py", "dashboard/templates/*")}
SETTINGS = "dashboard/.streamlit/config.toml"
RECEIPTS = "assets/receipts/**/*.json"  # measurements of the demo model
STAGED = ".staged.json"  # lists the staged files, so that the next run may replace them; not uploaded
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"  # PyPI's torch includes CUDA, useless on a Space
LFS_BYTES = 10_000_000  # the Hub refuses larger files without LFS
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
START_S = 600  # on a new machine ONNX and INT8 are built first
_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_TOKEN = re.compile(r"[\x21-\x7e]+")


def stage(
    out: str | Path, kind: str = "gradio", model: str | Path = DEMO_MODEL, base: str | Path | None = None
) -> list[str]:
    """Copy the files of a Space into `out`; returns their sorted paths within it.

    Args:
        base: the folder of the model's base here. The Space looks in the model's folder, then for its Hub id.

    Raises:
        InputError: the kind is unknown, or `out` holds files that were not staged.
        BundleError: the model is damaged or has a link out of its folder, or the Space cannot reach its base.
    """
    if kind not in KINDS:
        raise InputError(f"Unknown kind {kind!r}. Known: {', '.join(KINDS)}.")
    out, bundle = Path(out), describe(model, base)
    sources = {str(path.relative_to(ROOT)): path for pattern in FILES[kind] for path in ROOT.glob(pattern)}
    if bundle.folder.resolve() == DEMO_MODEL and kind == "docker":
        sources |= {str(path.relative_to(ROOT)): path for path in ROOT.glob(RECEIPTS)}
    place = DEMO_MODEL.relative_to(ROOT)
    sources |= {str(place / name): path for name, path in _model_files(bundle, base).items()}
    written = {
        "README.md": _card(bundle, kind),
        "requirements.txt": f"{CPU_TORCH}\n{(ROOT / 'requirements.txt').read_text(encoding='utf-8')}",
    }
    if kind == "docker":
        sources |= {name: ROOT / "deploy" / name for name in ("Dockerfile", ".dockerignore")}
        settings = (ROOT / SETTINGS).read_text(encoding="utf-8")
        # The Hub embeds a Space in a frame on its own site, where uploads to the dashboard need this cookie.
        written[SETTINGS] = settings.replace("[server]\n", '[server]\nxsrfCookieSameSite = "none" # needs HTTPS\n')
    large = sorted(name for name, path in sources.items() if path.stat().st_size > LFS_BYTES)
    if large:
        lines = [f"{json.dumps(name)} filter=lfs diff=lfs merge=lfs -text" for name in large]
        written[".gitattributes"] = "\n".join(lines) + "\n"

    _make_room(out)
    files = sorted([*sources, *written])
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        if name in written:
            (out / name).write_text(written[name], encoding="utf-8")
        else:
            shutil.copyfile(sources[name], out / name)
    (out / STAGED).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    return files


def check_staged(folder: str | Path) -> None:
    """Check the front matter and the file sizes of a staged Space, and that it starts from its folder.

    Raises:
        InputError: naming every problem.
    """
    folder = Path(folder)
    if problems := [*_card_problems(folder), *_lfs_problems(folder)]:
        raise InputError(f"{folder} cannot be a Space: {' '.join(problems)}")
    _start(folder)


def upload(folder: str | Path, repo_id: str, token: str) -> str:
    """Replace the contents of the Space, created if needed, by the staged files; returns its address.

    HF_ENDPOINT, if set, replaces huggingface.co.

    Raises:
        InputError: the id or the token is malformed.
        InferenceError: the Hub refused the upload or could not be reached.
    """
    if not _REPO.fullmatch(repo_id):
        raise InputError(f"--to {repo_id!r} is not the id of a Space. Pass OWNER/NAME.")
    if not _TOKEN.fullmatch(token):  # before a library repeats it in an error
        raise InputError("The token is empty or contains invalid characters. Copy it again.")
    folder = Path(folder)
    files = _staged(folder)
    sdk = _front_matter(folder)["sdk"]
    api = _hub().HfApi(token=token)
    from huggingface_hub.errors import HfHubHTTPError

    try:
        url = api.create_repo(repo_id, repo_type="space", space_sdk=sdk, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            repo_type="space",
            folder_path=folder,
            allow_patterns=[glob.escape(name) for name in files],
            delete_patterns=["*"],  # files of an earlier version
            commit_message="Triptych",
        )
    except HfHubHTTPError as error:
        reason = error.server_message or f"status {error.response.status_code}"
        raise InferenceError(f"The Hub refused {repo_id}: {reason}. Does the token have write access?") from None
    except Exception as error:  # the HTTP library has errors of its own, which repeat what was sent
        message = f"Cannot upload {repo_id} ({type(error).__name__}). The folder is ready; try again."
        raise InferenceError(message) from None
    return str(url)


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


# --- Staging


def _model_files(bundle: Bundle, base: str | Path | None) -> dict[str, Path]:
    """Return the files of a model by name: those with a digest, a base in its folder, its description."""
    bundle.verify()
    optional = [name for name in ("README.md", "figures.json") if (bundle.folder / name).exists()]
    described = ["bundle.json"] if bundle.format == "bundle" else []
    names = [*described, *bundle.files, *_base_files(bundle, base), *optional]
    return {name: inside(bundle.folder, name) for name in names}


def _base_files(bundle: Bundle, given: str | Path | None) -> list[str]:
    """Return the names of the base's files in the model's folder; none if the Space fetches them from the Hub."""
    if bundle.base is None:
        return []
    home, folder = bundle.base.folder, bundle.folder.resolve()
    if home is not None and home.resolve().is_relative_to(folder):
        bundle.base_folder()
        return [(home.resolve().relative_to(folder) / name).as_posix() for name in bundle.base.files]
    if bundle.base.hub_id is None:
        raise BundleError(
            f"No Space can reach the base of {bundle.folder}: it has no Hub id and lies outside of the model's folder. "
            "Move it into the model's folder or to the Hub, and change the adapter's reference."
        )
    if given is not None:
        bundle.base_folder(given)  # raises if these are not the pinned files, which the Space will fetch
    return []


def _card(bundle: Bundle, kind: str) -> str:
    """Return the Space's README: the project's front matter adapted to the kind and the model, and a description."""
    data = _front_matter(ROOT)
    described = {}
    if bundle.format == "bundle":
        described = json.loads((bundle.folder / "bundle.json").read_text(encoding="utf-8"))
    hub_id = bundle.base.hub_id if bundle.base else None
    data |= {
        "models": [hub_id] if hub_id else None,
        "datasets": described.get("datasets") or None,
        "license": described.get("licence"),
    }
    if bundle.folder.resolve() != DEMO_MODEL:
        data["title"] = bundle.name
    if kind == "docker":
        data |= {"sdk": "docker", "app_port": PORT, "sdk_version": None, "python_version": None, "app_file": None}
    titles = [TITLES[name] for name in bundle.backends]
    revision = f" at revision {bundle.base.revision}" if bundle.base and bundle.base.revision else ""
    tasks = ", ".join(f"{name} ({len(task.labels)} labels)" for name, task in bundle.tasks.items())
    block = _hub().SpaceCardData(**{name: value for name, value in data.items() if value is not None}).to_yaml()
    return (
        f"---\n{block}\n---\n\n# {data['title']}\n\n"
        f"One fine-tuned text classifier on {', '.join(titles[:-1])} and {titles[-1]}, side by side.\n\n"
        f"The model, {bundle.name}, answers {tasks}.\n"
        + (f"It is fine-tuned from {hub_id}{revision}.\n\n" if hub_id else "\n")
        + "Made with Triptych.\n"
    )


def _make_room(out: Path) -> None:
    """Create the folder, or empty it if it holds nothing but files staged before."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file. Pass a folder.")
    known = {STAGED, *_staged(out)} if (out / STAGED).is_file() else set()
    for path in out.rglob("*"):
        if not path.is_dir() and "__pycache__" not in path.parts and str(path.relative_to(out)) not in known:
            raise InputError(f"--out {out} holds {path.relative_to(out)}, which was not staged. Pass a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _staged(folder: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((folder / STAGED).read_text(encoding="utf-8"))["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder} was not staged: no readable {STAGED}.") from None


# --- Checking


def _hub() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when it is imported
    try:
        import huggingface_hub
    except ImportError:
        message = "A Space needs the library huggingface_hub. Install it: pip install -r requirements.txt"
        raise MissingDependencyError(message) from None
    return huggingface_hub


def _front_matter(folder: Path) -> dict[str, Any]:
    import yaml  # comes with huggingface_hub

    try:
        card = _hub().SpaceCard((folder / "README.md").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{folder / 'README.md'} has no readable front matter ({error}).") from None
    return dict(card.data.to_dict())


def _card_problems(folder: Path) -> list[str]:
    """Return sentences about what the Hub would refuse or misread in the front matter."""
    data = _front_matter(folder)
    problems = [f"`{name}` is missing." for name in ("title", "emoji", "sdk") if not data.get(name)]
    if data.get("sdk") not in KINDS:
        problems.append(f"`sdk` is {data.get('sdk')!r}, not one of {', '.join(KINDS)}.")
    elif data["sdk"] == "docker":
        if data.get("app_port") != PORT:
            problems.append(f"`app_port` is {data.get('app_port')!r}; the server listens on {PORT}.")
        if not (folder / "Dockerfile").is_file():
            problems.append("Dockerfile is missing.")
    else:
        pinned = re.search(r"^gradio==(\S+)$", (folder / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
        if not pinned or data.get("sdk_version") != pinned[1]:
            problems.append(f"`sdk_version` is {data.get('sdk_version')!r}, not what requirements.txt pins gradio to.")
        if not isinstance(data.get("python_version"), str):  # 3.10 without quotes is the number 3.1
            problems.append(f"`python_version` is {data.get('python_version')!r}, not a version in quotes.")
        if not (folder / str(data.get("app_file"))).is_file():
            problems.append(f"`app_file` is {data.get('app_file')!r}, which does not exist.")
    for name in ("colorFrom", "colorTo"):
        if data.get(name) not in COLOURS:
            problems.append(f"`{name}` is {data.get(name)!r}, not one of {', '.join(COLOURS)}.")
    if len(str(data.get("short_description", ""))) > 60:
        problems.append("`short_description` is longer than 60 characters.")
    for name in ("models", "datasets"):
        ids = data.get(name, [])
        if not isinstance(ids, list) or not all(isinstance(item, str) and _REPO.fullmatch(item) for item in ids):
            problems.append(f"`{name}` is {ids!r}, not a list of OWNER/NAME.")
    return problems


def _lfs_problems(folder: Path) -> list[str]:
    """Return sentences about large files that `.gitattributes` does not assign to LFS."""
    attributes = folder / ".gitattributes"
    lines = attributes.read_text(encoding="utf-8").splitlines() if attributes.is_file() else []
    patterns = [line.rpartition(" filter=lfs")[0].strip('"') for line in lines if " filter=lfs" in line]
    return [
        f"{name} has {size / 1e6:.0f} MB but no line `filter=lfs` in .gitattributes."
        for name in (str(path.relative_to(folder)) for path in folder.rglob("*"))
        if (size := (folder / name).stat().st_size) > LFS_BYTES
        and not any(fnmatchcase(path, pattern) for pattern in patterns for path in (name, Path(name).name))
    ]


def _start(folder: Path) -> None:
    """Start the Space from its folder, without our environment variables, and wait until its pages answer."""
    kind = str(_front_matter(folder)["sdk"])
    ours = ("PYTHONPATH", "TRIPTYCH_MODEL", "TRIPTYCH_BASE", "TRIPTYCH_BACKEND", "TRIPTYCH_PAIRS")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"}
    pages = ["/", "/dashboard/"] if kind == "docker" else ["/"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [sys.executable, ENTRY[kind]], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            end = time.monotonic() + START_S
            while not all(_answers(f"http://127.0.0.1:{port}{page}") for page in pages):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    last = log.read().strip().splitlines()[-1:]
                    raise InputError(f"{ENTRY[kind]} does not start in {folder}: {''.join(last) or 'no output'}")
                time.sleep(0.2)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if kind == "docker":  # Streamlit's server answers before it runs the dashboard, whose errors show only here
        code = (
            "from streamlit.testing.v1 import AppTest; errors = AppTest.from_file('dashboard/main.py', "
            "default_timeout=120).run().exception; raise SystemExit(errors[0].message if errors else 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True)
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise InputError(f"The dashboard fails in {folder}: {''.join(lines[-1:])}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return bool(response.status == 200)
    except OSError:  # of which `URLError` is one
        return False


if __name__ == "__main__":
    sys.exit(main())
