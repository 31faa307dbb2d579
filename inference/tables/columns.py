"""A table in a file's bytes, as columns: CSV, JSONL or Parquet."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference.errors import InputError, MissingDependencyError

FORMATS = (".csv", ".jsonl", ".parquet")
SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
# What a column of texts is called, the likeliest first.
TEXT_NAMES = (
    "text",
    "texts",
    "sentence",
    "utterance",
    "message",
    "review",
    "comment",
    "content",
    "body",
    "query",
    "input",
)


def named(columns: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The column that has the first of these names, whatever the case of its letters; None if no column has one."""
    lower = {name.strip().lower(): name for name in reversed(columns)}
    return next((lower[name] for name in wanted if name in lower), None)


def named_text(columns: Sequence[str]) -> str | None:
    """The column whose name says that it holds texts; None if there is none."""
    return named(columns, TEXT_NAMES)


def no_format(name: str) -> InputError:
    """What to say of a file whose ending is none of `FORMATS`."""
    if Path(name).suffix.lower() in SPREADSHEETS:
        return InputError(f"{name} is a spreadsheet. Save its sheet as CSV in UTF-8, and take that.")
    return InputError(f"{name} is none of {', '.join(FORMATS)}. Convert it, and do not compress it.")


def read_table(name: str, content: bytes) -> dict[str, list[Any]]:
    """Column name -> its cells. A CSV's cells are text as written: "NA" and "null" are texts like others.

    Args:
        name: the file's name; its ending tells the format.
        content: the file's bytes, UTF-8 where they are text.

    Raises:
        InputError: the format is unknown, or the bytes are not what the ending says.
    """
    ending = Path(name).suffix.lower()
    if ending not in FORMATS:
        raise no_format(name)
    try:
        if ending == ".csv":
            import pandas as pd

            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # a cell too many in every row
                table = pd.read_csv(
                    io.BytesIO(content),
                    dtype=str,
                    encoding="utf-8-sig",
                    na_filter=False,
                    skip_blank_lines=False,
                    compression=None,
                    index_col=False,  # or a cell too many would shift every column
                )
            return {str(column): table[column].tolist() for column in table.columns}
        if ending == ".parquet":
            import pyarrow.parquet

            try:
                return dict(pyarrow.parquet.read_table(io.BytesIO(content)).to_pydict())
            except (pyarrow.ArrowException, TypeError, LookupError, NotImplementedError) as error:
                raise ValueError(str(error)) from None
        lines = [line for line in content.decode("utf-8-sig").split("\n") if line.strip()]
        objects = [json.loads(line) for line in lines]
        if not all(isinstance(one, dict) for one in objects):
            raise ValueError("each line must be one JSON object")
        # Whatever any line names is a column; where a line lacks it, the cell is empty.
        return {key: [one.get(key) for one in objects] for key in dict.fromkeys(k for one in objects for k in one)}
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 (byte {error.object[error.start]:#04x} at position {error.start:,} of what was "
            'being read). Save it as UTF-8; Excel calls that "CSV UTF-8".'
        ) from None
    except ImportError as error:
        raise MissingDependencyError(
            f"Reading {ending} needs the library {error.name}. Install it: pip install -r requirements.txt"
        ) from None
    except (ValueError, OSError, RecursionError, Warning) as error:  # pandas derives its errors from these
        raise InputError(
            f"{name} cannot be read as {ending[1:]}: {str(error).strip()}. Mend or re-export it."
        ) from None
