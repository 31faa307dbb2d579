"""The folder of ONNX files, made from the tiny model and used as the people it is for would use it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import Tiny
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import inference
from inference.artifacts.cache import Artifact, obtain
from inference.artifacts.export import export_files, quantize_onnx
from inference.errors import BundleError, ExportError, InputError
from inference.formats.bundle import Bundle, Task
from inference.formats.files import sha256

TEXTS = ["it was so fine", "bad", "a bus, a lamp and a soup, and then another soup and one more bus", "fine!"]

# "Run with ONNX Runtime" and "Batch Inference" of the guide, word for word.
GUIDE = """
import json
import numpy as np
import onnxruntime as ort
from transformers import AutoTokenizer

# Load tokenizer and config
tokenizer = AutoTokenizer.from_pretrained("./onnx_models/tokenizer")
config = json.load(open("./onnx_models/sentiment_config.json"))
id2label = {int(k): v for k, v in config["id2label"].items()}

# Load ONNX model
session = ort.InferenceSession("./onnx_models/sentiment.onnx")

# Run inference
text = "I love this product!"
inputs = tokenizer(text, return_tensors="np", padding=True, truncation=True)
logits = session.run(None, dict(inputs))[0]

# Get prediction
probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
predicted_id = np.argmax(probs, axis=-1)[0]
label = id2label[predicted_id]
confidence = probs[0, predicted_id]

texts = ["Great!", "Terrible service", "It's okay I guess"]
inputs = tokenizer(texts, return_tensors="np", padding=True, truncation=True)

outputs = session.run(
    None,
    {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
    }
)

predictions = np.argmax(outputs[0], axis=-1)
"""


@pytest.fixture(scope="module")
def artifact(tiny: Tiny) -> Artifact:
    return obtain(Bundle.read(tiny.folder), tiny.cache, base=tiny.base)


@pytest.fixture(scope="module")
def classifier(tiny: Tiny, artifact: Artifact) -> inference.Classifier:
    return inference.load(tiny.folder, "onnx", base=tiny.base, cache=tiny.cache)


def export(artifact: Artifact, tiny: Tiny, out: Path, tasks: list[str] | None = None, **options: object) -> list[Path]:
    bundle = Bundle.read(tiny.folder)
    wanted = {name: bundle.tasks[name] for name in tasks or bundle.tasks}
    return export_files(
        artifact.folder / "model.onnx", artifact.folder / "tokenizer.json", out, wanted, bundle.max_tokens, 0, **options
    )


@pytest.fixture(scope="module")
def exported(artifact: Artifact, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "onnx_models"
    export(artifact, tiny, out, int8=artifact.folder / "model.int8.onnx")
    return out


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def answer(path: Path, ids: list[list[int]]) -> dict[str, NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows = np.array(ids, np.int64)
    values = session.run(None, {"input_ids": rows, "attention_mask": np.ones_like(rows)})
    return dict(zip([output.name for output in session.get_outputs()], values, strict=True))


def test_every_task_gets_its_graph_and_labels_and_all_share_one_graph_and_a_tokenizer(exported: Path) -> None:
    tokenizer = {f"tokenizer/{name}.json" for name in ("tokenizer", "tokenizer_config", "special_tokens_map")}
    per_task = {f"{task}{end}" for task in ("mood", "topic") for end in (".onnx", "_int8.onnx", "_config.json")}
    assert files(exported) == tokenizer | per_task | {"model.onnx", "model_int8.onnx", "export.json"}


def test_the_configuration_of_a_task_names_its_labels_both_ways(exported: Path) -> None:
    assert json.loads((exported / "topic_config.json").read_text(encoding="utf-8")) == {
        "id2label": {"0": "food", "1": "other", "2": "travel"},
        "label2id": {"food": 0, "other": 1, "travel": 2},
        "problem_type": "single_label_classification",
        "threshold": pytest.approx(0.5, abs=0.5),
        "max_length": 16,
        "out_of_scope": "other",
    }


@pytest.mark.slow
def test_the_snippets_of_the_guide_run_unchanged_and_give_the_answers_of_the_classifier(
    exported: Path, classifier: inference.Classifier
) -> None:
    program = (
        GUIDE.replace("sentiment", "topic") + "print(json.dumps([label, float(confidence), predictions.tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=exported.parent, capture_output=True, text=True, check=True
    )
    label, confidence, predictions = json.loads(done.stdout)
    expected = classifier.predict("I love this product!", task="topic")
    assert (label, confidence) == (expected.label, pytest.approx(expected.confidence, abs=1e-5))
    texts = ["Great!", "Terrible service", "It's okay I guess"]
    labels = classifier.tasks["topic"].labels
    assert [labels[label_id] for label_id in predictions] == [
        one.label for one in classifier.predict(texts, task="topic")
    ]


def test_the_tokenizer_gives_ids_and_mask_only_and_cuts_and_pads_like_the_model(
    exported: Path, classifier: inference.Classifier
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported / "tokenizer")
    assert (tokenizer.model_max_length, tokenizer.padding_side, tokenizer.pad_token_id) == (16, "right", 0)
    encoded = tokenizer(TEXTS, padding=True, truncation=True)
    assert set(encoded) == {"input_ids", "attention_mask"}
    rows = zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
    assert [ids[: sum(mask)] for ids, mask in rows] == classifier.tokenize(TEXTS).ids
    assert max(map(len, encoded["input_ids"])) == 16


def test_onnx_runtime_tokenizers_and_numpy_are_enough(exported: Path, classifier: inference.Classifier) -> None:
    program = f"""
