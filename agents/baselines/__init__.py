"""Searchers that learn nothing, through the agent's interface and on the same problem."""
