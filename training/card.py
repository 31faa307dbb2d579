"""Write the model card, and the short table in the project's README, from recorded measurements.

python -m training.card assets/models/demo assets/receipts/*.json --readme README.md
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference.backends import STANDARD, TITLES
from inference.classifier import Classifier
from inference.compare.receipt import Receipt, read_receipt
from inference.compare.summary import summary
from inference.errors import InferenceError, InputError
from inference.jobs import print_any_text
from inference.loading import load
from training.data import TaskData, equal_texts, with_ids
from training.reliability import FILE as RELIABILITY
from training.reliability import draw
from training.report import markdown, markdown_of_file, measure_file, validate
from training.save import annotate
from training.sources import Request, read_sources

MARKS = ("<!-- figures: written by training/card.py -->", "<!-- end of figures -->")
FEW_PAIRS = 20  # of rows with the same text: fewer say little
# The rows of the model card's table that the README shows too, by a part of their first cell.
README_ROWS = (": accuracy (", "one text of sentiment, end to end: p50", "files of the model", "peak memory")
# Hub id of a public data set -> name, authors, licence.
SOURCES = {
    "stanfordnlp/sst2": "SST-2 as in GLUE (Socher et al. 2013)",
    "google-research-datasets/go_emotions": "GoEmotions (Demszky et al. 2020, Apache-2.0), single-label rows, "
    "mapped to the Ekman groups",
    "clinc/clinc_oos": "CLINC150 (Larson et al. 2019, CC BY 3.0)",
}


# Defaults for older bundles without these fields.
OLD = {"method": "lora", "early_stopping": 0}
METHODS = {
    "lora": "One LoRA adapter (rank {rank}) on `{base}` and one linear head per task.",
    "qlora": "One LoRA adapter (rank {rank}) on `{base}`, trained with the base in 4-bit NormalFloat (QLoRA) and "
    "served on it in full precision, and one linear head per task.",
    "full": "`{base}`, all of it fine-tuned, and one linear head per task.",
    "heads": "One linear head per task on `{base}`, which is as it was.",
}


def write_card(model: Path, receipts: Sequence[Receipt] = ()) -> None:
    """Write `README.md` of a model folder, and its reliability diagram, from its `bundle.json` and receipts.

    Raises:
        InputError: a receipt belongs to another model.
    """
    described = json.loads((model / "bundle.json").read_text(encoding="utf-8"))
    if "training" not in described:  # nor the base it started from
        raise InputError(f"{model} was not trained by python -m training, so there is no training to describe.")
    described["training"] = OLD | described["training"]
    described.setdefault("started_from", described["base"])
    for receipt in receipts:
        if receipt["model"]["files"] != described["files"]:
            raise InputError(f"The receipt on {receipt['data']['name']} is not of the model in {model}: measure again.")
    # Bundles of older versions lack the rest.
    if any("reliability" not in figures for figures in described.get("validation", {}).values()):
        raise InputError(f"{model} was validated by an older version. Measure it again with --data.")
    if "validation" in described:
        (model / RELIABILITY).write_text(draw(described["validation"]), encoding="utf-8")
    (model / "README.md").write_text(_front_matter(described, receipts) + _body(described, receipts), encoding="utf-8")


def highlights(receipts: Sequence[Receipt]) -> str:
    """Return the table of the README: the rows of `README_ROWS` from the model card's, and where they were measured."""
    lines = summary(receipts).splitlines()
    rows = [line for line in lines[2:] if any(start in line for start in README_ROWS)]
    return "\n".join([*lines[:2], *rows]) + f"\n\n{lines[-1].partition(';')[0]}."


def update_readme(readme: Path, receipts: Sequence[Receipt]) -> None:
    """Replace the text between the marks in `readme` with the `highlights` of the receipts.

    Raises:
        InputError: there is no receipt, or the file has no marks.
    """
    text = readme.read_text(encoding="utf-8")
    if not receipts or not all(mark in text for mark in MARKS):
        raise InputError(f"No receipt given, or {readme} lacks the marks {MARKS[0]} and {MARKS[1]}.")
    between = f"{MARKS[0]}\n{highlights(receipts)}\n{MARKS[1]}"
    pattern = re.compile(f"{re.escape(MARKS[0])}.*?{re.escape(MARKS[1])}", re.DOTALL)
    readme.write_text(pattern.sub(lambda _: between, text), encoding="utf-8")


