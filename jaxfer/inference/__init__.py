"""Prediction with trained and converted models: `jaxfer.load(PATH).predict(images)`."""

from jaxfer.inference.loading import load, load_face_net
from jaxfer.inference.predictor import InputSpec, Predictor

__all__ = ["InputSpec", "Predictor", "load", "load_face_net"]
