"""Run where PEFT and transformers are installed: fine-tune small adapters, save them, and write what they answer.

The answers come from the code of the PEFT inference guide: `AutoPeftModelForSequenceClassification`, its tokenizer
call, its softmax. Usage: original_peft.py FOLDER
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from common import rows, texts, write_answers, write_encoder
from peft import AutoPeftModelForSequenceClassification, LoraConfig, PeftConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

LABELS = {0: "Negative", 1: "Positive"}
FAMILIES = ("bert", "roberta", "distilbert")


def predict_sentiment(texts: list[str], model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Label and confidence of each text, as the guide works them out."""
    inputs = tokenizer(texts, return_tensors="pt", truncation=True, padding=True, max_length=128)
    inputs = {k: v.to(model.device) for k, v in inputs.items()}
    model.eval()
    with torch.no_grad():
        outputs = model(**inputs)
    logits = outputs.logits
    probabilities = torch.softmax(logits, dim=-1)
    predictions = torch.argmax(logits, dim=-1).cpu().numpy()
    return [
        {"label": "Positive" if pred == 1 else "Negative", "confidence": probabilities[i][pred].item()}
        for i, pred in enumerate(predictions)
    ]


def write_base(folder: Path, family: str) -> None:
    """A random classifier with named labels, and its tokenizer."""
    write_encoder(folder, family, id2label=LABELS, label2id={name: i for i, name in LABELS.items()})
    torch.manual_seed(3)
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(folder)


def fit(model: Any, tokenizer: Any) -> None:
    data = rows("mood", 1000)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    model.train()
    for start in range(0, len(data), 20):
        batch = data[start : start + 20]
        inputs = tokenizer([row["text"] for row in batch], return_tensors="pt", padding=True)
        labels = torch.tensor([int(row["label"] == "up") for row in batch])
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def main(folder: Path) -> None:
    answers = {}
    for family in FAMILIES:
        base, name = folder / f"base-{family}", f"lora-{family}"
        write_base(base, family)
        tokenizer = AutoTokenizer.from_pretrained(base)
        modules = ["q_lin", "v_lin"] if family == "distilbert" else ["query", "value"]
        config = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=16, lora_dropout=0.1, target_modules=modules)
        model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), config)
        fit(model, tokenizer)
        model.save_pretrained(folder / name)

        found = PeftConfig.from_pretrained(folder / name)
        tokenizer = AutoTokenizer.from_pretrained(found.base_model_name_or_path)
        model = AutoPeftModelForSequenceClassification.from_pretrained(folder / name)
        answers[name] = {"label": predict_sentiment(texts(), model, tokenizer)}

        merged = model.merge_and_unload()
        merged.save_pretrained(folder / f"merged-{family}")
        tokenizer.save_pretrained(folder / f"merged-{family}")
        merged = AutoModelForSequenceClassification.from_pretrained(folder / f"merged-{family}")
        answers[f"merged-{family}"] = {"label": predict_sentiment(texts(), merged, tokenizer)}

    # The same weights as pickles, which save_pretrained wrote before safetensors.
    for name, stem in (("lora-bert", "adapter_model"), ("merged-bert", "model")):
        pickled = Path(shutil.copytree(folder / name, folder / f"pickled-{name}"))
        from safetensors.torch import load_file

        weights = load_file(pickled / f"{stem}.safetensors")
        torch.save(weights, pickled / f"{'pytorch_' * (stem == 'model')}{stem}.bin")
        (pickled / f"{stem}.safetensors").unlink()
        answers[pickled.name] = answers[name]
    write_answers(folder / "answers.json", answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
