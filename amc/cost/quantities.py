"""What plans cost: a table of quantities."""
