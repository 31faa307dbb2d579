"""Text in, predictions out: the only place where text is prepared and logits are read."""

from __future__ import annotations

import operator
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import compress, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from inference.backends import Backend
from inference.calls.base import Calls
from inference.calls.columns import as_texts
from inference.calls.predictions import Answer as Answer
from inference.calls.predictions import Prediction as Prediction
from inference.calls.predictions import Timing as Timing
from inference.calls.texts import EncodedText, Text, Tokens, check_texts, side_of, tokens_read, where_of
from inference.errors import BundleError, InferenceError, InputError, shown
from inference.formats.bundle import MULTI, Bundle, Task
from inference.formats.pairs import PAIRS_REMEDY
from inference.formats.tokenizer import is_unknown, unknown_token

Exporter = Callable[[Path, Mapping[str, Task], bool, bool | None], list[Path]]
"""Folder, tasks, whether to write INT8 too, `external_data` -> the files written, as `Classifier.export_onnx`."""

Threshold = float | Mapping[str, float] | None
"""Of every task, or by task: a task that is not named has the model's own."""

EFFICIENCY = 0.8  # of all threads on one batch, compared with one thread on each of several
MAX_BATCH = 4096  # texts, whatever the limits are: `Classifier.batches` takes up to so many steps for each text
ENCODED_TEXTS = 16  # per tokenizer call: an encoding also holds the tokens past the limit, megabytes of them


