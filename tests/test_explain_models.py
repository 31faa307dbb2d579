"""Explanations of real networks: gradients that add up, a keyword that decides, and runtimes without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
from conftest import ROOT, Tiny

from inference import Classifier, InputError, load
from inference.explain import explain, occlusion
from inference.explain.explanation import GRADIENTS, Explanation

TEXT = "it was fine, so fine"


@pytest.fixture(scope="module")
def network(tiny: Tiny) -> Classifier:
    return load(tiny.folder, "pytorch", base=tiny.base, cache=tiny.cache)


def complete(explanation: Explanation) -> None:
    """The attributions add up to what lies between the text and its baseline, but for delta."""
    assert explanation.baseline_log_odds is not None and explanation.convergence_delta is not None
    total = sum(word.attribution or 0.0 for word in explanation.words)
    assert total == pytest.approx(
        explanation.log_odds - explanation.baseline_log_odds + explanation.convergence_delta, abs=1e-5
    )
    assert explanation.converged
    assert abs(explanation.convergence_delta) <= max(
        1e-4, 0.01 * sum(abs(word.attribution or 0) for word in explanation.words) + 1e-6
    )


@pytest.mark.parametrize("label", ["down", "up"])
def test_integrated_gradients_are_complete_within_their_delta(network: Classifier, label: str) -> None:
    complete(explain(network, TEXT, "mood", label, GRADIENTS))


def test_integrated_gradients_are_those_of_captums_own_call(network: Classifier, tiny: Tiny) -> None:
    import torch
    from captum.attr import LayerIntegratedGradients

    from inference.formats.bundle import Bundle
    from inference.pytorch.network import load_network

    explanation = explain(network, TEXT, "mood", "up", GRADIENTS)
    model = load_network(Bundle.read(tiny.folder), tiny.base)
    encoded = network.encode(TEXT)
    ids = torch.tensor([[encoded.encoding.ids[i] for i in encoded.read]])
    baseline = torch.zeros_like(ids)
    baseline[0, 0], baseline[0, -1] = ids[0, 0], ids[0, -1]

    def forward(rows: Any, mask: Any) -> Any:
        down, up = model(rows, mask)[0].unbind(1)
        return up - down  # of two labels, the log-odds

    parts, delta = LayerIntegratedGradients(forward, model.encoder.embeddings.word_embeddings).attribute(
        ids,
        baseline,
        additional_forward_args=(torch.ones_like(ids),),
        n_steps=explanation.n_steps,
        return_convergence_delta=True,
    )
    tokens = parts.sum(-1)[0].tolist()
    assert sum(word.attribution or 0 for word in explanation.words) == pytest.approx(sum(tokens), abs=1e-5)
    letters = [word.attribution for word in explanation.words if word.text == ","]
    comma = network.encode(TEXT).encoding.ids.index(foreign.WORDS.index(","))
    assert letters == [pytest.approx(tokens[comma], abs=1e-5)]
    assert explanation.words[0].attribution == pytest.approx(tokens[1] + tokens[2], abs=1e-5)  # i, ##t
    assert explanation.convergence_delta == pytest.approx(float(delta), abs=1e-5)


@pytest.mark.parametrize("kind", foreign.ARCHITECTURE_PARAMS)
def test_integrated_gradients_are_complete_on_every_architecture(kind: str, tmp_path: Path) -> None:
    # Not as wild as random weights are elsewhere in the tests: there some want more steps than there are.
    made = load(foreign.classifier(tmp_path / kind, kind, initializer_range=0.005), "pytorch")
    explanation = explain(made, "a bad lamp, twice!", method=GRADIENTS)
    assert explanation.converged
    total = sum(word.attribution or 0.0 for word in explanation.words)
    assert explanation.baseline_log_odds is not None and explanation.convergence_delta is not None
    assert total == pytest.approx(explanation.log_odds - explanation.baseline_log_odds, abs=0.02)
    assert explanation.log_odds == pytest.approx(explain(made, "a bad lamp, twice!").log_odds, abs=1e-4)
    assert np.abs([word.attribution for word in explanation.words]).max() > 1e-3


def test_each_task_of_switched_adapters_is_explained_with_its_own(tmp_path: Path) -> None:
    base = foreign.base(tmp_path / "base")
    for seed, task in enumerate(("mood", "topic")):
        foreign.adapter(tmp_path / "model" / task, base, seed=seed)
    made = load(tmp_path / "model", "pytorch")
    before = made.predict_all_tasks("a bad lamp")
    explanations = {task: explain(made, "a bad lamp", task, method=GRADIENTS) for task in made.tasks}
    for task, one in explanations.items():
        assert one.log_odds == pytest.approx(explain(made, "a bad lamp", task, one.label).log_odds)
        assert one.baseline_log_odds is not None and one.convergence_delta is not None
        total = sum(word.attribution or 0 for word in one.words)
        assert total == pytest.approx(one.log_odds - one.baseline_log_odds + one.convergence_delta, abs=1e-4)
    assert made.predict_all_tasks("a bad lamp") == before


def test_prediction_during_gradients_is_for_its_own_text(network: Classifier) -> None:
    expected = network.predict("a bad lamp", "mood")
    got = []

    def ask(_: str, __: float) -> None:
        got.append(network.predict("a bad lamp", "mood"))

    explain(network, "so fine it was", "mood", method=GRADIENTS, progress=ask)
    assert len(got) > 2
    assert {one.confidence for one in got} == {expected.confidence}


def test_gradients_out_of_time_are_rejected_or_noted(network: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference.explain import gradients

    now = [0.0]
    monkeypatch.setattr(occlusion, "clock", lambda: now[0])
    monkeypatch.setattr(gradients, "TOLERANCE", 0.0)
    monkeypatch.setattr(gradients, "NOISE", 0.0)

    def tell(_: str, __: float) -> None:
        now[0] += 1.0

    with pytest.raises(InputError, match="Time was up before integrated gradients"):
        explain(network, TEXT, "mood", method=GRADIENTS, budget_s=2.0, progress=tell)
    explanation = explain(network, TEXT, "mood", method=GRADIENTS, budget_s=8.0, progress=tell)
    assert explanation.converged is False
    assert explanation.n_steps in gradients.STEPS[:-1]
    assert f"After {explanation.n_steps} steps" in explanation.notes[-1]
    whole = explain(network, TEXT, "mood", method=GRADIENTS)
    assert whole.n_steps == gradients.STEPS[-1]


# --- A model in which one word decides


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A classifier in which nothing but the word "good" moves the label away from "bad"."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("planted") / "model"
    foreign.classifier(folder, vocab_size=len(foreign.WORDS) + 1)
    written = json.loads((folder / "tokenizer.json").read_text())
    written["model"]["vocab"]["good"] = len(foreign.WORDS)
    (folder / "tokenizer.json").write_text(json.dumps(written))
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("good").tokens == ["[CLS]", "good", "[SEP]"]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        table = model.bert.embeddings.word_embeddings.weight
        table[:, :2] = 0  # the plane in which the keyword alone stands out
        table[-1] = 0
        table[-1, 0], table[-1, 1] = 8, -8
        table[0] = table[4]  # not zeros, the rest as any letter: the path from padding starts at a word like others
        model.bert.embeddings.position_embeddings.weight.zero_()
        model.bert.embeddings.token_type_embeddings.weight.zero_()
        first, *others = model.bert.encoder.layer
        for layer in (first, *others):
            for part in (layer.attention.output.dense, layer.output.dense, layer.attention.self.query):
                part.weight.zero_()
                part.bias.zero_()
        # Without queries the first layer looks at every word alike: its output is their mean.
        torch.nn.init.eye_(first.attention.self.value.weight)
        torch.nn.init.eye_(first.attention.output.dense.weight)
        first.attention.self.value.bias.zero_()
        torch.nn.init.eye_(model.bert.pooler.dense.weight)
        model.bert.pooler.dense.bias.zero_()
        model.classifier.weight.zero_()
        model.classifier.weight[1, 0], model.classifier.weight[1, 1] = 4, -4
        model.classifier.bias.copy_(torch.tensor([0.5, 0.0]))
    model.save_pretrained(folder)
    yield folder


@pytest.mark.parametrize(
    ("backend", "method"),
    [("pytorch", "occlusion"), ("onnx", "occlusion"), ("int8", "occlusion"), ("pytorch", GRADIENTS)],
)
def test_a_planted_keyword_is_named_first_on_every_backend(
    planted: Path, tmp_path_factory: pytest.TempPathFactory, backend: str, method: str
) -> None:
    made = load(planted, backend, cache=tmp_path_factory.getbasetemp() / "planted-cache")
    for text in ("this was a good soup", "Good. it is what it is", "a lamp and a film, both good!"):
        explanation = explain(made, text, label="good", method=method)
        ranked = sorted(explanation.words, key=lambda word: -(word.attribution or 0))
        assert ranked[0].text.lower() == "good"
        assert ranked[0].attribution > 3 * abs(ranked[1].attribution)


def test_onnx_and_int8_explain_where_torch_and_captum_cannot_be_imported(tiny: Tiny) -> None:
    load(tiny.folder, "int8", base=tiny.base, cache=tiny.cache)  # builds what the other process reads
    script = (
        "import sys\n"
        "gone = ['torch', 'transformers', 'peft', 'onnx', 'captum', 'scipy', 'sklearn', 'safetensors']\n"
        "sys.modules.update(dict.fromkeys(gone))\n"
        "import importlib.metadata as m\n"
        "version = m.version\n"
        "m.version = lambda name: version('no-such-' + name if name in gone else name)\n"
        "from inference import load\nfrom inference.explain import explain\n"
        "for backend in ('onnx', 'int8'):\n"
        "    c = load(sys.argv[1], backend, cache=sys.argv[2])\n"
        "    print(len(explain(c, 'it was bad', 'mood').words))\n"
        "try:\n"
        "    explain(c, 'it was bad', 'mood', method='integrated_gradients')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tiny.folder, tiny.cache], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["3", "3"]
    assert lines[2].startswith("InputError method='integrated_gradients' needs the gradients of a PyTorch network")
