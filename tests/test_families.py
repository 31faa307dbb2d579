"""Every family of transformers answers as in transformers, text by text and in any batch, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
from encoders import FAMILIES, TEMPLATES
from families import KINDS as KINDS_OF_TABLE
from families import measure, written
from fastapi.testclient import TestClient

from inference import BundleError, InputError, load
from inference.api import create_app
from inference.artifacts.cache import obtain
from inference.artifacts.parity import score_matrix_mixed, score_rows
from inference.commands.main import main
from inference.compare.benchmark import Plan
from inference.compare.rows import LabelledRows
from inference.compare.run import measure as measure_runtimes
from inference.errors import ExportError
from inference.formats.architectures import TESTED
from inference.formats.describe import describe
from inference.loading import Models
from ui.render import about, side_by_side

REFUSED = {"mra", "yoso", "reformer", "tapas", "roc_bert", "layoutlm", "markuplm"}
# Of these there is no tiny model: they read pictures or pages too, or bytes by a tokenizer in Python.
UNMEASURED = {"layoutlmv2", "layoutlmv3", "lilt", "modernvbert", "perceiver", "qwen3_5", "t5gemma2", "ultravbert"}
TABLE_SAMPLE = ("rembert", "convbert", "layoutlm")
SERVED = [kind for kind in FAMILIES if kind not in REFUSED]
COMMON = ("bart", "t5", "longformer", "big_bird", "fnet")
KINDS = [pytest.param(kind, marks=() if kind in COMMON else pytest.mark.slow) for kind in SERVED]


def plain(folder: Path, texts: list[str] = foreign.TEXTS, max_length: int = 32) -> Any:
    from transformers import AutoModelForSequenceClassification

    # A new one for each text: BigBird's attention depends on what it answered before.
    rows = [
        foreign.by_hand(AutoModelForSequenceClassification.from_pretrained(folder), folder, [text], max_length)
        for text in texts
    ]
    return np.concatenate(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_gets_the_answer_of_transformers_alone_and_in_a_batch(kind: str, tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", kind)
    expected = plain(folder)
    assert np.ptp(expected[:, 0]) > 0.01  # else equal answers would prove nothing
    classifier = load(folder, cache=tmp_path)
    alone = score_rows([classifier.predict(text) for text in foreign.TEXTS])
    assert np.abs(alone - expected).max() < 1e-5
    assert np.abs(score_matrix_mixed(classifier, foreign.TEXTS)["label"] - expected).max() < 1e-5


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
def test_a_model_of_transformers_4_is_given_the_segment_of_cls(kind: str, tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", kind)
    without = plain(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "4.57.0"}))
    expected = plain(folder)
    assert np.abs(expected - without).max() > 0.001
    classifier = load(folder, cache=tmp_path)
    assert np.abs(score_rows(classifier.predict(foreign.TEXTS)) - expected).max() < 1e-5


def test_texts_of_different_numbers_of_eos_tokens_are_answered_together(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", "bart")
    texts = ["good", "it [SEP] was [SEP] bad", "so [SEP] it is"]
    classifier = load(folder, cache=tmp_path)
    assert np.abs(score_matrix_mixed(classifier, texts)["label"] - plain(folder, texts)).max() < 1e-5


def test_a_tokenizer_without_eos_is_refused_by_an_encoder_decoder(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", "t5")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    with pytest.raises(InputError, match="does not end with the token 3"):
        load(folder, cache=tmp_path).predict("good")


@pytest.mark.parametrize("kind", ["big_bird", pytest.param("bigbird_pegasus", marks=pytest.mark.slow)])
def test_attention_in_blocks_depends_on_the_text_alone(kind: str, tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", kind, max_position_embeddings=128)
    foreign.write_tokenizer(folder, 128)
    texts = ["good", "a bad lamp " * 12, "soup", "it was so good and went on for long " * 3]
    expected = plain(folder, texts, 128)
    classifier = load(folder, cache=tmp_path)
    for _ in range(2):
        assert np.abs(score_rows(classifier.predict(texts)) - expected).max() < 1e-5


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_a_family_that_reads_more_than_texts_is_refused_with_the_reason(kind: str, tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    with pytest.raises(BundleError, match=f"model_type '{kind}' is not served: "):
        load(folder, cache=tmp_path)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gpt2", {"n_layer": 9_000_000}),
        ("gpt2", {"n_embd": 9_000_000, "n_head": 1}),
        ("gpt2", {"n_positions": 1_000_000}),
        ("t5", {"num_layers": 9_000_000}),
        ("bart", {"encoder_ffn_dim": 9_000_000}),
        ("xlm", {"n_layers": 200, "emb_dim": 100_000}),
    ],
)
def test_a_config_larger_than_its_files_is_refused_before_anything_is_allocated(
    kind: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    folder = foreign.classifier(tmp_path / "model")
    config = {"model_type": kind, "architectures": ["XForSequenceClassification"], **fields}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match="do not belong together"):
        load(folder, cache=tmp_path)


@pytest.fixture(scope="module")
def without_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that padding changes, so that it has no ONNX."""
    return foreign.classifier(tmp_path_factory.mktemp("fnet") / "model", "fnet")


