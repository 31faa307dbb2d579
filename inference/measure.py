"""The figures a model is shipped on: accuracy, agreement, latency, start-up and size of its three backends.

Latency is taken in one process per backend, all loaded beforehand, in turns: a block of calls to one,
then to the next, in an order that is reversed every round. The machine's drift then falls on all alike, and
no runtime's idle threads spin on the cores of another. Quote the ratios; they are from within one run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from inference import cpu, parity
from inference.artifacts import FILES, SHOWCASE, Progress, model_sizes, obtain, tool_versions
from inference.backends import BACKENDS, TITLES
from inference.bundle import Bundle
from inference.errors import InferenceError
from inference.evaluate import LabelledRows, metrics, read_rows
from inference.loading import load

SHAPES = {
    "one text of 16 tokens": (1, 16),
    "one text of 32 tokens": (1, 32),
    "one text of 128 tokens": (1, 128),
    "32 texts of 32 tokens": (32, 32),
}
BLOCK_SECONDS = 0.4  # of one backend before it is the next one's turn


def measure(
    model: Path,
    data: Path | None,
    cache: Path,
    rounds: int = 20,
    threads: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Every figure as plain JSON types.

    Args:
        data: folder with `<task>/validation.csv`; the showcase is used if left out.
        rounds: blocks per backend and shape in the latency measurement.
        threads: CPU threads of every backend, the same for all three.

    Raises:
        InferenceError: the model does not load, or the rows do not fit it.
    """
    say = progress or (lambda step, share: None)
    bundle = Bundle.read(model)
    artifact = obtain(bundle, cache, progress)
    rows = {task: _rows(data, task) for task in bundle.tasks}
    say("cold start", 0.0)
    cold = {name: cold_start(model, name, cache) for name in BACKENDS}
    say("latency", 0.1)
    timed = latency(model, cache, rounds, threads)
    answers: dict[str, Any] = {}
    for i, name in enumerate(BACKENDS):
        say(f"accuracy of {TITLES[name]} on {sum(map(len, rows.values()))} rows", 0.4 + 0.2 * i)
        answers[name] = _answers(load(model, name, cache=cache), rows)
    say("done", 1.0)
    return {
        "model": bundle.name,
        "data": "showcase" if data is None else "validation",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "threads": threads,
        "machine": {"cpu": cpu.model(), "cores": cpu.cores(), "flags": cpu.int8_flags(), "system": platform.system()},
        "versions": {"python": platform.python_version(), **tool_versions()},
        "files": {"bundle": dict(bundle.files), **{k: v["sha256"] for k, v in artifact.manifest["files"].items()}},
        "size_bytes": model_sizes(bundle, artifact),
        "quality": {name: found["metrics"] for name, found in answers.items()},
        "agreement": {name: _agreement(answers["pytorch"], answers[name]) for name in FILES},
        "batch_flips": {name: answers[name]["batch_flips"] for name in BACKENDS},
        "latency_ms": timed,
        "cold_start_s": cold,
    }


def _rows(data: Path | None, task: str) -> LabelledRows:
    return read_rows(SHOWCASE, "text", task) if data is None else read_rows(data / task / "validation.csv")


def _answers(classifier: Any, rows: dict[str, LabelledRows]) -> dict[str, Any]:
    """Predictions in batches and alone for each task's own rows, and what they are worth."""
    found: dict[str, Any] = {"metrics": {}, "labels": {}, "top": {}, "batch_flips": 0}
    for task, labelled in rows.items():
        batched = classifier.predict(labelled.texts, task)
        alone = [classifier.predict(text, task).label for text in labelled.texts]
        mixed = parity.score_matrix_mixed(classifier, labelled.texts)[task].argmax(1)
        found["metrics"][task] = metrics(batched, labelled.labels, classifier.tasks[task])
        found["labels"][task] = [p.label for p in batched]
        found["top"][task] = parity.score_rows(batched)
        names = classifier.tasks[task].labels
        found["batch_flips"] += sum(label != names[i] for label, i in zip(alone, mixed, strict=True))
    return found


