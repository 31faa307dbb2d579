"""Folders that Optimum writes are served on ONNX and INT8 as they are."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import onnx
import pytest
import torch
from hostile import edit

from inference import BundleError, ExportError, load
from inference.artifacts.parity import score_rows
from inference.commands.doctor import examine
from inference.errors import InputError
from inference.formats.describe import describe


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.classifier(tmp_path_factory.mktemp("optimum") / "classifier")


def export(classifier: Path, folder: Path, graph: str = "model.onnx", *, mask: bool = True) -> Path:
    """What `optimum-cli export onnx` writes: the graph, with `token_type_ids`, beside configuration and tokenizer."""
    from transformers import AutoModelForSequenceClassification

    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForSequenceClassification.from_pretrained(classifier, attn_implementation="eager")

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            read = attention_mask if mask else torch.ones_like(attention_mask) + 0 * attention_mask
            return self.model(input_ids=input_ids, attention_mask=read, token_type_ids=token_type_ids).logits

    shutil.copytree(classifier, folder)
    (folder / "model.safetensors").unlink()
    (folder / graph).parent.mkdir(exist_ok=True)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Exported().eval(),
            tuple(torch.ones((2, 8), dtype=torch.int64) for _ in names),
            str(folder / graph),
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "batch_size", 1: "sequence_length"} for name in names}
            | {"logits": {0: "batch_size"}},
            opset_version=17,
            dynamo=False,
        )
    return folder


def expected(classifier: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return foreign.by_hand(AutoModelForSequenceClassification.from_pretrained(classifier), classifier)


@pytest.mark.parametrize(
    "graph", ["model.onnx", "onnx/model.onnx", pytest.param("model_optimized.onnx", marks=pytest.mark.slow)]
)
def test_folder_of_optimum_answers_as_the_model_that_was_exported(
    graph: str, classifier: Path, cache: Path, tmp_path: Path
) -> None:
    folder = export(classifier, tmp_path / "model", graph)
    if graph == "model.onnx":  # weights beside the graph, as Optimum writes them past 2 GB
        model = onnx.load(folder / graph)
        onnx.save(model, folder / graph, save_as_external_data=True, location=f"{graph}_data", size_threshold=0)
        shutil.copyfile(folder / graph, folder / "model_quantized.onnx")
    assert describe(folder).backends == ("onnx", "int8")
    for backend, allowed in (("onnx", 1e-5), ("int8", 0.25)):
        predictions = load(folder, backend, cache=cache).predict(foreign.TEXTS)
        assert np.abs(score_rows(predictions) - expected(classifier)).max() < allowed
    assert [finding for finding in examine(folder, cache=cache) if finding.severity != "note"] == []
    with pytest.raises(InputError, match="has no PyTorch"):
        load(folder, "pytorch")


def test_safetensors_count_if_they_are_there_too(classifier: Path, tmp_path: Path) -> None:
    folder = export(classifier, tmp_path / "model")
    shutil.copyfile(classifier / "model.safetensors", folder / "model.safetensors")
    assert describe(folder).format == "transformers"


def test_pickled_weights_are_not_needed_beside_a_graph(classifier: Path, tmp_path: Path) -> None:
    folder = export(classifier, tmp_path / "model", "onnx/model.onnx")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert describe(folder).graphs == {"label": "onnx/model.onnx"}


def test_settings_of_the_tokenizer_are_obeyed(classifier: Path, cache: Path, tmp_path: Path) -> None:
    folder = export(classifier, tmp_path / "model")
    edit("tokenizer_config.json", truncation_side="left", model_max_length=16)(folder)
    (tmp_path / "left").mkdir()
    shutil.copytree(classifier, tmp_path / "left", dirs_exist_ok=True)
    edit("tokenizer_config.json", truncation_side="left", model_max_length=16)(tmp_path / "left")
    scores = score_rows(load(folder, "onnx", cache=cache).predict(foreign.TEXTS))
    assert np.abs(scores - score_rows(load(tmp_path / "left").predict(foreign.TEXTS))).max() < 1e-5


def test_graph_whose_answers_depend_on_padding_is_refused(classifier: Path, cache: Path, tmp_path: Path) -> None:
    folder = export(classifier, tmp_path / "model", mask=False)
    with pytest.raises((BundleError, ExportError), match="depend on the other texts of a batch"):
        load(folder, "onnx", cache=cache)


def test_faulty_folders_are_refused(classifier: Path, cache: Path, tmp_path: Path) -> None:
    folder = export(classifier, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    edit("config.json", architectures=["BertModel"])(folder)
    with pytest.raises(BundleError, match="has no classification head for texts"):
        describe(folder)
    edit("config.json", architectures=config["architectures"], id2label={"0": "a", "1": "b", "2": "c"})(folder)
    with pytest.raises(BundleError, match="gives logits of shape"):
        load(folder, "onnx", cache=cache)
    edit("config.json", id2label=config["id2label"])(folder)
    (folder / "model.onnx").rename(folder / "model_quantized.onnx")
    with pytest.raises(BundleError, match=r"quantised ONNX graph only.*Put model\.onnx"):
        describe(folder)
