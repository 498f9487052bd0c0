"""The genres that the starter model learns from: one module each, with `write(rng)` that returns one text."""
