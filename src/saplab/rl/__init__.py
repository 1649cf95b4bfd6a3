"""Agents that play Atari games: the games, Double DQN, and episodes under attack."""
