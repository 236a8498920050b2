"""Reads config values from text and checks them against the annotated type and range of their option.

The types that configs use are supported: bool, int, float, str, `Literal`, `None`, unions and tuples of these,
mappings, dataclasses, and `Annotated` with a range of `jaxfer.ranges`.
"""

import ast
import collections.abc
import dataclasses
import types
import typing
from typing import Annotated, Any, Literal

from jaxfer.errors import UserError, unknown
from jaxfer.ranges import Length

_SHOWN = 80  # Number of characters that a message shows of a value.


class Text(str):
  """A value as text from the command line; `read` parses it as the type of its key."""


def read(value: Any, kind: Any, name: str) -> Any:
  """Returns a value of the type `kind` for the key `name`: `value` itself, or the parsed text if it is a `Text`.

  Raises:
    UserError: the value is not of that type, or `check` refuses it.
  """
  if isinstance(value, Text):
    return parse(str(value), kind, name)
  value = frozen(value)
  check(value, kind, name)
  return value


def parse(text: str, kind: Any, name: str) -> Any:
  """Reads `text` as a value of the type `kind`, for the key `name`.

  Raises:
    UserError: the text is not a value of that type, or `check` refuses the value.
  """
  value = _parsed(text, kind, name)
  check(value, kind, name)
  return value


def text(value: Any) -> str:
  """Returns a value as the text that `parse` reads."""
  return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def check(value: Any, kind: Any, name: str) -> None:
  """Refuses a value that is not of the type `kind`, or outside its range.

  Args:
    value: the value. The fields of a dataclass are checked one by one.
    kind: the annotation of the key.
    name: name of the key, as in overrides; "" for a whole config.

  Raises:
    UserError: the value is refused. The message names the key, the value and what to give instead.
  """
  kind, limits = _bare(kind)
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin in (typing.Union, types.UnionType):
    _check_union(value, args, name)
  elif origin is Literal:
    if not any(type(value) is type(each) and value == each for each in args):
      raise unknown(f"value of {name}", str(value), map(str, args))
  elif origin is tuple:
    _check_tuple(value, args, limits, name)
  elif origin is collections.abc.Mapping:
    if not isinstance(value, collections.abc.Mapping):
      raise UserError(f"{name}={shown(value)}: give a dict")
    for key, each in value.items():
      check(key, args[0], f"a key of {name}")
      check(each, args[1], f"{name}[{key!r}]")
  elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
    if not isinstance(value, kind):
      raise UserError(f"{name}={shown(value)}: give a {kind.__name__}(...)")
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
      check(getattr(value, field.name), hints[field.name], f"{name}.{field.name}".lstrip("."))
  elif kind in (bool, int, float, str):
    _check_plain(value, kind, limits, name)


def _check_union(value: Any, args: tuple[Any, ...], name: str) -> None:
  if value is None and type(None) in args:
    return
  others = [each for each in args if each is not type(None)]
  tuples = [each for each in others if typing.get_origin(_bare(each)[0]) is tuple]
  fitting = tuples if isinstance(value, tuple | list) and tuples else others
  check(value, fitting[0], name)


def _check_tuple(value: Any, args: tuple[Any, ...], limits: list[Any], name: str) -> None:
  if not isinstance(value, tuple | list):
    raise UserError(f"{name}={shown(value)}: write a tuple, such as (3, 3)")
  if args[-1] is Ellipsis:
    for limit in limits:
      if isinstance(limit, Length) and not 1 <= len(value) <= limit.most:
        raise UserError(f"{name}={shown(value)}: give a tuple of 1 to {limit.most} values")
    args = (args[0],) * len(value)
  if len(value) != len(args):
    raise UserError(f"{name}={shown(value)}: give a tuple of {len(args)} values")
  for k, (each, kind) in enumerate(zip(value, args, strict=True)):
    check(each, kind, f"{name}[{k}]")


def _check_plain(value: Any, kind: type, limits: list[Any], name: str) -> None:
  # Python counts a bool as an int. A config must not use a bool as a number; an int in place of a float is accepted.
  accepted = (int, float) if kind is float else kind
  if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
    raise UserError(f"{name}={shown(value)}: {_NOT[kind]}")
  for limit in limits:
    if not limit.holds(value):
      what = "a whole number" if kind is int else "a number"
      raise UserError(f"{name}={shown(value)}: give {what}, {limit}")


_NOT = {bool: "write true or false", int: "not a whole number", float: "not a number", str: "not text"}


def shown(value: Any) -> str:
  """Returns a value as messages show it: on one line, and shortened if it is long."""
  if isinstance(value, int) and value.bit_length() > 256:  # Python refuses to print very large integers.
    return f"a number of {value.bit_length()} bits"
  return _cut(repr(value))


def _cut(text: str) -> str:
  text = " ".join(text.split())
  return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def frozen(value: Any) -> Any:
  """Converts lists to tuples, also nested ones, so that a config stays equal when it is written to JSON and read."""
  return tuple(frozen(v) for v in value) if isinstance(value, list | tuple) else value


def _bare(kind: Any) -> tuple[Any, list[Any]]:
  """Splits an annotated type into the type and its annotations."""
  if typing.get_origin(kind) is Annotated:
    return kind.__origin__, list(kind.__metadata__)
  return kind, []


def _parsed(text: str, kind: Any, name: str) -> Any:
  """Parses `text` as the type `kind`, without checking its range."""
  kind, _ = _bare(kind)
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin in (typing.Union, types.UnionType):
    if type(None) in args and text.lower() == "none":
      return None
    errors = []
    for each in (a for a in args if a is not type(None)):
      try:
        return _parsed(text, each, name)
      except UserError as error:
        errors.append(error)
    raise errors[0]
  if origin is Literal:
    if text not in args:
      raise unknown(f"value of {name}", text, args)
    return text
  if kind is bool:
    if text.lower() not in ("true", "false"):
      raise UserError(f"{name}={_cut(text)}: write true or false")
    return text.lower() == "true"
  if kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      raise UserError(f"{name}={_cut(text)}: {_NOT[kind]}") from None
  if kind is str:
    return text
  try:
    value = frozen(ast.literal_eval(text))
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    value = text
  if origin is tuple and not isinstance(value, tuple):
    raise UserError(f"{name}={_cut(text)}: write a tuple, such as (3, 3)")
  return value
