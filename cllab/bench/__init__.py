"""Measurements: `python -m cllab.bench overhead` and `replay` for speed, `split_mnist` for a published table."""
