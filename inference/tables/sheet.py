"""The first visible sheet of a spreadsheet (.xlsx) as a table."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime, time
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from inference.errors import InputError, shown
from inference.tables.cutting import ROW_LETTERS
from inference.tables.source import Source
from inference.tables.table import NoTextColumn
from inference.tables.text_formats import CsvTable

MAX_ROWS = 1_048_576  # of a sheet
MAX_BYTES = 2_000_000_000  # that the parts of a file may unpack to
MAX_PARTS = 10_000
MAX_OTHER_BYTES = 1_000_000  # of XML besides cells, which is read as a whole: this much takes seconds
BATCH_ROWS = 16
MAX_NAMED = 5  # sheets in a message

_Result = TypeVar("_Result")


class SheetTable(CsvTable):
    """The first visible sheet of an .xlsx file: its cells as text, of formulas the value that was last computed.

    Empty rows at the end are left out: formatting alone can make a million of them.
    """

    too_wide = "Delete the rows above the header and the cells beside the table."
    unit = "row"

    def __init__(self, source: Source, text_column: str | None, max_columns: int) -> None:
        self._advice = ""
        try:
            super().__init__(source, text_column, max_columns)
        except NoTextColumn as error:
            raise NoTextColumn(str(error), error.columns, self._advice) from None
        self._check_not_empty(self.row_count)

    def _header(self, text_column: str | None) -> list[str]:
        self.bom = True
        _check_size(self.source)
        columns = next(self._parsed(","), (0, []))[1]
        self._check_not_empty(len(columns))
        return columns

    def _check_not_empty(self, count: int) -> None:
        """Raise InputError if there are no cells or rows, and another sheet may have them."""
        if not count and self._advice:
            raise InputError(f"{self.name} has no rows in its first sheet.{self._advice}")

    def _parsed(self, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        is_header, empty = True, 0
        with self.source.open() as file:
            rows = self._quietly(partial(self._rows, file))
            while batch := self._quietly(partial(_batch, rows)):
                for number, values in batch:
                    if number > MAX_ROWS:
                        raise InputError(f"{self.name} has more rows than a sheet can have.")
                    cells = [_as_text(value) for value in values]
                    while cells and not cells[-1]:
                        cells.pop()
                    if sum(map(len, cells)) > ROW_LETTERS:
                        raise InputError(
                            f"{self.name}, row {number:,} has more than {ROW_LETTERS:,} characters. Split it."
                        )
                    if not cells or (is_header and not any(map(str.strip, cells))):
                        empty += not is_header
                        continue
                    for before in range(number - empty, number):
                        yield before, []
                    is_header, empty = False, 0
                    yield number, cells

    def _rows(self, file: Any) -> Iterator[tuple[int, tuple[Any, ...]]]:
        import openpyxl

        book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
        sheets = [sheet for sheet in book.worksheets if hasattr(sheet, "iter_rows")]  # and no sheets of charts
        sheet = next((sheet for sheet in sheets if sheet.sheet_state == "visible"), None)
        if sheet is None:
            raise InputError(f"{self.name} has no visible sheet with cells. Save the sheet as UTF-8 CSV.")
        if len(sheets) > 1 and not self._advice:
            self.remarks.append(f"the first of {len(sheets)} sheets, {shown(sheet.title)}")
            others = ", ".join(shown(other.title) for other in sheets[:MAX_NAMED] if other is not sheet)
            self._advice = f" If the rows are in another sheet ({others}), move it to the front."
        sheet.reset_dimensions()  # what the file says of its size may be wrong
        return enumerate(sheet.iter_rows(values_only=True), 1)

    def _quietly(self, read: Callable[[], _Result]) -> _Result:
        """Call a function of openpyxl without warnings of styles, and with one kind of error."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return read()
        except (InputError, MemoryError, ImportError):
            raise
        except Exception as error:  # openpyxl raises whatever its parsers do
            raise InputError(
                f"{self.name} cannot be read as .xlsx ({type(error).__name__}). Save its sheet as UTF-8 CSV."
            ) from None


def _batch(rows: Iterator[tuple[int, tuple[Any, ...]]]) -> list[tuple[int, tuple[Any, ...]]]:
    return list(islice(rows, BATCH_ROWS))


def _check_size(source: Source) -> None:
    """Raise InputError if the file is not a ZIP file or unpacks to too much; no part can exceed what it declares."""
    try:
        with source.open() as file, zipfile.ZipFile(file) as parts:
            infos = parts.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, zlib.error):
        raise InputError(f"{source.name} is not an .xlsx file. Save its sheet as UTF-8 CSV and use that.") from None
    unlimited = (  # cells are read as a stream, and openpyxl reads none of the others here
        "xl/worksheets/",
        "xl/sharedstrings.xml",
        "xl/pivot",
        "xl/drawings/",
        "xl/charts/",
        "xl/comments",
        "customxml/",
    )
    names = {info: info.filename.lower().lstrip("/") for info in infos}
    other = [
        info for info, name in names.items() if name.endswith((".xml", ".rels")) and not name.startswith(unlimited)
    ]
    if sum(info.file_size for info in other) > MAX_OTHER_BYTES:
        raise InputError(f"{source.name} has too many styles. Save its sheet as UTF-8 CSV and use that.")
    max_bytes = source.max_bytes or MAX_BYTES
    if len(infos) > MAX_PARTS or sum(info.file_size for info in infos) > max_bytes:
        raise InputError(
            f"{source.name} unpacks to more than {max_bytes / 1e6:,.0f} MB. Save its sheet as UTF-8 CSV and use that."
        )


def _as_text(value: Any) -> str:
    """Return a cell as a CSV export writes it."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ")
    return str(value)
