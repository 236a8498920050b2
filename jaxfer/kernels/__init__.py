"""Array in, array out, no Flax: the numerics whose speed matters, each beside a plain reference."""
