"""Measure a trained model, by label, by length and where texts turn, on rows that it was not fitted to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.artifacts.parity import Matrix, differences, score_rows
from inference.classifier import Classifier
from inference.compare.metrics import metrics
from inference.compare.rows import open_data, read_data
from inference.compare.slices import LENGTH_NAMES, few_valued, has_contrast, has_negation, length_of
from inference.compare.stats import calibration, macro_f1_bootstrap, share
from inference.errors import InputError, counted
from inference.tables.table import LABEL_NAMES
from training.data import TaskData

CONFUSIONS = 5
LABELS_SHOWN = 20
TURNING, PLAIN = "with a negation or contrast", "without"
Report = dict[str, dict[str, Any]]


def validate(classifier: Classifier, tasks: Mapping[str, TaskData]) -> Report:
    """Return task -> results on its validation rows, or on its tuning rows if it has none.

    `per_label` holds precision, recall, F1 (0 if undefined) and rows of every label; `confusions` the most
    frequent pairs of true and given label; `accuracy_interval` is Wilson's at 95%, `macro_f1_interval` a bootstrap's;
    `parts` the accuracy by length, and with and without a negation or contrast (in English); `calibration_error` and
    `reliability` those of `inference.compare.stats.calibration`; `seen` counts the rows whose very text is among the
    training rows.
    """
    from sklearn.metrics import precision_recall_fscore_support

    report: Report = {}
    for name, data in tasks.items():
        rows = data.validation or data.tuning
        task = classifier.tasks[name]
        predictions = classifier.predict(rows.texts, name)
        true = np.array(rows.label_ids)
        given = np.array([task.labels.index(p.label) for p in predictions])
        confidence = np.array([p.confidence for p in predictions])
        figures = metrics(given, confidence, true, task)
        error, bins = calibration(confidence, true == given)
        f1, _ = macro_f1_bootstrap(true, given, given, len(task.labels), seed=0)
        lengths = [length_of(len(ids)) for ids in classifier.tokenize(rows.texts).ids]
        turns = [TURNING if has_negation(text) or has_contrast(text) else PLAIN for text in rows.texts]
        columns = precision_recall_fscore_support(true, given, labels=range(len(task.labels)), zero_division=0)
        wrong = Counter((int(t), int(g)) for t, g in zip(true, given, strict=True) if t != g)
        trained = {*data.fit.texts, *(data.tuning.texts if data.validation else ())}
        report[name] = {
            "rows": "validation" if data.validation else "tuning",
            "count": len(true),
            "seen": sum(text in trained for text in rows.texts),
            **_accuracy(true == given),
            "macro_f1": round(figures["macro_f1"], 4),
            "macro_f1_interval": [round(f1.low, 4), round(f1.high, 4)],
            "parts": [
                *_parts(lengths, true == given, LENGTH_NAMES),
                *_parts(turns, true == given, (TURNING, PLAIN)),
            ],
            "calibration_error": round(error, 4),
            "reliability": [{key: round(value, 4) for key, value in of_bin.items()} for of_bin in bins],
            "per_label": {
                label: {
                    "precision": round(float(columns[0][i]), 4),
                    "recall": round(float(columns[1][i]), 4),
                    "f1": round(float(columns[2][i]), 4),
                    "rows": int(columns[3][i]),
                }
                for i, label in enumerate(task.labels)
            },
            "confusions": [
                {"true": task.labels[t], "given": task.labels[g], "rows": count}
                for (t, g), count in wrong.most_common(CONFUSIONS)
            ],
        }
    return report


def _accuracy(right: NDArray[np.bool_]) -> dict[str, Any]:
    accuracy = share(int(right.sum()), len(right))
    return {
        "accuracy": round(accuracy.value, 4),
        "accuracy_interval": [round(accuracy.low, 4), round(accuracy.high, 4)],
    }


def _parts(names: Sequence[str], right: NDArray[np.bool_], order: Iterable[str]) -> list[dict[str, Any]]:
    """Return the accuracy of the rows of each name, in the order given; nothing if all have the same name."""
    of = np.array(names)
    present = [name for name in order if name in names]
    if len(present) < 2:
        return []
    return [{"part": name, "rows": int((of == name).sum()), **_accuracy(right[of == name])} for name in present]


def measure_file(classifier: Classifier, path: Path) -> dict[str, dict[str, Any]]:
    """Return task -> accuracy on the labelled rows of a file that was neither fitted nor tuned on.

    `parts` is the accuracy for each value of the other columns, such as a kind of text, if they have few.

    Raises:
        InputError: the file cannot be read, has labels that the model does not know, or was trained on.
    """
    data = read_data(path, classifier.tasks)
    if data.sha256 in classifier.bundle.trained_on:
        raise InputError(f"The model was trained on {path.name}. Name a file of other rows.")
    table, _, _ = open_data(str(path), None)
    columns = few_valued(table, data.row_numbers, {table.text_column, *data.labels, *LABEL_NAMES})
    figures = {}
    for name, ids in data.labels.items():
        labelled = [i for i, label in enumerate(ids) if label >= 0]
        labels = classifier.tasks[name].labels
        predictions = classifier.predict([data.texts[i] for i in labelled], name)
        right = np.array([p.label == labels[ids[i]] for p, i in zip(predictions, labelled, strict=True)])
        parts = []
        for column, values in columns.items():
            named = [f"{column}: {values[i]}" for i in labelled]
            parts += _parts(named, right, sorted(set(named)))
        figures[name] = {"count": len(labelled), **_accuracy(right), "parts": parts}
    return figures


def drift(
    classifier: Classifier, tasks: Mapping[str, TaskData], four_bit: Mapping[str, Matrix]
) -> dict[str, dict[str, Any]]:
    """Return task -> how answers differ between the 4-bit base in training and the full-precision base in use.

    `max_difference` and `mean_difference`: max_abs_dp and mean_abs_dp of `inference.artifacts.parity.differences`.

    Args:
        four_bit: task -> probabilities on the 4-bit base, of the rows that `validate` takes, (rows, labels).
    """
    drifts = {}
    for name, data in tasks.items():
        rows = data.validation or data.tuning
        served = score_rows(classifier.predict(rows.texts, name))
        moved = differences({name: four_bit[name]}, {name: served})[name]
        true = np.array(rows.label_ids)
        drifts[name] = {
            "rows": len(true),
            "labels_that_differ": round((1 - moved["label_agreement"]) * len(true)),
            "max_difference": round(moved["max_abs_dp"], 4),
            "mean_difference": round(moved["mean_abs_dp"], 4),
            "accuracy_4_bit": round(float((four_bit[name].argmax(1) == true).mean()), 4),
            "accuracy_served": round(float((served.argmax(1) == true).mean()), 4),
        }
    return drifts


def markdown(report: Report, drifts: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Return the report as Markdown, a section per task; of many labels only the `LABELS_SHOWN` with the lowest F1."""
    parts = []
    for name, figures in report.items():
        parts.append(f"### {name}")
        line = (
            f"Accuracy {figures['accuracy']:.4f} ({_interval(figures['accuracy_interval'])}), macro-F1 "
            f"{figures['macro_f1']:.4f} ({_interval(figures['macro_f1_interval'])}) on {figures['count']:,} "
            f"{figures['rows']} rows; brackets are 95% intervals. Confidence differs from accuracy by "
            f"{figures['calibration_error']:.3f} on average (expected calibration error)."
        )
        if figures["rows"] == "tuning":
            line += " There are no validation rows, and the threshold was chosen on these: expect less on new texts."
        if figures["seen"]:
            line += f" {figures['seen']:,} of them have the text of a training row: expect less on new texts."
        parts += [line, "\n".join(_table(figures["per_label"]))]
        if figures["parts"]:
            parts.append("\n".join(_table_of_parts(figures["parts"])))
        if figures["confusions"]:
            parts.append(
                "\n".join(
                    f"- {pair['true']} taken for {pair['given']}: {counted(pair['rows'], 'row')}"
                    for pair in figures["confusions"]
                )
            )
        if drifts:
            drift = drifts[name]
            parts.append(
                f"Trained on the base in 4 bits, served on it in full precision: {drift['labels_that_differ']} of "
                f"{drift['rows']:,} labels differ, the largest change of a probability in a text is "
                f"{drift['max_difference']:.3f} at most and {drift['mean_difference']:.4f} on average; accuracy "
                f"{drift['accuracy_4_bit']:.4f} in 4 bits, {drift['accuracy_served']:.4f} as served."
            )
    return "\n\n".join(parts)


