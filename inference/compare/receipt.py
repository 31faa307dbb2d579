"""Read and write receipts: one measurement as versioned JSON that can be checked later; see docs/receipt.md."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inference.backends import RUNTIMES
from inference.compare.checking import check_consistency
from inference.errors import InputError, shown
from inference.formats.bundle import Bundle

FORMAT = "triptych-receipt"
VERSION = 1
SCHEMA = Path(__file__).with_name("receipt.schema.json")
MAX_BYTES = 200_000_000  # a receipt of 200,000 rows has about 20 MB
AGAIN = "Make it again: python -m inference compare"

Receipt = dict[str, Any]


def seal(receipt: Receipt) -> Receipt:
    """Return the receipt with the checksum of everything else in it.

    Raises:
        ValueError: it is of the rows answered so far.
    """
    if "unanswered" in receipt["data"]:
        raise ValueError("a measurement of which rows are unanswered is not to be stored")
    return {**{key: value for key, value in receipt.items() if key != "checksum"}, "checksum": _checksum(receipt)}


def _checksum(receipt: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in receipt.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_receipt(receipt: Receipt, path: Path) -> None:
    """Write a receipt atomically.

    Raises:
        InputError: the folder does not exist or is not writable.
    """
    text = json.dumps(receipt, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n"
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise InputError(f"Cannot write the measurement to {path}: {error.strerror}.") from None


def read_receipt(path: str | Path) -> Receipt:
    """Read a receipt and check it, which recomputes every figure.

    Raises:
        InputError: the file is missing, damaged, inconsistent, not a receipt, or from a newer version.
    """
    return parse_receipt(_content(Path(path)), str(path))


def peek_receipt(path: str | Path) -> Receipt:
    """Read a receipt and check only its format, version and checksum: enough to list it, not to show its figures.

    It takes a fiftieth of the time of `read_receipt`.

    Raises:
        InputError: as in `read_receipt`.
    """
    receipt = _parse(_content(Path(path)), str(path))
    _check_checksum(receipt, str(path))
    return receipt


def is_of(receipt: Mapping[str, Any], bundle: Bundle) -> bool:
    """Return whether the receipt was measured on exactly these files, with these labels."""
    files: Mapping[str, str] = receipt["model"]["files"]
    labels: Mapping[str, Any] = {name: list(task["labels"]) for name, task in receipt["model"]["tasks"].items()}
    now = {name: list(task.labels) for name, task in bundle.tasks.items()}
    return dict(files) == dict(bundle.files) and all(now.get(name, known) == known for name, known in labels.items())


def parse_receipt(content: bytes, name: str) -> Receipt:
    """Like `read_receipt`, for bytes in memory; `name` is what to call it in a message.

    Raises:
        InputError: as in `read_receipt`.
    """
    receipt = _parse(content, name)
    _check_schema(receipt, name)
    _check_checksum(receipt, name)
    _check_lengths(receipt, name)
    try:
        check_consistency(receipt)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError) as error:
        raise InputError(f"{name} is inconsistent: {error}. {AGAIN}") from None
    return receipt


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes; measurements are limited to {MAX_BYTES:,}.")
        return path.read_bytes()
    except IsADirectoryError:
        raise InputError(
            f"{path} is a folder, not a measurement. Measure the model in it: "
            f"python -m inference compare --model {path} --data FILE --out receipt.json"
        ) from None
    except OSError as error:
        raise InputError(
            f"Cannot read a measurement from {path}: {error.strerror}. "
            f"Make one: python -m inference compare --out {path}"
        ) from None


def _parse(content: bytes, name: str) -> Receipt:
    """Return the JSON object, of this format and of a version that this code reads."""
    try:
        receipt = json.loads(content, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
    except (ValueError, RecursionError):
        raise InputError(f"{name} is not valid JSON: it is damaged, or not a measurement. {AGAIN}") from None
    if not isinstance(receipt, dict) or receipt.get("format") != FORMAT:
        raise InputError(f"{name} is JSON, but not a measurement (its format is not {FORMAT!r}). {AGAIN}")
    version = receipt.get("version")
    if isinstance(version, int) and version > VERSION:
        raise InputError(
            f"{name} is a measurement of version {version}; this Triptych reads up to version {VERSION}. "
            "Update Triptych, or measure again with this version."
        )
    return receipt


def _check_checksum(receipt: Receipt, name: str) -> None:
    if receipt.get("checksum") != _checksum(receipt):
        raise InputError(f"{name} was changed: its checksum does not match. {AGAIN}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # NaN, Infinity or 1e999: not valid JSON, but Python accepts it
        raise ValueError(text)
    return number


def _whole(text: str) -> int:
    number = int(text)
    if abs(number) > 2**63:  # no figure of ours; beyond a float's range, formatting it fails
        raise ValueError(text)
    return number


def _check_schema(receipt: Receipt, name: str) -> None:
    import jsonschema

    settings = receipt.get("settings")
    backends = settings.get("backends") if isinstance(settings, dict) else None
    for backend in backends if isinstance(backends, list) else ():
        if isinstance(backend, str) and backend not in RUNTIMES:
            raise InputError(f"{name} measures {shown(backend)}, a runtime that this version does not have.")
    standard = jsonschema.Draft202012Validator
    # In JSON Schema 3.0 is an integer; in Python it is not an index.
    types = standard.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["$defs"]["backend"] = {"enum": list(RUNTIMES)}
    validator = jsonschema.validators.extend(standard, {"items": _check_items}, type_checker=types)(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(receipt))
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "the top level"
        raise InputError(f"{name} is damaged: at {where}: {error.message[:200]}. {AGAIN}")


def _check_items(validator: Any, items: Any, array: Any, schema: Any) -> Iterator[Any]:
    """The library's check of `items`, which takes 10 µs per number, skipped where all are numbers within the bounds."""
    import jsonschema

    kind = {"integer": int, "number": float}.get(str(items.get("type"))) if isinstance(items, dict) else None
    if kind is not None and isinstance(array, list) and array and items.keys() <= {"type", "minimum", "maximum"}:
        kinds = set(map(type, array))
        low, high = items.get("minimum", -math.inf), items.get("maximum", math.inf)
        if kinds <= {int, kind} and low <= min(array) and max(array) <= high:
            return
    yield from jsonschema.Draft202012Validator.VALIDATORS["items"](validator, items, array, schema)


def _check_lengths(receipt: Receipt, name: str) -> None:
    """Check what a schema cannot: that there is an answer to every row."""
    data = receipt["data"]
    rows = len(data["row_numbers"])
    lists = [data["tokens"], *data["labels"].values(), *([data["texts"]] if data["texts"] is not None else [])]
    settings = receipt["settings"]
    for backend, dtype in settings.get("dtypes", {}).items():
        if backend not in settings["backends"] or dtype not in RUNTIMES[backend].dtypes["cpu"]:
            raise InputError(f"{name} is damaged: {backend} cannot have been measured in {dtype}. {AGAIN}")
    for backend in settings["backends"]:
        for task in data["labels"]:
            predictions = receipt["backends"].get(backend, {}).get("predictions", {}).get(task, {})
            lists += [predictions.get("label_ids", []), predictions.get("confidence", [])]
    if any(len(values) != rows for values in lists):
        raise InputError(
            f"{name} is damaged: it has {rows:,} rows, but not an answer of every runtime to each. {AGAIN}"
        )
