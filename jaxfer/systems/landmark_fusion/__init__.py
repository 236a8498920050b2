"""Paper 002: a landmark net beside a face net."""

from jaxfer.systems.landmark_fusion.recipe import LandmarkFusionSystem

SYSTEM = LandmarkFusionSystem()
