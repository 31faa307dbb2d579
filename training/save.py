"""Write a trained network as a bundle, with thresholds chosen on the tuning rows."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from inference.artifacts.parity import Matrix, score_rows
from inference.classifier import Classifier
from inference.compare.metrics import evaluate
from inference.compare.rows import LabelledRows
from inference.compare.stats import Array, calibration
from inference.formats.bundle import ADAPTER_FILES, BASE_FILES, ENCODER, FORMAT, HEADS_FILE, MULTI, Base, locate_base
from inference.formats.examples import FILE as EXAMPLES
from inference.formats.examples import Example
from inference.formats.files import JSON_BYTES, sha256
from inference.formats.tokenizer import quiet_transformers
from inference.loading import load
from inference.pytorch.network import Network
from training.data import TaskData
from training.loop import ADAPTED, Settings

COVERAGE = 0.97
MIN_CALIBRATION_ROWS = 200  # fewer say too little of a temperature
THRESHOLD_RULE = (
    "the highest threshold at which 97% of the tuning rows that are in scope still get an answer "
    "(neither below it nor labelled out of scope)"
)
MULTI_RULE = "a text has every label that is at least as likely as not"


def write_bundle(
    network: Network,
    out: Path,
    *,
    name: str,
    tasks: Mapping[str, TaskData],
    out_of_scope: Mapping[str, str],
    base: Base,
    settings: Settings,
    notes: Mapping[str, Any],
    base_folder: Path | None = None,
) -> None:
    """Write adapter or encoder, heads and `bundle.json` to `out`; calibrate heads and choose thresholds on tuning rows.

    Adapter weights are stored in float16, which halves the file. Everything is measured on the stored weights, and
    after QLoRA on the base in full precision, because that is what is served.
    `notes` (licence, sources, data digests) goes into bundle.json as it is.
    """
    out.mkdir(parents=True, exist_ok=True)
    for folder in ("adapter", ENCODER):  # of an earlier run by another method
        shutil.rmtree(out / folder, ignore_errors=True)
    files = [HEADS_FILE]
    if settings.method in ADAPTED:
        _write_adapter(network, out, base)
        files = [*ADAPTER_FILES, HEADS_FILE]
    pinned: dict[str, Any] = {"hub_id": base.hub_id, "revision": base.revision, "files": dict(base.files)}
    if settings.method == "full":
        with quiet_transformers():
            network.encoder.save_pretrained(out / ENCODER)
        shutil.copyfile(locate_base(base, base_folder) / "tokenizer.json", out / ENCODER / "tokenizer.json")
        pinned = {"folder": ENCODER, "files": {file: sha256(out / ENCODER / file) for file in BASE_FILES}}
        base_folder = None
    _write_heads(network, out)

    described: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "tasks": {
            task: {
                "labels": data.labels,
                "problem_type": data.problem_type,
                "threshold": 0.5 if data.problem_type == MULTI else 0.0,
                "threshold_rule": MULTI_RULE if data.problem_type == MULTI else THRESHOLD_RULE,
                **({"out_of_scope": out_of_scope[task]} if task in out_of_scope else {}),
            }
            for task, data in tasks.items()
        },
        "pooling": network.pooling,
        "max_tokens": settings.max_tokens,
        "base": pinned,
        "files": {file: sha256(out / file) for file in files},
        "started_from": {"hub_id": base.hub_id, "revision": base.revision},
        "training": settings.written(),
        **notes,
    }
    _write(out, described)
    classifier = load(out, base=base_folder)
    for task, data in tasks.items():
        if data.problem_type != MULTI and (scaled := _scale(classifier, task, data.tuning, network)):
            described["tasks"][task]["calibration"] = scaled
    _write_heads(network, out)
    described["files"][HEADS_FILE] = sha256(out / HEADS_FILE)
    _write(out, described)
    classifier = load(out, base=base_folder)
    for task, data in tasks.items():
        if data.problem_type == MULTI:
            continue
        predictions = classifier.predict(data.tuning.texts, task)
        truth = [data.labels[i] for i in data.tuning.label_ids]
        outside = out_of_scope.get(task)
        answers = [
            0.0 if p.label == outside else p.confidence
            for p, label in zip(predictions, truth, strict=True)
            if label != outside
        ]
        entry = described["tasks"][task]
        # Rounded down to three digits, so that it is readable and covers no less.
        entry["threshold"] = float(np.floor(np.quantile(answers, 1 - COVERAGE, method="lower") * 1000) / 1000)
    _write(out, described)
    classifier = load(out, base=base_folder)
    for task, data in tasks.items():
        figures = evaluate(classifier, task, data.tuning.texts, data.tuning.label_ids)
        described["tasks"][task]["tuning"] = {k: round(v, 4) for k, v in figures.items() if v is not None}
    _write(out, described)


def _scale(classifier: Classifier, task: str, rows: LabelledRows, network: Network) -> dict[str, float] | None:
    """Divide the head of a task by its `temperature_of`, and return that; None if the head stays as it is."""
    if len(rows) < MIN_CALIBRATION_ROWS:
        return None
    scaled = temperature_of(score_rows(classifier.predict(rows.texts, task)), np.array(rows.label_ids))
    if scaled is not None:
        with torch.no_grad():
            for parameter in network.heads[task].parameters():
                parameter.div_(scaled["temperature"])
    return scaled


def temperature_of(scores: Matrix, true: Array) -> dict[str, float] | None:
    """Return the temperature by which to divide logits so that confidence is closer to accuracy (Guo et al. 2017).

    It is the one with the least negative log-likelihood. No label changes.

    Args:
        scores: probabilities, shape (rows, labels).
        true: right labels, shape (rows,).

    Returns:
        `temperature`, `error_before` and `error_after`, the expected calibration errors; None if it would not be lower.
    """
    logs = np.log(np.maximum(scores, np.finfo(np.float32).tiny, dtype=np.float64))

    def loss(temperature: float) -> float:
        return -float(log_softmax(logs / temperature, axis=1)[np.arange(len(true)), true].mean())

    def error(of: Matrix) -> float:
        return calibration(of.max(1), of.argmax(1) == true)[0]

    temperature = round(float(minimize_scalar(loss, bounds=(0.25, 4), method="bounded").x), 3)
    before, after = error(scores), error(softmax(logs / temperature, axis=1))
    if after >= before:
        return None
    return {"temperature": temperature, "error_before": round(before, 4), "error_after": round(after, 4)}


def write_examples(out: Path, tasks: Mapping[str, TaskData], count: int) -> None:
    """Write `count` validation rows to `examples.json`: an equal share of every task, and its labels in turns."""
    drawn: list[Example] = []
    for left, (task, data) in zip(range(len(tasks), 0, -1), tasks.items(), strict=True):
        if data.validation is None:
            continue
        ids = data.validation.label_ids
        by_label = [[i for i, label in enumerate(ids) if label == one] for one in range(len(data.labels))]
        turns = [i for turn in zip_longest(*by_label) for i in turn if i is not None]
        share = math.ceil((count - len(drawn)) / left)
        drawn += [Example(data.validation.texts[i], labels={task: data.labels[ids[i]]}) for i in turns[:share]]
    text = ""
    while not text or len(text.encode()) > JSON_BYTES:
        document = {"examples": [example.to_dict() for example in drawn]}
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        drawn = drawn[: len(drawn) // 2]
    (out / EXAMPLES).write_text(text, encoding="utf-8")


def annotate(out: Path, fields: Mapping[str, Any]) -> None:
    """Add fields to the `bundle.json` in `out`."""
    _write(out, json.loads((out / "bundle.json").read_text(encoding="utf-8")) | dict(fields))


def _write_heads(network: Network, out: Path) -> None:
    save_file({k: v.detach().contiguous() for k, v in network.heads.state_dict().items()}, out / HEADS_FILE)


def _write_adapter(network: Network, out: Path, base: Base) -> None:
    encoder = network.encoder
    assert isinstance(encoder, PeftModel)
    adapter = out / "adapter"
    adapter.mkdir()
    config = encoder.peft_config["default"]
    config.base_model_name_or_path = base.hub_id  # not the local folder it was read from
    config.revision = base.revision
    config.inference_mode = True
    config.save_pretrained(str(adapter))
    config_file = out / ADAPTER_FILES[0]
    # PEFT writes sets in any order; sorted, the same run gives the same bytes.
    fields = json.loads(config_file.read_text(encoding="utf-8"))
    fields["target_modules"] = sorted(fields["target_modules"])
    config_file.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")
    weights = {
        k: v.detach().to(torch.float16).contiguous()
        for k, v in get_peft_model_state_dict(encoder, save_embedding_layers=False).items()
    }
    save_file(weights, out / ADAPTER_FILES[1], metadata={"format": "pt"})


def _write(out: Path, described: Mapping[str, Any]) -> None:
    (out / "bundle.json").write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
