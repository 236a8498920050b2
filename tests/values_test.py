"""Tests that values are read from text and checked by type and range, and that all numbers of configs have ranges."""

import dataclasses
import inspect
import typing
from typing import Annotated, Literal

import pytest

from jaxfer import schema, values
from jaxfer.data import records
from jaxfer.data.datasets import DATASETS
from jaxfer.errors import UserError
from jaxfer.ranges import Length, OneOf, Range
from jaxfer.schema import Call
from jaxfer.study.task import options_of
from jaxfer.systems import MODELS, SYSTEMS, create_model

REGISTRIES = {"model": MODELS, "recipe": SYSTEMS, "data": DATASETS}
DATACLASSES = (schema.RunConfig, schema.Split, schema.Execution, schema.Row, schema.StudyConfig)


def options():
  """Yields the key and the type of every option of every model, recipe, data set and dataclass of a config."""
  for field, registry in REGISTRIES.items():
    for name in registry:
      for option, kind in options_of(field, Call(name)).items():
        yield f"{field} {name}.{option}", kind
  for kind in DATACLASSES:
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
      yield f"{kind.__name__}.{name}", hint


def numbers(kind, limits=()):
  """Returns the limits of each number in a type, () if it has none."""
  if typing.get_origin(kind) is Annotated:
    yield from numbers(kind.__origin__, kind.__metadata__)
  elif kind in (int, float):
    yield [limit for limit in limits if isinstance(limit, Range | OneOf)]
  else:
    for part in typing.get_args(kind):
      yield from numbers(part)


OPTIONS = dict(options())
NUMERIC = {key: kind for key, kind in OPTIONS.items() if list(numbers(kind))}


def test_the_walk_over_the_registries_meets_numbers_wherever_they_are():
  assert list(numbers(int | tuple[float, ...] | None)) == [[], []]
  assert list(numbers(tuple[Annotated[int, Range(1, 2)], int])) == [[Range(1, 2)], []]
  assert list(numbers(Literal["a"] | bool | str)) == []
  assert len(NUMERIC) > 100
  assert {"recipe landmark_fusion.w", "model vae.width", "data jaffe.neutral_below", "Split.fold"} <= {
    *NUMERIC
  }


@pytest.mark.parametrize("key", sorted(NUMERIC))
def test_every_number_of_every_config_has_a_range(key):
  assert all(numbers(NUMERIC[key])), f"{key} has no range: annotate it with a type of jaxfer.ranges"


@pytest.mark.parametrize("key", sorted(NUMERIC))
def test_no_number_is_a_truth_value_or_endless_or_negative_beyond_measure(key):
  for wrong in (True, float("nan"), float("inf"), -(10**30), 10**30, "1"):
    for value in (wrong, (wrong,), (wrong, wrong)):
      with pytest.raises(UserError) as error:
        values.check(value, NUMERIC[key], "a.key")
      assert str(error.value).startswith("a.key")
      assert "\n" not in str(error.value)


def test_defaults_lie_within_their_ranges():
  for name, system in SYSTEMS.items():
    kinds = options_of("recipe", Call(name))
    for parameter in inspect.signature(system.recipe).parameters.values():
      if parameter.kind is parameter.KEYWORD_ONLY:
        values.check(parameter.default, kinds[parameter.name], parameter.name)
  for name, model in MODELS.items():
    kinds = options_of("model", Call(name))
    for field in dataclasses.fields(model):
      if field.name in kinds and field.default is not dataclasses.MISSING:
        values.check(field.default, kinds[field.name], field.name)
  for name in DATASETS:
    config = records.make_config(name, {})
    records.make_config(name, {option: getattr(config, option) for option in options_of("data", Call(name))})


@pytest.mark.parametrize(
  ("text", "kind", "value"),
  [
    ("4294967295", Annotated[int, Range(0, 2**32 - 1)], 2**32 - 1),
    ("1e-3", Annotated[float, Range(0, 1)], 1e-3),
    ("NONE", int | None, None),
    ("(3, 3)", tuple[int, int], (3, 3)),
    ("[3, 3]", tuple[int, ...], (3, 3)),
    ("()", tuple[int, ...], ()),
    ("(1, 2)", int | tuple[int, ...], (1, 2)),
    ("TRUE", bool, True),
    ("b", Literal["a", "b"], "b"),
  ],
)
def test_what_is_read(text, kind, value):
  read = values.parse(text, kind, "key")
  assert (read, type(read)) == (value, type(value))


POSITIVE = Annotated[int, Range(1, 10)]


