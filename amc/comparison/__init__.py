"""Searchers side by side at equal numbers of evaluated plans."""
