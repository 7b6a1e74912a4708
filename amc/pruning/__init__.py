"""From a network to its units, from a plan to a smaller network, and both on disk."""
