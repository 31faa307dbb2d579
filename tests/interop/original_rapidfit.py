"""Run where RapidFit is installed: train small checkpoints with it, save them, and write what it answers.

Usage: original_rapidfit.py FOLDER [KIND …]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
from common import KEYWORDS, MAX_LENGTH, rows, texts, write_answers, write_encoder
from rapidfit import MultiheadClassifier


def train(folder: Path, family: str = "bert", freeze_epochs: int = 0, **settings: Any) -> None:
    encoder = folder.with_name(f"base-{family}")
    if not encoder.exists():
        write_encoder(encoder, family)
    training = {
        "model_name": str(encoder),
        "max_length": MAX_LENGTH,
        "epochs": 2,
        "learning_rate": 2e-3,
        "output_dir": str(folder.with_name("training")),
    }
    freezing = {"freeze_epochs": freeze_epochs, "unfreeze_layers": None}
    classifier = MultiheadClassifier({"training": training, "encoder": freezing, **settings})
    classifier.train({task: rows(task, 200) for task in KEYWORDS})
    classifier.save(folder)
    answers = {}
    for task, predictions in classifier.predict_all_tasks(texts()).items():
        # RapidFit gives the probability of the chosen label alone.
        labels = sorted(KEYWORDS[task])
        scores = [
            [float(str(one["confidence"])) if label == one["label"] else None for label in labels]
            for one in predictions
        ]
        answers[task] = {"labels": labels, "scores": scores}
    write_answers(folder, answers)


def kind(**settings: Any) -> Any:
    return lambda folder: train(folder, **settings)


MAKERS = {
    "rapidfit-as-it-comes": kind(freeze_epochs=1),
    "rapidfit-cls-linear": kind(pooling="cls", head={"hidden_layers": 0}),
    "rapidfit-max-two-relu": kind(pooling="max", head={"hidden_layers": 2, "activation": "relu"}),
    "rapidfit-narrow-tanh": kind(head={"hidden_multiplier": 0.5, "activation": "tanh"}),
    "rapidfit-silu-xlm-roberta": kind(family="xlm-roberta", head={"activation": "silu"}),
}

if __name__ == "__main__":
    common.main(MAKERS)
