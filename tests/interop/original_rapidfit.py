"""Run where RapidFit is installed: train small checkpoints with it, save them, and write what it answers.

Usage: original_rapidfit.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from common import KEYWORDS, MAX_LENGTH, rows, texts, write_answers, write_encoder
from rapidfit import MultiheadClassifier

VARIATIONS: dict[str, dict[str, Any]] = {
    "as-it-comes": {},
    "cls-linear": {"pooling": "cls", "head": {"hidden_layers": 0}},
    "max-two-relu": {"pooling": "max", "head": {"hidden_layers": 2, "activation": "relu"}},
    "narrow-tanh": {"head": {"hidden_multiplier": 0.5, "activation": "tanh"}},
    "silu-xlm-roberta": {"family": "xlm-roberta", "head": {"activation": "silu"}},
}


def main(folder: Path) -> None:
    data = {task: rows(task, 200) for task in KEYWORDS}
    answers = {}
    for name, settings in VARIATIONS.items():
        family = settings.pop("family", "bert")
        encoder = folder / f"base-{family}"
        if not encoder.exists():
            write_encoder(encoder, family)
        training = {
            "model_name": str(encoder),
            "max_length": MAX_LENGTH,
            "epochs": 2,
            "learning_rate": 2e-3,
            "output_dir": str(folder / "training"),
        }
        freezing = {"freeze_epochs": 1 if name == "as-it-comes" else 0, "unfreeze_layers": None}
        classifier = MultiheadClassifier({"training": training, "encoder": freezing, **settings})
        classifier.train(data)
        classifier.save(folder / name)
        answers[name] = classifier.predict_all_tasks(texts())
    write_answers(folder / "answers.json", answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
