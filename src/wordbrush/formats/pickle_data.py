"""The data in a pickle, without ever running it.

A pickle is a program for a small stack machine, and one of its instructions calls any Python function by name. This is
another machine for the same instructions: it knows no function at all. What `torch.save` writes to describe a tensor
becomes a `StoredTensor`; every other object becomes an `Inert` with nothing in it; and a pickle that names a function
of Python itself that could do something (`os.system`, `builtins.eval`) is refused.
"""

from __future__ import annotations

import pickletools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

from wordbrush.errors import ModelFileError


class Stream(Protocol):
    """What pickletools reads from: an open file, or mapped memory."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


@dataclass(frozen=True)
class Named:
    """A function or class that the pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Storage:
    """The memory of one or more tensors.

    Attributes:
        key: where it is kept, as the file numbers it.
        dtype: its number format in the spelling of safetensors; None if it is bytes and the tensors know.
        size: how many numbers, or bytes, it has.
    """

    key: str
    dtype: str | None
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a view of a storage: the place of its first number, its shape and strides, in numbers."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Inert:
    """An object of no use here. Whatever is done to it leaves it as it is."""


class Stateful:
    """What a caller's own function made: it is given the state that a pickle has for the object."""

    def set_state(self, state: Any) -> None:
        """Takes it."""


Call = Callable[[Any], Any]
"""What stands for a function that a pickle may name; it gets the tuple of arguments, if they are one."""


class Parameters(dict[str, Any]):
    """A ParameterDict, in which the first textual inversions were kept: the dict of the parameters in its state."""


class _Mark:
    """The stack machine's mark."""


_MARK = _Mark()

# Modules of Python itself whose objects hold data; a pickle that names anything else of Python's own is refused.
_HARMLESS = frozenset(
    {
        "_codecs", "argparse", "collections", "copyreg", "copy_reg", "datetime", "decimal", "enum", "fractions",
        "numbers", "pathlib", "typing", "uuid",
    }
)  # fmt: skip
_HARMLESS_BUILTINS = frozenset(
    {
        "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long", "object", "range",
        "set", "slice", "str", "tuple", "unicode", "xrange",
    }
)  # fmt: skip
_PYTHON = sys.stdlib_module_names | {"__builtin__", "nt", "posix", "commands", "popen2"}

_DICTS = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict"}
_STORAGE_DTYPES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip

_LARGEST_NUMBER, _MOST_DIMENSIONS = 1 << 48, 16

# Bits of the largest whole number; those that torch writes have 77, and text is made of them.
_LONGEST_NUMBER = 1024


class NotData(Exception):
    """The pickle is damaged or not what torch writes; the message says how, `remedy` what to do."""

    def __init__(self, problem: str, remedy: str = "get it again") -> None:
        super().__init__(problem)
        self.remedy = remedy


class Refused(ModelFileError):
    """The pickle would run code if it were opened as one; the message names it."""


def read_pickle(stream: Stream, calls: Mapping[str, Call] | None = None) -> Any:
    """The data that the pickle at the stream's position makes; leaves the stream after it.

    calls: what else is known, by "module.name".

    Raises:
        NotData: it is damaged, or holds what no file of tensors does.
        Refused: it names a function that could do something; the message is its name.
    """
    machine = _Machine(calls or {})
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], stream)):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except (NotData, Refused):
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, UnicodeError) as error:
        raise NotData(f"its pickle is damaged ({str(error)[:80]})") from error
    raise NotData("its pickle has no end")


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, calls: Mapping[str, Call]) -> None:
        self.calls = calls
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Does one instruction."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _MAKERS:
            self.stack.append(_MAKERS[name]())
        elif name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > _LONGEST_NUMBER:
                raise NotData(f"its pickle holds a number of {argument.bit_length()} bits")
            self.stack.append(argument)
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise NotData(f"its pickle holds the instruction {name}, which files of tensors do not")

    def pop(self) -> Any:
        """The top of the stack; a mark is none."""
        top = self.stack.pop()
        if top is _MARK:
            raise NotData("its pickle is damaged (a mark without content)")
        return top

    def drop(self) -> None:
        """Takes off the top of the stack, mark or not."""
        self.stack.pop()

    def drop_marked(self) -> None:
        """Takes off what is above the last mark, and the mark."""
        self.since_mark()

    def since_mark(self) -> list[Any]:
        """Everything above the last mark, which goes too."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise NotData("its pickle is damaged (no mark)")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def remember(self, key: Any) -> None:
        self.memo[int(key)] = self.stack[-1]

    def recall(self, key: Any) -> None:
        self.stack.append(self.memo[int(key)])

    def make(self, container: Callable[[list[Any]], Any]) -> None:
        self.stack.append(container(self.since_mark()))

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def add(self, items: list[Any]) -> None:
        """Appends to the list below; to anything else, nothing."""
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def put(self, items: list[Any]) -> None:
        """Sets keys and values in the dict below; in anything else, none."""
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(_pairs(items))

    def named(self, module: Any, name: Any) -> None:
        self.stack.append(_named(module, name))

    def call(self, arguments: Any) -> None:
        function = self.pop()
        known = self.calls.get(str(function)) if isinstance(function, Named) else None
        self.stack.append(known(arguments) if known else _called(function, arguments))

    def build(self) -> None:
        """An object's state is of no use, but for the parameters of a ParameterDict."""
        state = self.pop()
        if isinstance(self.stack[-1], Stateful):
            self.stack[-1].set_state(state)
        inner = state.get("_parameters") if isinstance(state, dict) else None
        if isinstance(self.stack[-1], Parameters) and isinstance(inner, dict):
            self.stack[-1].update(inner)
            inner.clear()  # moved: copies of one large dict, made in a few bytes each, would fill the memory


def _step_obj(machine: _Machine) -> None:
    kind, *arguments = machine.since_mark()
    machine.stack.append(_called(kind, tuple(arguments)))


def _step_stack_global(machine: _Machine) -> None:
    name = machine.pop()
    machine.named(machine.pop(), name)


def _step_newobj_ex(machine: _Machine) -> None:
    machine.pop()
    machine.call(machine.pop())


def _step_inst(machine: _Machine, argument: str) -> None:
    arguments = machine.since_mark()
    machine.stack.append(_called(_named(*argument.split(" ", 1)), tuple(arguments)))


def _step_pairs(machine: _Machine) -> None:
    value = machine.pop()
    machine.put([machine.pop(), value])


_CONSTANTS: dict[str, Any] = {"MARK": _MARK, "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_MAKERS: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": Inert}
_LITERALS = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING",
        "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE",
        "BINUNICODE8", "FLOAT", "BINFLOAT",
    }
)  # fmt: skip
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "POP": lambda machine, _: machine.drop(),
    "POP_MARK": lambda machine, _: machine.drop_marked(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "PUT": lambda machine, key: machine.remember(key),
    "BINPUT": lambda machine, key: machine.remember(key),
    "LONG_BINPUT": lambda machine, key: machine.remember(key),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "GET": lambda machine, key: machine.recall(key),
    "BINGET": lambda machine, key: machine.recall(key),
    "LONG_BINGET": lambda machine, key: machine.recall(key),
    "LIST": lambda machine, _: machine.make(list),
    "TUPLE": lambda machine, _: machine.make(tuple),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "DICT": lambda machine, _: machine.make(lambda items: dict(_pairs(items))),
    "FROZENSET": lambda machine, _: machine.make(lambda _: Inert()),
    "ADDITEMS": lambda machine, _: machine.drop_marked(),
    "APPEND": lambda machine, _: machine.add([machine.pop()]),
    "APPENDS": lambda machine, _: machine.add(machine.since_mark()),
    "SETITEM": lambda machine, _: _step_pairs(machine),
    "SETITEMS": lambda machine, _: machine.put(machine.since_mark()),
    "GLOBAL": lambda machine, argument: machine.named(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: _step_stack_global(machine),
    "INST": _step_inst,
    "OBJ": lambda machine, _: _step_obj(machine),
    "NEWOBJ": lambda machine, _: machine.call(machine.pop()),
    "NEWOBJ_EX": lambda machine, _: _step_newobj_ex(machine),
    "REDUCE": lambda machine, _: machine.call(machine.pop()),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.stack.append(_storage(machine.pop())),
}


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise NotData("its pickle is damaged (a key without a value)")
    return [(_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True)]


def _key(value: Any) -> Any:
    """A key of a dict. Not a tuple: hashed, forty tuples of two, each in the next, are as good as endless."""
    return Inert() if isinstance(value, tuple) else value


def _dict(content: Any) -> dict[Any, Any]:
    """What a class of dicts makes of its argument: another dict, or a list of pairs."""
    if isinstance(content, dict):
        return content
    if not isinstance(content, list):
        return {}
    pairs = [(_key(key), value) for key, value in content]
    content.clear()  # moved, not copied, as in `build`
    return dict(pairs)


def _named(module: Any, name: Any) -> Named:
    if not isinstance(module, str) or not isinstance(name, str):
        raise NotData("its pickle is damaged (a name that is not text)")
    root = module.partition(".")[0]
    builtin = root in ("builtins", "__builtin__")
    if (builtin and name not in _HARMLESS_BUILTINS) or (not builtin and root in _PYTHON and root not in _HARMLESS):
        raise Refused(f"{module}.{name}")
    return Named("builtins" if builtin else module, name)


def _called(function: Any, arguments: Any) -> Any:
    """What the call of a named function makes, as far as it concerns tensors."""
    if not isinstance(arguments, tuple):
        raise NotData("its pickle is damaged (a call without arguments)")
    name = str(function) if isinstance(function, Named) else ""
    if name in _DICTS:
        return _dict(arguments[-1] if arguments else [])
    if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
        return _tensor(arguments, None)
    if name == "torch._utils._rebuild_tensor_v3":
        return _tensor(arguments, arguments[6])
    if name.startswith("torch._utils._rebuild_parameter"):
        return arguments[0]
    if name == "torch._tensor._rebuild_from_type_v2":
        return _called(arguments[0], arguments[2])
    if name == "torch.nn.modules.container.ParameterDict":
        return Parameters()
    if name == "torch.Size":
        return _numbers(arguments[0])
    return Inert()


def _storage(identity: Any) -> Storage | Named | Inert:
    """What a persistent id names: ("storage", class, key, device, size), and for old files a view of it.

    The legacy form names the class of a module so too: ("module", class, the file of its source, its source).
    """
    if isinstance(identity, tuple) and len(identity) == 4 and identity[0] == "module":
        return identity[1] if isinstance(identity[1], Named) else Inert()
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        return Inert()
    _, kind, key, _, size, *view = identity
    if not isinstance(kind, Named) or not isinstance(key, str | int) or not isinstance(size, int):
        raise NotData("its pickle is damaged (a storage without name or size)")
    if view and view[0] is not None:
        raise NotData("it was written by a torch before 1.0 that stored views apart; save it again with a newer torch")
    if kind.name not in _STORAGE_DTYPES and kind.name != "UntypedStorage":
        raise NotData(f"it holds numbers of the format {str(kind)[:60]}, which is not known here")
    return Storage(str(key), _STORAGE_DTYPES.get(kind.name), size)


def _tensor(arguments: tuple[Any, ...], dtype: Any) -> StoredTensor | Inert:
    storage, offset, shape, stride = arguments[:4]
    if not isinstance(storage, Storage):
        return Inert()
    shape, stride = _numbers(shape), _numbers(stride)
    whole = all(type(number) is int and 0 <= number < _LARGEST_NUMBER for number in (offset, *shape, *stride))
    if not whole or len(shape) != len(stride):
        raise NotData("its pickle is damaged (a tensor's shape)")
    stated = _DTYPES.get(dtype.name) if isinstance(dtype, Named) else None
    found = stated or storage.dtype
    if found is None:
        raise NotData("its pickle is damaged (a tensor without a number format)")
    return StoredTensor(storage, found, offset, shape, stride)


def _numbers(value: Any) -> tuple[Any, ...]:
    """A shape, or steps along one."""
    if not isinstance(value, tuple | list) or len(value) > _MOST_DIMENSIONS:
        raise NotData("its pickle is damaged (a tensor's shape)")
    return tuple(value)
