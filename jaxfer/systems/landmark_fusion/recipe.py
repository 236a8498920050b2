"""Paper 002: a landmark net beside a face net that stays as it is, weighed by confidence and agreement.

The face ("RGB") net is trained by the recipe of its authors' released code, or imported (`jaxfer convert arm`), and
then stays bit for bit as it is, statistics included, while the landmark net and the head are trained by AdaBelief
(paper, section 4.3 and Table 4). The paper's negative results are options: the RGB net moved along with the others,
from a trained one or from scratch, and the two nets' probabilities summed. Where the RGB net is moved along, equation 3
has no term for its own classifier: that gets no gradient, only decay, and w follows what it says all the same.

From the released code: half of the training pictures are either mirrored or made noisy, then resized and
normalised, then half get a box erased; Adam at 1e-3 with coupled decay 1e-4; rates times 0.9 each epoch; 70 epochs of
batches of 256, the last one short, tests in batches of 64 in the order of the distributor's list. Deviation: there the
trunk starts from ImageNet's ResNet18; here from random weights, unless `init_from` names a converted one
(`jaxfer convert torchvision_resnet18`, see configs/landmark_fusion/ablation.py). Our choices: an
epoch's last batch is completed from its start (`remainder=wrap`) where the code runs a short one; 70 epochs for the
fusion, which the paper does not give; the same augmentation in both stages, mirroring picture and heatmap together,
noise and erasing on the picture alone; the last epoch counts, never the best on the test set; the face net is in
evaluation mode while it stays as it is. A net that is judged in batches depends on who is tested along with whom
(`layers.amend`): so every number is also given for batches of one, and in a study for one random order.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxfer import losses, metrics
from jaxfer.data import augment, heatmap
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.kernels import heatmap as kernels
from jaxfer.layers.amend import Affinity, flagged, is_written
from jaxfer.ranges import Count, CountOrZero, Factor, Rate, Share, Variance
from jaxfer.systems.landmark_fusion import figures, published, table
from jaxfer.systems.landmark_fusion.model import LandmarkFusion, Outputs, normalised
from jaxfer.systems.system import ALONE, Prediction, System, from_logits, in_batches
from jaxfer.train import optim
from jaxfer.train.stage import Batch, Context, LossOut, Stage, Update, Variables


def _heatmaps(model: LandmarkFusion, batch: Batch) -> jax.Array:
  return kernels.draw(batch["landmarks"], model.image_size, frame=batch["image"].shape[1], dot=model.dot)


def _modes(model: LandmarkFusion) -> dict[str, Affinity]:
  """Affinities that the nets are tested with, by what that says of the batches; their own first."""
  return {"": "batch", ALONE: "alone"} if model.affinity == "batch" else {"": model.affinity}


def _ways(model: LandmarkFusion) -> dict[str, Callable[[Outputs, Variables], jax.Array]]:
  """How to read logits out of what the nets give, with any leading axes; the answer first."""
  if model.answer != "fused":
    return {"": lambda out, variables: model.logits(out)}

  def weighed(w: float, out: Outputs, variables: Variables) -> jax.Array:
    nets = out.rgb, out.rgb_features, out.landmark, out.landmark_features
    logits: Any = model.apply(variables, *nets, w, method="fuse")
    return logits

  return {
    "": lambda out, variables: out.fused,
    "RGB net": lambda out, variables: out.rgb,
    "landmark net": lambda out, variables: out.landmark,
    "sum of both": lambda out, variables: model.clone(answer="sum").logits(out),
    **{table.at_test(w): functools.partial(weighed, w) for w in table.WEIGHTS if model.agreement},
  }


def _names(model: LandmarkFusion) -> list[str]:
  """Of the readings that `outputs` gives: each way, in batches of each kind."""
  return [in_batches(way, batches) for way in _ways(model) for batches in _modes(model)]


class LandmarkFusionSystem(System):
  """A landmark net beside a face net, weighed by confidence and agreement."""

  models = {"landmark_fusion": LandmarkFusion}
  citation = "paper 002, Tables 5 and 6: RAF-DB, 3068 tested pictures"
  paper_data = "raf_db"
  paper_options = {"subset": "basic"}
  published = published.CONDITIONS
  test_batch = 64
  batch_dependent = True
  label_free = ("rgb/trunk",)

  def to_arrays(self, records: Records) -> dict[str, np.ndarray]:
    """Pictures [n, S, S, 3] uint8, landmarks [n, 37, 2] in pixels of the picture (all NaN: none), and labels [n].

    Raises:
      UserError: records without these, or landmarks of which some are not finite.
    """
    image, landmarks = (records.arrays.get(name) for name in ("image", "landmarks"))
    if image is None or landmarks is None or image.dtype != np.uint8 or image.shape[-1] != 3:
      have = ", ".join(f"{name} {array.shape[1:]}" for name, array in records.arrays.items())
      raise UserError(
        f"records of {have}: this system reads coloured stills with landmarks; choose raf_db or synthetic_faces"
      )
    heatmap.checked(landmarks)
    return {"image": image, "landmarks": landmarks, "label": records.arrays["label"]}

  def eval_batch(self, data: Mapping[str, ArrayLike], rows: ArrayLike) -> Batch:
    """Pictures [rows, S, S, 3] of grey levels 0 to 255, landmarks as they are stored, and labels of some rows."""
    return {
      "image": jnp.asarray(data["image"])[rows].astype(jnp.float32),
      "landmarks": jnp.asarray(data["landmarks"])[rows],
      "label": jnp.asarray(data["label"])[rows],
    }

  def inputs(self, model: LandmarkFusion, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The model's arguments without augmentation: images and heatmaps."""
    images = normalised(augment.resize(batch["image"], model.image_size))
    return images, _heatmaps(model, batch)

  def recipe(
    self,
    model: LandmarkFusion,
    steps: int,
    *,
    rgb: Literal["first", "given", "along"] = "first",
    rgb_epochs: CountOrZero = 70,
    rgb_learning_rate: Rate = 1e-3,
    epochs: Count = 70,
    learning_rate: Rate = 1e-3,
    decay: Factor = 0.9,
    w: Share = 0.6,
    flip: bool = True,
    noise: Variance = 30.0,
    erasing: Share = 0.5,
  ) -> tuple[tuple[Stage, ...], dict[str, float]]:
    """A stage for the RGB net, then one for what the model answers with.

    Args:
      model: the nets; with `answer` "rgb" there is the first stage alone, with "landmark" and "sum" the second moves
        the landmark net alone.
      steps: batches of an epoch.
      rgb: "first" trains the RGB net in a stage of its own; "given" leaves it as `init_from` gives it; "along" moves it
        together with landmark net and head, whether given or not.
      rgb_epochs: of the RGB net's stage; 0 leaves the net as `init_from` gives it, or at its initial values.
      rgb_learning_rate: of Adam there.
      epochs: of the second stage.
      learning_rate: of AdaBelief there.
      decay: of both rates, a factor an epoch.
      w: weight of the landmark features where the nets disagree, in [0, 1].
      flip: mirror a quarter of the training pictures, with their heatmaps.
      noise: variance of the noise on another quarter, in grey levels squared.
      erasing: share of the training pictures that lose a box.

    Raises:
      UserError: an affinity that training does not write; an RGB net to be moved along where the answer
        is not the head's.
    """
    if model.affinity not in ("batch", "alone", "ema"):
      raise UserError(
        f"model.affinity={model.affinity} cannot be trained: give batch, alone or ema; `jaxfer.load(...).frozen` is "
        "for converted weights"
      )
    if rgb == "along" and model.answer != "fused":
      raise UserError(
        f"recipe.rgb=along: without the head's loss nothing trains the RGB net, which moves along with it: take "
        f"model.answer=fused, not {model.answer}"
      )

    def sample(data, columns, keys):
      batch = self.eval_batch(data, columns["row"])
      pictures, heatmaps = augment.flip_or_noise(
        keys, batch["image"], _heatmaps(model, batch), flip=flip, variance=noise
      )
      images = normalised(augment.resize(pictures, model.image_size))
      images = augment.random_erasing(keys, images, probability=erasing)
      return {"images": images, "heatmaps": heatmaps, "label": batch["label"]}

    def loss_of(moved: tuple[str, ...], terms: Mapping[str, str]):
      """The sum of cross-entropies of outputs by name; `moved` are in training mode."""

      def loss(variables, batch, keys, context: Context) -> LossOut:
        del keys
        out, changed = model.apply(
          variables,
          batch["images"],
          batch["heatmaps"],
          context.hyper["w"],
          train=moved,
          axis_name=context.axis_name,
          mutable=["batch_stats", "affinity"],
        )
        assert isinstance(out, Outputs)
        count = jnp.float32(len(batch["label"]))
        answer = out.rgb if terms.keys() == {"rgb"} else model.logits(out)
        correct = (metrics.predict(answer) == batch["label"]).sum(dtype=jnp.float32)
        return LossOut(
          loss={
            name: (losses.cross_entropy(getattr(out, which), batch["label"]).sum(), count)
            for name, which in terms.items()
          },
          metrics={"accuracy": (correct, count)},
          collections={
            c: {name: tree[name] for name in moved if name in tree} for c, tree in changed.items()
          },
        )

      return loss

    factor = optim.exponential(decay, steps)
    stages = []
    if rgb == "first":
      adam = optim.adam("rgb_learning_rate", factor, weight_decay=1e-4)
      update = Update("rgb", loss_of(("rgb",), {"rgb": "rgb"}), ("rgb",), adam)
      stages.append(Stage("rgb", (update,), rgb_epochs, sample))
    if model.answer != "rgb":
      moved: tuple[str, ...] = ("landmark",) if model.answer in ("landmark", "sum") else ("landmark", "head")
      moved += ("rgb",) if rgb == "along" else ()
      terms = {"landmark": "landmark"} | ({"overall": "fused"} if "head" in moved else {})
      belief = optim.adabelief("learning_rate", factor)
      update = Update("fusion", loss_of(moved, terms), moved, belief)
      stages.append(Stage("fusion", (update,), epochs, sample))
    if not stages:
      raise UserError(
        "recipe.rgb=given leaves nothing to train where model.answer=rgb: take rgb=first, rgb_epochs=0"
      )
    return tuple(stages), {"rgb_learning_rate": rgb_learning_rate, "learning_rate": learning_rate, "w": w}

  def outputs(
    self,
    model: LandmarkFusion,
    variables: Variables,
    batch: Batch,
    hyper: Mapping[str, jax.Array],
    axis: str | None,
  ) -> jax.Array:
    """Logits [batch, readings, classes] in the order of `_names`, of one pass of the nets."""
    modes = tuple(_modes(model).values())
    every = model.apply(
      variables, *self.inputs(model, batch), hyper["w"], mask=batch["real"], axis_name=axis, modes=modes
    )
    assert isinstance(every, Outputs)
    found = jnp.stack(
      [way(every, variables) for way in _ways(model).values()]
    )  # [ways, modes, batch, classes]
    return jnp.moveaxis(found.reshape(-1, *found.shape[2:]), 0, 1)

  def predictions(
    self, model: LandmarkFusion, logits: np.ndarray, labels: np.ndarray
  ) -> dict[str, Prediction]:
    """The answer, and what else `_names` says."""
    return {name: from_logits(logits[:, k], labels) for k, name in enumerate(_names(model))}

  def load_pretrained(self, model: LandmarkFusion, given: Variables) -> Variables:
    """The RGB net of such a model, or a converted one; of a converted ResNet18 its trunk, for a net to be trained.

    Raises:
      UserError: none of them; a moving average or frozen mean that the net is judged by and that is not written.
    """
    if {*given["params"]} == {"trunk", "fc"}:
      return {c: {"rgb": {"trunk": tree["trunk"]}} for c, tree in given.items() if "trunk" in tree}
    if "rgb" in given["params"]:
      taken = {collection: {"rgb": tree["rgb"]} for collection, tree in given.items() if "rgb" in tree}
    elif {"trunk", "arm", "fc"} <= set(given["params"]):
      taken = {collection: {"rgb": tree} for collection, tree in given.items()}
    else:
      raise UserError(
        f"init_from: weights of {', '.join(given['params'])} hold no RGB net of this system: give those of "
        "`jaxfer convert arm` or `jaxfer convert torchvision_resnet18`, or of a training of this system"
      )
    taken = flagged(taken)
    if model.affinity in ("ema", "frozen") and not is_written(
      taken["affinity"]["rgb"]["arm"], model.affinity
    ):
      raise UserError(
        f"model.affinity={model.affinity}: the RGB net of init_from has none written: take model.affinity=batch or "
        "alone, or train the RGB net here, without init_from"
      )
    return taken

  def required_weights(self, options: Mapping[str, Any]) -> dict[str, str]:
    """The RGB net, where it is to stay as it is."""
    return {"rgb": "recipe.rgb=given"} if options.get("rgb") == "given" else {}

  def summaries(
    self, histories: Sequence[Sequence[Mapping[str, Any]]], read: Sequence[Mapping[str, Prediction]]
  ) -> dict[str, list[float]]:
    """How far the two nets agree on the tested records, of each training with a head, by batches (Table 2)."""
    del histories
    found = {}
    for batches in table.BATCHES.values():
      rgb, landmark = (in_batches(net, batches) for net in ("RGB net", "landmark net"))
      if any(landmark not in own for own in read):
        continue
      right = [(own[rgb].correct > 0, own[landmark].correct > 0) for own in read]
      for words, (first, second) in table.AGREEMENT.items():
        counts = [float(((a == first) & (b == second)).sum()) for a, b in right]
        found[table.agreement(words, batches)] = counts
    return found

  def figures(self, task, variables, trained, tested, folder):
    """Pictures that the models read rightly and wrongly, and where they look; see `figures.figures`."""
    return figures.figures(task, variables, trained, tested, folder)

  def tables(self, variants, seeds, not_trained=()):
    """The paper's tables in its form; see `table.tables`."""
    return table.tables(variants, seeds, not_trained)

  def table_figures(self, variants, folder):
    """Accuracy over w; see `table.figures`."""
    return table.figures(variants, folder)
