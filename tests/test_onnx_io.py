"""Reading ONNX graphs of strangers, and graphs whose weights lie in a file of their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from inference.errors import BundleError, ExportError
from inference.formats.files import sha256
from inference.onnx.io import LIMIT, load_model, read_graph, save_model
from inference.onnx.join import join_graphs

WORDS, WIDTH = 50, 32


def small_model() -> ModelProto:
    """A table of word vectors, and their mean as the logits."""
    table = np.random.default_rng(0).standard_normal((WORDS, WIDTH)).astype(np.float32)
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", WIDTH])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("ReduceMean", ["words"], ["logits"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "small", ids, [logits], [numpy_helper.from_array(table, "table")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def logits(path: Path, within: Path | None = None) -> NDArray[np.float32]:
    """What the graph gives for the words 3 and 4, the session made as the backend makes it."""
    graph = read_graph(path, within)
    options = onnxruntime.SessionOptions()
    graph.attach(options)
    session = onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
    ids = np.array([[3, 4]])
    return session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A graph with its weights beside it, in a folder of its own."""
    (tmp_path / "model").mkdir()
    written = save_model(small_model(), tmp_path / "model" / "mood.onnx", external=True)
    assert [path.name for path in written] == ["mood.onnx", "mood_weights.bin"]
    return written[0]