def _front_matter(described: dict[str, Any], receipts: Sequence[Receipt]) -> str:
    """Return the YAML block for the Hub. JSON strings are valid YAML, so quoting is JSON's."""
    adapted = described["training"]["method"] in ("lora", "qlora")
    languages = described.get("language") or []
    tags = ["text-classification", *(["lora"] if adapted else []), "onnx", "int8"]
    tags += ["multi-task"] if len(described["tasks"]) > 1 else []
    lines = [
        "---",
        *([f"language: {json.dumps(languages)}"] if languages else []),
        *([f"license: {json.dumps(described['licence'])}"] if described.get("licence") else []),
        *(["library_name: peft"] if adapted else []),
        f"base_model: {json.dumps(described['started_from']['hub_id'])}",
        "pipeline_tag: text-classification",
        f"tags: [{', '.join(tags)}]",
    ]
    if described["datasets"]:
        lines.append("datasets: " + json.dumps(described["datasets"]))
    if receipts:
        lines += ["metrics: [accuracy, f1]", "model-index:", f"- name: {json.dumps(described['name'])}", "  results:"]
        for receipt in receipts:
            for task, scores in receipt["results"]["accuracy"].items():
                reference = scores[receipt["settings"]["reference"]]
                name = json.dumps(f"{task}, {receipt['data']['name']}")
                lines += [
                    "  - task: {type: text-classification, name: " + json.dumps(task) + "}",
                    "    dataset: {name: " + name + ", type: " + json.dumps(task) + "}",
                    "    metrics:",
                    f"    - {{type: accuracy, value: {reference['accuracy']['value']:.4f}}}",
                    f"    - {{type: f1, name: macro-F1, value: {reference['macro_f1']['value']:.4f}}}",
                ]
    return "\n".join([*lines, "---", ""])


def _body(described: dict[str, Any], receipts: Sequence[Receipt]) -> str:
    parts = [*_model(described), *_training(described), *_measured(described, receipts), *_use(described)]
    return "\n\n".join(parts) + "\n"


def _model(described: dict[str, Any]) -> list[str]:
    settings, origin = described["training"], described["started_from"]
    base = (
        f"It started from revision `{origin['revision'][:12]}`; the encoder is in the folder `encoder/`."
        if "folder" in described["base"]
        else "The base is not in this folder; it is pinned by revision "
        f"`{origin['revision'][:12]}` and by the SHA-256 of each file."
    )
    tasks = (
        f"- **{name}**: {len(task['labels'])} labels ({', '.join(task['labels'][:8])}"
        + (", …" if len(task["labels"]) > 8 else "")
        + f"). Uncertain below {task['threshold']:.3f}: {task['threshold_rule']}.{_calibrated(task)}"
        for name, task in described["tasks"].items()
    )
    return [
        f"# {described['name']}",
        METHODS[settings["method"]].format(rank=settings.get("rank"), base=origin["hub_id"])
        + f" Texts are cut at {described['max_tokens']} tokens. {base}",
        "## Tasks",
        "\n".join(tasks),
    ]


