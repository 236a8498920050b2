"""TODO"""
from benchmarks import machine
def environment():
  found = machine.environment()
  return {
    "processor": found["cpu"], "threads": found["threads"], "python": found["python"], "jax": found["versions"]["jax"],
    "commit": found["commit"], "date": found["time"][:10],
  }
