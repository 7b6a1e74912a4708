"""The main path, from a network to a smaller one (:mod:`amc.pipeline.search` tells it),
and its variants.
"""
