"""Paper 002's study: variants that share an RGB net train together; its tables and figures; the configs' variants."""

import json
import pathlib

import numpy as np
import pytest

from jaxfer import config as configuration
from jaxfer.config import Row, StudyConfig
from jaxfer.study import study
from jaxfer.study.task import options_of
from jaxfer.systems.landmark_fusion import SYSTEM, figures
from jaxfer.systems.landmark_fusion import model as models
from tests import landmark_toy as toy
from tests.landmark_toy import BASE, evaluator, made, records

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def _installed():
  with toy.installed():
    yield


STUDY = StudyConfig(
  title="toy",
  source="nowhere",
  base=BASE,
  rows=(
    Row("baseline: RGB net alone", {"model.answer": "rgb"}, 0.9),
    Row("proposed: p and w", {"recipe.rgb": "given"}, 0.9, "baseline: RGB net alone"),
    Row("w = 0.0", {"recipe.rgb": "given", "recipe.w": 0.0}, None, "baseline: RGB net alone"),
  ),
  seeds=2,
  compared=(("proposed: p and w", "baseline: RGB net alone"),),
  presets={"small": {}},
)
FOLDERS = ("baseline-rgb-net-alone", "proposed-p-and-w", "w-0-0")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("study")
  lines = []
  table = study.run(STUDY, None, (), workdir, pathlib.Path("nowhere"), log=lines.append)
  return workdir, table, "\n".join(lines)


def result(workdir, folder):
  found = json.loads((workdir / "rows" / folder / "result.json").read_text())
  return {name: value for name, value in found.items() if "seconds" not in name}


def test_variants_that_differ_in_w_alone_train_together_from_the_baseline(done):
  workdir, table, printed = done
  assert "row 2 of 3, proposed: p and w, with w = 0.0:" in printed
  assert "taken over from row 'baseline-rgb-net-alone': rgb" in printed
  assert "each from the training of its seed and fold" in printed
  assert [row["failed"] for row in table["rows"]] == [[]] * 3
  baseline, proposed, zero = (result(workdir, folder) for folder in FOLDERS)
  for name in ("key", "label"):
    assert baseline[name] == proposed[name] == zero[name]
  # Each seed starts from the RGB net that the baseline trained with this seed, and evaluates it in the same batches.
  for own in (proposed, zero):
    for field in ("predicted", "rank"):
      assert own["predictions"]["RGB net"][field] == baseline[field]
      assert own["predictions"]["RGB net, shuffled"][field] == baseline["predictions"]["shuffled"][field]
  assert proposed["predictions"]["w = 0.6 at test"]["rank"] == proposed["rank"]
  assert zero["predictions"]["w = 0.0 at test"]["rank"] == zero["rank"]


def test_a_variant_trained_alone_or_resumed_has_the_same_numbers(done):
  """Without both results, the finished members are restored; without the last one, its variant is trained again."""
  workdir, table, _ = done
  before = [result(workdir, folder) for folder in FOLDERS]

  def again(*names):
    for name in names:
      (workdir / "rows" / name / "result.json").unlink()
    lines = []
    found = study.run(STUDY, None, (), workdir, pathlib.Path("nowhere"), resume=True, log=lines.append)
    assert [row["per_seed"] for row in found["rows"]] == [row["per_seed"] for row in table["rows"]]
    return "\n".join(lines)

  printed = again(*FOLDERS[1:])
  assert "row 2 of 3, proposed: p and w, with w = 0.0:" in printed
  assert [result(workdir, folder) for folder in FOLDERS] == before
  printed = again(FOLDERS[2])
  assert "row 2 of 3, proposed: p and w: done before" in printed
  assert "row 3 of 3, w = 0.0:" in printed
  alone = result(workdir, FOLDERS[2])
  for field in ("predicted", "correct", "rank"):
    assert alone[field] == before[2][field]
    assert alone["predictions"]["shuffled"][field] == before[2]["predictions"]["shuffled"][field]