def test_a_model_without_an_onnx_graph_is_served_on_pytorch_and_says_why(without_graph: Path) -> None:
    cache, steps = without_graph.parent / "cache", []
    models = Models.of_folder(without_graph, cache, lambda step, share: steps.append(step))
    assert models.bundle.backends == ("pytorch",)
    assert models.answer("good", "pytorch", None).predictions["label"][0].label in ("bad", "good")
    assert set(models.sizes) == {"pytorch"}
    for backend in ("onnx", "int8"):
        with pytest.raises(ExportError, match=r"has no .*: padding changes the answers"):
            load(without_graph, backend, cache=cache)
        with pytest.raises(InputError, match=r"has no .*: padding changes the answers"):
            models.get(backend)
    answers = models.compare("good", None)
    assert "no ONNX: padding changes" in str(answers["onnx"])
    shown = " ".join(side_by_side(models.bundle, answers).split())
    assert "Only PyTorch answered" in shown
    assert "INT8 is missing: padding changes" in shown
    with pytest.raises(ExportError, match="padding changes the answers"):
        load(without_graph, cache=cache).export_onnx(without_graph.parent / "out")
    assert "ONNX is missing: padding changes" in " ".join(about(models.bundle, {}, models.parity).split())
    assert steps
    steps.clear()
    Models.of_folder(without_graph, cache, lambda step, share: steps.append(step))
    assert steps == []  # the reason is recorded: it is not built again


def test_commands_name_the_runtimes_that_are_missing(without_graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--cache", str(without_graph.parent / "cache")]
    assert main(["build", "--model", str(without_graph), *cache]) == 0
    assert "missing INT8: padding changes the answers" in capsys.readouterr().out
    assert main(["info", "--model", str(without_graph), *cache]) == 0
    assert "missing ONNX: padding changes the answers" in capsys.readouterr().out
    assert main(["predict", "--model", str(without_graph), "--backend", "int8", *cache, "good"]) == 2
    assert "padding changes the answers" in capsys.readouterr().err


def test_score_and_the_api_say_why_a_runtime_is_missing(
    without_graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.csv").write_text("text\ngood\n")
    where = ["--model", str(without_graph), "--cache", str(without_graph.parent / "cache"), "--workers", "1"]
    assert main(["score", str(tmp_path / "in.csv"), "--out", str(tmp_path / "out.csv"), *where]) == 0
    assert "This model has no INT8: padding changes" in capsys.readouterr().err
    models = Models.of_folder(without_graph, without_graph.parent / "cache")
    with TestClient(create_app(models)) as client:
        response = client.post("/api/predict", json={"text": "good", "backend": "int8"})
    assert response.status_code == 422
    assert response.json()["error"]["message"].startswith("This model has no INT8: padding changes")


@pytest.mark.slow
def test_compare_measures_a_model_that_has_pytorch_alone(without_graph: Path) -> None:
    rows = LabelledRows([f"good {i}" for i in range(20)], {"label": [0, 1] * 10}, {"label": ("bad", "good")})
    plan = Plan(1, 1, 4, 1, 4, 0, 4, False, 0.0)
    receipt = measure_runtimes(
        without_graph, rows, quick=True, cache=without_graph.parent / "cache", threads=1, plan=plan
    )
    assert receipt["settings"]["backends"] == ["pytorch"]
    assert any(note.startswith("INT8 is missing: padding") for note in receipt["data"]["notes"])


@pytest.mark.slow
def test_attention_that_onnx_runtime_fuses_wrongly_is_exported_plain(tmp_path: Path) -> None:
    folder = foreign.classifier(tmp_path / "model", "bart")
    expected = plain(folder)
    assert obtain(describe(folder), tmp_path).manifest["fused"].get("Attention", 0) == 0
    assert np.abs(score_rows(load(folder, "onnx", cache=tmp_path).predict(foreign.TEXTS)) - expected).max() < 1e-5
    assert np.abs(score_rows(load(folder, "int8", cache=tmp_path).predict(foreign.TEXTS)) - expected).max() < 0.1


def test_families_that_are_called_covered_by_tests_are() -> None:
    assert set(KINDS_OF_TABLE) - REFUSED == TESTED


def test_info_says_whether_the_tests_cover_a_family(without_graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model", str(without_graph), "--cache", str(without_graph.parent / "cache")]) == 0
    assert "family  fnet, covered by tests" in capsys.readouterr().out


def test_a_model_whose_int8_cannot_be_made_keeps_its_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference.onnx import recipes

    def fail(*_: Any, **__: Any) -> None:
        raise ExportError("nothing to convert")

    monkeypatch.setattr(recipes, "quantize_best", fail)
    folder = foreign.classifier(tmp_path / "model", "rembert")
    assert Models.of_folder(folder, tmp_path).bundle.backends == ("pytorch", "onnx")
    assert np.abs(score_rows(load(folder, "onnx", cache=tmp_path).predict(foreign.TEXTS)) - plain(folder)).max() < 1e-5
    with pytest.raises(ExportError, match=r"no INT8: it could not be made .*nothing to convert"):
        load(folder, "int8", cache=tmp_path)


@pytest.mark.parametrize("kind", [*TABLE_SAMPLE, *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS_OF_TABLE)])
def test_the_table_of_families_is_what_is_measured(kind: str, tmp_path: Path) -> None:
    def cells(row: str) -> list[bool | str]:
        """Which runtimes there are, and whether attention is fused; figures depend on the processor."""
        _, _, pytorch, onnx, attention, int8, _ = row.split("|", 6)
        return [pytorch.strip() != "refused", onnx.strip() != "–", attention.strip(), int8.strip() != "–"]

    family = measure(kind, tmp_path)
    assert cells(family.line()) == cells(written()[kind])
    assert family.pytorch is None or family.pytorch <= 1e-5


def test_every_family_of_transformers_is_in_the_table() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    assert set(written()) == set(KINDS_OF_TABLE)
    assert set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES) - set(written()) == UNMEASURED
