"""The paper's figures and Table 1 as data, and its claims judged."""
