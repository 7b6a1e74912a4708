"""The agents and the baselines, behind one interface (:mod:`amc.agents.registry`)."""
