"""Tests that checkpoints survive foreign files, kills and full disks, and that damage is reported with the way back."""

import contextlib
import gc
import resource
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import files
from jaxfer.errors import UserError
from jaxfer.train.checkpoint import Checkpoints

CLUTTER = (".DS_Store", "._state", "Thumbs.db", "desktop.ini", ".nfs00000000000abc", "notes~", ".meta.swp")


def state(value):
  # Random numbers cannot be compressed.
  numbers = np.random.default_rng(value).integers(0, 2**31, (40, 40), np.int32)
  return {"w": jnp.asarray(numbers), "b": jnp.arange(3.0) * value}


@contextlib.contextmanager
def opened(workdir, keep=3):
  with contextlib.closing(Checkpoints(workdir, keep)) as checkpoints:
    yield checkpoints


def save(workdir, *numbers):
  with opened(workdir) as checkpoints:
    checkpoints.discard_unfinished()
    for number in numbers:
      checkpoints.save(number, state(number), {"number": number, "rate": float("inf")})


def restored(workdir):
  with opened(workdir) as checkpoints:
    number = checkpoints.latest()
    assert checkpoints.meta(number)["number"] == number
    template = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state(0))
    chex.assert_trees_all_equal(checkpoints.restore(number, template), state(number))
    return number


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("saved")
  save(workdir, 1, 2)
  return workdir


@pytest.fixture
def copy(saved, tmp_path):
  shutil.copytree(saved, tmp_path / "copy")
  return tmp_path / "copy"


def test_files_of_the_operating_system_are_no_damage(copy):
  for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
    for name in CLUTTER:
      (folder / name).write_text("x")
    for name in ("lost+found", "@eaDir"):
      (folder / name).mkdir()
      (folder / name / "2.json").write_text("x")
  for name in ("._2.json", "2.json~", "2 copy.json", ".2.json.swp"):
    (copy / "digests" / name).write_text("x")
  shutil.copytree(copy / "checkpoints/2", copy / "checkpoints/2 copy")
  assert restored(copy) == 2
  save(copy, 3, 4, 5)
  assert restored(copy) == 5
  assert {path.name for path in (copy / "digests").glob("?.json")} == {"3.json", "4.json", "5.json"}


def test_a_file_that_is_no_part_of_a_checkpoint_is_to_be_removed_and_not_the_checkpoint(copy):
  stranger = copy / "checkpoints/2/state/notes.txt"
  stranger.write_text("x")
  with pytest.raises(UserError) as error:
    restored(copy)
  assert str(error.value) == f"{stranger} is not part of the checkpoint that was saved: remove that file"
  stranger.unlink()
  assert restored(copy) == 2


@pytest.mark.parametrize("content", [b"", b'{"state', b"[]", b"\xff", b'{"a": 1}', b"{}"])
def test_a_damaged_digest_says_how_to_go_back(copy, content):
  digest = copy / "digests/2.json"
  digest.write_bytes(content)
  with pytest.raises(UserError, match=f"remove {digest} and go on with --resume, from checkpoint 1") as error:
    restored(copy)
  assert "\n" not in str(error.value)
  digest.unlink()
  assert restored(copy) == 1
  with opened(copy) as checkpoints:
    assert checkpoints.discard_unfinished() == ["checkpoint 2 was not saved completely, and is removed"]
  save(copy, 2)  # The number can be used again.
  assert restored(copy) == 2


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize(
  "harm", [flip, lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.unlink()]
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(copy, harm):
  largest = max((copy / "checkpoints/2").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
  harm(largest)
  with opened(copy) as checkpoints:
    (note,) = checkpoints.discard_damaged()
  assert note.startswith(str(largest))
  assert note.endswith(": checkpoint 2 is removed, go on from 1")
  assert restored(copy) == 1
  with opened(copy) as checkpoints:
    assert checkpoints.discard_damaged() == []
  save(copy, 2)
  assert restored(copy) == 2


def test_nothing_is_removed_if_no_checkpoint_is_intact(copy):
  for number in (1, 2):
    flip(copy / f"checkpoints/{number}/meta/metadata")
  with opened(copy) as checkpoints:
    assert checkpoints.discard_damaged() == []
  with pytest.raises(UserError, match="checkpoints/2/meta/metadata has changed since it was saved"):
    restored(copy)


def test_without_an_earlier_checkpoint_the_advice_is_to_train_again(tmp_path):
  save(tmp_path, 1)
  (tmp_path / "digests/1.json").write_text("")
  with pytest.raises(UserError, match="cannot be verified: train again in another --workdir"):
    restored(tmp_path)


def test_lost_digests_are_no_reason_to_begin_again(copy):
  """This happens if a run is copied without them; an interruption can only affect one checkpoint."""
  for path in (copy / "digests").iterdir():
    path.unlink()
  for _ in range(2):
    with (
      opened(copy) as checkpoints,
      pytest.raises(UserError, match="digests lacks the digests that verify the checkpoints"),
    ):
      checkpoints.discard_unfinished()
    assert (copy / "checkpoints/1").is_dir()
    shutil.rmtree(copy / "digests", ignore_errors=True)


def test_what_a_kill_left_is_removed(copy):
  shutil.rmtree(copy / "checkpoints/2")
  (copy / "checkpoints/3.orbax-checkpoint-tmp/state").mkdir(parents=True)
  with opened(copy) as checkpoints:
    assert checkpoints.discard_unfinished() == []
  assert {path.name for path in (copy / "checkpoints").iterdir()} == {"1"}
  assert {path.name for path in (copy / "digests").iterdir()} == {"1.json"}


def test_a_full_disk_leaves_the_checkpoint_before_it(copy, capfd):
  """A limit on the size of files simulates the disk."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    with pytest.raises(Exception, match="File too large") as error:
      save(copy, 3)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert files.disk_error(error.value) is not None
  assert "Traceback" not in "".join(capfd.readouterr())
  assert restored(copy) == 2
  save(copy, 3)
  assert restored(copy) == 3


def test_a_save_leaves_no_arrays_for_the_garbage_collector(tmp_path):
  gc.disable()
  try:
    with opened(tmp_path) as checkpoints:
      pmapped = jax.pmap(lambda value: value + jnp.zeros((7, 11, 13)))(jnp.zeros(1))
      checkpoints.save(1, {"w": pmapped}, {})
      checkpoints.wait()
      del pmapped
      assert not [a.shape for a in jax.live_arrays() if a.shape[-3:] == (7, 11, 13)]
  finally:
    gc.enable()
