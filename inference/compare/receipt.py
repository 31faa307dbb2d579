"""A receipt: one comparison with all that is needed to check it later. Versioned JSON; docs/receipt.md describes it."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.compare.checking import check_consistency
from inference.errors import InputError

FORMAT = "triptych-receipt"
VERSION = 1
SCHEMA = Path(__file__).with_name("receipt.schema.json")
MAX_BYTES = 200_000_000  # a receipt of 200,000 rows has about 20 MB

Receipt = dict[str, Any]


def seal(receipt: Receipt) -> Receipt:
    """The same with the checksum of everything else in it."""
    return {**{key: value for key, value in receipt.items() if key != "checksum"}, "checksum": _checksum(receipt)}


def _checksum(receipt: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in receipt.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_receipt(receipt: Receipt, path: Path) -> None:
    """Write it whole or not at all.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    text = json.dumps(receipt, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n"
    written: Path | None = None
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            written = Path(file.name)
            file.write(text)
        written.chmod(0o644)
        written.replace(path)
    except OSError as error:
        if written is not None:
            written.unlink(missing_ok=True)
        raise InputError(f"The receipt cannot be written to {path}: {error.strerror}.") from None


def read_receipt(path: str | Path) -> Receipt:
    """The receipt in a file, checked.

    Raises:
        InputError: no such file, it is no receipt, is damaged, or was made by a newer version.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes; no receipt has more than {MAX_BYTES:,}.")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"No receipt can be read at {path}: {error.strerror}. Make one: python -m inference compare --out {path}"
        ) from None
    return parse_receipt(content, str(path))


def parse_receipt(content: bytes, name: str) -> Receipt:
    """Like `read_receipt`, for bytes in memory; `name` is what to call it in a message.

    Raises:
        InputError: as in `read_receipt`.
    """
    again = "Make it again: python -m inference compare"
    try:
        found = json.loads(content, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        raise InputError(f"{name} is no JSON: it is damaged, or not a receipt. {again}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{name} is JSON, but no receipt (its format is not {FORMAT!r}). {again}")
    version = found.get("version")
    if isinstance(version, int) and version > VERSION:
        raise InputError(
            f"{name} is a receipt of version {version}; this Triptych reads up to version {VERSION}. "
            "Update Triptych, or make the receipt again with this one."
        )
    _check_schema(found, name, again)
    if found["checksum"] != _checksum(found):
        raise InputError(f"{name} is not what was measured: its checksum does not match. {again}")
    _check_lengths(found, name, again)
    try:
        check_consistency(found)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError) as error:
        raise InputError(f"{name} is not what was measured: {error}. {again}") from None
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(constant)  # NaN and Infinity are no JSON, whatever Python thinks


def _finite(number: str) -> float:
    found = float(number)
    if not math.isfinite(found):  # 1e999
        raise ValueError(number)
    return found


def _check_schema(found: Receipt, name: str, again: str) -> None:
    import jsonschema

    standard = jsonschema.Draft202012Validator
    # For JSON Schema 3.0 is an integer as well; for Python it is no position in a list.
    types = standard.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    validator = jsonschema.validators.extend(standard, type_checker=types)(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(found))
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "the top level"
        raise InputError(f"{name} is damaged: at {where}: {error.message[:200]}. {again}")


def _check_lengths(found: Receipt, name: str, again: str) -> None:
    """What a schema cannot say: that there is an answer for every row."""
    data = found["data"]
    rows = len(data["row_numbers"])
    lists = [data["tokens"], *data["labels"].values(), *([data["texts"]] if data["texts"] is not None else [])]
    for backend in found["settings"]["backends"]:
        for task in data["labels"]:
            given = found["backends"].get(backend, {}).get("predictions", {}).get(task, {})
            lists += [given.get("label_ids", []), given.get("confidence", [])]
    if any(len(one) != rows for one in lists):
        raise InputError(
            f"{name} is damaged: it has {rows:,} rows, but not an answer of every backend to each. {again}"
        )
