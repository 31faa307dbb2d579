"""Model files that would leave a mark if anything in them were run: none is, and each gives one clear line."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_checkpoint, write_classifier
from conftest import ROOT

from inference.__main__ import main
from inference.artifacts.importing import import_weights
from inference.errors import BundleError


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return write_classifier(tmp_path / "classifier")


class Calls:
    """Unpickles as the result of a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def _archive(pickled: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    """An archive as torch.save writes it, around any pickle."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, content in {"data.pkl": pickled, "version": b"3\n", **more}.items():
            archive.writestr(f"x/{name}", content)
    return made.getvalue()


def _saved(raw: Any, **options: Any) -> bytes:
    made = io.BytesIO()
    torch.save(raw, made, **options)
    return made.getvalue()


def _tar(pickled: bytes) -> bytes:
    """The form of PyTorch before 0.1.10, through which CVE-2025-32434 came."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(pickled)
            archive.addfile(entry, io.BytesIO(pickled))
    return made.getvalue()


def _tripwires(mark: Path) -> dict[str, bytes]:
    run = Calls(os.system, f"touch {mark}")
    code = Calls(eval, f"open({str(mark)!r}, 'w')")
    good = _saved({"a": torch.ones(64)})
    text = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()  # protocol 0
    inst = f"(S'touch {mark}'\nios\nsystem\n.".encode()
    files = {
        "bare os.system": pickle.dumps(run),
        "bare eval": pickle.dumps(code, protocol=2),
        "text os.system": text,
        "archive os.system": _saved({"a": run}),
        "archive eval": _saved({"task_heads": code, "a": torch.ones(2)}),
        "archive protocol 4": _saved({"a": run}, pickle_protocol=4),
        "archive text": _archive(text),
        "archive INST": _archive(inst),
        "archive before weights": _archive(text[:-1] + b"0" + pickle.dumps({}, protocol=2)[2:]),
        "legacy": _saved({"a": run}, _use_new_zipfile_serialization=False),
        "legacy without harm": _saved({"a": torch.ones(2)}, _use_new_zipfile_serialization=False),
        "tar": _tar(pickle.dumps(run)),
        "zip in the zip": _archive(_archive(pickle.dumps(run))),
        "zip before the zip": _archive(pickle.dumps(run)) + good,
        "zip after the zip": good + _archive(pickle.dumps(run)),
        "two pickles": _archive(pickle.dumps({}, protocol=2), **{"other.pkl": pickle.dumps(run)}),
        "deep pickle": _archive(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
        "bomb": _archive(b"\x00" * 50_000_000, zipfile.ZIP_DEFLATED),
        "torchscript": _archive(pickle.dumps(run), **{"constants.pkl": b"\x80\x02)."}),
        "other global": _archive(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n."),
        "nothing": b"",
        "noise": bytes(range(256)) * 40,
    }
    for share in (0.1, 0.5, 0.9, 0.999):
        files[f"cut at {share}"] = good[: int(len(good) * share)]
    return files


@pytest.fixture
def unmarked(tmp_path: Path) -> Any:
    """The mark that no file may leave; afterwards it is looked for."""
    mark = tmp_path / "mark"
    yield mark
    assert not mark.exists(), "code in a model file was run"


def _places(checkpoint: Path, classifier: Path) -> list[tuple[str, Path]]:
    (checkpoint / "encoder" / "model.safetensors").unlink()
    return [
        ("rapidfit", checkpoint / "encoder" / "pytorch_model.bin"),
        ("rapidfit", checkpoint / "task_heads.pt"),
        ("weights", classifier / "pytorch_model.bin"),
        ("weights", classifier / "adapter_model.bin"),
    ]


def _refused(kind: str, folder: Path, out: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    assert main(["import", kind, str(folder), str(out)]) == 2, case
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and len(stderr) < 1_000, (case, stderr)
    assert sorted(path.name for path in out.parent.iterdir()) == ["checkpoint", "classifier"], case


def test_no_pickle_runs_and_each_gives_one_line(
    checkpoint: Path, classifier: Path, tmp_path: Path, unmarked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, path in _places(checkpoint, classifier):
        for case, content in _tripwires(unmarked).items():
            path.write_bytes(content)
            folder = checkpoint if kind == "rapidfit" else classifier
            _refused(kind, folder, tmp_path / "out", capsys, f"{kind} {path.name} {case}")


def test_the_tripwires_are_live(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.load(io.BytesIO(_tripwires(mark)["archive os.system"]), weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("tail", [b"", _saved({"a": torch.ones(2)})])
def test_a_file_of_five_gigabytes_that_holds_nothing_is_refused_unread(
    checkpoint: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tail: bytes
) -> None:
    for kind, path in _places(checkpoint, classifier):
        with path.open("wb") as file:  # sparse: it takes no room on the disk
            file.truncate(5_000_000_000)
            file.seek(0, os.SEEK_END)
            file.write(tail)
        _refused(kind, checkpoint if kind == "rapidfit" else classifier, tmp_path / "out", capsys, path.name)


def test_a_tensor_that_reaches_past_its_memory_is_refused(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_saved({"a": torch.ones(64)}))) as good, zipfile.ZipFile(made, "w") as bad:
        for part in good.infolist():
            content = good.read(part)
            if part.filename.endswith("data.pkl"):
                size = b"K" + struct.pack("<B", 64)  # BININT1 64, as the number of values and as the shape
                assert content.count(size) == 2
                head, _, tail = content.rpartition(size)
                content = head + b"M" + struct.pack("<H", 60_000) + tail
            bad.writestr(part, content)
    (classifier / "pytorch_model.bin").write_bytes(made.getvalue())
    with pytest.raises(BundleError, match=r"cannot be loaded as weights|many times larger"):
        import_weights(classifier, tmp_path / "out")


def test_no_other_reader_opens_a_pickle(checkpoint: Path, classifier: Path, tmp_path: Path, unmarked: Path) -> None:
    evil = _saved(OrderedDict(a=Calls(os.system, f"touch {unmarked}")))
    folders = [checkpoint, classifier]
    for path in (checkpoint / "task_heads.pt", classifier / "pytorch_model.bin", classifier / "training_args.bin"):
        path.write_bytes(evil)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "task_type": "SEQ_CLS"}')
    (adapter / "adapter_model.bin").write_bytes(evil)
    script = f"""
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from inference import load
from inference.errors import InferenceError
for folder in {[str(folder) for folder in [*folders, adapter]]!r}:
    for backend in ("pytorch", "onnx", "int8"):
        try:
            load(folder, backend, cache={str(tmp_path / "cache")!r})
            raise SystemExit(folder + " was loaded")
        except InferenceError as error:
            assert "python -m inference import" in str(error), error
wrong = [path for path in opened if path.endswith((".bin", ".pt")) and {str(tmp_path)!r} in path]
raise SystemExit(f"opened {{wrong}}" if wrong else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
