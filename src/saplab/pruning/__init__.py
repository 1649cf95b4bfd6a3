"""Algorithm 1, Stochastic Activation Pruning: the oracle, the kernels, and the torch operator around them."""