def test_the_tables_show_every_prediction_and_the_figures_are_drawn(done):
  workdir, table, printed = done
  titles = [further["title"] for further in table["tables"]]
  for words in ("Tables 5 and 7", "Tables 6 and 8", "by kind of batches", "Table 2", "the sum of", "Fig. 4"):
    assert any(words in title for title in titles)
    assert words in printed
  # Every prediction is made in batches of each kind. Batches of one are the same in any order.
  readings = table["rows"][1]["predictions"]
  assert all(f"RGB net{batches}" in readings for batches in ("", ", shuffled", ", batches of one"))
  assert not [name for name in readings if name.endswith("batches of one, shuffled")]
  agreement = table["rows"][1]["table_summaries"]
  assert len(agreement) == 12
  assert sum(mean for mean, _ in agreement.values()) == 3 * 12
  assert "Mean and standard deviation over the trainings" not in printed
  assert table["rows"][0]["table_summaries"] == table["rows"][1]["summaries"] == {}
  first = {row["name"]: list(row["figures"]) for row in table["rows"]}
  assert first["baseline: RGB net alone"] == first["w = 0.0"] == []
  assert first["proposed: p and w"] == ["cams.png", "cases.png"]
  for name in ("cams.png", "cases.png"):
    assert (workdir / "rows" / FOLDERS[1] / name).read_bytes()[:4] == b"\x89PNG"
  assert (workdir / "sweep.png").read_bytes()[:4] == b"\x89PNG"
  assert "second and third" in table["rows"][1]["figures"]["cases.png"]
  page = (workdir / "report.html").read_text()
  assert "Grad-CAM++ of test images" in page
  assert "Table 11" in page


def test_the_second_and_third_classes_follow_the_first():
  logits = np.log(np.asarray([[0.1, 0.6, 0.05, 0.25], [0.7, 0.1, 0.2, 0.0001]]))
  found = figures.further(logits, ("a", "b", "c", "d"))
  assert [[name for name, _ in own] for own in found] == [["d", "a"], ["c", "b"]]
  np.testing.assert_allclose([share for _, share in found[0]], [0.25, 0.1], rtol=1e-5)
  assert [len(own) for own in figures.further(logits[:, :2], ("a", "b"))] == [1, 1]


@pytest.mark.parametrize(("cam", "side"), [("conv5", "conv6"), ("conv6", "arm")])
def test_the_map_of_the_landmark_net_is_that_of_the_convolution_asked_for(cam, side):
  task = made("recipe.rgb=given", f"model.cam={cam}")
  assert figures.looked_at(task.model, "landmark") == (("landmark", side), "input")
  assert figures.looked_at(task.model, "rgb") == (("rgb", "trunk"), "output")


def test_an_imported_net_with_no_epochs_is_the_baseline_as_it_came(tmp_path):
  """This is the command that `configs/landmark_fusion/ablation.py` gives for RAF-DB."""
  arm = toy.save_arm(tmp_path / "arm")
  given = (f"init_from={arm}", "recipe.rgb_epochs=0", "rows=('baseline: RGB net alone',)", "seeds=1")
  study.run(STUDY, None, given, tmp_path / "study", pathlib.Path("nowhere"), log=lambda line: None)
  found = result(tmp_path / "study", FOLDERS[0])
  task = made("model.answer=rgb")
  test = task.in_order(np.flatnonzero([key in set(found["key"][0]) for key in records().keys]))
  logits = evaluator()(test)["RGB net"]
  predicted = logits.argmax(-1)[np.argsort(test, kind="stable")]
  assert found["predicted"][0] == predicted.tolist()


