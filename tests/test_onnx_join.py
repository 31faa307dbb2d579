"""Graphs of one task each, made into one graph: equal parts are computed once and answers stay what they were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from test_quantize import quantize
from transformers import BertConfig, BertModel

from inference.errors import BundleError
from inference.onnx.export import export_onnx
from inference.onnx.io import load_model, save_model
from inference.onnx.join import join_graphs, select
from inference.pytorch.network import Network

Feed = dict[str, NDArray[np.int64]]


def feed(rows: int = 3, tokens: int = 7) -> Feed:
    ids = np.random.default_rng(1).integers(1, 50, (rows, tokens))
    mask = np.ones_like(ids)
    mask[0, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def answers(path: Path, given: Feed) -> dict[str, NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def weight(name: str, seed: int, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), name)


def write(
    path: Path,
    nodes: list[NodeProto],
    weights: list[TensorProto],
    *,
    inputs: Mapping[str, int] | None = None,
    output: str = "logits",
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
    axes: tuple[str | int, str | int] = ("b", "t"),
) -> Path:
    given = inputs or {"input_ids": TensorProto.INT64, "attention_mask": TensorProto.INT64}
    infos = [helper.make_tensor_value_info(name, one, list(axes)) for name, one in given.items()]
    logits = helper.make_tensor_value_info(output, kind, ["b", 3])
    graph = helper.make_graph(nodes, "one", infos, [logits], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def encoder(prefix: str, table: int = 0, up: int = 1) -> tuple[list[NodeProto], list[TensorProto]]:
    """A sum of word vectors and a layer on it, ending in `<prefix>r`. The seeds say which weights it has."""
    nodes = [
        helper.make_node("Gather", [f"{prefix}table", "input_ids"], [f"{prefix}w"], name=f"{prefix}n0"),
        helper.make_node("Cast", ["attention_mask"], [f"{prefix}f"], to=TensorProto.FLOAT),
        helper.make_node("Einsum", [f"{prefix}w", f"{prefix}f"], [f"{prefix}m"], equation="btc,bt->bc"),
        helper.make_node("MatMul", [f"{prefix}m", f"{prefix}up"], [f"{prefix}u"]),
        helper.make_node("Relu", [f"{prefix}u"], [f"{prefix}r"]),
    ]
    return nodes, [weight(f"{prefix}table", table, 50, 8), weight(f"{prefix}up", up, 8, 8)]


def one_task(path: Path, prefix: str, head: int, *, up: int = 1, table: int = 0, output: str = "logits") -> Path:
    nodes, weights = encoder(prefix, table, up)
    nodes.append(helper.make_node("MatMul", [f"{prefix}r", f"{prefix}head"], [output]))
    return write(path, nodes, [*weights, weight(f"{prefix}head", head, 8, 3)], output=output)


def same(path: Path, singles: Mapping[str, Path], given: Feed | None = None) -> None:
    """The merged graph gives what each single one gives."""
    given = given or feed()
    logits = answers(path, given)
    assert list(logits) == [f"logits_{task}" for task in singles]
    for task, single in singles.items():
        (expected,) = answers(single, given).values()
        np.testing.assert_allclose(logits[f"logits_{task}"], expected, atol=1e-6)


def test_copies_of_one_encoder_are_joined_whatever_their_names(tmp_path: Path) -> None:
    singles = {
        "mood": one_task(tmp_path / "mood.onnx", "a/", 2),
        "topic": one_task(tmp_path / "topic.onnx", "b/", 3, output="result"),
        "tone": one_task(tmp_path / "tone.onnx", "c/", 4),
    }
    join_graphs(singles, tmp_path / "merged.onnx")
    same(tmp_path / "merged.onnx", singles)
    assert operators(tmp_path / "merged.onnx") == [
        "Gather",
        "Cast",
        "Einsum",
        "MatMul",
        "Relu",
        "MatMul",
        "MatMul",
        "MatMul",
    ]
    assert len(onnx.load(tmp_path / "merged.onnx").graph.initializer) == 5


def test_encoders_branch_where_one_weight_differs(tmp_path: Path) -> None:
    singles = {
        "mood": one_task(tmp_path / "mood.onnx", "", 2),
        "topic": one_task(tmp_path / "topic.onnx", "", 2, up=9),
    }
    join_graphs(singles, tmp_path / "merged.onnx")
    same(tmp_path / "merged.onnx", singles)
    counts = operators(tmp_path / "merged.onnx")
    assert (counts.count("Gather"), counts.count("Relu"), counts.count("MatMul")) == (1, 2, 4)


def test_encoders_that_have_nothing_in_common_are_all_kept(tmp_path: Path) -> None:
    singles = {
        "mood": one_task(tmp_path / "mood.onnx", "", 2),
        "topic": one_task(tmp_path / "topic.onnx", "", 3, up=9, table=10),
    }
    join_graphs(singles, tmp_path / "merged.onnx")
    same(tmp_path / "merged.onnx", singles)
    assert len(operators(tmp_path / "merged.onnx")) == 11  # the mask as floats is what they share


def test_operators_that_differ_in_an_attribute_only_stay_apart(tmp_path: Path) -> None:
    def task(path: Path, slope: float) -> Path:
        nodes, weights = encoder("")
        nodes[-1] = helper.make_node("LeakyRelu", ["u"], ["r"], alpha=slope)
        nodes.append(helper.make_node("MatMul", ["r", "head"], ["logits"]))
        return write(path, nodes, [*weights, weight("head", 2, 8, 3)])

    singles = {"mood": task(tmp_path / "mood.onnx", 0.1), "topic": task(tmp_path / "topic.onnx", 0.9)}
    join_graphs(singles, tmp_path / "merged.onnx")
    same(tmp_path / "merged.onnx", singles)
    assert operators(tmp_path / "merged.onnx").count("LeakyRelu") == 2


def test_equal_graphs_give_each_task_its_output(tmp_path: Path) -> None:
    single = one_task(tmp_path / "mood.onnx", "", 2)
    singles = {"mood": single, "topic": single}
    join_graphs(singles, tmp_path / "merged.onnx")
    same(tmp_path / "merged.onnx", singles)


def test_values_with_names_of_outputs_are_renamed(tmp_path: Path) -> None:
    nodes, weights = encoder("logits_")
    nodes[-1].output[0] = "logits_topic"
    nodes.append(helper.make_node("MatMul", ["logits_topic", "logits_head"], ["logits_mood"]))
    first = write(tmp_path / "mood.onnx", nodes, [*weights, weight("logits_head", 5, 8, 3)], output="logits_mood")
    singles = {"topic": first, "mood": one_task(tmp_path / "topic.onnx", "", 3, up=4)}
    join_graphs(singles, tmp_path / "merged.onnx")
    same(tmp_path / "merged.onnx", singles)


def test_token_types_become_zeros_and_narrow_integers_and_half_floats_are_converted(tmp_path: Path) -> None:
    nodes, weights = encoder("")
    nodes += [
        helper.make_node("Gather", ["segments", "token_type_ids"], ["s"]),
        helper.make_node("ReduceMean", ["s"], ["sm"], axes=[1], keepdims=0),
        helper.make_node("Add", ["r", "sm"], ["sum"]),
        helper.make_node("MatMul", ["sum", "head"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["logits"], to=TensorProto.FLOAT16),
    ]
    names = ("input_ids", "attention_mask", "token_type_ids")
    half = write(
        tmp_path / "half.onnx",
        nodes,
        [*weights, weight("segments", 7, 2, 8), weight("head", 2, 8, 3)],
        inputs=dict.fromkeys(names, TensorProto.INT32),
        kind=TensorProto.FLOAT16,
    )
    join_graphs({"mood": half}, tmp_path / "merged.onnx")
    given = feed()
    logits = answers(tmp_path / "merged.onnx", given)["logits_mood"]
    assert logits.dtype == np.float32
    narrow = {name: values.astype(np.int32) for name, values in given.items()}
    expected = answers(half, {**narrow, "token_type_ids": np.zeros((3, 7), np.int32)})["logits"]
    np.testing.assert_array_equal(logits, expected.astype(np.float32))


def branch(name: str, scale: str) -> GraphProto:
    """What an If does with the value `r` from around it. Its own value is called `y` in every graph."""
    nodes = [helper.make_node("Mul", ["r", scale], ["t"]), helper.make_node("Identity", ["t"], ["y"])]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])


def test_branches_of_an_if_find_the_values_around_them_under_their_new_names(tmp_path: Path) -> None:
    def task(path: Path, up: int, double: float) -> Path:
        nodes, weights = encoder("", up=up)
        chosen = {"then_branch": branch("then", "big"), "else_branch": branch("else", "small")}
        nodes += [
            helper.make_node("ReduceMax", ["attention_mask"], ["any"], keepdims=0),
            helper.make_node("Cast", ["any"], ["cond"], to=TensorProto.BOOL),
            helper.make_node("If", ["cond"], ["chosen"], **chosen),
            helper.make_node("MatMul", ["chosen", "head"], ["logits"]),
        ]
        scales = [numpy_helper.from_array(np.float32(value), name) for name, value in (("big", double), ("small", 1))]
        return write(path, nodes, [*weights, *scales, weight("head", 2, 8, 3)])

    singles = {
        "mood": task(tmp_path / "mood.onnx", 1, 2.0),
        "topic": task(tmp_path / "topic.onnx", 9, 3.0),
        "tone": task(tmp_path / "tone.onnx", 1, 2.0),
    }
    join_graphs(singles, tmp_path / "merged.onnx")
    same(tmp_path / "merged.onnx", singles)
    assert operators(tmp_path / "merged.onnx").count("If") == 2
    again = {task: tmp_path / f"again_{task}.onnx" for task in singles}
    for task, path in again.items():
        merged = load_model(tmp_path / "merged.onnx")
        save_model(select(path, merged, {"logits": f"logits_{task}"}), path)
    join_graphs(again, tmp_path / "twice.onnx")
    same(tmp_path / "twice.onnx", singles)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real two-task graph with fused operators, as an artefact holds it."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    network = Network(BertModel(config, add_pooling_layer=False), 32, {"mood": 3, "topic": 2}).eval()
    path = tmp_path_factory.mktemp("shared") / "model.onnx"
    export_onnx(network, path)
    return path


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_model_exported_task_by_task_and_joined_is_the_model_again(
    shared: Path, tmp_path: Path, precision: str
) -> None:
    source = shared
    if precision == "int8":
        source = tmp_path / "int8.onnx"
        quantize(shared, source, [feed(1, tokens) for tokens in range(5, 12)], reduce_range=False)
    singles = {}
    for task in ("mood", "topic"):
        singles[task] = tmp_path / f"{task}.onnx"
        save_model(select(source, load_model(source), {"logits": f"logits_{task}"}), singles[task])
    join_graphs(singles, tmp_path / "merged.onnx")
    expected, logits = answers(source, feed()), answers(tmp_path / "merged.onnx", feed())
    for name, values in expected.items():
        np.testing.assert_array_equal(logits[name], values)
    assert len(operators(tmp_path / "merged.onnx")) <= len(operators(source))
    assert (tmp_path / "merged.onnx").stat().st_size < 1.05 * source.stat().st_size
    assert len(operators(singles["mood"])) > 0.9 * len(operators(tmp_path / "merged.onnx"))


def test_joined_graph_is_quantised_like_the_shared_one(shared: Path, tmp_path: Path) -> None:
    join_graphs(
        {task: _single(shared, task, tmp_path) for task in ("mood", "topic")},
        tmp_path / "merged.onnx",
    )
    feeds = [feed(1, tokens) for tokens in range(5, 12)]
    counts = [
        quantize(source, tmp_path / "int8.onnx", feeds, reduce_range=False)
        for source in (shared, tmp_path / "merged.onnx")
    ]
    assert counts[0] == counts[1]


def _single(shared: Path, task: str, folder: Path) -> Path:
    path = folder / f"{task}.onnx"
    save_model(select(shared, load_model(shared), {"logits": f"logits_{task}"}), path)
    return path


def test_output_named_logits_is_used_at_any_position(tmp_path: Path) -> None:
    single = one_task(tmp_path / "mood.onnx", "", 2)
    both = onnx.load(single)
    both.graph.output.insert(0, helper.make_tensor_value_info("r", TensorProto.FLOAT, ["b", 8]))
    onnx.save(both, tmp_path / "both.onnx")
    join_graphs({"mood": tmp_path / "both.onnx"}, tmp_path / "merged.onnx")
    same(tmp_path / "merged.onnx", {"mood": single})


def test_value_with_the_name_of_a_selected_output_is_renamed(tmp_path: Path) -> None:
    """As in a merged float16 graph: its own `logits` are followed by a Cast."""
    nodes, weights = encoder("")
    nodes += [
        helper.make_node("MatMul", ["r", "head"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["logits"], to=TensorProto.FLOAT16),
    ]
    half = write(tmp_path / "half.onnx", nodes, [*weights, weight("head", 2, 8, 3)], kind=TensorProto.FLOAT16)
    join_graphs({"mood": half}, tmp_path / "merged.onnx")
    again = select(half, load_model(tmp_path / "merged.onnx"), {"logits": "logits_mood"})
    made = [name for node in again.graph.node for name in node.output]
    assert len(set(made)) == len(made)
    save_model(again, tmp_path / "again.onnx")
    same(tmp_path / "merged.onnx", {"mood": tmp_path / "again.onnx"})


def test_incompatible_graphs_are_refused(tmp_path: Path) -> None:
    first = one_task(tmp_path / "mood.onnx", "", 2)
    nodes = [helper.make_node("Cast", ["input_ids"], ["logits"], to=TensorProto.FLOAT)]
    cases = {
        "uses opset 18 and another graph beside it 17": write(tmp_path / "a.onnx", nodes, [], opset=18),
        "takes the input 'pixels'": write(tmp_path / "b.onnx", nodes, [], inputs={"pixels": TensorProto.FLOAT}),
        "does not read input_ids": write(tmp_path / "c.onnx", nodes, [], inputs={"attention_mask": TensorProto.INT64}),
        "has no input attention_mask": write(tmp_path / "h.onnx", nodes, [], inputs={"input_ids": TensorProto.INT64}),
        "'logits' does not depend on attention_mask": write(tmp_path / "i.onnx", nodes, []),
        r"of shape \[1, 128\] only": write(tmp_path / "d.onnx", nodes, [], axes=(1, 128)),
        "is not a float tensor": write(tmp_path / "e.onnx", nodes, [], kind=TensorProto.INT64),
        "reads 'nothing', which": write(tmp_path / "f.onnx", [helper.make_node("Relu", ["nothing"], ["logits"])], []),
        "is damaged": write(tmp_path / "g.onnx", [helper.make_node("Identity", [], ["logits"])], []),
    }
    for message, path in cases.items():
        with pytest.raises(BundleError, match=message) as refused:
            join_graphs({"mood": first, "topic": path}, tmp_path / "merged.onnx")
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "merged.onnx").exists()
