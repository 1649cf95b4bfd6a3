"""The benchmark of stochastic defences: its protocol, its entries and the cards that they leave."""
