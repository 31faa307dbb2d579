"""Stage a Space: copy its files into a folder."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from deploy.card import KINDS, ROOT, write_card
from deploy.static import static_files
from inference.assets import DEMO_MODEL
from inference.errors import BundleError, InputError
from inference.formats.bundle import Bundle
from inference.formats.describe import describe
from inference.formats.files import inside

# Copied unchanged from the repository's root, beside `serve.py`.
FILES = (
    *("ui/**/*.py", "ui/*.css", "ui/*.js", "ui/templates/*.html"),
    *("inference/**/*.py", "inference/**/*.json"),
    *("dashboard/**/*.py", "dashboard/templates/*"),
    *("assets/calibration.txt", "assets/faithfulness.json", "assets/showcase.csv", "LICENSE"),
)
ENTRY = {"gradio": "app.py", "docker": "serve.py"}  # what `serve.py` is called: a Gradio Space runs app.py
SETTINGS = "dashboard/.streamlit/config.toml"
RECEIPTS = "assets/receipts/**/*.json"  # measurements of the demo model
STAGED = ".staged.json"  # lists the staged files, so that the next run may replace them; not uploaded
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"  # PyPI's torch includes CUDA
# On ZeroGPU, the only hardware of free accounts, this package needs a torch with CUDA. Elsewhere it does nothing.
ZERO_GPU = "spaces==0.51.3"
LFS_BYTES = 10_000_000  # the Hub refuses larger files without LFS


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
    written: dict[str, str | bytes] = {"README.md": write_card(bundle, kind)}
    sources: dict[str, Path] = {}
    if kind == "static":
        written |= static_files(bundle, base, str(written["README.md"]))
    else:
        sources = _server_files(bundle, kind, base)
        written |= _settings(kind)
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
    return files


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


def _server_files(bundle: Bundle, kind: str, base: str | Path | None) -> dict[str, Path]:
    """Return the files of page, dashboard, API and model by their names in the Space."""
    sources = {str(path.relative_to(ROOT)): path for pattern in FILES for path in ROOT.glob(pattern)}
    sources[ENTRY[kind]] = ROOT / "serve.py"
    if bundle.folder.resolve() == DEMO_MODEL:
        sources |= {str(path.relative_to(ROOT)): path for path in ROOT.glob(RECEIPTS)}
    if kind == "docker":
        sources |= {name: ROOT / "deploy" / name for name in ("Dockerfile", ".dockerignore")}
    place = DEMO_MODEL.relative_to(ROOT)
    return sources | {str(place / name): path for name, path in _model_files(bundle, base).items()}


def _settings(kind: str) -> dict[str, str]:
    """Return the contents of the files that differ from those of the project."""
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    settings = (ROOT / SETTINGS).read_text(encoding="utf-8")
    return {
        "requirements.txt": f"{requirements}{ZERO_GPU}\n" if kind == "gradio" else f"{CPU_TORCH}\n{requirements}",
        # The Hub embeds a Space in a frame on its own site, where uploads to the dashboard need this cookie.
        SETTINGS: settings.replace("[server]\n", '[server]\nxsrfCookieSameSite = "none" # needs HTTPS\n'),
    }


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


def _make_room(out: Path) -> None:
    """Create the folder, or empty it if it holds nothing but files staged before."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file. Pass a folder.")
    known = {STAGED, *staged_files(out)} if (out / STAGED).is_file() else set()
    for path in out.rglob("*"):
        if not path.is_dir() and "__pycache__" not in path.parts and str(path.relative_to(out)) not in known:
            raise InputError(f"--out {out} holds {path.relative_to(out)}, which was not staged. Pass a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