@pytest.mark.parametrize(
  ("text", "kind", "message"),
  [
    ("0", POSITIVE, "key=0: give a whole number, from 1 to 10"),
    ("11", POSITIVE | None, "key=11: give a whole number, from 1 to 10"),
    ("1.0", POSITIVE, "key=1.0: not a whole number"),
    ("9" * 5000, POSITIVE, f"key={'9' * 77}...: not a whole number"),
    ("nan", Annotated[float, Range(0, 1)], "key=nan: give a number, from 0 to 1"),
    ("1e999", Annotated[float, Range(0, 1)], "key=inf: give a number, from 0 to 1"),
    ("1", Annotated[float, Range(0, 1, below=True)], "key=1.0: give a number, from 0 to below 1"),
    ("0", Annotated[float, Range(0, 1, above=True)], "key=0.0: give a number, above 0 and at most 1"),
    (
      "1",
      Annotated[float, Range(0, 1, above=True, below=True)],
      "key=1.0: give a number, above 0 and below 1",
    ),
    ("4", Annotated[int, Range(1, 9, parity="odd")], "key=4: give a whole number, from 1 to 9, odd"),
    ("3", Annotated[int, Range(2, 8, parity="even")], "key=3: give a whole number, from 2 to 8, even"),
    ("2", Annotated[int, OneOf((1, 3))], "key=2: give a whole number, 1 or 3"),
    ("()", Annotated[tuple[POSITIVE, ...], Length()], "key=(): give a tuple of 1 to 64 values"),
    ("(1, 0)", tuple[POSITIVE, ...], "key[1]=0: give a whole number, from 1 to 10"),
    ("(1, 'a')", tuple[POSITIVE, ...], "key[1]='a': not a whole number"),
    ("(1, True)", tuple[POSITIVE, ...], "key[1]=True: not a whole number"),
    ("(1, 2, 3)", tuple[POSITIVE, POSITIVE], "key=(1, 2, 3): give a tuple of 2 values"),
    ("(0, 1)", POSITIVE | tuple[POSITIVE, ...], "key[0]=0: give a whole number, from 1 to 10"),
    ("(" * 500, tuple[POSITIVE, ...], f"key={'(' * 77}...: write a tuple"),
    ("1", bool, "key=1: write true or false"),
    ("c", Literal["aa", "bb"], "unknown value of key 'c'"),
  ],
)
def test_what_is_refused(text, kind, message):
  with pytest.raises(UserError) as error:
    values.parse(text, kind, "key")
  assert str(error.value).startswith(message)


def test_values_of_a_file_are_shown_on_a_line_however_long_they_are():
  for value, message in (
    (10**5000, "key=a number of 16610 bits: give a whole number, from 1 to 10"),
    ("a\nb" * 100, "key='a\\nba\\nb"),
    (2.0, "key=2.0: not a whole number"),
    (None, "key=None: not a whole number"),
  ):
    with pytest.raises(UserError) as error:
      values.check(value, POSITIVE, "key")
    assert str(error.value).startswith(message)
    assert len(str(error.value)) < 200


def test_a_whole_number_is_a_number():
  values.check(1, Annotated[float, Range(0, 1)], "key")


def test_a_model_made_by_hand_is_checked_too():
  with pytest.raises(UserError, match=r"^model\.sizes\[0\]=0: give a whole number, from 1 to 65536$"):
    create_model("stacked_autoencoder", sizes=(0,))
  with pytest.raises(UserError, match=r"^model\.dropout_rate=1\.0: give a number, from 0 to below 1$"):
    create_model("two_stream_conv_rnn", dropout_rate=1.0)


@pytest.mark.parametrize(
  ("value", "kind"),
  [
    (True, bool), (7, int), (1e-7, float), (100000.0, float), ("a = b", str), (None, int | None), ((), tuple[int, ...]),
    ((1, 2), tuple[int, ...]), (("a", "b, c"), tuple[str, ...]), ("aa", Literal["aa", "bb"]), (False, bool | None),
  ],
)  # fmt: skip
def test_the_text_of_a_value_reads_as_the_value(value, kind):
  assert values.parse(values.text(value), kind, "key") == value
  assert values.read(values.Text(values.text(value)), kind, "key") == value
  assert values.read(value, kind, "key") == value


def test_what_is_read_from_a_text_is_of_its_own_type():
  assert type(values.read(values.Text("a"), str, "key")) is str
  assert type(values.read(values.Text("aa"), Literal["aa", "bb"], "key")) is str