def _agreement(reference: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Per task and over all rows: equal labels, and the largest |Δprobability|."""
    result = parity.compare(reference["top"], other["top"])
    counts = {task: len(labels) for task, labels in reference["labels"].items()}
    result["all"] = {
        "max_abs_dp": max(entry["max_abs_dp"] for entry in result.values()),
        "label_agreement": sum(result[task]["label_agreement"] * n for task, n in counts.items())
        / sum(counts.values()),
    }
    return result


def latency(model: Path, cache: Path, rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    """Per shape and backend the median and spread of one forward pass, and the speed-up against PyTorch and ONNX.

    `median_ms` is over all calls; `speedup` is the median over rounds of the ratio of two backends' block medians.
    """
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(_worker(model, name, cache, threads)) for name in BACKENDS}
        result: dict[str, dict[str, Any]] = {}
        for title, shape in SHAPES.items():
            blocks: dict[str, list[list[float]]] = {name: [] for name in BACKENDS}
            for number in range(rounds):
                turn = number // 2 % len(BACKENDS)  # rotated too: nobody always follows the same one
                order = BACKENDS[turn:] + BACKENDS[:turn]
                for name in order if number % 2 == 0 else reversed(order):
                    blocks[name].append(_ask(workers[name], shape))
            medians = {name: [statistics.median(block) for block in blocks[name]] for name in BACKENDS}
            result[title] = {
                "backends": {name: _spread([x for block in blocks[name] for x in block]) for name in BACKENDS},
                "speedup": {
                    f"{fast} over {slow}": round(
                        statistics.median(s / f for s, f in zip(medians[slow], medians[fast], strict=True)), 3
                    )
                    for fast, slow in (("onnx", "pytorch"), ("int8", "pytorch"), ("int8", "onnx"))
                },
            }
        return result


def _spread(samples_ms: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(samples_ms, n=20)  # 19 cuts: [0] is the p5, [18] the p95
    return {
        "median_ms": round(statistics.median(samples_ms), 4),
        "p5_ms": round(cuts[0], 4),
        "p95_ms": round(cuts[18], 4),
        "calls": len(samples_ms),
    }


@contextlib.contextmanager
def _worker(model: Path, backend: str, cache: Path, threads: int) -> Iterator[Connection]:
    """A process with one backend loaded, asleep until it is asked for a block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_blocks, args=(theirs, model, backend, cache, threads), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(120) or ours.recv() != "ready":
            raise InferenceError(f"The measuring process of backend {backend!r} did not start.")
        yield ours
    except EOFError:
        raise InferenceError(f"The measuring process of backend {backend!r} ended before its time.") from None
    finally:
        ours.close()  # the worker ends when nobody can ask any more
        process.join(10)
        if process.is_alive():
            process.kill()


def _serve_blocks(connection: Connection, model: Path, backend: str, cache: Path, threads: int) -> None:
    classifier = load(model, backend, cache=cache, threads=threads)
    connection.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            shape = connection.recv()
            feed = _feed(classifier, shape)
            for _ in range(5):  # after its sleep: caches and clock speed come back
                classifier.backend.logits(**feed)
            samples: list[float] = []
            end = time.perf_counter() + BLOCK_SECONDS
            while time.perf_counter() < end or len(samples) < 3:
                started = time.perf_counter_ns()
                classifier.backend.logits(**feed)
                samples.append((time.perf_counter_ns() - started) / 1e6)
            connection.send(samples)


def _feed(classifier: Any, shape: tuple[int, int]) -> dict[str, Any]:
    """Real tokens in exactly this shape: the showcase's ids one after another, cut to length."""
    from inference.artifacts import showcase_texts
    from inference.classifier import pad

    ids = [i for row in classifier.tokenize(showcase_texts()).ids for i in row]
    texts, tokens = shape
    ids *= texts * tokens // len(ids) + 1
    return pad([ids[row * tokens : (row + 1) * tokens] for row in range(texts)])


def _ask(worker: Connection, shape: tuple[int, int]) -> list[float]:
    worker.send(shape)
    return list(worker.recv())


_COLD = """
import sys, time
started = time.perf_counter()
blocked = sys.argv[4].split(",") if sys.argv[4] else []
sys.modules.update(dict.fromkeys(blocked))  # None: importing it fails, as where it is not installed
from inference import artifacts, load
if blocked:
    versions = artifacts.tool_versions()
    artifacts.tool_versions = lambda: {name: v for name, v in versions.items() if name not in blocked}
classifier = load(sys.argv[1], sys.argv[2], cache=sys.argv[3])
classifier.predict_all_tasks("how long does the first answer take?")
print(time.perf_counter() - started)
"""


def cold_start(model: Path, backend: str, cache: Path, runs: int = 5) -> float:
    """Median seconds of import, load and first answer in a fresh interpreter.

    ONNX and INT8 are measured as they are deployed, with torch, transformers and peft not importable.
    """
    blocked = "" if backend == "pytorch" else "torch,transformers,peft,onnx,safetensors,filelock"
    seconds = []
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, "-c", _COLD, str(model.resolve()), backend, str(cache.resolve()), blocked],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
            check=False,
        )
        if done.returncode:
            raise InferenceError(f"The first answer of backend {backend!r} failed: {done.stderr.strip()[-500:]}")
        seconds.append(float(done.stdout))
    return round(statistics.median(seconds), 3)


