"""Read a pickle as data: its instructions are followed, but nothing that it names is imported or called.

scikit-learn's models are pickles of joblib, which puts the values of arrays between the instructions. What a pickle
would make by a call is an `Instance` here, which only remembers what would have been called.
"""

from __future__ import annotations

import io
import itertools
import math
import pickletools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.errors import BundleError
from inference.formats.files import check_bytes

MAX_STEPS = 1_000_000  # instructions of a pickle; each can make an object of a hundred bytes
MAX_DEPTH = 4  # arrays of objects are pickles within the pickle
_WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
_DTYPE = re.compile(r"[fiuU]\d{1,4}|b1|O8")
_VALUE = re.compile(r"BININT[12]?|LONG[14]|BINFLOAT|(SHORT_)?BINUNICODE8?|(SHORT_)?BINBYTES8?")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


@dataclass(frozen=True)
class Name:
    """A class or a function that a pickle names."""

    path: str


@dataclass(eq=False)
class Instance:
    """What a call of `maker` with `arguments` would have made."""

    maker: str
    arguments: Any
    state: Any = None
    """What it would have been given as attributes."""
    items: dict[Any, Any] = field(default_factory=dict)


def read_pickle(path: Path, limit: int) -> Any:
    """Return the content of a pickle: plain values, NumPy arrays and `Instance`s.

    Raises:
        BundleError: more than `limit` bytes, compressed, or not a pickle.
    """
    check_bytes(path, limit)
    try:
        return read_stream(io.BytesIO(path.read_bytes()))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise BundleError(
            f"{path} is not a pickle that can be read as data ({reason}). Save the model again."
        ) from None


def read_stream(file: io.BytesIO, depth: int = 1) -> Any:
    """Return the next pickle of `file`; raise ValueError, LookupError or TypeError if it is not one."""
    if depth > MAX_DEPTH:
        raise ValueError("pickles within pickles")
    machine = _Machine(file, depth)
    steps = pickletools.genops(file)  # one at a time: between them the machine reads arrays
    for opcode, argument, _ in itertools.islice(steps, MAX_STEPS):
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.step(opcode.name, argument)
    raise ValueError(f"it has no end within {MAX_STEPS:,} instructions")


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, file: io.BytesIO, depth: int) -> None:
        self.stack: list[Any] = []
        self._file = file
        self._depth = depth
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if _VALUE.fullmatch(name):
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self._memo[len(self._memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._marked() if name == "TUPLE" else self._last(int(name[-1]))))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            values = self._last(1) if name == "APPEND" else self._marked()
            list.extend(stack[-1], values)
        elif name in ("SETITEM", "SETITEMS"):
            values = self._last(2) if name == "SETITEM" else self._marked()
            if any(isinstance(key, tuple) for key in values[::2]):  # the hash of a nested one can take forever
                raise ValueError("a dictionary has tuples for keys")
            target = stack[-1].items if isinstance(stack[-1], Instance) else stack[-1]
            dict.update(target, zip(values[::2], values[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(Name(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            stack.append(Name(".".join(self._last(2))))
        elif name in ("REDUCE", "NEWOBJ"):
            maker, arguments = self._last(2)
            stack.append(Instance(maker.path, arguments))
        elif name == "BINPERSID":
            stack.append(Instance("", stack.pop()))
        elif name == "BUILD":
            self._build(stack.pop())
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"it holds the instruction {name}")

    def _build(self, state: Any) -> None:
        target = self.stack[-1]
        target.state = state
        if target.maker == _WRAPPER:
            target.state = self._array(state)

    def _array(self, state: dict[str, Any]) -> NDArray[Any]:
        """Return the array that follows its description, as joblib writes it."""
        dtype = _dtype(state["dtype"])
        if dtype.hasobject:
            return as_array(read_stream(self._file, self._depth + 1))
        if state.get("numpy_array_alignment_bytes") is not None:
            self._file.read(self._file.read(1)[0])
        data = self._file.read(math.prod(_shape(state["shape"])) * dtype.itemsize)
        return _filled(data, dtype, state["shape"], state["order"])

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("its stack is empty")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def _marked(self) -> list[Any]:
        start = self._marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values


def as_array(value: Any) -> NDArray[Any]:
    """Return a pickled NumPy array, of joblib or of NumPy itself; raise ValueError for anything else."""
    if isinstance(value, Instance):
        if isinstance(value.state, np.ndarray):
            return value.state
        if value.maker.endswith("multiarray._reconstruct"):
            _, shape, kind, is_fortran, data = value.state
            dtype = _dtype(kind)
            if not dtype.hasobject:
                return _filled(data, dtype, shape, "F" if is_fortran else "C")
            if isinstance(data, list) and len(_shape(shape)) == 1 and len(data) == shape[0]:
                array = np.empty(len(data), object)
                array[:] = data
                return array
    raise ValueError("an array is missing")


def _filled(data: bytes, dtype: np.dtype[Any], shape: Any, order: str) -> NDArray[Any]:
    if len(data) != math.prod(_shape(shape)) * dtype.itemsize:
        raise ValueError("an array is incomplete")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(size) is int and size >= 0 for size in value):
        raise ValueError("an array has no shape")
    return value


def _dtype(value: Instance) -> np.dtype[Any]:
    name = value.arguments[0]
    order = value.state[1] if value.state else "|"
    if value.maker != "numpy.dtype" or not _DTYPE.fullmatch(name) or order not in ("<", ">", "|", "="):
        raise ValueError("an array of an unknown type")
    return np.dtype("O" if name == "O8" else order + name)
