"""Random small networks, and the small network that each plan must give, worked out by hand.

live       activations of a small network that know which channels they hold
layers     what PyTorch's own layers do to them
blocks     what a block of a network is, the random draws, the table of all kinds
plain      convolutions, norms, pooling: what most networks are made of
channels   splits, shuffles, reductions over channels
gates      channels or positions that are scaled by what another layer makes of them
weights    weights that the forward computes from stored ones
constants  tables, accumulators, writes in place
loops      recurrences made by hand, state spaces, layers shared by steps
attention  attention as it is written by hand
tokens     more that mixes tokens: grouped queries, PyTorch's own attention, recurrent layers
transformers, graphs, vision, visual_attention
           parts of networks as their papers' code writes them
shapes     from maps to tokens and vectors, and back
combined   blocks made of blocks: residuals, dense blocks, shared layers
generate   from a seed to a network
judge      a network, its units and three plans, against the reference

Nothing here but ``judge`` imports ``amc``, and that only its public functions.
"""