def entries(path: Path, **changes: str) -> None:
    """Rewrite where the graph says that its weights lie."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = changes.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())


def test_a_graph_and_its_weights_are_read_as_one(split: Path, tmp_path: Path) -> None:
    (whole,) = save_model(small_model(), tmp_path / "whole.onnx")
    graph = read_graph(split)
    assert graph.weights == {}
    shutil.rmtree(split.parent)  # nothing is read later
    session = onnxruntime.InferenceSession(graph.model)
    outputs = session.run(None, {"input_ids": np.array([[3, 4]]), "attention_mask": np.ones((1, 2), np.int64)})[0]
    np.testing.assert_array_equal(outputs, logits(whole))


def test_onnx_runtime_opens_what_was_split_by_itself(split: Path) -> None:
    session = onnxruntime.InferenceSession(split)
    outputs = session.run(None, {"input_ids": np.array([[3, 4]]), "attention_mask": np.ones((1, 2), np.int64)})[0]
    np.testing.assert_array_equal(outputs, logits(split))


def test_a_graph_in_a_folder_of_the_model_finds_its_weights_beside_it(split: Path, tmp_path: Path) -> None:
    assert logits(split, within=tmp_path).shape == (1, WIDTH)
    with pytest.raises(BundleError, match="is not in the model's folder"):
        read_graph(split, within=tmp_path / "elsewhere")


def link(path: Path) -> None:
    outside = path.parents[1] / "secret.bin"
    (path.parent / "mood_weights.bin").replace(outside)
    (path.parent / "mood_weights.bin").symlink_to(outside)


def hard_link(path: Path) -> None:
    outside = path.parents[1] / "secret.bin"
    (path.parent / "mood_weights.bin").replace(outside)
    os.link(outside, path.parent / "mood_weights.bin")


def folder(path: Path) -> None:
    (path.parent / "mood_weights.bin").unlink()
    (path.parent / "mood_weights.bin").mkdir()


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "an absolute path": (lambda p: entries(p, location=str(p.parents[1] / "secret.bin")), "not a plain file name"),
    "a path upwards": (lambda p: entries(p, location="../secret.bin"), "not a plain file name"),
    "a path upwards with backslashes": (lambda p: entries(p, location="..\\secret.bin"), "not a plain file name"),
    "the folder itself": (lambda p: entries(p, location="."), "not a plain file name"),
    "an address in memory": (lambda p: entries(p, location="*/_ORT_MEM_ADDR_/*"), "not a plain file name"),
    "no name": (lambda p: entries(p, location=""), "not a plain file name"),
    "a link": (link, "is a link to a place outside the model folder"),
    "a hard link": (hard_link, "is a hard link"),
    "a folder": (folder, "is not a file"),
    "a missing file": (lambda p: (p.parent / "mood_weights.bin").unlink(), "is missing"),
    "too long a tensor": (lambda p: entries(p, length=str(4 * WORDS * WIDTH + 1)), "which has 6,400"),
    "an offset past the end": (lambda p: entries(p, offset="6401", length="0"), "which has 6,400"),
    "a negative offset": (lambda p: entries(p, offset="-8", length="8"), "which has 6,400"),
    "an offset that is no number": (lambda p: entries(p, offset="0x10"), "is not a number"),
    "an offset of 5,000 digits": (lambda p: entries(p, offset="9" * 5000), "is not a number"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_weights_outside_the_folder_are_refused_in_one_line(split: Path, case: str) -> None:
    (split.parents[1] / "secret.bin").write_bytes(b"\x07" * 4 * WORDS * WIDTH)
    change, message = HOSTILE[case]
    change(split)
    for read in (read_graph, load_model, lambda path: join_graphs({"mood": path}, path.parent / "merged.onnx")):
        with pytest.raises(BundleError, match=message) as refused:
            read(split)
        assert "\n" not in str(refused.value)
    assert not (split.parent / "merged.onnx").exists()


def test_many_tensors_that_share_their_bytes_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    path = large_model(tmp_path, tables=4, rows=100)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[1].value, tensor.external_data[2].value = "0", str(4 * 4 * 100 * 1024)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="its weights overlap"):
        load_model(path)


def test_a_snapshot_in_the_cache_of_the_hub_is_read_through_its_own_links(split: Path, tmp_path: Path) -> None:
    expected = logits(split)
    snapshot, blobs = tmp_path / "models--a--b/snapshots/0123", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(split.parent.iterdir())):
        path.replace(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    np.testing.assert_array_equal(logits(snapshot / "mood.onnx"), expected)


def test_a_tensor_inside_an_operator_reads_nothing_from_outside_either(split: Path) -> None:
    model = onnx.load(split, load_external_data=False)
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=tensor)],
        "branch",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])],
    )
    model.graph.node.append(helper.make_node("If", ["input_ids"], ["y"], then_branch=branch, else_branch=branch))
    split.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="'/etc/hostname', which is not a plain file name"):
        read_graph(split)


@pytest.mark.parametrize("domain", ["evil.ops", "ai.onnx.contrib", "com.microsoft.nchwc"])
def test_operator_of_an_unknown_domain_is_refused_at_any_depth(split: Path, domain: str) -> None:
    model = onnx.load(split, load_external_data=False)
    hidden = helper.make_graph([helper.make_node("Run", ["x"], ["y"], domain=domain)], "branch", [], [])
    for node in (
        helper.make_node("Run", ["logits"], ["y"], domain=domain),
        helper.make_node("If", ["input_ids"], ["y"], then_branch=hidden, else_branch=hidden),
    ):
        changed = ModelProto()
        changed.CopyFrom(model)
        changed.graph.node.append(node)
        split.write_bytes(changed.SerializeToString())
        with pytest.raises(BundleError, match=f"uses the operator {domain}::Run"):
            read_graph(split)


def test_graph_with_custom_functions_is_refused(split: Path) -> None:
    model = onnx.load(split, load_external_data=False)
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], body, [helper.make_opsetid("", 17)]))
    split.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="defines operators"):
        read_graph(split)


@pytest.mark.parametrize("data", [b"", b"no graph at all", b"\x08\x07"])
def test_file_that_is_not_a_graph_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "mood.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="is not an ONNX graph"):
        read_graph(tmp_path / "mood.onnx")


def test_files_are_compared_with_the_digests_given(split: Path) -> None:
    digests = {path.name: sha256(path) for path in split.parent.iterdir()}
    assert read_graph(split, digests=digests).model
    with pytest.raises(BundleError, match="mood_weights.bin is not the file that was listed"):
        read_graph(split, digests={**digests, "mood_weights.bin": "0" * 64})
    with pytest.raises(BundleError, match="mood.onnx is not the file that was listed"):
        read_graph(split, digests={})


def large_model(folder: Path, tables: int, rows: int, width: int = 1024) -> Path:
    """A graph that adds the rows of several tables; zeros that take no room on most disks, but for one row."""
    size_bytes = 4 * rows * width
    path = folder / "large.onnx"
    initializers = []
    for number in range(tables):
        tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[rows, width])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "large_weights.bin"), ("offset", number * size_bytes), ("length", size_bytes)):
            tensor.external_data.add(key=key, value=str(value))
        initializers.append(tensor)
    nodes = [helper.make_node("Gather", [f"w{number}", "input_ids"], [f"g{number}"]) for number in range(tables)]
    nodes.append(helper.make_node("Sum", [f"g{number}" for number in range(tables)], ["s"]))
    nodes.append(helper.make_node("ReduceMean", ["s"], ["mean"], axes=[1], keepdims=0))
    nodes.append(helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("ReduceMean", ["mask"], ["share"], axes=[1], keepdims=1))
    nodes.append(helper.make_node("Mul", ["mean", "share"], ["logits"]))
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", width])
    graph = helper.make_graph(nodes, "large", ids, [output], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with (folder / "large_weights.bin").open("wb") as file:
        for number in range(tables):  # the words 3 and 4 of each table, so that no two are equal
            file.seek(number * size_bytes + 4 * width * 3)
            file.write(np.full((2, width), number + 1, np.float32).tobytes())
        file.truncate(tables * size_bytes)
    return path


@pytest.mark.slow
def test_a_graph_past_two_gigabytes_is_read(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 4e9 or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 6e9:
        pytest.skip("needs 4 GB of disk and 6 GB of memory")
    try:
        path = large_model(tmp_path, tables=4, rows=131_500)
        assert (tmp_path / "large_weights.bin").stat().st_size > LIMIT
        np.testing.assert_array_equal(logits(path), np.full((1, 1024), 10, np.float32))
    finally:
        for file in tmp_path.iterdir():
            file.unlink()


def test_past_the_limit_weights_go_to_a_session_beside_the_graph_and_to_a_file_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large_model(tmp_path, tables=4, rows=100)  # 1.6 MB, with a limit to match
    expected = np.full((1, 1024), 10, np.float32)
    monkeypatch.setattr("inference.onnx.io.LIMIT", 1_500_000)
    graph = read_graph(path)
    assert list(graph.weights) == ["w0", "w1", "w2", "w3"]
    assert len(graph.model) < 10_000
    np.testing.assert_array_equal(logits(path), expected)
    with pytest.raises(ExportError, match="Omit external_data to write"):
        save_model(load_model(path), tmp_path / "one.onnx", external=False)
    written = save_model(load_model(path), tmp_path / "again.onnx")
    assert [one.name for one in written] == ["again.onnx", "again_weights.bin"]
    np.testing.assert_array_equal(logits(written[0]), expected)
    written = join_graphs({"mood": path, "topic": path}, tmp_path / "merged.onnx")
    assert [one.name for one in written] == ["merged.onnx", "merged_weights.bin"]
    assert written[1].stat().st_size < 1.1 * (tmp_path / "large_weights.bin").stat().st_size


def test_a_tensor_of_another_size_than_its_shape_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = large_model(tmp_path, tables=4, rows=100)
    entries(path, length="4096")
    monkeypatch.setattr("inference.onnx.io.LIMIT", 1_000_000)
    with pytest.raises(BundleError, match=r"'w0' of shape \[100, 1024\] cannot have 4,096 bytes"):
        read_graph(path)
