"""What everything may use: files, processes, registries, settings, numbers as people read them."""