import sys
for name in ("torch", "transformers", "peft", "onnx", "inference"):
    sys.modules[name] = None
import json, numpy as np, onnxruntime
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file("tokenizer/tokenizer.json")
found = tokenizer.encode_batch({TEXTS!r})
feed = {{"input_ids": np.array([one.ids for one in found]),
         "attention_mask": np.array([one.attention_mask for one in found])}}
session = onnxruntime.InferenceSession("model.onnx")
values = session.run(None, feed)
labels = {{}}
for output, logits in zip(session.get_outputs(), values):
    task = output.name.removeprefix("logits_")
    names = json.load(open(task + "_config.json"))["id2label"]
    labels[task] = [names[str(index)] for index in logits.argmax(1)]
print(json.dumps(labels))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=exported, capture_output=True, text=True, check=True)
    expected = classifier.predict_all_tasks(TEXTS)
    assert json.loads(done.stdout) == {
        task: [one.label for one in predictions] for task, predictions in expected.items()
    }


@pytest.mark.parametrize("ending", ["", "_int8"])
def test_the_graph_of_a_task_answers_like_the_graph_of_all_of_them(exported: Path, ending: str) -> None:
    ids = [[2, 9, 10, 3], [2, 20, 21, 3]]
    both = answer(exported / f"model{ending}.onnx", ids)
    for task in ("mood", "topic"):
        alone = answer(exported / f"{task}{ending}.onnx", ids)
        np.testing.assert_allclose(alone["logits"], both[f"logits_{task}"], atol=1e-5)


def test_only_selected_tasks_are_exported(artifact: Artifact, tiny: Tiny, tmp_path: Path) -> None:
    written = export(artifact, tiny, tmp_path / "out", ["topic"])
    graphs = {name for name in files(tmp_path / "out") if not name.startswith("tokenizer/")}
    assert graphs == {"topic.onnx", "topic_config.json", "export.json"}
    assert {path.name for path in written} >= {"topic.onnx", "topic_config.json"}
    weights = [tensor.name for tensor in onnx.load(tmp_path / "out/topic.onnx").graph.initializer]
    assert any("topic" in name for name in weights)
    assert not any("mood" in name for name in weights)


def test_weights_can_lie_beside_each_graph(artifact: Artifact, tiny: Tiny, exported: Path, tmp_path: Path) -> None:
    export(artifact, tiny, tmp_path / "out", external_data=True)
    assert {"mood_weights.bin", "topic_weights.bin", "model_weights.bin"} <= files(tmp_path / "out")
    assert (tmp_path / "out/mood.onnx").stat().st_size < 0.5 * (exported / "mood.onnx").stat().st_size
    ids = [[2, 9, 10, 3]]
    logits, expected = answer(tmp_path / "out/mood.onnx", ids), answer(exported / "mood.onnx", ids)
    np.testing.assert_allclose(logits["logits"], expected["logits"], atol=1e-6)


def test_an_export_replaces_the_one_before_it_and_keeps_its_other_tasks(
    artifact: Artifact, tiny: Tiny, tmp_path: Path
) -> None:
    export(artifact, tiny, tmp_path / "out", external_data=True)
    (tmp_path / "out/notes.txt").write_text("mine", encoding="utf-8")
    export(artifact, tiny, tmp_path / "out", ["mood"])
    written = files(tmp_path / "out")
    assert "mood_weights.bin" not in written
    assert {"mood.onnx", "topic.onnx", "topic_weights.bin", "model.onnx", "notes.txt"} <= written
    listed = json.loads((tmp_path / "out/export.json").read_text(encoding="utf-8"))["files"]
    assert listed == {name: sha256(tmp_path / "out" / name) for name in written - {"export.json", "notes.txt"}}


