"""Other people's modules, whatever they hold: taken out of their wrappers, completed, copied."""
