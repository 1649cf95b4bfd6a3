"""Agents as units of evaluation: cells of full games, their store, and the paper's Table 1 from their scores."""
