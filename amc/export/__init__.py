"""Formats that are deployed, each compared with PyTorch before it is kept."""
