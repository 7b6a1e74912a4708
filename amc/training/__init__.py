"""Recovery training of pruned networks."""
