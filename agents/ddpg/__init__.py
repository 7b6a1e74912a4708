"""DDPG, the agent of the AMC paper."""
