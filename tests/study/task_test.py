import dataclasses
import types

import pytest

from jaxfer.study.task import with_dtype
from jaxfer.systems import SYSTEMS
from tests import small_systems


def device(platform, capability=None):
  own = {} if capability is None else {"compute_capability": capability}
  return types.SimpleNamespace(platform=platform, **own)


@pytest.mark.parametrize("agrees", [True, False])
@pytest.mark.parametrize(
  ("on", "fast"),
  [
    (device("cpu"), False),
    (device("tpu"), True),
    (device("gpu", "9.0"), True),
    (device("gpu", "12.0"), True),
    (device("gpu", "7.5"), False),
    (device("gpu", "gfx90a"), True),
  ],
  ids=str,
)
def test_auto_is_bfloat16_on_devices_that_multiply_it_fast_if_the_accuracy_agrees(
  on, fast, agrees, monkeypatch
):
  monkeypatch.setattr("jax.devices", lambda: [on])
  monkeypatch.setattr(type(SYSTEMS["elderly_transfer"]), "bfloat16", agrees)
  config = small_systems.SYSTEMS["elderly_transfer"]
  assert config.dtype == "auto"
  assert with_dtype(config).dtype == ("bfloat16" if fast and agrees else "float32")
  for dtype in ("float32", "bfloat16"):
    given = dataclasses.replace(config, dtype=dtype)
    assert with_dtype(given) == given
