"""A Hugging Face Space: exactly the files it needs in one folder, checked, started from there, and uploaded.

    python -m deploy.space --out DIR --to OWNER/NAME

A Gradio Space runs `app.py`, a Docker Space `serve.py` with the dashboard. The model staged takes the place of the demo
model, which both serve where nothing else is said: a Space has no environment of ours to say it in.
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
import urllib.error
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
# What is copied as it is, from the repository's root. Tests, training and whatever else lies about stay here.
FILES: dict[str, tuple[str, ...]] = {
    "gradio": (
        "app.py",
        "ui/**/*.py",
        "ui/*.css",
        "ui/templates/*.html",
        "ui/*.js",
        "ui/templates/*.html",
        "inference/**/*.py",
        "inference/**/*.json",
        "assets/calibration.txt",
        "assets/faithfulness.json",
        "assets/showcase.csv",
        "LICENSE",
    ),
}
FILES["docker"] = (*FILES["gradio"], "serve.py", "dashboard/**/*.py", "dashboard/templates/*")
SETTINGS = "dashboard/.streamlit/config.toml"
RECEIPTS = "assets/receipts/**/*.json"  # of the demo model: they say nothing about another
STAGED = ".staged.json"  # names the files of a staging, so that the next may replace them; it is not uploaded
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"  # PyPI's torch brings CUDA, which a Space lacks
LFS_BYTES = 10_000_000  # the Hub takes no larger file without it
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
START_S = 600  # installing is done, but on a new machine ONNX and INT8 are built first
_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_TOKEN = re.compile(r"[\x21-\x7e]+")


def stage(
    out: str | Path, kind: str = "gradio", model: str | Path = DEMO_MODEL, base: str | Path | None = None
) -> list[str]:
    """Copy what a Space of this kind needs into `out`; returns the files by their paths in it, sorted.

    Args:
        base: where the model's base lies here. The Space looks for it in the model's folder, else by its Hub id.

    Raises:
        InputError: there is no such kind, or `out` holds what no staging put there.
        BundleError: the model is none, is damaged, or a link in it leads out of its folder; or its base is where the
            Space cannot reach it.
    """
    if kind not in KINDS:
        raise InputError(f"Unknown kind {kind!r}. Known: {', '.join(KINDS)}.")
    out, bundle = Path(out), describe(model, base)
    sources = {str(path.relative_to(ROOT)): path for pattern in FILES[kind] for path in ROOT.glob(pattern)}
    if bundle.folder.resolve() == DEMO_MODEL and kind == "docker":
        sources |= {str(path.relative_to(ROOT)): path for path in ROOT.glob(RECEIPTS)}
    place = DEMO_MODEL.relative_to(ROOT)
    sources |= {str(place / name): path for name, path in _model_files(bundle, base).items()}
    if kind == "docker":
        sources |= {name: ROOT / "deploy" / name for name in ("Dockerfile", ".dockerignore")}
    written = {
        "README.md": _card(bundle, kind),
        "requirements.txt": f"{CPU_TORCH}\n{(ROOT / 'requirements.txt').read_text(encoding='utf-8')}",
    }
    if kind == "docker":  # the Hub shows a Space in a frame on its own site: else no upload to the dashboard would work
        settings = (ROOT / SETTINGS).read_text(encoding="utf-8")
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


def check(folder: str | Path) -> None:
    """Return if the staged folder is fit to be a Space: its front matter, its sizes, and that it starts on its own.

    Raises:
        InputError: naming everything that is wrong.
    """
    folder = Path(folder)
    wrong = [*_wrong_in_card(folder), *_too_large(folder)]
    if wrong:
        raise InputError(f"{folder} is not fit to be a Space: {' '.join(wrong)}")
    _start(folder)


def upload(folder: str | Path, repo_id: str, token: str) -> str:
    """Make the Space hold what was staged in `folder` and nothing else; returns its address.

    The Space is created if it is not there yet. HF_ENDPOINT, if set, is asked in place of huggingface.co.

    Raises:
        InputError: the id or the token is none.
        InferenceError: the Hub refused it or could not be reached.
    """
    if not _REPO.fullmatch(repo_id):
        raise InputError(f"--to {repo_id!r} is no Space. Give OWNER/NAME.")
    if not _TOKEN.fullmatch(token):  # before a library repeats it in an error
        raise InputError("The token is empty or holds characters that no token has. Copy it again.")
    folder = Path(folder)
    files = _staged(folder)
    sdk = _front_matter(folder)["sdk"]
    api = _hub().HfApi(token=token)
    from huggingface_hub.errors import HfHubHTTPError

    try:
        made = api.create_repo(repo_id, repo_type="space", space_sdk=sdk, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            repo_type="space",
            folder_path=folder,
            allow_patterns=[glob.escape(name) for name in files],
            delete_patterns=["*"],  # what an earlier version needed and this one does not
            commit_message="Triptych",
        )
    except HfHubHTTPError as error:
        said = error.server_message or f"status {error.response.status_code}"
        raise InferenceError(f"The Hub refused {repo_id}: {said}. Is the token one with write access to it?") from None
    except Exception as error:  # its HTTP library has errors of its own, and they repeat what was sent
        raise InferenceError(
            f"{repo_id} could not be uploaded ({type(error).__name__}). The folder is ready; try again."
        ) from None
    return str(made)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return options.run(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    p = argparse.ArgumentParser(
        "python -m deploy.space", description="Stage a Hugging Face Space, start it from its folder, and upload it."
    )
    p.set_defaults(run=run)
    options.add_model(p, cache=False)
    p.add_argument("--out", type=Path, required=True, help="a new or empty folder, or an earlier staging")
    p.add_argument("--kind", choices=KINDS, default="gradio", help="(default: %(default)s)")
    p.add_argument("--to", metavar="OWNER/NAME", help="upload to this Space")
    p.add_argument("--token", help="of an account that may write there (default: $HF_TOKEN)")
    return p


def run(args: argparse.Namespace) -> None:
    """Stage, check, and with --to upload."""
    token = (args.token or os.environ.get("HF_TOKEN") or "").strip()
    if args.to and not token:
        raise InputError("--to needs a token with write access. Set HF_TOKEN, or give --token.")
    files = stage(args.out, args.kind, args.model, args.base)
    size = sum((args.out / name).stat().st_size for name in files)
    if not args.json:
        print(f"{len(files)} files, {size / 1e6:.1f} MB, in {args.out}. Starting it from there …", flush=True)
    check(args.out)
    url = upload(args.out, args.to, token) if args.to else None
    if args.json:
        print(json.dumps({"folder": str(args.out), "kind": args.kind, "files": files, "bytes": size, "url": url}))
    else:
        print(
            f"It starts and answers. {f'Uploaded to {url}' if url else 'Not uploaded; pass --to OWNER/NAME to upload.'}"
        )


# --- What is staged


def _model_files(bundle: Bundle, base: str | Path | None) -> dict[str, Path]:
    """The files of a model by name: those its digests cover, a base in its folder, and what is written about it."""
    bundle.verify()
    about = [name for name in ("README.md", "figures.json") if (bundle.folder / name).exists()]
    described = ["bundle.json"] if bundle.format == "bundle" else []
    names = [*described, *bundle.files, *_base_files(bundle, base), *about]
    return {name: inside(bundle.folder, name) for name in names}


def _base_files(bundle: Bundle, given: str | Path | None) -> list[str]:
    """Names of the base's files where it lies in the model's folder; none where the Space can fetch it."""
    if bundle.base is None:
        return []
    home, folder = bundle.base.folder, bundle.folder.resolve()
    if home is not None and home.resolve().is_relative_to(folder):
        bundle.base_folder()
        return [(home.resolve().relative_to(folder) / name).as_posix() for name in bundle.base.files]
    if bundle.base.hub_id is None:
        raise BundleError(
            f"The base of {bundle.folder} has no Hub id and lies outside of the model's folder, where no Space reaches "
            "it. Put it into the model's folder, or on the Hub, and let the adapter name it so."
        )
    if given is not None:
        bundle.base_folder(given)  # of the bytes that the Space will fetch, where they are pinned
    return []


def _card(bundle: Bundle, kind: str) -> str:
    """The Space's README: the project's front matter, made to fit the kind and the model, and a few words."""
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
    """An empty folder, where there was none, an empty one, or one with nothing but an earlier staging."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file. Name a folder.")
    known = {STAGED, *_staged(out)} if (out / STAGED).is_file() else set()
    for path in out.rglob("*"):
        if not path.is_dir() and "__pycache__" not in path.parts and str(path.relative_to(out)) not in known:
            raise InputError(
                f"--out {out} holds {path.relative_to(out)}, which no staging put there. Name a new folder."
            )
    out.mkdir(parents=True, exist_ok=True)
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _staged(folder: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((folder / STAGED).read_text(encoding="utf-8"))["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder} was not staged: it has no {STAGED} that can be read.") from None


# --- What is checked


def _hub() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when it is imported
    try:
        import huggingface_hub
    except ImportError:
        raise MissingDependencyError(
            "A Space needs the library huggingface_hub. Install it: pip install -r requirements.txt"
        ) from None
    return huggingface_hub


def _front_matter(folder: Path) -> dict[str, Any]:
    import yaml  # comes with huggingface_hub

    try:
        card = _hub().SpaceCard((folder / "README.md").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{folder / 'README.md'} has no front matter that can be read ({error}).") from None
    return dict(card.data.to_dict())


def _wrong_in_card(folder: Path) -> list[str]:
    """Sentences about what the Hub would refuse or misread in the front matter."""
    data = _front_matter(folder)
    wrong = [f"`{name}` is missing." for name in ("title", "emoji", "sdk") if not data.get(name)]
    if data.get("sdk") not in KINDS:
        wrong.append(f"`sdk` is {data.get('sdk')!r}, not one of {', '.join(KINDS)}.")
    elif data["sdk"] == "docker":
        if data.get("app_port") != PORT:
            wrong.append(f"`app_port` is {data.get('app_port')!r}; the server listens on {PORT}.")
        if not (folder / "Dockerfile").is_file():
            wrong.append("There is no Dockerfile.")
    else:
        pinned = re.search(r"^gradio==(\S+)$", (folder / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
        if not pinned or data.get("sdk_version") != pinned[1]:
            wrong.append(f"`sdk_version` is {data.get('sdk_version')!r}, not what requirements.txt pins gradio to.")
        if not isinstance(data.get("python_version"), str):  # 3.10 without quotes is the number 3.1
            wrong.append(f"`python_version` is {data.get('python_version')!r}, not a version in quotes.")
        if not (folder / str(data.get("app_file"))).is_file():
            wrong.append(f"`app_file` is {data.get('app_file')!r}, which is not there.")
    for name in ("colorFrom", "colorTo"):
        if data.get(name) not in COLOURS:
            wrong.append(f"`{name}` is {data.get(name)!r}, not one of {', '.join(COLOURS)}.")
    if len(str(data.get("short_description", ""))) > 60:
        wrong.append("`short_description` is longer than 60 characters.")
    for name in ("models", "datasets"):
        found = data.get(name, [])
        if not isinstance(found, list) or not all(isinstance(one, str) and _REPO.fullmatch(one) for one in found):
            wrong.append(f"`{name}` is {found!r}, not a list of OWNER/NAME.")
    return wrong


def _too_large(folder: Path) -> list[str]:
    """Sentences about files that need LFS and that `.gitattributes` does not give to it."""
    attributes = folder / ".gitattributes"
    lines = attributes.read_text(encoding="utf-8").splitlines() if attributes.is_file() else []
    patterns = [line.rpartition(" filter=lfs")[0].strip('"') for line in lines if " filter=lfs" in line]
    return [
        f"{name} has {size / 1e6:.0f} MB and no line `filter=lfs` in .gitattributes."
        for name in (str(path.relative_to(folder)) for path in folder.rglob("*"))
        if (size := (folder / name).stat().st_size) > LFS_BYTES
        and not any(fnmatchcase(tried, pattern) for pattern in patterns for tried in (name, Path(name).name))
    ]


def _start(folder: Path) -> None:
    """Start what the Space starts, from the folder and with nothing else in reach, and see that it answers."""
    kind = str(_front_matter(folder)["sdk"])
    ours = ("PYTHONPATH", "TRIPTYCH_MODEL", "TRIPTYCH_BASE", "TRIPTYCH_BACKEND")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"}
    pages = ["/", "/dashboard/"] if kind == "docker" else ["/"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, ENTRY[kind]], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            end = time.monotonic() + START_S
            while not all(_answers(f"http://127.0.0.1:{port}{page}") for page in pages):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    last = log.read().strip().splitlines()[-1:]
                    raise InputError(f"{ENTRY[kind]} does not start in {folder}: {''.join(last) or 'it said nothing'}")
                time.sleep(0.2)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if kind == "docker":
        _run_dashboard(folder, environment)


def _run_dashboard(folder: Path, environment: dict[str, str]) -> None:
    # Streamlit's server answers before it has run a line of the dashboard; a missing file shows only then.
    code = (
        "from streamlit.testing.v1 import AppTest; found = AppTest.from_file('dashboard/main.py', default_timeout=120)"
        ".run().exception; raise SystemExit(found[0].message if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"The dashboard fails in {folder}: {''.join(done.stderr.strip().splitlines()[-1:])}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(main())
