"""Predicted latency: what every layer takes at every width, and what they take together.

layers   which layers run, and how their sizes follow from the kept widths
interpolation  the time of a layer over its two sizes, from few measurements
store    measured times on disk, by host, runtime, version, threads and precision
model    the latency of a whole plan
fit      measuring all of it, with a progress bar
"""