def _table(per_label: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    shown = list(per_label)
    heading = "label"
    if len(shown) > LABELS_SHOWN:
        shown = sorted((label for label in shown if per_label[label]["rows"]), key=lambda label: per_label[label]["f1"])
        heading, shown = f"the {LABELS_SHOWN} weakest of {len(per_label)} labels", shown[:LABELS_SHOWN]
    cells = {label: _cell(label) for label in shown}
    width = max(len(heading), *map(len, cells.values()))
    return [
        f"| {heading:<{width}} | precision | recall |     F1 | rows |",
        f"| {'-' * width} | --------: | -----: | -----: | ---: |",
        *(
            f"| {cells[label]:<{width}} | {row['precision']:>9.4f} | {row['recall']:>6.4f} | {row['f1']:>6.4f} "
            f"| {row['rows']:>4} |"
            for label, row in ((label, per_label[label]) for label in shown)
        ),
    ]


def markdown_of_file(name: str, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what `measure_file` measured as Markdown, a section per task."""
    parts = []
    for task, of in figures.items():
        parts += [
            f"### {task}, {name}",
            f"Accuracy {of['accuracy']:.4f} ({_interval(of['accuracy_interval'])}) on {of['count']:,} rows.",
            *(["\n".join(_table_of_parts(of["parts"]))] if of["parts"] else []),
        ]
    return "\n\n".join(parts)


def _interval(edges: Sequence[float]) -> str:
    return f"{edges[0]:.3f} to {edges[1]:.3f}"


def _table_of_parts(parts: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    cells = [_cell(part["part"]) for part in parts]
    width = max(map(len, cells))
    return [
        f"| {'texts':<{width}} | rows | accuracy | 95% interval   |",
        f"| {'-' * width} | ---: | -------: | -------------- |",
        *(
            f"| {cell:<{width}} | {part['rows']:>4} | {part['accuracy']:>8.4f} "
            f"| {_interval(part['accuracy_interval'])} |"
            for cell, part in zip(cells, parts, strict=True)
        ),
    ]


def _cell(text: str) -> str:
    """Return a text as a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
