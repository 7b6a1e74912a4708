"""Smaller networks, and the proof that they are right.

slice             the network without the channels that a plan drops
attributes        integers of modules that state widths, for methods other than the forward
stated_sizes      what the layers of a module say of its widths
empty_layers      what stands where all channels of a layer are gone
recorded_choices  routes of a forward that depend on its data, taken alike by two networks
masking           the dense network, with the same channels masked
verification      the sliced network against its masked twin
unit_checks       each unit of a network by itself
"""
