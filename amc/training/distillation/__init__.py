"""Losses by which a network learns from a better one."""
