"""Paper 002: a landmark net beside an RGB net, fused by confidence and agreement weights (see README)."""

from jaxfer.systems.landmark_fusion.recipe import LandmarkFusionSystem

SYSTEM = LandmarkFusionSystem()
