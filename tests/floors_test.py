"""Tests that a module imports only from lower layers or from its folder, never upwards and never in a circle."""

import ast
import pathlib
import subprocess
import sys

import jaxfer

ROOT = pathlib.Path(jaxfer.__file__).parent
BASEMENT = ("errors", "files")  # Every file may import these.
FLOORS = {
  "ranges": -3, "config_file": -3, "values": -2, "schema": -1,  # The parts of `config`.
  "errors": 0, "files": 0, "folders": 0, "cluster_errors": 0, "pickles": 0, "config": 0, "kernels": 0,
  "layers": 1, "losses": 1, "metrics": 1, "data": 1,
  "verification": 2,
  "train": 3, "report": 3, "explain": 3,
  "systems": 4,
  "study": 5, "convert": 5,
  "inference": 6,
  "cli_inference": 7, "cluster": 7,
  "cli": 8,
}  # fmt: skip


def imports(path):
  """Returns (module, whether it runs at import) for every jaxfer import in a file."""
  tree = ast.parse(path.read_text())
  top = {id(node) for node in tree.body}
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxfer":
      for alias in node.names:
        yield f"{node.module}.{alias.name}", id(node) in top
    elif isinstance(node, ast.Import):
      for alias in node.names:
        if alias.name.split(".")[0] == "jaxfer":
          yield alias.name, id(node) in top


def files():
  return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(module):
  parts = module.split(".")
  return parts[1] if len(parts) > 1 and parts[1] in FLOORS else None


def test_every_file_has_a_floor():
  for path in files():
    assert path.relative_to(ROOT).parts[0].removesuffix(".py") in FLOORS, path


def test_no_file_imports_from_its_own_floor_or_above():
  for path in files():
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for module, _ in imports(path):
      other = room(module)
      if other is not None and other != own:
        allowed = FLOORS[other] < FLOORS[own] or other in BASEMENT
        assert allowed, (
          f"{path.relative_to(ROOT)} (floor {FLOORS[own]}) imports {module} (floor {FLOORS[other]})"
        )


def test_no_module_imports_itself_in_a_circle():
  """Imports that are only for types count too; imports inside functions do not, because they run later."""
  names = {".".join(("jaxfer", *path.relative_to(ROOT).with_suffix("").parts)): path for path in files()}
  names = {name.removesuffix(".__init__"): path for name, path in names.items()}
  graph = {
    name: {
      target
      for module, top in imports(path)
      if top
      for target in (module, module.rpartition(".")[0])
      if target in names and target != name and not name.startswith(f"{target}.")
    }
    for name, path in names.items()
  }
  done, open_ = set(), []

  def visit(name):
    assert name not in open_, " -> ".join([*open_[open_.index(name) :], name])
    if name not in done:
      open_.append(name)
      for target in sorted(graph[name]):
        visit(target)
      open_.pop()
      done.add(name)

  for name in graph:
    visit(name)


def test_nothing_imports_what_is_outside_the_package():
  for path in files():
    for node in ast.walk(ast.parse(path.read_text())):
      modules = (
        [alias.name for alias in node.names]
        if isinstance(node, ast.Import)
        else [node.module or ""]
        if isinstance(node, ast.ImportFrom)
        else []
      )
      for module in modules:
        assert module.split(".")[0] not in ("configs", "benchmarks", "tests", "tensorflow", "torch"), path


def test_kernels_models_and_engine_import_with_the_core_libraries_alone():
  """Benchmarks and goldens run where TFDS, Grain, OpenCV and PyAV are not installed; importing allocates nothing."""
  code = (
    "import sys\n"
    "for name in ('tensorflow_datasets', 'array_record', 'grain', 'cv2', 'av', 'PIL', 'matplotlib', 'tensorflow'):\n"
    "  sys.modules[name] = None\n"
    "import jaxfer.kernels.conv_recurrence, jaxfer.kernels.warp, jaxfer.layers.conv_rnn, jaxfer.systems\n"
    "import jaxfer.train.trainer, jaxfer.study.run, jaxfer.metrics, jaxfer.cli\n"
    "import jax\n"
    "jax.config.update('jax_num_cpu_devices', 3)  # An error once a back end has started.\n"
  )
  subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
