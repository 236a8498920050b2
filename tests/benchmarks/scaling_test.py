import re

from benchmarks import scaling, tpu_mesh


def test_the_page_is_what_the_script_makes_of_the_committed_records():
  assert scaling.PAGE.read_text() == scaling.page()


def test_a_host_feeds_its_chips_at_their_pace():
  """Each chip takes 128 images in 3.791 M cycles of 1.5 GHz, four chips 202,568 a second of 37,632 bytes."""
  row = next(line for line in scaling.feeding().splitlines() if "ResNet18" in line)
  samples, megabytes, disk, memory = (float(cell.replace(",", "")) for cell in row.split("|")[2:6])
  assert samples == round(4 * 128 * tpu_mesh.CLOCK / 3791325)
  assert megabytes == round(samples * 112 * 112 * 3 / 1e6)
  per_thread = {name: rate.bytes / rate.threads for name, rate in scaling.rates().items()}
  assert disk == round(megabytes * 1e6 / per_thread["jaxfer_streamed"])
  assert abs(memory - megabytes * 1e6 / per_thread["jaxfer_streamed_memory"]) < 0.1


def test_every_compiled_step_has_a_row():
  rows = re.findall(r"^\| ([^|]+) \| \d+ \|", scaling.efficiencies(), re.M)
  assert rows == [system.words for system in scaling.SYSTEMS]
  assert {system.name for system in scaling.SYSTEMS} == set(tpu_mesh.CASES)


def test_every_step_exchanges_the_same_data_on_16_chips_as_on_4():
  made = scaling.compiled()
  for system in scaling.SYSTEMS:
    four, sixteen = (
      made[f"v5e:{side}x{side}/{system.name}/batch divided among {side * side}"] for side in (2, 4)
    )
    assert tpu_mesh.summary(four) == tpu_mesh.summary(sixteen), system.name
