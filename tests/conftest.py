"""Four virtual CPU devices for every test; nothing else is configured."""

import jax

jax.config.update("jax_num_cpu_devices", 4)
