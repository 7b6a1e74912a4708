"""Smaller networks, and the proof that they are right.

slim          the network without the channels that a plan drops
hollow        what stands where all channels of a layer are gone
choices       routes of a forward that depend on its data, taken alike by two networks
twin          the untouched network, with the same channels masked
verification  the sliced network against its twin
prove         each unit of a network by itself
"""