def test_the_choices_are_variants_that_start_from_the_baselines_rgb_net():
  described = configuration.load_study(ROOT / "configs/landmark_fusion/choices_synthetic.py")
  for preset in described.presets:
    configuration.resolve(described, preset, (), options_of)
  _, rows = configuration.resolve(described, None, (), options_of)
  changed = {
    row.name: {
      key: value
      for key, value in rows[row.name].model.options.items()
      if rows["proposed: p and w"].model.options.get(key) != value
    }
    for row in described.rows[2:]
  }
  assert changed == {
    "p constant to the gradient": {"stop_gradient_p": True},
    "gaussian dots": {"dot": "gaussian"},
    "affinity by running mean": {"affinity": "ema"},
    "affinity alone": {"affinity": "alone"},
    "moving average in training too": {"affinity": "ema", "train_affinity": "ema"},
  }
  assert {row.init_from for row in described.rows[1:]} == {"baseline: RGB net alone"}


def test_raf_db_sweeps_w_by_tenths_and_the_embedded_faces_by_fifths():
  def swept(name):
    described = configuration.load_study(ROOT / f"configs/landmark_fusion/{name}.py")
    _, rows = configuration.resolve(described, None, (), options_of)
    return sorted(row.recipe.options["w"] for row in rows.values() if "w" in row.recipe.options)

  assert swept("ablation") == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9]
  assert swept("ablation_synthetic") == [0.0, 0.2, 0.4, 0.8]


@pytest.mark.parametrize("name", ["ablation", "ablation_synthetic"])
def test_each_failure_of_the_paper_is_a_row_that_trains_as_it_says(name):
  """Even where the baseline is given and not trained: `recipe.rgb_epochs=0` must not stop the further training."""
  described = configuration.load_study(ROOT / f"configs/landmark_fusion/{name}.py")
  _, rows = configuration.resolve(described, None, ("recipe.rgb_epochs=0",), options_of)
  starts = {row.name: (row.init_from, row.scratch) for row in described.rows}
  found = {}
  for key, row in rows.items():
    model = models.LandmarkFusion(7, **row.model.options)
    trained = {part for stage in SYSTEM.recipe(model, 2, **row.recipe.options)[0] if stage.epochs
               for part in stage.trainable}  # fmt: skip
    found[key] = trained, model.confidence or model.agreement, starts[key]
  first, every = ("baseline: RGB net alone", False), {"rgb", "landmark", "head"}
  assert found["RGB net alone, trained further"] == ({"rgb"}, True, first)
  assert found["RGB net fine-tuned along, no weights"] == (every, False, first)
  assert found["all from scratch, no weights"] == (every, False, (None, True))
  assert found["RGB net fine-tuned along"] == (every, True, first)
  assert {pair for pair in described.compared if pair[1] == first[0]} >= {
    (key, first[0]) for key in found if key.startswith(("RGB net", "all from scratch", "no weights", "sum"))
  }


@pytest.mark.parametrize("name", ["ablation", "ablation_synthetic"])
def test_variants_of_the_configs_are_the_papers(name):
  described = configuration.load_study(ROOT / f"configs/landmark_fusion/{name}.py")
  for preset in described.presets:
    configuration.resolve(described, preset, (), options_of)
  _, rows = configuration.resolve(described, "paper", (), options_of)
  published = {row.name: row.published for row in described.rows if row.published}
  assert {key: round(value, 4) for key, value in published.items()} == {
    "baseline: RGB net alone": 0.9205,
    "no weights": 0.9198,
    "confidence p": 0.9198,
    "agreement w": 0.9214,
    "proposed: p and w": 0.9231,
    "landmark net alone": 0.678,
  }
  paper = {"width": 1.0, "block": 16, "kernel_sizes": (5, 3, 3, 3, 3, 4), "image_size": 224}
  for row in rows.values():
    model = models.LandmarkFusion(7, **row.model.options)
    assert {key: getattr(model, key) for key in paper} == paper
    stages, hparams = SYSTEM.recipe(model, 48, **row.recipe.options)
    assert {stage.epochs for stage in stages} == {70}
    assert (hparams["learning_rate"], hparams["rgb_learning_rate"], row.batch_size) == (1e-3, 1e-3, 256)
