"""Nothing here, tests included, takes what JAX and the libraries beside it keep private: any version may drop it."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax", "chex", "grain")
# Public names, but no part of what JAX promises to keep.
INTERNAL = ("jax.core", "jax.extend", "jax.interpreters", "jax.lib", "jaxlib")


def private_uses(source):
  """Dotted names of a library's private modules and attributes that a source imports or reads."""
  nodes, names, used = list(ast.walk(ast.parse(source))), {}, []
  for node in nodes:
    if isinstance(node, ast.Import):
      for alias in node.names:
        used.append(alias.name)
        top = alias.name.partition(".")[0]
        names[alias.asname or top] = alias.name if alias.asname else top
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
      for alias in node.names:
        used.append(f"{node.module}.{alias.name}")
        names[alias.asname or alias.name] = f"{node.module}.{alias.name}"

  def dotted(node):
    if isinstance(node, ast.Attribute):
      return (base := dotted(node.value)) and f"{base}.{node.attr}"
    return names.get(node.id) if isinstance(node, ast.Name) else None

  used += filter(None, (dotted(node) for node in nodes if isinstance(node, ast.Attribute)))

  def private(name):
    within = name.partition(".")[0] in LIBRARIES
    hidden = any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
    return (within and hidden) or any(f"{name}.".startswith(f"{prefix}.") for prefix in INTERNAL)

  return sorted({name for name in used if private(name)})


def test_no_file_uses_a_private_api():
  found = {}
  for folder in ("jaxfer", "benchmarks", "configs", "tests"):
    for path in sorted((ROOT / folder).rglob("*.py")):
      if uses := private_uses(path.read_text()):
        found[str(path.relative_to(ROOT))] = uses
  assert not found


@pytest.mark.parametrize(
  ("source", "found"),
  [
    ("from jax._src import xla_bridge", ["jax._src.xla_bridge"]),
    ("import jax.core", ["jax.core"]),
    (
      "import jax\njax.interpreters.ad.Zero",
      ["jax.interpreters", "jax.interpreters.ad", "jax.interpreters.ad.Zero"],
    ),
    ("from jax.experimental.pallas import tpu as pltpu\npltpu._x", ["jax.experimental.pallas.tpu._x"]),
    ("import jaxlib.xla_client as client", ["jaxlib.xla_client"]),
    ("import jax\nimport flax.core\njax.lax.scan, jax.__version__, flax.core.freeze", []),
  ],
)
def test_a_private_use_is_found(source, found):
  assert private_uses(source) == found
