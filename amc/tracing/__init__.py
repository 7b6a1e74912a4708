"""Which channels are tied to which: one forward of the network, read.

inputs     what a network is called with, in any form
ids        sets of channels that are one, and what uses them
weights    which stored tensor a weight of the forward is made of
rules      what an operation does to the channels that pass through it
producers  convolutions, linear layers, embeddings: what makes channels
deformable convolutions whose positions are computed
counting   what operations cost that no rule has counted
mixing     norms and products, in which channels meet
causes     which operation made channels one
attention  modules whose attention is one call
sizes      integers of the network's code that follow a number of channels
trace      the forward, labelled; attribute_reads, network_code: what of it is asked beside
units      channels that can only be removed together, and their allowed widths
grouping   from a trace to its units
roles      what a unit is to its network: stem, last, inner, residual
"""
