"""INT8 conversion, on a random two-layer BERT that is built, exported and converted here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from transformers import BertConfig, BertModel

from inference.errors import ExportError
from inference.onnx.export import export_onnx
from inference.onnx.io import load_model, save_model
from inference.onnx.quantize import Calibrated, Feeds, calibrate, sensitivities, write
from inference.pytorch.network import Network

HIDDEN, WORDS = 32, 200
Feed = dict[str, NDArray[np.int64]]


def texts(count: int, seed: int) -> list[Feed]:
    """One text per feed, 3 to 12 tokens, no padding."""
    random = np.random.default_rng(seed)
    ids = [random.integers(1, WORDS, (1, random.integers(3, 13))) for _ in range(count)]
    return [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in ids]


def quantize(source: Path, target: Path, feeds: Feeds, *, reduce_range: bool) -> dict[str, int]:
    """Write the graph with every product in 8 bits."""
    return write(calibrate(source, feeds), target, reduce_range=reduce_range)


def padded(feeds: list[Feed]) -> Feed:
    batch = {name: np.zeros((len(feeds), 16), np.int64) for name in ("input_ids", "attention_mask")}
    for row, feed in enumerate(feeds):
        for name, values in feed.items():
            batch[name][row, : values.shape[1]] = values
    return batch


def answers(model: Path, feed: Feed) -> NDArray[np.float32]:
    """The logits of both heads side by side, (batch, 5)."""
    return answer_each(model, [feed])[0]


def answer_each(model: Path, feeds: list[Feed]) -> list[NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [np.concatenate(session.run(None, feed), axis=1) for feed in feeds]


def tensor(model: Path, name: str, feed: Feed) -> NDArray[np.generic]:
    """One of the tensors inside of a graph."""
    graph = onnx.load(model)
    graph.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([name], feed)[0])


def constants(model: Path) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}


def integer_weights(model: Path) -> list[NDArray[np.generic]]:
    nodes = [n for n in onnx.load(model).graph.node if n.op_type in ("QAttention", "MatMulIntegerToFloat")]
    values = constants(model)
    return [values[node.input[1]] for node in nodes]


def random_network() -> Network:
    """Two layers of BERT and two heads, the same at every call."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    network = Network(BertModel(config, add_pooling_layer=False), HIDDEN, {"mood": 3, "topic": 2}).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # BERT's own initialisation is too flat for rounding to matter
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return network


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported graph, with one GELU channel that the first token drives far above all others."""
    network = random_network()
    with torch.no_grad():
        network.encoder.encoder.layer[0].intermediate.dense.bias[5] = 60.0
    path = tmp_path_factory.mktemp("tiny") / "model.onnx"
    export_onnx(network, path)
    return path


@pytest.fixture(scope="module")
def int8(fp32: Path) -> Path:
    path = fp32.parent / "model.int8.onnx"
    counts = quantize(fp32, path, texts(40, seed=1), reduce_range=False)
    assert counts == {"QAttention": 2, "MatMulIntegerToFloat": 6, "Gather": 1}
    return path


def test_a_graph_past_the_limit_of_one_file_gives_the_same_int8(
    fp32: Path, int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, *_ = save_model(load_model(fp32), tmp_path / "model.onnx", external=True)
    monkeypatch.setattr("inference.onnx.io.LIMIT", 60_000)  # bytes; the weights have 100,000
    quantize(split, tmp_path / "model.int8.onnx", texts(40, seed=1), reduce_range=False)
    assert (tmp_path / "model.int8_weights.bin").is_file()
    assert load_model(tmp_path / "model.int8.onnx").SerializeToString(deterministic=True) == int8.read_bytes()


@pytest.fixture(scope="module")
def calibrated(fp32: Path) -> Calibrated:
    return calibrate(fp32, texts(40, seed=1))


@pytest.fixture(scope="module")
def unfused(fp32: Path) -> Path:
    """A graph of plain MatMul and Add: two layers with a residual, then a head."""
    random = np.random.default_rng(3)
    shapes = {"words": (WORDS, HIDDEN), "up": (HIDDEN, 64), "down": (64, HIDDEN), "head": (HIDDEN, 5)}
    tensors = {name: (random.standard_normal(shape) / 6).astype(np.float32) for name, shape in shapes.items()}
    tensors |= {
        "up_bias": np.ones(64, np.float32),
        "one": np.ones(HIDDEN, np.float32),
        "zero": np.zeros(HIDDEN, np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["x"]),
        helper.make_node("MatMul", ["x", "up"], ["u"]),
        helper.make_node("Add", ["u", "up_bias"], ["b"]),
        helper.make_node("Relu", ["b"], ["r"]),
        helper.make_node("MatMul", ["r", "down"], ["d"]),
        helper.make_node("Add", ["d", "x"], ["s"]),
        helper.make_node("LayerNormalization", ["s", "one", "zero"], ["n"]),
        helper.make_node("ReduceMean", ["n"], ["p"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["p", "head"], ["logits_mood"]),
    ]
    ids = helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "tokens"])
    logits = helper.make_tensor_value_info("logits_mood", onnx.TensorProto.FLOAT, ["batch", 5])
    initializers = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    graph = helper.make_graph(nodes, "plain", [ids], [logits], initializers)
    path = fp32.parent / "plain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_int8_answers_are_close_to_fp32_answers(fp32: Path, int8: Path) -> None:
    batch = padded(texts(50, seed=2))
    expected, got = answers(fp32, batch), answers(int8, batch)
    assert np.abs(got - expected).max() < 0.1 * expected.std()


def test_a_text_gets_the_same_answer_alone_and_in_a_padded_batch(int8: Path) -> None:
    feeds = texts(32, seed=4)
    alone = np.concatenate(answer_each(int8, feeds))
    np.testing.assert_allclose(answers(int8, padded(feeds)), alone, atol=1e-5)


def test_converting_twice_gives_the_same_bytes(fp32: Path, int8: Path, tmp_path: Path) -> None:
    quantize(fp32, tmp_path / "again.onnx", texts(40, seed=1), reduce_range=False)
    assert (tmp_path / "again.onnx").read_bytes() == int8.read_bytes()


def test_word_embeddings_are_stored_in_eight_bits_and_nowhere_in_float(int8: Path) -> None:
    tables = [values for values in constants(int8).values() if values.shape == (WORDS, HIDDEN)]
    assert [table.dtype for table in tables] == [np.int8]


def test_heads_stay_float(int8: Path) -> None:
    graph = onnx.load(int8).graph
    values = constants(int8)
    heads = [node for node in graph.node if node.output[0] in ("logits_mood", "logits_topic")]
    assert [node.op_type for node in heads] == ["Gemm", "Gemm"]
    assert {values[node.input[1]].dtype for node in heads} == {np.dtype(np.float32)}


def test_copies_of_a_channel_far_above_all_others_sum_to_its_value_finely_rounded(int8: Path) -> None:
    values = constants(int8)
    (name,) = [name.removesuffix("/outliers") for name, channels in values.items() if name.endswith("/outliers")]
    assert set(values[f"{name}/outliers"]) == {5}
    scale, zero = (values[f"{name}/{part}"].item() for part in ("scale", "zero"))
    shares = values[f"{name}/shares"]
    assert len(shares) > 8
    factor = 1 / (shares[0] * len(shares))
    exact, rounded = [], []
    for feed in texts(40, seed=1):
        exact.append(tensor(int8, name, feed)[..., 5].ravel())
        copies = tensor(int8, f"{name}/int8", feed)[..., -len(shares) :].astype(np.int64) - zero
        rounded.append(copies.sum(-1).ravel() * scale * factor)
    error = np.abs(np.concatenate(exact) - np.concatenate(rounded))
    step = scale * factor
    assert error.max() < 0.51 * step
    assert step < np.concatenate(exact).max() / 255 / 4
    assert error.max() > 0.4 * step  # values of all kinds were tried


def test_weights_of_copies_sum_to_a_finer_weight_and_the_main_column_has_none(fp32: Path, int8: Path) -> None:
    values = constants(int8)
    (name,) = [name.removesuffix("/outliers") for name in values if name.endswith("/outliers")]
    (reader,) = [node for node in onnx.load(int8).graph.node if f"{name}/int8" in node.input]
    weight, scale, shares = values[reader.input[1]], values[reader.input[3]], values[f"{name}/shares"]
    assert not weight[5].any()
    assert weight[4].any()
    (product,) = [node for node in onnx.load(fp32).graph.node if name in node.input and node.op_type == "MatMul"]
    exact = constants(fp32)[product.input[1]][5] / (shares[0] * len(shares)) / scale
    np.testing.assert_array_equal(np.rint(exact * len(shares)), weight[64:].sum(0))


def product_graph(path: Path, weight: NDArray[np.float32]) -> Path:
    """One product with constant weights that is no head."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["h"]),
        helper.make_node("Neg", ["h"], ["minus"]),
        helper.make_node("Neg", ["minus"], ["out"]),
    ]
    tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", None]) for name in ("x", "out")]
    graph = helper.make_graph(nodes, "product", tensors[:1], tensors[1:], [numpy_helper.from_array(weight, "weight")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def product_error(
    folder: Path,
    strong: list[tuple[float, float]],
    *,
    rest: float = -1.0,
    beyond: float = 1.0,
    dead: int = 0,
    reduce_range: bool = False,
) -> tuple[float, NDArray[np.int64]]:
    """Error of an INT8 product of 384 channels, 1.0 being what it is without the strong ones, and their copies.

    Args:
        strong: mean and deviation of the first channels. The others have a deviation of 1.
        rest: the smallest value of the other channels, as a share of the largest.
        beyond: the strong channels' values in the texts after calibration, relative to calibration.
        dead: number of the last channels that are always 0.
    """
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((384, 256)).astype(np.float32)
    places = np.arange(len(strong))
    errors = []
    for mean, deviation in (np.reshape(strong, (-1, 2)).T, np.zeros((2, len(strong)))):
        rows = np.clip(draw.standard_normal((2, 500, 384)), 3 * rest, 3).astype(np.float32)
        rows[..., 384 - dead :] = 0
        rows[..., places] = mean + deviation * np.clip(draw.standard_normal((2, 500, len(strong))), -3, 3)
        rows[1, :, places] *= beyond
        source = product_graph(folder / "product.onnx", weight)
        calibrated = calibrate(source, [{"x": rows[0]}])
        write(calibrated, folder / "int8.onnx", reduce_range=reduce_range)
        exact, rounded = (
            onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": rows[1]})[0]
            for path in (source, folder / "int8.onnx")
        )
        errors.append(np.sqrt(np.square(exact - rounded).mean()))
        if not errors[1:]:
            channels = constants(folder / "int8.onnx").get("x/outliers", np.zeros(0, np.int64))
    return errors[0] / errors[1], np.bincount(channels.astype(np.int64))


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize(
    "strong",
    [
        pytest.param([(30, 1)], id="always on"),
        pytest.param([(-30, 1)], id="negative"),
        pytest.param([(0, 30)], id="on both sides"),
        pytest.param([(90, 3)], id="very strong"),
        pytest.param([(30, 1), (-60, 2), (0, 10)], id="three"),
    ],
)
def test_strong_channels_cost_a_product_little_accuracy(
    strong: list[tuple[float, float]], reduce_range: bool, tmp_path: Path
) -> None:
    error, copies = product_error(tmp_path, strong, reduce_range=reduce_range)
    assert len(copies) == len(strong)
    assert copies.min() > 1
    assert error < 1.2


def test_copies_stay_within_a_sixth_of_the_channels(tmp_path: Path) -> None:
    _, copies = product_error(tmp_path, [(90, 3)] * 12)
    assert np.count_nonzero(copies) == 8
    assert 32 < copies.sum() <= 64
    error, copies = product_error(tmp_path, [(90, 3)] * 8)
    assert 7 <= copies.min() <= copies.max() <= 8
    assert error < 3


def test_strong_channel_may_reach_below_zero_where_no_other_does(tmp_path: Path) -> None:
    for rest in (0.0, -1e-4):
        error, copies = product_error(tmp_path, [(0, 50)], rest=rest)
        assert copies.tolist() == [64]
        assert error < 2.1  # the range has to be twice as wide


def test_strong_channel_may_exceed_its_range_by_a_quarter(tmp_path: Path) -> None:
    assert product_error(tmp_path, [(30, 1)], beyond=1.2)[0] < 1.2
    assert product_error(tmp_path, [(30, 1)], beyond=1.6)[0] > 2


def test_dead_channels_make_no_outliers_of_the_others(tmp_path: Path) -> None:
    assert not len(product_error(tmp_path, [], dead=300)[1])
    assert len(product_error(tmp_path, [(30, 1)], dead=300)[1]) == 1


def test_strong_channel_in_front_of_an_attention_is_split(tmp_path: Path) -> None:
    network = random_network()
    with torch.no_grad():
        network.encoder.encoder.layer[0].output.LayerNorm.bias[3] = 40.0
    source = tmp_path / "model.onnx"
    export_onnx(network, source)
    quantize(source, tmp_path / "int8.onnx", texts(40, seed=1), reduce_range=False)
    split = {name.removesuffix("/outliers") for name in constants(tmp_path / "int8.onnx") if name.endswith("/outliers")}
    readers = [node for node in onnx.load(tmp_path / "int8.onnx").graph.node if node.op_type == "QAttention"]
    assert [node.input[0].removesuffix("/int8") in split for node in readers] == [False, True]
    feeds = texts(32, seed=4)
    alone = np.concatenate(answer_each(tmp_path / "int8.onnx", feeds))
    np.testing.assert_allclose(answers(tmp_path / "int8.onnx", padded(feeds)), alone, atol=1e-5)
    expected = np.concatenate(answer_each(source, feeds))
    assert np.abs(alone - expected).max() < 0.1 * expected.std()


def test_all_weights_use_eight_bits_unless_the_range_is_reduced(fp32: Path, int8: Path, tmp_path: Path) -> None:
    quantize(fp32, tmp_path / "seven.onnx", texts(40, seed=1), reduce_range=True)
    assert [np.abs(weight).max() for weight in integer_weights(int8)] == [127] * 8
    assert [np.abs(weight).max() for weight in integer_weights(tmp_path / "seven.onnx")] == [63] * 8


def test_a_graph_without_fused_operators_is_converted_too(unfused: Path, tmp_path: Path) -> None:
    feeds = [{"input_ids": feed["input_ids"]} for feed in texts(40, seed=1)]
    counts = quantize(unfused, tmp_path / "int8.onnx", feeds, reduce_range=False)
    assert counts == {"MatMulIntegerToFloat": 2, "Gather": 1}
    expected = np.concatenate(answer_each(unfused, feeds))
    got = np.concatenate(answer_each(tmp_path / "int8.onnx", feeds))
    assert np.abs(got - expected).max() < 0.1 * expected.std()


def test_a_graph_with_nothing_but_a_head_is_refused(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])
    logits = helper.make_tensor_value_info("logits_mood", onnx.TensorProto.FLOAT, ["batch", 2])
    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits_mood"])], "head", [x], [logits], [weight]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "head.onnx")
    with pytest.raises(ExportError, match="nothing to quantise"):
        quantize(tmp_path / "head.onnx", tmp_path / "int8.onnx", texts(1, seed=1), reduce_range=False)
    assert not (tmp_path / "int8.onnx").exists()


def test_conversion_without_calibration_texts_is_refused(fp32: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="calibration"):
        quantize(fp32, tmp_path / "int8.onnx", [], reduce_range=False)


def activation(calibrated: Calibrated, part: str) -> str:
    """The name of the one activation whose name holds `part`."""
    [name] = [name for name in calibrated.ranges if part in name]
    return name


# What the value projection of an Attention is divided by depends on both sides of it.
@pytest.mark.parametrize(
    "part", ["embeddings", "layer.0/attention/self", "layer.0/intermediate", "layer.1/attention/output"]
)
def test_products_that_are_kept_float_bring_no_error(calibrated: Calibrated, tmp_path: Path, part: str) -> None:
    write(calibrated, tmp_path / "all.onnx", reduce_range=False)
    counts = write(calibrated, tmp_path / "but.onnx", reduce_range=False, keep_float={activation(calibrated, part)})
    assert counts["QAttention"] + counts["MatMulIntegerToFloat"] == 7
    assert counts.get("Attention", 0) + counts.get("MatMul", 0) == 1
    batch = padded(texts(50, seed=2))
    expected = answers(calibrated.source, batch)
    error, less = (np.abs(answers(tmp_path / name, batch) - expected).mean() for name in ("all.onnx", "but.onnx"))
    # The planted channel's error and those of the other products cancel out in part: measured, 1.13.
    assert less < (1.2 if part == "layer.0/intermediate" else 1.1) * error


def test_with_every_product_kept_float_weights_alone_are_rounded(calibrated: Calibrated, tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    counts = write(calibrated, path, reduce_range=False, keep_float=calibrated.ranges.keys())
    assert counts == {"Attention": 2, "MatMul": 6, "Gather": 1}
    assert integer_weights(path) == []
    batch = padded(texts(50, seed=2))
    expected = answers(calibrated.source, batch)
    assert np.abs(answers(path, batch) - expected).max() < 0.03 * expected.std()


def test_no_matrix_of_an_encoder_is_stored_in_float(calibrated: Calibrated, tmp_path: Path) -> None:
    write(calibrated, tmp_path / "weights.onnx", reduce_range=False, keep_float=calibrated.ranges.keys())
    stored = constants(tmp_path / "weights.onnx").values()
    large = [values.size for values in stored if values.dtype == np.float32 and values.size >= HIDDEN * HIDDEN]
    assert large == [HIDDEN * HIDDEN]  # the position embeddings, which no text indexes
    assert max(values.size for values in stored if values.dtype == np.int8) == WORDS * HIDDEN


def test_weights_that_several_layers_share_are_stored_once(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    tensors = {"words": (WORDS, 8), "shared": (8, 8), "head": (8, 5)}
    initializers = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in tensors.items()
    ]
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["a"]),
        helper.make_node("MatMul", ["a", "shared"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "shared"], ["d"]),
        helper.make_node("ReduceMean", ["d"], ["e"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["e", "head"], ["logits_mood"]),
    ]
    ids = helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "tokens"])
    logits = helper.make_tensor_value_info("logits_mood", onnx.TensorProto.FLOAT, ["batch", 5])
    graph = helper.make_graph(nodes, "shared", [ids], [logits], initializers)
    source = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    feeds = [{"input_ids": feed["input_ids"]} for feed in texts(10, seed=1)]
    shared = calibrate(source, feeds)
    write(shared, tmp_path / "weights.onnx", reduce_range=False, keep_float=shared.ranges.keys())
    stored = constants(tmp_path / "weights.onnx").values()
    assert sorted(values.size for values in stored if values.dtype == np.int8) == [8 * 8, WORDS * 8]
    got, expected = (np.concatenate(answer_each(path, feeds)) for path in (tmp_path / "weights.onnx", source))
    assert np.abs(got - expected).max() < 0.1 * expected.std()


def test_every_activation_has_an_error_of_its_own(calibrated: Calibrated) -> None:
    errors = sensitivities(calibrated, texts(10, seed=6), reduce_range=False)
    assert errors.keys() == calibrated.ranges.keys()
    assert min(errors.values()) > 0
