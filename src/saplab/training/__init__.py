"""One classifier loop, and the paper's recipes as data."""
