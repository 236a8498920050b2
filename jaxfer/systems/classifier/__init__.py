"""An image classifier of your own: any stock Flax Linen module."""

from jaxfer.systems.classifier.recipe import ClassifierSystem

SYSTEM = ClassifierSystem()
