"""Random small networks, and the small network that each plan must give, worked out by hand.

live        activations of a small network that know which channels they hold
blocks      what a block of a network is, the random draws, the table of all kinds
plain       convolutions, norms, pooling: what most networks are made of
channels    splits, concatenations, shuffles, gates, reductions over channels
weights     weights that the forward computes from stored ones
constants   tables, accumulators, loops, writes in place
attention   attention as it is written by hand, and PyTorch's own
shapes      from maps to tokens and vectors, and back
combined    blocks made of blocks: residuals, dense blocks, shared layers
generate    from a seed to a network
judge       a network, its units and three plans, against the reference

Nothing here but ``judge`` imports ``amc``, and that only through its public functions.
"""