def _training(described: dict[str, Any]) -> list[str]:
    settings = described["training"]
    parts = [
        "## Training",
        "\n".join(
            f"- {name}: {settings['epochs'][name]:g} epochs over {data['rows']:,} rows; {data['tuning_rows']:,} rows "
            f"of the training file held out to choose the threshold. {_not_fitted(data)}{_phrases(data)}"
            f"{_equal_texts(data)}".rstrip()
            for name, data in described["data"].items()
        ),
    ]
    if settings["early_stopping"]:
        run = described["run"]
        parts.append(
            f"Stopped early: {run['steps']:,} of {run['planned_steps']:,} steps, and the weights kept are those of "
            f"evaluation {run['kept']} of {len(run['tuning_macro_f1'])} (best macro-F1 on the held-out rows)."
        )
    if not all("phrases" in data for data in described["data"].values()):  # split when phrases were not looked at
        parts.append(
            "Where a training file holds overlapping phrases of the same sentences, as SST-2's does, held-out rows are "
            "easier than new ones: coverage on new texts is lower than the rule says."
        )
    if described["background"]:
        parts.append(
            f"{described['background']:,} of the rows for the out-of-scope label are texts of the other tasks "
            "(outlier exposure, Hendrycks et al. 2019)."
        )
    parts.append(
        f"Batches of {settings['batch_size']} rows of one task, AdamW, learning rate {settings['learning_rate']:g} "
        f"(heads {settings['head_learning_rate']:g}) with {settings['warmup_share']:.0%} warm-up and linear decay, "
        f"label smoothing {settings['label_smoothing']:g}, "
        + (
            f"class weights proportional to frequency to the power of -{settings['class_weight_power']:g}, "
            if settings["class_weight_power"]
            else "no class weights, "
        )
        + f"{settings['precision']}, seed {settings['seed']}."
        + (" The adapter is stored in float16." if "rank" in settings else "")
    )
    if "teacher" in described:
        parts.append(_taught(described))
    if described["datasets"]:
        parts += [
            "Data:",
            "\n".join(f"- `{name}`: {SOURCES.get(name, 'see the Hub')}" for name in described["datasets"]),
        ]
    return parts


def _measured(described: dict[str, Any], receipts: Sequence[Receipt]) -> list[str]:
    parts: list[str] = []
    if "validation" in described:
        parts += [
            "## Validation",
            "Answers of the stored weights on PyTorch.",
            markdown(described["validation"], described.get("drift")),
            f"![Accuracy against confidence, by task]({RELIABILITY})\n\nAccuracy of the rows in each bin of "
            "confidence. On the dotted line, confidence is accuracy; below it, the model is too sure of itself.",
        ]
    if described.get("tests"):
        parts.append("## Other tests")
        parts += [markdown_of_file(name, figures) for name, figures in described["tests"].items()]
    if receipts:
        parts += [
            "## Figures",
            summary(receipts),
            "PyTorch and ONNX are FP32. Runtimes take turns, one process each; read the ratios. Brackets are 95% "
            "intervals. Coverage and out-of-scope recall are at the thresholds above; a row in scope counts as covered "
            "if it is neither uncertain nor called out of scope.",
        ]
    return parts


def _use(described: dict[str, Any]) -> list[str]:
    languages = described.get("language") or []
    public = set(described["datasets"]) and set(described["datasets"]) <= set(SOURCES)
    files = {"full": "`encoder/`, ", "heads": ""}.get(described["training"]["method"], "`adapter/` (PEFT), ")
    return [
        "## Limits",
        ("English only. " if languages == ["en"] else f"Languages: {', '.join(languages)}. " if languages else "")
        + (
            "Sentiment was learnt from film reviews, emotion from online comments (on whose labels the "
            "annotators disagree), intents from requests to an assistant: elsewhere expect less. Irony, and praise "
            "and complaint in one text, are read less well than others. "
            if public
            else "It knows the labels above and gives one of them to any text: on texts unlike those of its training "
            "file expect less. "
        )
        + "A confidence is not a promise; it is what the thresholds were chosen on. Not for decisions about people.",
        "## Use",
        "```python\nfrom inference import load\n\n"
        + (
            f'load("assets/models/{described["name"]}", backend="int8").predict_all_tasks("what a lovely film")\n```'
            if public
            else f'load("{described["name"]}", backend="int8").predict_all_tasks("a text")  # path of this folder\n```'
        ),
        f"Runtimes: {', '.join(TITLES[name] for name in STANDARD)}. Files: {files}`heads.safetensors`, `bundle.json`.",
    ]


def _not_fitted(data: dict[str, Any]) -> str:
    rows = data.get("validation_rows")  # older bundles do not record it
    if rows is None:
        return "The validation file was not fitted."
    return f"{rows:,} validation rows were not fitted and nothing was chosen on them." if rows else ""


