"""Broken and hostile model folders: each is a healthy tiny one with one fault. `FAULTS` is the list of them."""

from __future__ import annotations

import json
import os
import shutil
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import foreign

Spoil = Callable[[Path], Any]
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"
SPARSE = 5_000_000_000
# Code that leaves a mark beside the model's folder, should anybody run it.
MARK = "import os, pathlib\npathlib.Path(__file__).resolve().parent.parent.joinpath('mark').touch()\n"


@dataclass(frozen=True)
class Fault:
    """One fault of a folder, and words that its refusal must hold."""

    name: str
    kind: str
    """The healthy folder that it is made of: classifier, shards, adapter, adapters, bundle."""
    spoil: Spoil
    """Called with the model's folder; its base is `../base`, and `../outside` is what nobody may read."""
    says: str


def healthy(root: Path) -> None:
    """One tiny healthy folder of every kind in `root`, each in a folder of its own with its base."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import AutoModel, AutoModelForSequenceClassification

    from inference.formats.bundle import BASE_FILES
    from inference.formats.files import sha256

    classifier = foreign.classifier(root / "classifier" / "model")
    AutoModelForSequenceClassification.from_pretrained(classifier).save_pretrained(
        root / "shards" / "model", max_shard_size="30KB"
    )
    foreign.write_tokenizer(root / "shards" / "model")
    for kind, names in (("adapter", ["."]), ("adapters", ["mood", "topic"])):
        base = foreign.base(root / kind / "base")
        for name in names:
            folder = foreign.adapter(root / kind / "model" / name, base)
            edit("adapter_config.json", base_model_name_or_path="../base")(folder)
    bundle = root / "bundle" / "model"
    encoder = foreign.base(bundle / "encoder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks transformers for a property by its old name
        adapted = get_peft_model(AutoModel.from_pretrained(encoder), LoraConfig(r=2, target_modules=["query"]))
        adapted.save_pretrained(bundle / "adapter")
    (bundle / "adapter" / "README.md").unlink()
    save_file({"mood.weight": torch.randn(2, 32), "mood.bias": torch.zeros(2)}, bundle / "heads.safetensors")
    task = {"labels": ["down", "up"], "problem_type": "single_label_classification", "threshold": 0.0}
    described = {
        "format": 1,
        "name": "tiny",
        "tasks": {"mood": task},
        "pooling": "mean",
        "max_tokens": 32,
        "base": {"folder": "encoder", "files": {name: sha256(encoder / name) for name in BASE_FILES}},
        "files": {
            name: sha256(bundle / name)
            for name in ("heads.safetensors", "adapter/adapter_config.json", "adapter/adapter_model.safetensors")
        },
    }
    (bundle / "bundle.json").write_text(json.dumps(described))
    exported(classifier, root / "onnx" / "model")


def exported(classifier: Path, folder: Path) -> None:
    """The ONNX files of a classifier, without INT8, and without the list by which every change of them is noticed."""
    from inference.artifacts.export import export_files
    from inference.formats.describe import describe
    from inference.onnx.export import export_onnx
    from inference.pytorch.huggingface import load_merged

    bundle = describe(classifier)
    graph = folder.parent / "graph" / "model.onnx"
    graph.parent.mkdir(parents=True)
    export_onnx(load_merged(bundle), graph)
    export_files(graph, classifier / "tokenizer.json", folder, bundle.tasks, bundle.max_tokens, bundle.pad_id)
    shutil.rmtree(graph.parent)
    (folder / "export.json").unlink()


def graph(change: Callable[[Any], Any]) -> Spoil:
    """Change the graph of an exported model."""

    def spoil(folder: Path) -> None:
        import onnx

        model = onnx.load(folder / "label.onnx", load_external_data=False)
        change(model)
        (folder / "label.onnx").write_bytes(model.SerializeToString())

    return spoil


def external(location: str) -> Callable[[Any], Any]:
    """Let a weight of a graph be in a file of this name."""

    def change(model: Any) -> None:
        weight = next(one for one in model.graph.initializer if len(one.dims) == 2)
        weight.ClearField("raw_data")
        weight.data_location = 1
        for key, value in (
            ("location", location),
            ("offset", "0"),
            ("length", str(4 * weight.dims[0] * weight.dims[1])),
        ):
            entry = weight.external_data.add()
            entry.key, entry.value = key, value

    return change


# --- Ways to spoil a folder


def both(*spoils: Spoil) -> Spoil:
    return lambda folder: [spoil(folder) for spoil in spoils]


def edit(name: str, **fields: Any) -> Spoil:
    """Set fields of a JSON file."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **fields}))

    return spoil