class Classifier(Calls):
    """A bundle on a backend. Thread-safe.

    Args:
        tokenizer: the base model's; its truncation and padding are switched off here.
        exporter: writes the ONNX files for `export_onnx`; `load` gives one.
        batch_size: maximum texts per forward pass.
        token_budget: maximum tokens per forward pass, padding included; a single text may exceed it.
        pass_cost: what a forward pass costs besides its tokens, as a number of tokens. The default is `token_budget`,
            for as few passes as possible.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        tokenizer: Tokenizer,
        batch_size: int = 32,
        token_budget: int = 2048,
        exporter: Exporter | None = None,
        pass_cost: int | None = None,
    ) -> None:
        check_count("batch_size", batch_size)
        check_count("token_budget", token_budget)
        tokenizer.no_padding()
        self.cuts_left = (tokenizer.truncation or {}).get("direction") == "left"
        """Long texts lose their beginning instead of their end."""
        # Cut by `tokens_read`: of a pair, the library would keep every combination of what it cuts off.
        tokenizer.no_truncation()
        self.bundle = bundle
        self.backend = backend
        self.batch_size = batch_size
        self.token_budget = token_budget
        self.pass_cost = token_budget if pass_cost is None else pass_cost
        self.tokenizer = tokenizer
        self.unknown_token = unknown_token(tokenizer)
        self._exporter = exporter

    @property
    def lanes(self) -> int:
        """How many forward passes run side by side, one per core; of one alone, all cores share the work."""
        return self.backend.threads if self.backend.single_threaded() else 1

    @property
    def tasks(self) -> Mapping[str, Task]:
        return self.bundle.tasks

    def classify(
        self,
        texts: Text | Iterable[Text],
        tasks: Sequence[str] | None = None,
        threshold: Threshold = None,
        batch_size: int | None = None,
    ) -> Answer:
        """Classify texts for these tasks (default: all), and measure where the time goes.

        Args:
            threshold: confidence below which an answer is uncertain; default: the model's own.

        Raises:
            InputError: as in `predict`.
        """
        started = time.perf_counter()
        names = self._named(tasks)
        limits = checked_thresholds(threshold, names)
        size = self.batch_size if batch_size is None else batch_size
        check_count("batch_size", size)
        checked = check_texts(as_texts(texts, self.bundle.pairs))
        before_tokens = time.perf_counter()
        tokens = self.tokenize(checked)
        before_forward = time.perf_counter()
        logits, forward_s = self._forward(tokens, names, size)
        unpaired = self.bundle.pairs and isinstance(checked[0], str)
        predictions = {name: self._read(name, logits[name], tokens, limits.get(name), unpaired) for name in names}
        tokenize_s = before_forward - before_tokens
        rest_s = time.perf_counter() - started - tokenize_s - forward_s
        return Answer(predictions, Timing(tokenize_s * 1e3, forward_s * 1e3, rest_s * 1e3))

    def export_onnx(
        self,
        path: str | Path,
        tasks: Sequence[str] | None = None,
        quantize: bool = False,
        external_data: bool | None = None,
    ) -> list[Path]:
        """Write ONNX files that need only onnxruntime, tokenizers and NumPy; return their paths.

        Per task `<task>.onnx` (inputs `input_ids`, `attention_mask`; output `logits`) and `<task>_config.json`, the
        `tokenizer` folder, and with several tasks `model.onnx`, one graph that answers all of them in one pass.

        Args:
            path: folder to write, created if needed.
            tasks: default: all.
            quantize: also write `<task>_int8.onnx`.
            external_data: put weights into a file beside the graph: always, never, or (None) above 2 GB, which one
                file cannot hold.

        Raises:
            InputError: an unknown task, or files in `path` that are not from such an export.
            ExportError: the build failed; `external_data` is False and one file cannot hold the weights; or the
                folder cannot be written.
        """
        names = self._named(tasks)
        if not names:
            raise InputError("tasks is empty: name at least one, or leave it out for all.")
        if self._exporter is None:
            raise InputError("This classifier was not made by load(), so there are no files to export.")
        return self._exporter(Path(path), {name: self.tasks[name] for name in names}, quantize, external_data)

    def one_task(self, task: str | None) -> str:
        """Return the task of this name, or the only one. Raise InputError if it is unknown, or None of several."""
        if task is None and len(self.tasks) > 1:
            raise InputError(f"This model has {len(self.tasks)} tasks; name one: {', '.join(self.tasks)}.")
        return self._named(None if task is None else [task])[0]

    def _named(self, tasks: Sequence[str] | None) -> list[str]:
        """Return the names of these tasks, of all by default."""
        if isinstance(tasks, str):
            raise InputError(f"tasks must be a list of names; for one: [{shown(tasks)}].")
        names = list(self.tasks) if tasks is None else list(tasks)
        for name in names:
            if name not in self.tasks:
                raise InputError(f"Unknown task {shown(name)}. This model has: {', '.join(self.tasks)}.")
        return names

    def tokenize(self, texts: Sequence[Text]) -> Tokens:
        """Return token ids as the model was trained on them.

        Raises:
            InputError: a text gives no tokens (for example, only control characters), or it is a pair and the model
                does not take pairs.
        """
        tokens = Tokens([], [] if self.bundle.token_types else None, [], [])
        for start in range(0, len(texts), ENCODED_TEXTS):
            batch = texts[start : start + ENCODED_TEXTS]
            for index, text in enumerate(batch, start):
                if not isinstance(text, str) and not self.bundle.pairs:
                    raise InputError(
                        f"{where_of(index, texts)} is a pair, and nothing says that {self.bundle.name} takes pairs. "
                        f"{PAIRS_REMEDY}"
                    )
            for text, encoding in zip(batch, self.tokenizer.encode_batch_fast(list(batch)), strict=True):
                ids, special = encoding.ids, encoding.special_tokens_mask
                self._check_readable(text, encoding, special, where_of(len(tokens.ids), texts))
                read = tokens_read(encoding, self.bundle.max_tokens, self.cuts_left)
                tokens.truncated.append(len(read) < len(ids))
                types = encoding.type_ids if tokens.types is not None else []
                if len(read) < len(ids):
                    ids, special = [ids[i] for i in read], [special[i] for i in read]
                    types = [types[i] for i in read] if types else []
                tokens.ids.append(ids)
                if tokens.types is not None:
                    tokens.types.append(types)
                tokens.unknown.append(self.unknown_token in ids and self._is_unknown(text, ids, special))
        return tokens

    def _check_readable(self, text: Text, encoding: Encoding, special: Sequence[int], where: str) -> None:
        if isinstance(text, str):
            unread = all(special)
        else:
            parts = {part for part, is_special in zip(encoding.sequence_ids, special, strict=True) if not is_special}
            unread, where = parts != {0, 1}, side_of(where, 0 if 0 not in parts else 1)
        if unread:
            raise InputError(f"{where} has nothing to classify: no readable character in it.")

    def _is_unknown(self, text: Text, ids: Sequence[int], special: Sequence[int]) -> bool:
        if isinstance(text, str) and len(set(compress(ids, map(operator.not_, special)))) > 2:
            return False  # not only the unknown token, and perhaps a space
        encoded = self._encode(text)  # `encode_batch_fast` leaves tokens empty
        parts: dict[int | None, list[int]] = {}
        for i in encoded.read:
            if not encoded.encoding.special_tokens_mask[i]:
                parts.setdefault(encoded.encoding.sequence_ids[i], []).append(i)
        return any(is_unknown(encoded.encoding, self.unknown_token, pieces) for pieces in parts.values())

    def encode(self, text: Text) -> EncodedText:
        """Return the tokens of one text or one pair, checked as in `predict`, with their offsets.

        Raises:
            InputError: as in `predict`.
        """
        if not isinstance(text, str | tuple):
            raise InputError(f"text must be a string, not {type(text).__name__}.")
        self.tokenize(check_texts(text))
        return self._encode(text)

    def _encode(self, text: Text) -> EncodedText:
        encoding = self.tokenizer.encode(text) if isinstance(text, str) else self.tokenizer.encode(*text)
        return EncodedText(encoding, tokens_read(encoding, self.bundle.max_tokens, self.cuts_left))

    def logits(
        self, encoding: Encoding, rows: Sequence[Sequence[int]], tasks: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Return the logits (rows, labels) of each task for rows of tokens of one text, special ones included.

        Args:
            rows: positions of the tokens in `encoding`.

        Raises:
            InferenceError: a logit is NaN or infinite.
        """
        ids, types = encoding.ids, encoding.type_ids
        segments = [[types[i] for i in row] for row in rows] if self.bundle.token_types else None
        logits, _ = self._forward(Tokens([[ids[i] for i in row] for row in rows], segments, [], []), tasks)
        for task in tasks:
            self._check_finite(task, logits[task])
        return logits

    def _forward(
        self, tokens: Tokens, tasks: Sequence[str], batch_size: int | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], float]:
        """Logits (texts, labels) of each task in the order of `tokens`, and the seconds spent in the backend."""
        logits = {task: np.empty((len(tokens.ids), len(self.tasks[task].labels)), np.float32) for task in tasks}

        def run(backend: Backend, rows: list[int]) -> float:
            feed = tokens.feed(rows, self.bundle.pad_id)
            started = time.perf_counter()
            outputs = backend.logits(**feed)
            seconds = time.perf_counter() - started
            for task in tasks:
                shape, expected = outputs[task].shape, (len(rows), len(self.tasks[task].outputs))
                if shape != expected:  # NumPy would broadcast one column to all labels
                    raise BundleError(
                        f"{self.bundle.name}: the {self.backend.name} model gives logits of shape {shape} for task "
                        f"{task!r}, but {expected[0]} texts and {expected[1]} labels need {expected}. Correct its "
                        "labels (id2label), or export it again."
                    )
                logits[task][rows] = widened(outputs[task])
            return seconds

        lengths = [len(row) for row in tokens.ids]
        batches = list(self.batches(lengths, batch_size))
        sizes = [len(rows) * lengths[rows[-1]] for rows in batches]
        threads = self.backend.threads
        # A long text among short ones would keep one thread busy after the others.
        is_balanced = len(batches) > 1 and max(sizes) * threads <= sum(sizes) / EFFICIENCY
        one_thread = self.backend.single_threaded() if is_balanced else None
        if one_thread is None:
            return logits, sum(run(self.backend, rows) for rows in batches)
        started = time.perf_counter()
        with ThreadPoolExecutor(min(threads, len(batches)), "lane") as lanes:
            largest_first = [batches[i] for i in np.argsort(sizes)[::-1]]
            deque(lanes.map(partial(run, one_thread), largest_first), 0)
        return logits, time.perf_counter() - started

    def batches(self, lengths: Sequence[int], batch_size: int | None = None) -> Iterator[list[int]]:
        """Yield row numbers in batches of similar length, shortest first.

        Of all divisions of the sorted rows that keep within batch size and token budget, this one costs least: a batch
        costs its tokens, padding included, and `pass_cost`. It does not depend on the number of cores.
        """
        size, budget = min(batch_size or self.batch_size, MAX_BATCH), self.token_budget
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        counts, least = np.arange(1, size + 1), np.zeros(len(order) + 1)
        starts = [0]  # of the last batch of the best division of the rows until each one; `least` is what that costs
        for end, row in enumerate(order, start=1):
            length = max(1, lengths[row])
            most = min(max(1, min(size, budget // length)), end)
            costs = least[end - most : end][::-1] + length * counts[:most]  # with 1, 2, … rows in the last batch
            best = int(costs.argmin())
            least[end] = costs[best] + self.pass_cost
            starts.append(end - 1 - best)
        ends = [len(order)]
        while ends[-1]:
            ends.append(starts[ends[-1]])
        for start, end in pairwise(reversed(ends)):
            yield order[start:end]

    def _read(
        self, task: str, logits: NDArray[np.float32], tokens: Tokens, threshold: float | None, unpaired: bool
    ) -> list[Prediction]:
        labels = self.tasks[task].labels
        limit = self.tasks[task].threshold if threshold is None else threshold
        self._check_finite(task, logits)
        scores = probabilities(logits, self.tasks[task].problem_type)
        best = scores.argmax(axis=1)
        multi, least = self.tasks[task].problem_type == MULTI, limit if threshold is not None else limit or 0.5
        return [
            Prediction(
                label=labels[top],
                confidence=row[top],
                scores=dict(zip(labels, row, strict=True)),
                uncertain=row[top] < limit,
                truncated=cut,
                unknown=unknown,
                unpaired=unpaired,
                labels=tuple(compress(labels, (score >= least for score in row))) if multi else (labels[top],),
            )
            for row, top, cut, unknown in zip(
                scores.tolist(), best.tolist(), tokens.truncated, tokens.unknown, strict=True
            )
        ]

    def _check_finite(self, task: str, logits: NDArray[np.float32]) -> None:
        bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        if bad.size:
            raise InferenceError(
                f"The {self.backend.name} model gave NaN or infinity for texts[{bad[0]}], task {task!r}. "
                "Its weights are damaged or overflow: restore the model folder."
            )


def check_count(name: str, value: Any) -> None:
    """Raise InputError unless the value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={shown(value)} must be a whole number of at least 1.")


def checked_thresholds(threshold: Threshold, tasks: Iterable[str]) -> dict[str, float]:
    """Return the threshold of each task that is given one, as plain floats.

    Raises:
        InputError: one is not a number from 0 to 1.
    """
    if threshold is None:
        return {}
    limits = {}
    for task, limit in (threshold if isinstance(threshold, Mapping) else dict.fromkeys(tasks, threshold)).items():
        try:
            limits[task] = float(limit)  # accepts NumPy numbers, and keeps the answers plain
        except (TypeError, ValueError):
            raise InputError(f"threshold must be a number, not {type(limit).__name__}.") from None
        if not 0 <= limits[task] <= 1:
            raise InputError(f"threshold={limits[task]} is not a probability between 0 and 1.")
    return limits


def widened(logits: NDArray[Any]) -> NDArray[Any]:
    """Return logits of two labels for those of a head with one output: the softmax of [0, z] is the sigmoid of z."""
    return logits if logits.shape[1] > 1 else np.pad(logits, ((0, 0), (1, 0)))


def probabilities(logits: NDArray[np.floating], problem_type: str) -> NDArray[np.float64]:
    """Return the softmax of each row, or the sigmoid of each logit if multi-label, in float64 without overflow."""
    wide = logits.astype(np.float64)
    if problem_type == "multi_label_classification":
        small = np.exp(-np.abs(wide))  # never above 1: no overflow on either side
        return np.where(wide >= 0, 1 / (1 + small), small / (1 + small))
    wide = widened(wide)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares
