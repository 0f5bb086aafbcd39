"""A name for a function or an object that is the same in every process.

A checkpoint is continued only by the fit that wrote it, and a function may be part of
what makes a fit. Its `repr` will not do: it has an address, which differs in every
process, and leaves out what the function closes over. A pickle will not do either: it
knows functions by their place alone, and local ones not at all. So a value is written
out with all that it holds, and the digest of that names it.

Level 0 of the module map.
"""

from __future__ import annotations

import hashlib
import inspect
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any

import numpy as np

__all__ = ["digest", "name_of"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
_Above = tuple[Any, ...]  # the values that hold one
_MAX_DEPTH = 200  # of what holds what: some objects make new ones for ever


def name_of(value: Any) -> str:
    """Return what names a value, a function above all, in every process.

    Functions are told apart by what they do, their defaults and what they close over,
    objects by what they hold. What a function finds in its module is not followed.
    """
    if isinstance(value, str | None):
        return repr(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{_place(named)} {digest(_written(value, ()))}"


def digest(value: Any) -> str:
    """Return 32 hexadecimal digits for the `repr` of a value."""
    content = repr(value).encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()[:32]


def _written(value: Any, above: _Above) -> Any:
    """Return a value as lists and tuples that have one `repr`."""
    if type(value) in _PLAIN:
        return repr(value)
    for i, one in enumerate(above):
        if one is value:
            return ("above", i)
    above = (*above, value)
    kind = _place(type(value))
    if len(above) > _MAX_DEPTH:
        return (kind, "too deep")
    if isinstance(value, type | ModuleType):
        return (kind, _place(value))
    if isinstance(value, CodeType):
        parts = [value.co_code, value.co_names, *value.co_consts]
    elif isinstance(value, FunctionType):
        parts = [_place(value), value.__code__, value.__defaults__]
        parts += [value.__kwdefaults__, *map(_content, value.__closure__ or ())]
    elif isinstance(value, MethodType):
        parts = [value.__func__, value.__self__]
    elif isinstance(value, BuiltinFunctionType | MethodWrapperType):
        parts = [value.__qualname__, value.__self__]
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        numbers = hashlib.sha256(value.tobytes()).hexdigest()
        parts = [value.dtype.str, value.shape, numbers]
    elif type(value) in (tuple, list):
        parts = list(value)
    elif type(value) in (set, frozenset, dict):
        # In an order of its own: the process decides that of a set.
        each = value.items() if isinstance(value, dict) else value
        return (kind, sorted(repr(_written(one, above)) for one in each))
    else:
        parts = _parts(value)
    return (kind, [_written(part, above) for part in parts])


def _parts(value: Any) -> list[Any]:
    """Return what an object does where it is called, and holds: as a pickle has it."""
    call = inspect.getattr_static(type(value), "__call__", None)
    parts = [call if isinstance(call, FunctionType) else None]
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # it can not be written down: locks, files
        return [*parts, getattr(value, "__dict__", None)]
    if isinstance(reduced, str):  # a place, of what may wrap something
        return [*parts, reduced, getattr(value, "__dict__", None)]
    make, given, state, items, pairs = (*reduced, *[None] * 5)[:5]
    return [*parts, make, given, state, list(items or ()), list(pairs or ())]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _place(named: Any) -> str:
    name = getattr(named, "__qualname__", None) or getattr(named, "__name__", None)
    return f"{getattr(named, '__module__', None)}.{name}"
