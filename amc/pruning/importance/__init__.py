"""Channel importance: which groups of a unit to remove first.

A criterion is a function of :class:`Evidence` that gives one (width,) array of scores a unit;
add one in a file of this package, and an entry to :data:`amc.registry.IMPORTANCES`. A score is
summed over everything that is tied into the unit, and compared with the others of its unit only.
"""