def drop(name: str, *fields: str) -> Spoil:
    """Take fields out of a JSON file."""

    def spoil(folder: Path) -> None:
        raw = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({key: value for key, value in raw.items() if key not in fields}))

    return spoil


def write(name: str, content: str | bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def remove(*names: str) -> Spoil:
    def spoil(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def cut(name: str) -> Spoil:
    """Keep the first half of a file."""
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def sparse(name: str) -> Spoil:
    """Grow a file to 5 GB that take no room on the disk."""
    return lambda folder: os.truncate(folder / name, SPARSE)


def link(name: str) -> Spoil:
    """Move a file or folder to ../outside and link to it: a reader that follows the link finds a valid file."""

    def spoil(folder: Path) -> None:
        outside = folder.parent / "outside" / Path(name).name
        outside.parent.mkdir(exist_ok=True)
        shutil.move(folder / name, outside)
        (folder / name).symlink_to(outside)

    return spoil


def point(name: str, target: str) -> Spoil:
    """Replace a file with a link to `target`."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


def fifo(name: str) -> Spoil:
    """Replace a file with a pipe that nobody writes to: to open it is to wait for ever."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return spoil


def header(name: str, **changes: Any) -> Spoil:
    """Change the first tensor's entry in the header of a safetensors file."""

    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        raw = json.loads(data[8 : 8 + length])
        first = next(key for key in raw if key != "__metadata__")
        raw[first].update(changes)
        text = json.dumps(raw).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return spoil


def raw_header(name: str, length: int, text: bytes = b"") -> Spoil:
    return write(name, struct.pack("<Q", length) + text)


def tensors(name: str, change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Change the tensors of a safetensors file, by a function of the dictionary that they are in."""

    def spoil(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        held = {key: value.clone() for key, value in load_file(folder / name).items()}
        change(held)
        save_file(held, folder / name, {"format": "pt"})

    return spoil


def poison(number: float) -> Callable[[dict[str, Any]], Any]:
    """Set one weight in the middle of the first matrix of a layer."""

    def change(held: dict[str, Any]) -> None:
        key = next(key for key, value in held.items() if value.dim() == 2 and value.shape[0] > 4)
        held[key][3, 1] = number

    return change


def labels(names: Any) -> Spoil:
    return edit("config.json", id2label=names)


def pinned(*spoils: Spoil) -> Spoil:
    """Spoil a bundle and recompute the digests, as an attacker would."""

    def spoil(folder: Path) -> None:
        from inference.formats.files import sha256

        for one in spoils:
            one(folder)
        path = folder / "bundle.json"
        raw = json.loads(path.read_text())
        for files, home in ((raw["files"], folder), (raw["base"]["files"], folder / "encoder")):
            files.update({name: sha256(home / name) for name in files if (home / name).is_file()})
        path.write_text(json.dumps(raw))

    return spoil


def pickle_that_marks(folder: Path) -> bytes:
    """A program in the form of a pickle."""
    return f"cos\nsystem\n(S'touch {folder.parent}/mark'\ntR.".encode()


def pickled(name: str) -> Spoil:
    """Put a pickle where weights or heads are looked for."""
    return lambda folder: write(name, pickle_that_marks(folder))(folder)
