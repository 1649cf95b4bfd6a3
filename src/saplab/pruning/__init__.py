"""Stochastic Activation Pruning (Algorithm 1): an oracle, kernels, and the torch operators around them."""
