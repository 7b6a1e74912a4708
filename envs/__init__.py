"""The environment. Importing this package registers ``amc/Pruning-v0`` with Gymnasium."""

import gymnasium

gymnasium.register(id="amc/Pruning-v0", entry_point="amc.envs.make:make_named")
