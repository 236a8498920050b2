"""Paper 003: a VAE with separate codes for identity and expression."""

from jaxfer.systems.identity_expression_vae.recipe import IdentityExpressionSystem

SYSTEM = IdentityExpressionSystem()