@pytest.mark.parametrize("name", ["mood.onnx", "mood_config.json", "tokenizer/tokenizer.json"])
def test_a_file_that_is_not_from_an_export_is_never_overwritten(
    artifact: Artifact, tiny: Tiny, tmp_path: Path, name: str
) -> None:
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="not from an export"):
        export(artifact, tiny, tmp_path / "out")
    assert files(tmp_path) == {f"out/{name}"}


def test_an_exported_file_that_was_changed_since_is_never_overwritten(
    artifact: Artifact, tiny: Tiny, tmp_path: Path
) -> None:
    export(artifact, tiny, tmp_path / "out")
    (tmp_path / "out/mood_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="was changed since"):
        export(artifact, tiny, tmp_path / "out")


def test_files_of_another_model_do_not_stay_beside_an_export(artifact: Artifact, tiny: Tiny, tmp_path: Path) -> None:
    export(artifact, tiny, tmp_path / "out")
    listed = json.loads((tmp_path / "out/export.json").read_text(encoding="utf-8"))
    (tmp_path / "out/export.json").write_text(json.dumps({**listed, "source": "another"}), encoding="utf-8")
    with pytest.raises(InputError, match=r"holds model.onnx of another model"):
        export(artifact, tiny, tmp_path / "out", ["mood"])
    export(artifact, tiny, tmp_path / "out")  # nothing of the other stays


@pytest.mark.parametrize("name", ["model", "Model", "mood_int8", "mood_config"])
def test_a_task_whose_files_would_have_another_meaning_is_refused(
    artifact: Artifact, tmp_path: Path, name: str
) -> None:
    task = Task(("a", "b"), "single_label_classification", 0.5)
    with pytest.raises(InputError, match="Rename it"):
        export_files(
            artifact.folder / "model.onnx", artifact.folder / "tokenizer.json", tmp_path / "o", {name: task}, 9, 0
        )
    assert files(tmp_path) == set()


def test_tasks_that_differ_in_case_only_are_refused(artifact: Artifact, tmp_path: Path) -> None:
    tasks = dict.fromkeys(["mood", "Mood"], Task(("a", "b"), "single_label_classification", 0.5))
    with pytest.raises(InputError, match="case only"):
        export_files(artifact.folder / "model.onnx", artifact.folder / "tokenizer.json", tmp_path / "o", tasks, 9, 0)


def test_a_graph_that_onnx_runtime_does_not_open_is_not_published(artifact: Artifact, tmp_path: Path) -> None:
    model = onnx.load(artifact.folder / "model.onnx")
    model.graph.node[-1].op_type = "NothingThatIsKnown"
    onnx.save(model, tmp_path / "broken.onnx")
    tasks = {"mood": Task(("a", "b"), "s", 0.5), "topic": Task(("a", "b", "c"), "s", 0.5)}
    with pytest.raises(ExportError, match=r"Nothing was exported: ONNX Runtime refuses the .*NothingThatIsKnown"):
        export_files(tmp_path / "broken.onnx", artifact.folder / "tokenizer.json", tmp_path / "o", tasks, 9, 0)
    assert files(tmp_path) == {"broken.onnx"}


def test_a_task_that_the_graph_lacks_is_refused_and_nothing_stays(artifact: Artifact, tmp_path: Path) -> None:
    task = Task(("a", "b"), "single_label_classification", 0.5)
    with pytest.raises(ExportError, match="logits_other"):
        export_files(
            artifact.folder / "model.onnx", artifact.folder / "tokenizer.json", tmp_path / "o", {"other": task}, 9, 0
        )
    assert list(tmp_path.iterdir()) == []


def folder_of(path: Path, exported: Path, name: str = "mood.onnx") -> Path:
    """A folder with one graph and the tokenizer; returns the graph."""
    path.mkdir(exist_ok=True)
    shutil.copyfile(exported / name, path / name)
    shutil.copytree(exported / "tokenizer", path / "tokenizer")
    return path / name


def test_a_graph_is_converted_to_int8_beside_itself(exported: Path, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "m", exported)
    assert quantize_onnx(str(source)) == tmp_path / "m/mood_int8.onnx"
    made = onnx.load(tmp_path / "m/mood_int8.onnx").graph
    assert {"QAttention", "MatMulIntegerToFloat"} <= {node.op_type for node in made.node}
    assert files(tmp_path / "m") == {"mood.onnx", "mood_int8.onnx"} | {
        name for name in files(exported) if name.startswith("tokenizer/")
    }
    ids = [[2, 9, 10, 3], [2, 20, 21, 3]]
    logits, expected = answer(tmp_path / "m/mood_int8.onnx", ids), answer(exported / "mood_int8.onnx", ids)
    np.testing.assert_allclose(logits["logits"], expected["logits"], atol=0.05)


def test_converted_graph_goes_to_output_path_and_replaces_nothing(exported: Path, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "m", exported, "model.onnx")
    target = tmp_path / "optimized" / "fast.onnx"
    assert quantize_onnx(source, output_path=str(target)) == target
    assert [output.name for output in onnx.load(target).graph.output] == ["logits_mood", "logits_topic"]
    with pytest.raises(InputError, match="not from an export"):
        quantize_onnx(source, output_path=target)


def test_a_graph_of_an_export_is_converted_again_and_stays_listed(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "out")
    quantize_onnx(tmp_path / "out/mood.onnx")
    listed = json.loads((tmp_path / "out/export.json").read_text(encoding="utf-8"))["files"]
    assert listed["mood_int8.onnx"] == sha256(tmp_path / "out/mood_int8.onnx")


def test_a_graph_without_a_tokenizer_beside_it_is_not_converted(exported: Path, tmp_path: Path) -> None:
    shutil.copyfile(exported / "mood.onnx", tmp_path / "mood.onnx")
    with pytest.raises(InputError, match=r"No tokenizer beside mood.onnx \(looked for .*tokenizer.json\)"):
        quantize_onnx(tmp_path / "mood.onnx")
    with pytest.raises(InputError, match="No ONNX file"):
        quantize_onnx(tmp_path / "other.onnx")


def test_weights_that_are_transposed_when_read_and_a_third_input_are_converted_too(
    exported: Path, tmp_path: Path
) -> None:
    """As PyTorch's newer exporter writes a linear layer, with the segments that BERT's tokenizer gives."""
    source = folder_of(tmp_path / "m", exported)
    random = np.random.default_rng(0)
    shapes = {"words": (200, 32), "segments": (2, 32), "up": (64, 32), "down": (32, 64), "head": (32, 3)}
    weights = [numpy_helper.from_array(np.array([2]), "last")]
    weights += [numpy_helper.from_array(random.standard_normal(s).astype("f4") / 6, n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["w"]),
        helper.make_node("Gather", ["segments", "token_type_ids"], ["t"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["m"]),
        helper.make_node("Add", ["w", "t"], ["s"]),
        helper.make_node("Mul", ["s", "m"], ["x"]),
        helper.make_node("Transpose", ["up"], ["up_t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "up_t"], ["u"]),
        helper.make_node("Relu", ["u"], ["r"]),
        helper.make_node("Transpose", ["down"], ["down_t"], perm=[1, 0]),
        helper.make_node("MatMul", ["r", "down_t"], ["d"]),
        helper.make_node("ReduceMean", ["d"], ["p"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["p", "head"], ["logits"]),
    ]
    names = ["input_ids", "attention_mask", "token_type_ids"]
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["b", "t"]) for name in names]
    output = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["b", 3])
    graph = helper.make_graph(nodes, "plain", inputs, [output], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    made = onnx.load(quantize_onnx(source))
    assert [one.name for one in made.graph.input] == names
    assert [node.op_type for node in made.graph.node].count("MatMulIntegerToFloat") == 2


def test_tokenizer_without_the_maximum_length_of_the_model_is_refused_in_one_line(
    exported: Path, tmp_path: Path
) -> None:
    source = folder_of(tmp_path / "m", exported)
    (tmp_path / "m/tokenizer/tokenizer_config.json").unlink()  # which says that 16 tokens are read
    with pytest.raises(InputError, match="say so in tokenizer/tokenizer_config.json: model_max_length") as refused:
        quantize_onnx(source)
    assert "\n" not in str(refused.value)
    assert [path.name for path in (tmp_path / "m").iterdir() if "int8" in path.name] == []


def test_a_graph_of_something_else_than_texts_is_not_converted(exported: Path, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "m", exported)
    pixels = helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["b", 3])
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["b", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["pixels"], ["y"])], "g", [pixels], [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), source)
    with pytest.raises(BundleError, match="takes the input 'pixels'"):
        quantize_onnx(source)
