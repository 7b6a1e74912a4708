"""The commands of ``amc``, one a file: thin wrappers; heavy imports are inside them."""