def summary(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table a person can read, one line per figure and one column per backend."""
    head = ["figure", *(TITLES[name] for name in BACKENDS)]
    lines: list[list[str]] = []
    for task in figures["quality"]["pytorch"]:
        found = {name: figures["quality"][name][task] for name in BACKENDS}
        rows = found["pytorch"]["rows"]
        lines.append([f"{task}: accuracy ({rows:,} rows)", *(f"{found[n]['accuracy']:.4f}" for n in BACKENDS)])
        lines.append([f"{task}: macro-F1", *(f"{found[n]['macro_f1']:.4f}" for n in BACKENDS)])
        for key, title in (
            ("in_scope_accuracy", "accuracy in scope"),
            ("out_of_scope_recall", "out-of-scope recall"),
            ("in_scope_coverage", "in-scope coverage"),
        ):
            if key in found["pytorch"]:
                lines.append([f"{task}: {title}", *(f"{found[n][key]:.4f}" for n in BACKENDS)])
        lines.append(
            [
                f"{task}: same label as PyTorch",
                "",
                *(f"{figures['agreement'][n][task]['label_agreement']:.2%}" for n in FILES),
            ]
        )
    lines.append(
        [
            "largest difference in a probability to PyTorch",
            "",
            *(f"{figures['agreement'][n]['all']['max_abs_dp']:.1e}" for n in FILES),
        ]
    )
    lines.append(["labels that differ alone and in a batch", *(str(figures["batch_flips"][n]) for n in BACKENDS)])
    for title, found in figures["latency_ms"].items():
        lines.append([f"{title}, median ms", *(f"{found['backends'][n]['median_ms']:.2f}" for n in BACKENDS)])
        gains = found["speedup"]
        lines.append(["… as a multiple of PyTorch's speed", "1", *(f"{gains[f'{n} over pytorch']:.1f}" for n in FILES)])
        lines.append(["… as a multiple of ONNX's speed", "", "1", f"{gains['int8 over onnx']:.1f}"])
    sizes = figures["size_bytes"]
    lines.append(["model file, MB", *(f"{sizes[n] / 1e6:.1f}" if n in sizes else "" for n in BACKENDS)])
    lines.append(["import, load and first answer, s", *(f"{figures['cold_start_s'][n]:.2f}" for n in BACKENDS)])
    table = [head, ["---", *["---:"] * len(BACKENDS)], *lines]
    where = figures["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in figures["versions"].items())
    return "\n".join("| " + " | ".join(line) + " |" for line in table) + (
        f"\n\nMeasured on the {figures['data']} rows on {figures['date']}: {where['cpu']}, "
        f"{figures['threads']} threads of {where['cores']} cores "
        f"({', '.join(where['flags'])}), {where['system']}; {versions}."
    )
