"""Pickles of plain data, read without running them: a pickle is a program, and here none of its names is called."""

import math
import pickletools
import re
from collections.abc import Callable
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

# Twice the 300,000 test images that Kaggle hands out for CIFAR-10, and for each of them twenty-eight operations.
LARGEST_FILE = 2 << 30  # bytes
MOST_OPERATIONS = 1 << 23  # an object of Python each, of up to about 100 bytes

_NUMBER = re.compile(r"[biuf]\d{1,2}")  # as NumPy writes bool, int, uint and float of so many bytes
_LITERALS = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    # Python 2's str, which is bytes.
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), lambda text: text.encode("latin-1")),
    **dict.fromkeys(
        (
            "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
            "BYTEARRAY8", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
        ),
        lambda value: value,
    ),
}  # fmt: skip
_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Name(NamedTuple):
    """What a pickle asks for by name."""

    module: str
    name: str


def _text(value: Any) -> Any:
    """Python 2's text, which is bytes, as Python 3's; anything else as it is."""
    return value.decode("ascii") if isinstance(value, bytes) else value


class _Type:
    """A dtype in the making; a later operation gives the order of its bytes."""

    def __init__(self, code: Any, *_):
        code = _text(code)
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise ValueError("it holds an array of other things than numbers")
        self.dtype = np.dtype(code)

    def build(self, state: tuple) -> None:
        _, order, base, names, fields, *_ = state
        if not base is names is fields is None:
            raise ValueError("it holds an array of other things than numbers")
        order = _text(order)
        if order not in ("<", ">", "|", "="):
            raise ValueError("it holds an array whose bytes are in no order")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array in the making; a later operation gives its shape and numbers."""

    array: np.ndarray | None = None

    def build(self, state: tuple) -> None:
        _, shape, of_type, is_fortran, content = state
        self.array = _numbers(content, of_type, shape, "F" if is_fortran else "C")


def _numbers(content: Any, of_type: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """An array that shares the bytes of the file, so that no array is larger than the file."""
    if not isinstance(content, bytes | bytearray) or not isinstance(of_type, _Type):
        raise ValueError("it holds an array of other things than numbers")
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("it holds an array whose shape is none")
    if math.prod(shape) * of_type.dtype.itemsize != len(content):
        raise ValueError(f"it holds an array that has {len(content)} bytes, and others by its shape")
    return np.ndarray(shape, of_type.dtype, content, order=order)


def _from_buffer(content: Any, of_type: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """As protocol 5 has an array: of any order of its axes, by the last two."""
    if order == "K" and axes is not None:
        return _numbers(content, of_type, shape).transpose(axes)
    return _numbers(content, of_type, shape, order)


def _scalar(of_type: Any, content: Any) -> int | float:
    return _numbers(content, of_type, ()).item()


class _Encoder:
    """`_codecs.encode`, by which Python 3 writes bytes for Python 2; the same text gives the same object."""

    def __init__(self):
        self._done: dict[str, bytes] = {}

    def __call__(self, text: str, encoding: str) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError("it asks for another encoding than that of text in latin1")
        if text not in self._done:
            self._done[text] = text.encode("latin-1")
        return self._done[text]


class _Reader:
    """
    A machine that runs the operations of a pickle, but for those that make or call anything else than plain data.

    The machine walks into no container and copies none, so that depth and repetition cost nothing.
    """

    def __init__(self):
        self._stack: list = []
        self._marks: list[list] = []
        self._memo: dict[int, Any] = {}
        self._made_by: dict[_Name, Callable[..., Any]] = {
            _Name("numpy", "dtype"): _Type,
            _Name("_codecs", "encode"): _Encoder(),
            _Name("__builtin__", "bytes"): lambda: b"",  # as Python 3 writes no bytes for Python 2
        }
        for package in ("numpy.core", "numpy._core"):  # as NumPy 1 and NumPy 2 write it
            self._made_by |= {
                _Name(f"{package}.multiarray", "_reconstruct"): lambda *_: _Array(),
                _Name(f"{package}.multiarray", "scalar"): _scalar,
                _Name(f"{package}.numeric", "_frombuffer"): _from_buffer,
            }
        self._admitted = {*self._made_by, _Name("numpy", "ndarray")}

    def read(self, content: IO[bytes]) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count == MOST_OPERATIONS:
                raise ValueError(f"it has more than {MOST_OPERATIONS:,} operations")
            if opcode.name in _LITERALS:
                self._stack.append(_LITERALS[opcode.name](argument))
            elif opcode.name in _SIZES:
                items = [self._stack.pop() for _ in range(_SIZES[opcode.name])]
                self._stack.append(tuple(reversed(items)))
            elif opcode.name == "STOP":
                [value] = self._stack
                return value.array if isinstance(value, _Array) else value
            elif opcode.name not in ("PROTO", "FRAME"):
                operate = getattr(self, f"_op_{opcode.name.lower()}", None)
                if operate is None:
                    raise ValueError(
                        f"it has the operation {opcode.name}, which arrays and plain containers do without"
                    )
                operate(argument)

    def _op_mark(self, _) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _op_tuple(self, _) -> None:
        items = tuple(self._since_mark())
        self._stack.append(items)

    def _op_append(self, _) -> None:
        self._extend([self._stack.pop()])

    def _op_appends(self, _) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError("it appends to what is no list")
        target.extend(items)

    def _op_setitem(self, _) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _op_setitems(self, _) -> None:
        self._update(self._since_mark())

    def _update(self, items: list) -> None:
        target, keys = self._stack[-1], items[::2]
        # A tuple of tuples of the same tuples would take years to hash.
        if type(target) is not dict or not all(isinstance(key, str | bytes | int) for key in keys):
            raise ValueError("it holds a dict whose keys are neither text nor numbers")
        values = (value.array if isinstance(value, _Array) else value for value in items[1::2])
        target.update(zip(keys, values, strict=True))

    def _op_binput(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    _op_long_binput = _op_binput

    def _op_memoize(self, _) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _op_binget(self, index: int) -> None:
        self._stack.append(self._memo[index])

    _op_long_binget = _op_binget

    def _op_global(self, argument: str) -> None:
        self._name(*argument.split(" ", 1))

    def _op_stack_global(self, _) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it asks for a name that is no text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        if (module, name) not in self._admitted:
            raise ValueError(
                f"it asks for {module:.80}.{name:.80}, where only arrays, text, numbers and plain containers are "
                "admitted"
            )
        self._stack.append(_Name(module, name))

    def _op_reduce(self, _) -> None:
        arguments, name = self._stack.pop(), self._stack.pop()
        if not isinstance(name, _Name) or name not in self._made_by or type(arguments) is not tuple:
            raise ValueError("it calls what is no array")
        self._stack.append(self._made_by[name](*arguments))

    def _op_build(self, _) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if not isinstance(target, _Type | _Array):
            raise ValueError("it fills in what is no array")
        target.build(state)


def read_pickle(file: Path) -> Any:
    """
    The content of a pickle of protocol 2 or later: dicts, lists, tuples, numbers, text, bytes, arrays of numbers.

    Text of Python 2 is read as bytes. Arrays are not writable, and lie where the file has them. An array is an array
    only as the whole content or as a value of a dict.

    Raises:
        ValueError: the pickle holds anything else, is damaged, or has more than `LARGEST_FILE` bytes or
            `MOST_OPERATIONS`; the message says which, in one line.
    """
    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"it has {size:,} bytes, of at most {LARGEST_FILE:,}")
    try:
        with file.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
            return _Reader().read(cast(IO[bytes], content))
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from error
