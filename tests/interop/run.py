"""Answers of the originals against those of Triptych, for the same folders and the same 200 texts or pairs.

Two environments are made in a temporary folder: one with what is installed here and SetFit, and one with transformers
4.57 and the PEFT, sentence-transformers, SetFit, Optimum and RapidFit of its time. In each, the `original_*.py` save
tiny models in the ways that people save them, and write beside each folder what they answer. Here the same folders are
imported or loaded and answer again: every label must be equal, no probability may differ by more than 1e-5, INT8 must
be within its bounds, and the doctor must give no false alarm: no error, and no warning but those that are true of how
the folder was saved. A kind that has no right answer must be refused with the reason, at load and by the doctor.

    make interop
    .venv/bin/python tests/interop/run.py --keep FOLDER [KIND …]     uses environments and folders that it left there
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from common import MAX_LENGTH, pairs, texts  # noqa: E402

TOLERANCE = 1e-5
SHARED = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "pyarrow",
    "pandas",
    "accelerate",
    "safetensors",
    "onnx",
    "onnxruntime",
)
# RapidFit 0.1.8 passes `warmup_ratio` to transformers, which 5 has no more; Optimum's export needs one before 4.58.
ENVIRONMENTS = {
    "now": ("setfit==1.2.0", "sentencepiece"),
    "then": (
        *("transformers==4.57.6", "peft==0.17.1", "sentence-transformers==5.1.2", "setfit==1.1.3"),
        *("optimum-onnx==0.1.0", "rapidfit==0.1.8", "sentencepiece", "emoji==0.6.0"),
    ),
}
SCRIPTS = {
    "transformers": ("now", "then"),
    "peft": ("now", "then"),
    "sentence": ("now", "then"),
    "optimum": ("then",),
    "rapidfit": ("then",),
}
# Kind (a glob) -> the words of its refusal. All others must load.
REFUSED = {
    "relative-key*": "relative_key",
    "regression": "regression",
    "without-tokenizer": "no tokenizer",
    "added-token-without-row": "<user>|embedding",
    "sentence-transformer": "embeds texts and has no labels",
    "setfit-svc": "SVC",
    "setfit-chain": "ClassifierChain",
    "setfit-one-vs-rest-single": "divided by the sum",
    "setfit-sqrt": "mean_sqrt_len_tokens",
    "optimum-quantized": "quantised ONNX graph only",
    "pissa-converted-headless": "lacks .*classifier",
    "pissa-niter*": "pissa_niter",
    "prompt-tuning": "PROMPT_TUNING",
    "boft": "not served unmerged",
    "feature-extraction": "FEATURE_EXTRACTION",
    "bertweet": "Python code only",
    "slow-rembert": "special tokens",
    "trainer-checkpoints": "checkpoint-20",
}
# Folders of version 4.57 that transformers 5 itself reads otherwise: its classes drop the normalizer of SentencePiece,
# so that "…" is unknown. They must answer as transformers 5 does, and the doctor must warn if there is tokenizer.json.
READ_OTHERWISE = ("big_bird*", "*deberta-v2", "*mbart", "rembert")
# Kind (a glob) -> the words of the warnings that the doctor may give beside TRUE_OF_MANY; any other is a false alarm.
WARNED = {
    "is-decoder": "is_decoder: true",
    "contradicting": "differently",
    "rembert": "differently",
    "cross-encoder*": "labels of label have no names",
}
# Of these tiny tokenizers no length is recorded, and PEFT saves neither labels nor problem type.
TRUE_OF_MANY = "does not record the maximum length|nothing says whether a text has one or several labels"
# Kind (a glob) -> what to import it as.
IMPORTED = {"setfit*": "setfit", "pickled-*": "weights", "rapidfit-*": "rapidfit"}
# Kinds whose ONNX and INT8 are built and compared too: one of each sort.
BUILT = ("lora-bert", "plain-pissa", "setfit", "one-output", "nli-bert", "t5", "llama", "slow-deberta-v2", "compiled")


class Result(NamedTuple):
    kind: str
    outcome: str
    failed: bool


def environment(folder: Path, packages: tuple[str, ...]) -> Path:
    """The Python of an environment that also sees what is installed here, so that nothing large is fetched."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        run([sys.executable, "-m", "venv", str(folder)])
        inside = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        (inside / "here.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        pins = folder / "constraints.txt"
        pins.write_text("".join(f"{name}=={importlib.metadata.version(name)}\n" for name in SHARED), encoding="utf-8")
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", "-q"]
        run([*pip, "-c", str(pins), *packages])
        (folder / "complete").touch()
    return python


def run(command: list[str], cwd: Path | None = None) -> None:
    """Run it, silently unless it fails."""
    settings = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1"}
    settings["OMP_NUM_THREADS"] = "1"  # on models this small a second thread only waits for the first
    if cwd is not None:
        settings["HF_HOME"] = str(cwd / "hf")
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")


def make(root: Path, name: str, script: str) -> Path:
    """Let a script make its folders in an environment, unless it has; returns where they are."""
    folder = root / name / script
    if not (folder / "complete").exists():
        folder.mkdir(parents=True)
        python = root / "environments" / name / "bin" / "python"
        run([str(python), str(HERE / f"original_{script}.py"), str(folder)], folder)
        (folder / "complete").touch()
    return folder


def match(kind: str, table: dict[str, str]) -> str | None:
    return next((value for pattern, value in table.items() if fnmatchcase(kind, pattern)), None)


class Differences(NamedTuple):
    """Between the answers of the original and those of Triptych."""

    flips: int
    gaps: list[float]
    """The largest |Δp| of each answer."""
    labels: int
    """Different labels in the original's answers."""

    @property
    def largest(self) -> float:
        return max(self.gaps)

    def within(self, agreement: float, small: float) -> bool:
        """Whether the bounds hold; these texts are not those of the build, hence the three standard errors."""
        count, share = len(self.gaps), 1 - agreement
        allowed = share * count + 3 * (share * agreement * count) ** 0.5
        near = statistics.mean(self.gaps) <= small + 3 * statistics.stdev(self.gaps) / count**0.5
        return near and (self.flips <= allowed or self.largest <= small)

    def __str__(self) -> str:
        return f"{self.flips} labels differ, |Δp| ≤ {self.largest:.1e}"


def differences(classifier: Any, expected: dict[str, Any]) -> Differences:
    inputs = pairs() if expected["pairs"] else texts()
    flips, gaps, kinds = 0, [], set()
    for task, answers in expected["tasks"].items():
        predictions = classifier.predict(inputs, task)
        labels = answers["labels"]
        for prediction, row in zip(predictions, answers["scores"], strict=True):
            ours = prediction.scores
            known = {name: p for name, p in zip(labels, row, strict=True) if p is not None}
            best = max(known, key=known.__getitem__)
            label = best if len(row) > 1 or row[0] >= 0.5 else f"not {best}"
            kinds.add(label)
            # where two labels are as likely, a flip is no difference
            flips += prediction.label != label and abs(ours[prediction.label] - ours.get(label, 0)) > TOLERANCE
            gaps.append(max(abs(ours[name] - p) for name, p in known.items()))
    return Differences(flips, gaps, len(kinds))


def compare(folder: Path, where: Path, full: bool) -> Result:
    """What Triptych makes of one folder."""
    from inference import load
    from inference.commands.doctor import examine
    from inference.errors import InferenceError
    from inference.onnx.recipes import MIN_AGREEMENT, SMALL_DP

    logging.getLogger("inference").setLevel(logging.ERROR)
    kind = folder.name
    expected = json.loads(folder.with_name(f"{kind}.expected.json").read_text(encoding="utf-8"))
    words, form = match(kind, REFUSED), match(kind, IMPORTED)
    reread = folder.parts[-3] == "then" and any(fnmatchcase(kind, pattern) for pattern in READ_OTHERWISE)
    model = folder
    try:
        if form is not None:
            model = where / "imported" / kind
            import_as(form, folder, model)
        classifier = load(model, None, threads=1, cache=where / "cache")
        if words is not None:
            classifier.predict(texts())
            return Result(kind, "loaded and answered, although it has no right answer", True)
        if reread:
            expected["tasks"] = {"label": plain_answers(folder, pairs() if expected["pairs"] else texts())}
        distance = differences(classifier, expected)
        least = 1 if kind == "is-decoder" else 2  # its first token sees no other, so that all its answers are one
        outcome, failed = str(distance), distance.flips > 0 or distance.largest > TOLERANCE or distance.labels < least
        if distance.labels < least:
            outcome += ", and the original has only one label"
        for backend in ("onnx", "int8") if full and not failed else ():
            distance = differences(load(model, backend, threads=1, cache=where / "cache"), expected)
            outcome += f"; {backend} {distance}"
            if backend == "onnx":
                failed |= distance.flips > 0 or distance.largest > TOLERANCE
            else:
                failed |= not distance.within(MIN_AGREEMENT, SMALL_DP)
    except InferenceError as error:
        message = f"{type(error).__name__}: {error}"
        if words is None or not re.search(words, str(error)):
            return Result(kind, f"refused: {message}", True)
        outcome, failed = "refused", False
    except Exception as error:
        return Result(kind, f"CRASH {type(error).__name__}: {error}", True)
    findings = examine(model, cache=where / "cache")
    if reread and (folder / "tokenizer.json").exists() and not any("differently" in note.what for note in findings):
        return Result(kind, f"{outcome}; doctor: nothing about a tokenizer that is read differently", True)
    known = "|".join(filter(None, [TRUE_OF_MANY, match(kind, WARNED), "differently" if reread else None]))
    alarms = [note for note in findings if note.severity == "warning" and not re.search(known, note.what)]
    if words is None and alarms:
        return Result(kind, f"{outcome}; doctor warns: {alarms[0].what}", True)
    errors = [finding for finding in findings if finding.severity == "error"]
    if words is None and errors:
        return Result(kind, f"{outcome}; doctor: {errors[0].what}", True)
    if words is not None and form is None and (not errors or not re.search(words, errors[0].what)):
        return Result(kind, f"{outcome}; doctor: {errors[0].what if errors else 'no error'}", True)
    return Result(kind, outcome, failed)


def plain_answers(folder: Path, inputs: Any) -> dict[str, Any]:
    """What the transformers that is installed here answers."""
    from common import answer
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    batch = 1 if model.config.model_type == "big_bird" else 20
    return answer(model, AutoTokenizer.from_pretrained(folder), inputs, batch=batch)


def import_as(form: str, folder: Path, out: Path) -> None:
    from inference.artifacts import importing

    if form == "rapidfit":
        importing.import_rapidfit(folder, out, MAX_LENGTH)
    else:
        getattr(importing, f"import_{form}")(folder, out)


def folders(made: list[Path], kinds: list[str]) -> Iterator[Path]:
    for place in made:
        for path in sorted(place.glob("*.expected.json")):
            folder = path.with_name(path.name.removesuffix(".expected.json"))
            if not kinds or any(fnmatchcase(folder.name, kind) for kind in kinds):
                yield folder


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description="Compare the answers of the originals with those of Triptych.")
    parser.add_argument("kinds", nargs="*", help="kinds to compare, as globs (default: all)")
    parser.add_argument("--keep", type=Path, help="folder for environments and models, which stay there")
    parser.add_argument("--build", action="store_true", help="build ONNX and INT8 of every kind, not of a sample")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="interop-") as temporary:
        root = arguments.keep or Path(temporary)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda item: environment(root / "environments" / item[0], item[1]), ENVIRONMENTS.items()))
            steps = [(name, script) for script, names in SCRIPTS.items() for name in names]
            made = list(pool.map(lambda step: make(root, *step), steps))
        print(f"{time.monotonic() - started:.0f} s for the originals")
        failed = 0
        with ProcessPoolExecutor(2) as workers, tempfile.TemporaryDirectory(prefix="interop-") as ours:
            tasks = []
            for folder in folders(made, arguments.kinds):
                where = Path(ours) / folder.parent.parent.name / folder.parent.name
                full = arguments.build or folder.name in BUILT
                tasks.append((folder, workers.submit(compare, folder, where, full)))
            for folder, task in tasks:
                result = task.result()
                failed += result.failed
                mark = "WRONG" if result.failed else "ok"
                print(f"{mark:<6}{folder.parent.parent.name:<5} {result.kind:<28} {result.outcome}", flush=True)
    print(f"{len(tasks)} folders, {failed} wrong; {time.monotonic() - started:.0f} s.")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
