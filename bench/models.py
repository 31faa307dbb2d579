"""The demo model in the form that other libraries read: a plain BERT encoder, heads as arrays, an ONNX graph."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from inference.artifacts.cache import default_cache, obtain
from inference.assets import DEMO_MODEL
from inference.backends import RUNTIMES
from inference.formats.describe import describe


def write(out: Path) -> None:
    """Write the folder `model` of `bench.peers`.

    It has `config.json`, `model.safetensors` and a tokenizer, as `AutoModel` reads them, with the adapter merged;
    `heads.npz` with `<task>.weight` (labels, hidden) and `<task>.bias`; `tasks.json` with labels and `max_tokens`; and
    `graph.onnx`, Triptych's FP32 graph.
    """
    import numpy as np
    from transformers import AutoTokenizer

    from inference.pytorch.network import load_network

    bundle = describe(DEMO_MODEL)
    network = load_network(bundle)
    network.encoder.save_pretrained(out)
    AutoTokenizer.from_pretrained(bundle.base_folder(None), model_max_length=bundle.max_tokens).save_pretrained(out)
    heads: dict[str, Any] = {}
    for task, head in network.heads.items():
        heads |= {f"{task}.{name}": values.detach().numpy() for name, values in head.state_dict().items()}
    np.savez(out / "heads.npz", **heads)
    tasks = {name: list(task.labels) for name, task in bundle.tasks.items()}
    facts = {"tasks": tasks, "max_tokens": bundle.max_tokens}
    (out / "tasks.json").write_text(json.dumps(facts), encoding="utf-8")
    shutil.copyfile(obtain(bundle, default_cache()).folder / RUNTIMES["onnx"].file, out / "graph.onnx")


def multiply_adds(config: dict[str, int], texts: int, tokens: int) -> int:
    """Return the multiplications of the encoder's products for a batch: projections, feed-forward and attention.

    The heads are left out: they read one vector a text.
    """
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    projections = 4 * hidden * hidden + 2 * hidden * inner
    attention = 2 * tokens * hidden
    return config["num_hidden_layers"] * texts * tokens * (projections + attention)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
