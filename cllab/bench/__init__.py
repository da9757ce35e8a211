"""Measurements: `python -m cllab.bench overhead` for speed, `... split_mnist` for a published table."""
