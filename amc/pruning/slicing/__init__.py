"""Smaller networks, and the proof that they are right.

slice             the network without the channels that a plan drops
attributes        integers of modules that state widths, for methods other than the forward
stated_sizes      what the layers of a module say of its widths
empty_layers      what stands where all channels of a layer are gone
recorded_choices  routes of a forward that depend on its data, taken alike by two networks
masking           the dense network, with the same channels masked
live_inputs       example inputs that can show a mistake
lively            weights that can show a mistake
layer_outputs     what the layers of the two compute, summed up
signals           whether a mistake could show in it
failures          what goes wrong in a sliced network, in one line
verification      the sliced network against its masked twin
proof_widths      widths that tell all sizes of a network apart
unit_checks       all units of a network, and which of them is to blame
"""
