"""The embedded data: parametric faces in JAX, driven by action units, with exact optical flow and landmarks.

`generate_stills` and `generate_sequences` draw whole sets, which the TFDS builders `synthetic_faces` and
`synthetic_sequences` offer as prepared data. To draw a single face, use `identity.sample_identity`, `sample_scene`,
`sample_pose`, `action_units.controls`, `geometry.Face` and `render.render`. `objects` draws other objects, for the
builder `synthetic_objects`.
"""

from jaxfer.data.synthetic.action_units import ACTION_UNITS, EMOTIONS, LABELS
from jaxfer.data.synthetic.dataset import generate_sequences, generate_stills

__all__ = ["ACTION_UNITS", "EMOTIONS", "LABELS", "generate_sequences", "generate_stills"]
