"""Latency: measured in backends, predicted for plans, and explained layer by layer."""
