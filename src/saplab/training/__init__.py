"""How classifiers are trained: one loop, and recipes as data."""
