"""A model past 2 GB: exported, quantised and answering, its weights in a file beside each graph."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from inference import load
from inference.onnx.io import LIMIT

ROWS, WIDTH = 1_100_000, 512
TABLE = "bert.embeddings.word_embeddings.weight"
CGROUP = Path("/sys/fs/cgroup")
TEXTS = ["it was so good", "a bad lamp, twice!", "soup"]


def free_memory() -> float:
    """Bytes that this process may still take, in a container too."""
    free = float(psutil.virtual_memory().available)
    limit = CGROUP / "memory.max"
    if limit.is_file() and limit.read_text().strip() != "max":
        free = min(free, float(limit.read_text()) - float((CGROUP / "memory.current").read_text()))
    return free


def enlarge(folder: Path, rows: dict[str, int]) -> None:
    """Give these tables of a model more rows. They are zeros, and holes on a disk that knows holes."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    header: dict[str, Any] = {}
    offset = 0
    for name, values in tensors.items():
        shape = [rows.get(name, values.shape[0]), *values.shape[1:]]
        size_bytes = int(np.prod(shape)) * 4
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size_bytes]}
        offset += size_bytes
    described = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(described).to_bytes(8, "little") + described)
        start = file.tell()
        for name, values in tensors.items():
            file.seek(start + header[name]["data_offsets"][0])
            file.write(values.tobytes())
        file.truncate(start + offset)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("large")
    if shutil.disk_usage(home).free < 12e9 or free_memory() < 14e9:
        pytest.skip("needs 12 GB of disk and 14 GB of free memory")
    folder = foreign.classifier(home / "model", hidden_size=WIDTH, num_hidden_layers=1, num_labels=2)
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] = ROWS
    (folder / "config.json").write_text(json.dumps(config))
    enlarge(folder, {TABLE: ROWS})
    assert (folder / "model.safetensors").stat().st_size > LIMIT
    yield folder
    shutil.rmtree(home)  # gigabytes, and the folders of three runs are kept


def test_a_model_past_two_gigabytes_is_exported_quantised_and_answers(large: Path) -> None:
    cache = large.parent / "cache"
    pytorch = load(large, "pytorch", cache=cache)
    expected = [one.scores["good"] for one in pytorch.predict(TEXTS)]
    del pytorch
    onnx = load(large, "onnx", cache=cache)
    assert [one.scores["good"] for one in onnx.predict(TEXTS)] == pytest.approx(expected, abs=1e-5)
    (built,) = [path.parent for path in cache.rglob("model.onnx")]
    assert (built / "model_weights.bin").stat().st_size > LIMIT
    assert (built / "model.int8.onnx").stat().st_size < LIMIT / 3
    int8 = load(large, "int8", cache=cache)
    assert [one.scores["good"] for one in int8.predict(TEXTS)] == pytest.approx(expected, abs=0.05)
