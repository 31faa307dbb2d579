"""The README of a Space: its front matter, written and checked, and a description of the model."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.assets import ASSETS, DEMO_MODEL
from inference.backends import TITLES
from inference.errors import InputError, MissingDependencyError
from inference.formats.bundle import Bundle
from inference.formats.files import JSON_BYTES, check_bytes, inside
from training.licence import check_licence

ROOT = ASSETS.parent
KINDS = ("static", "gradio", "docker")
PORT = 7860
ZERO_GPU_NOTE = (
    "The page is at `/`, the dashboard at `/dashboard/`, the API at `/api`. On ZeroGPU hardware, PyTorch answers the "
    "page with a GPU in half precision if one is lent; all else runs on the CPU."
)
ZERO_GPU_PYTHON = "3.12"  # of 3.10 and 3.12, which ZeroGPU has, the one that this code runs on
# With them a page may use threads (SharedArrayBuffer), in the Hub's frame too.
HEADERS = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}
# Of https://huggingface.co/docs/hub/spaces-config-reference, and of every card.
KEYS = set(
    """
    title emoji colorFrom colorTo sdk python_version sdk_version suggested_hardware suggested_storage app_file
    app_build_command app_port base_path fullWidth header short_description models datasets tags thumbnail pinned
    hf_oauth hf_oauth_expiration_minutes hf_oauth_scopes hf_oauth_authorized_org disable_embedding
    startup_duration_timeout custom_headers preload_from_hub license language
    """.split()  # noqa: SIM905
)
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
_FRONT_MATTER = re.compile(r"\s*---\r?\n(.*?)\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
_NOTHING = ("", "~", "null")
# As in huggingface_hub; the oldest models, such as bert-base-uncased, have no owner.
REPO_ID = re.compile(r"(?!.*(?:--|\.\.|\.git$))(?:\b[\w.-]{1,96}\b/)?\b[\w.-]{1,96}\b", re.ASCII)


@dataclass(frozen=True)
class Details:
    """What an owner says about a model when a Space of it is staged."""

    licence: str | None = None
    """By default what the model's folder says, if anything."""
    language: tuple[str, ...] = ()
    """ISO 639 codes; by default as above."""
    examples: Path | None = None
    """A table of texts to publish, in place of the model's own examples."""


UNSAID = Details()


def is_demo(bundle: Bundle) -> bool:
    """Return whether this is the model that comes with Triptych."""
    return bundle.folder.resolve() == DEMO_MODEL


def write_card(bundle: Bundle, kind: str, details: Details = UNSAID) -> str:
    """Return the Space's README: the project's front matter adapted to the kind and the model, and a description."""
    data = front_matter(ROOT)
    hub_id = bundle.base.hub_id if bundle.base else None
    data |= {"models": [hub_id] if hub_id else None, **owner_facts(bundle, details)}
    if not is_demo(bundle):
        data["title"] = bundle.name
    if kind == "gradio":
        data["python_version"] = ZERO_GPU_PYTHON
    if kind == "docker":
        data |= {"sdk": "docker", "app_port": PORT, "sdk_version": None, "python_version": None, "app_file": None}
    if kind == "static":
        server = dict.fromkeys(("sdk_version", "python_version", "startup_duration_timeout"))
        data |= {"sdk": "static", "app_file": "index.html", "custom_headers": HEADERS, **server}
        data["short_description"] = "A text classifier that runs in your browser"
    titles = [TITLES[name] for name in bundle.backends]
    revision = f" at revision {bundle.base.revision}" if bundle.base and bundle.base.revision else ""
    tasks = ", ".join(f"{name} ({len(task.labels)} labels)" for name, task in bundle.tasks.items())
    what = f"One fine-tuned text classifier on {', '.join(titles[:-1])} and {titles[-1]}, side by side."
    if kind == "static":
        what = "A fine-tuned text classifier that runs in your browser: what you type stays on your machine."
    block = hub().SpaceCardData(**{name: value for name, value in data.items() if value is not None}).to_yaml()
    return (
        f"---\n{block}\n---\n\n# {data['title']}\n\n"
        f"{what}\n\n"
        f"The model, {bundle.name}, answers {tasks}.\n"
        + (f"It is fine-tuned from {hub_id}{revision}.\n\n" if hub_id else "\n")
        + (f"{ZERO_GPU_NOTE}\n\n" if kind == "gradio" else "")
        + "Made with Triptych.\n"
    )