def _taught(described: dict[str, Any]) -> str:
    """Return what the teacher of a model was, and what was learnt from it."""
    how, of_tasks = described["training"]["distillation"], described["teacher"]["tasks"]
    alone = [name for name in described["tasks"] if name not in of_tasks]
    return (
        f"Distilled from the model {how['teacher']} (content `{how['content']}`): the loss of a batch is "
        f"{how['teacher_weight']:g} · T² · KL divergence from the teacher's scores at temperature T = "
        f"{how['temperature']:g}, plus {how['label_weight']:g} · cross-entropy with the labels. Texts without a label: "
        + ", ".join(f"{task['unlabelled']:,} for {name}" for name, task in of_tasks.items())
        + "."
        + (f" Trained on labels alone: {', '.join(alone)}." if alone else "")
    )


def _calibrated(task: dict[str, Any]) -> str:
    scaled = task.get("calibration")
    return (
        f" Its logits are divided by a temperature of {scaled['temperature']:g}, which lowers the calibration error of "
        f"the tuning rows from {scaled['error_before']:.3f} to {scaled['error_after']:.3f} and changes no label."
        if scaled
        else ""
    )


def _equal_texts(data: dict[str, Any]) -> str:
    """Return how often rows with the same text have the same label; "" if there are few such pairs."""
    equal = data.get("equal_texts", {"pairs": 0})
    if equal["pairs"] < FEW_PAIRS:
        return ""
    return (
        f" Of {equal['pairs']:,} pairs of rows with the same text, {equal['agree'] / equal['pairs']:.0%} have the same "
        "label."
    )


def _phrases(data: dict[str, Any]) -> str:
    """Return how the phrases of sentences were split; "" if the data is not made of them."""
    phrases = data.get("phrases", {})
    if not any(phrases.values()):
        return ""
    return (
        f" Whole sentences were held out: {phrases['moved']:,} rows that are phrases of them changed sides with them, "
        f"and {phrases['left_out']:,} were left out, because fitted sentences have these phrases too."
    )


def _validated(model: Path, classifier: Classifier, data: str) -> dict[str, Any]:
    """Return what the bundle of a model records of its validation rows and its data, measured now."""
    sources, _ = read_sources(Request(data, tuple(classifier.tasks)))
    described = json.loads((model / "bundle.json").read_text(encoding="utf-8"))["data"]
    tasks = {}
    for name, source in sources.items():
        if source.validation is None or not source.measure:  # rows split off now may have been fitted
            raise InputError(f"{source.place} has no file of validation rows.")
        recorded = described.get(name, {}).get("train_csv_sha256")
        if recorded not in (None, source.train.sha256):
            raise InputError(f"{source.place} is not the file that the model was trained on.")
        labels = classifier.tasks[name].labels
        validation = with_ids(source.validation, name, labels, source.place)
        tasks[name] = TaskData(labels, source.train, source.train, validation)
        described.setdefault(name, {})["equal_texts"] = equal_texts(source.train)
    return {"data": described, "validation": validate(classifier, tasks)}


def main(arguments: Sequence[str] | None = None) -> int:
    print_any_text()
    p = argparse.ArgumentParser("python -m training.card", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("model", type=Path)
    p.add_argument("receipts", type=Path, nargs="*", metavar="RECEIPT", help="of this model")
    p.add_argument(
        "--test",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="also measure the model on these labelled rows, and on the parts that other columns name; repeatable",
    )
    p.add_argument(
        "--data", help="the data that the model was trained on, as python -m training takes it: validate it again"
    )
    p.add_argument("--readme", type=Path, help="also update the table between the marks in this file")
    args = p.parse_args(arguments)
    try:
        receipts = [read_receipt(path) for path in args.receipts]
        if len({path.name for path in args.test}) < len(args.test):
            raise InputError("Two files of --test have the same name. Rename one.")
        if args.test or args.data:
            classifier = load(args.model)
            if args.data:
                annotate(args.model, _validated(args.model, classifier, args.data))
            if args.test:
                annotate(args.model, {"tests": {path.name: measure_file(classifier, path) for path in args.test}})
        write_card(args.model, receipts)
        if args.readme:
            update_readme(args.readme, receipts)
    except (InferenceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
