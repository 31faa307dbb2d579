"""A plain Hugging Face classifier of the demo model's size, which every server in the comparison can load.

The demo model pools the mean of its tokens, which `BertForSequenceClassification` does not. So: the same base, its
first token, and a head fitted to the showcase. Good enough for INT8 to be built and checked; not a model to use.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]


def write(out: Path) -> None:
    """Put it in the folder `out`, with the tokenizer in the format that transformers reads."""
    import csv

    import torch
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoTokenizer, BertForSequenceClassification

    from inference.assets import DEMO_MODEL
    from inference.formats.bundle import Bundle

    base = Bundle.read(DEMO_MODEL).base_folder()
    torch.manual_seed(0)
    labels = {0: "negative", 1: "positive"}
    network = BertForSequenceClassification.from_pretrained(base, num_labels=2, id2label=labels).eval()
    tokenizer = AutoTokenizer.from_pretrained(base, model_max_length=128)
    with (ROOT / "assets" / "showcase.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("sentiment") in labels.values()]
    with torch.inference_mode():
        feed = tokenizer([row["text"] for row in rows], padding=True, truncation=True, return_tensors="pt")
        pooled = network.bert(**feed).pooler_output.numpy()
    head = LogisticRegression(C=10.0, max_iter=1000).fit(pooled, [row["sentiment"] == "positive" for row in rows])
    with torch.no_grad():  # p = sigmoid(wx + b) is the softmax over -(wx + b) / 2 and (wx + b) / 2
        half = torch.tensor(head.coef_ / 2, dtype=torch.float32)
        network.classifier.weight.copy_(torch.cat([-half, half]))
        network.classifier.bias.copy_(torch.tensor([-head.intercept_[0] / 2, head.intercept_[0] / 2]))
    network.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
