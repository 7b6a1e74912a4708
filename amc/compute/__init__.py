"""How a network runs on this machine: numeric mode and memory layout."""