def owner_facts(bundle: Bundle, details: Details) -> dict[str, Any]:
    """Return licence, language and data sets as the owner gives them, else as the model's folder does, else None.

    Raises:
        InputError: a licence or a language is none that the Hub knows.
    """
    facts: dict[str, Any] = {}
    if bundle.format == "bundle":
        described = json.loads((bundle.folder / "bundle.json").read_text(encoding="utf-8"))
        facts = {"license": described.get("licence"), "language": described.get("language")}
        facts["datasets"] = described.get("datasets")
    else:
        facts = readme_facts(bundle.folder)
    language = list(details.language) or facts.get("language") or None
    facts = {
        "license": details.licence or facts.get("license"),
        "language": [language] if isinstance(language, str) else language,
        "datasets": facts.get("datasets") or None,
    }
    check_licence(facts["license"], facts["language"])
    return facts


def readme_facts(folder: Path) -> dict[str, Any]:
    """Return the front matter of a model's README with every value as it is written; empty without a readable one.

    YAML itself reads the language `no` as false, and some numbers for minutes.
    """
    import yaml  # comes with huggingface_hub

    if not (folder / "README.md").is_file():
        return {}
    readme = inside(folder, "README.md")
    check_bytes(readme, JSON_BYTES)
    try:
        match = _FRONT_MATTER.match(readme.read_text(encoding="utf-8"))
        data = yaml.load(match[1], yaml.BaseLoader) if match else {}
    except (ValueError, RecursionError, yaml.YAMLError):
        return {}
    return {key: value for key, value in data.items() if value not in _NOTHING} if isinstance(data, dict) else {}


def front_matter(folder: Path) -> dict[str, Any]:
    """Return the front matter of a README that we wrote.

    Raises:
        InputError: there is none, or it is damaged.
    """
    import yaml  # comes with huggingface_hub

    try:
        card = hub().SpaceCard((folder / "README.md").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{folder / 'README.md'} has no readable front matter ({error}).") from None
    return dict(card.data.to_dict())


def card_problems(folder: Path) -> list[str]:
    """Return sentences about what the Hub would refuse or misread in the front matter."""
    data = front_matter(folder)
    problems = [f"`{name}` is missing." for name in ("title", "emoji", "sdk") if not data.get(name)]
    if data.get("sdk") not in KINDS:
        problems.append(f"`sdk` is {data.get('sdk')!r}, not one of {', '.join(KINDS)}.")
    elif data["sdk"] == "static":
        if not (folder / str(data.get("app_file"))).is_file():
            problems.append(f"`app_file` is {data.get('app_file')!r}, which does not exist.")
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
    problems += [f"`{name}` is not a key that the Hub knows." for name in sorted(map(str, set(data) - KEYS))]
    try:
        check_licence(data.get("license"), data.get("language"))
    except InputError as error:
        problems.append(str(error))
    for name in ("colorFrom", "colorTo"):
        if data.get(name) not in COLOURS:
            problems.append(f"`{name}` is {data.get(name)!r}, not one of {', '.join(COLOURS)}.")
    if len(str(data.get("short_description", ""))) > 60:
        problems.append("`short_description` is longer than 60 characters.")
    for name in ("models", "datasets"):
        ids = data.get(name, [])
        if not isinstance(ids, list) or not all(isinstance(item, str) and REPO_ID.fullmatch(item) for item in ids):
            problems.append(f"`{name}` is {ids!r}, not a list of ids such as OWNER/NAME.")
    return problems


def hub() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when it is imported
    try:
        import huggingface_hub
    except ImportError:
        message = "A Space needs the library huggingface_hub. Install it: pip install -r requirements.txt"
        raise MissingDependencyError(message) from None
    return huggingface_hub
