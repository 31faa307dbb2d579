"""A manifest that is not, byte for byte, what a build wrote is refused in one line, or its files are built again."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny

from inference.artifacts import cache
from inference.artifacts.cache import Artifact, find, obtain
from inference.artifacts.manifest import MANIFEST, read_manifest, write_manifest
from inference.commands.doctor import examine
from inference.errors import BundleError
from inference.formats.bundle import Bundle

FLIPS = 200


@pytest.fixture(scope="module")
def built(tiny: Tiny) -> Artifact:
    return obtain(Bundle.read(tiny.folder), tiny.cache, base=tiny.base)


@pytest.fixture(scope="module")
def written(built: Artifact) -> bytes:
    return (built.folder / MANIFEST).read_bytes()


def refusal(content: bytes, folder: Path) -> str:
    """The one line that refuses `content` as a manifest."""
    path = folder / MANIFEST
    path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged: ")
    assert message.endswith("Build it again: python -m inference build --model (its folder)")
    assert "\n" not in message
    return message


def test_manifest_is_read_as_it_was_written(built: Artifact, written: bytes, tmp_path: Path) -> None:
    assert read_manifest(built.folder / MANIFEST) == built.manifest
    write_manifest(tmp_path / MANIFEST, built.manifest)
    assert (tmp_path / MANIFEST).read_bytes() == written


@pytest.mark.slow
def test_every_flipped_bit_is_noticed(written: bytes, tmp_path: Path) -> None:
    draw = random.Random(0)
    places = {(draw.randrange(len(written)), draw.randrange(8)) for _ in range(FLIPS)}
    digest = written.rindex(b'"sha256"')
    places |= {(byte, bit) for byte in range(digest, len(written)) for bit in range(8)}  # of the digest itself: all
    assert len(places) > FLIPS
    for byte, bit in places:
        content = bytearray(written)
        content[byte] ^= 1 << bit
        refusal(bytes(content), tmp_path)


def test_every_truncation_is_noticed(written: bytes, tmp_path: Path) -> None:
    for length in {0, 1, 2, *range(0, len(written), 97), len(written) - 1}:
        refusal(written[:length], tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + b"\n",
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b": ", b":  ", 1),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: json.dumps(json.loads(text)).encode(),
        lambda text: json.dumps(dict(reversed(json.loads(text).items())), indent=1).encode(),
        lambda text: text.replace(b"{", b'{\n "model": "other",', 1),  # a second "model"; the later one counts
        lambda text: b"[" * 100_000,
        lambda text: b"[]",
        lambda text: b"null",
        lambda text: b" " * 2_000_000,
    ],
    ids=["line end", "mark", "space", "crlf", "compact", "order", "repeated key", "deep", "list", "null", "large"],
)
def test_other_spellings_of_a_manifest_are_noticed(
    written: bytes, change: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    assert change(written) != written
    refusal(change(written), tmp_path)


def test_manifest_without_its_digest_is_refused(built: Artifact, tmp_path: Path) -> None:
    older = json.dumps(built.manifest, indent=1).encode()
    assert "it has no digest of its own (older versions wrote none)" in refusal(older, tmp_path)


def sealed(manifest: Any) -> bytes:
    """As the module writes it, for content that is wrong: a digest that matches proves nothing by itself."""
    digest = hashlib.sha256(json.dumps(manifest, indent=1).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=1).encode()


def places_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every key and element under `value`."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, one in inner for place in [(*path, key), *places_of(one, (*path, key))]]


@pytest.mark.parametrize("other", [None, True, "text", -1, 1.5, float("nan"), 1e999, [], {}, [[]], {"a": None}])
def test_values_of_other_types_with_a_new_digest_never_give_a_raw_error(
    tiny: Tiny, built: Artifact, other: Any, tmp_path: Path
) -> None:
    places = places_of(built.manifest)
    assert len(places) > 50
    refused = 0
    for place in places:
        manifest = json.loads(json.dumps(built.manifest))
        target = manifest
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = other
        (tmp_path / MANIFEST).write_bytes(sealed(manifest))
        try:
            artifact = Artifact(built.folder, read_manifest(tmp_path / MANIFEST))
            use(artifact)
        except BundleError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 20


def use(artifact: Artifact) -> None:
    """Everything that the rest of the code reads of an artefact."""
    from ui.render import about

    artifact.verify()
    artifact.tokenizer_file()
    artifact.read("int8")
    assert artifact.size_bytes("onnx") + artifact.size_bytes("int8") > 0
    about(artifact.served(Bundle(Path(), "m", {}, None, 1, None, {})), {}, artifact.parity)  # type: ignore[arg-type]


def test_deleted_keys_with_a_new_digest_never_give_a_raw_error(built: Artifact, tmp_path: Path) -> None:
    for place in places_of(built.manifest):
        manifest = json.loads(json.dumps(built.manifest))
        target = manifest
        for key in place[:-1]:
            target = target[key]
        del target[place[-1]]
        (tmp_path / MANIFEST).write_bytes(sealed(manifest))
        try:
            use(Artifact(built.folder, read_manifest(tmp_path / MANIFEST)))
        except BundleError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["../secret", "a/b", "a\\b", "..", "", "manifest.json"])
def test_file_names_that_lead_elsewhere_are_refused(built: Artifact, name: str, tmp_path: Path) -> None:
    files = {**built.manifest["files"], name: {"sha256": "0" * 64, "size_bytes": 1}}
    assert "is not a file of a build" in refusal(sealed({**built.manifest, "files": files}), tmp_path)


@pytest.fixture
def damaged(tiny: Tiny, built: Artifact, tmp_path: Path) -> Tiny:
    """A copy of everything whose manifest has one flipped bit."""
    copy = tiny.copy(tmp_path)
    path = copy.cache / built.folder.name / MANIFEST
    content = path.read_bytes()
    assert content.count(b'"reduce_range": false') + content.count(b'"reduce_range": true') == 1
    path.write_bytes(content.replace(b'"built": "2', b'"built": "3', 1))
    return copy


def test_damaged_manifest_is_rebuilt_with_the_reason(damaged: Tiny, built: Artifact) -> None:
    bundle, steps = Bundle.read(damaged.folder), list[str]()
    with pytest.raises(BundleError, match="does not match its own digest"):
        find(bundle, damaged.cache)
    again = obtain(bundle, damaged.cache, lambda step, share: steps.append(step), damaged.base)
    assert steps[0].startswith("building again: ")
    assert steps[0].endswith("manifest.json is damaged: it does not match its own digest")
    # What is built is what it was, byte for byte.
    assert again.manifest["files"] == built.manifest["files"]
    assert (again.folder / "model.int8.onnx").read_bytes() == (built.folder / "model.int8.onnx").read_bytes()
    assert find(bundle, damaged.cache) is not None


def test_damaged_manifest_is_refused_where_nothing_can_be_built(damaged: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "tool_versions", lambda: {"onnxruntime": "1"})
    with pytest.raises(BundleError, match=r"manifest.json is damaged.*Build it again"):
        obtain(Bundle.read(damaged.folder), damaged.cache)


def test_doctor_names_a_damaged_manifest(damaged: Tiny) -> None:
    findings = examine(damaged.folder, damaged.base, damaged.cache)
    assert any("manifest.json is damaged" in one.what and "inference build" in one.do for one in findings)
