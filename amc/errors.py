"""Every error that a user can cause, in one hierarchy.

    AMCError
    ├── ConfigError          a setting, a budget text or a file of ours that does not parse
    ├── ModelError           a model that cannot be built, loaded or traced
    │   └── WeightsError     weights that do not fit the model
    ├── DataError            a dataset that cannot be read or split
    ├── BudgetError          a budget that no plan can meet
    ├── UnitError            no unit to prune, or widths that a unit does not allow
    ├── PlanError            a plan that does not belong to this network
    ├── VerificationError    a sliced network that differs from its masked twin, or an exported
    │                        one from PyTorch
    ├── EvaluationError      a quality that is not a number
    └── RunError             a run folder that is missing, taken, incomplete or not writable

The message names the bad value and the remedy; the command line prints it without a
traceback.
"""


class AMCError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(AMCError):
    """A setting, a budget text or one of our files does not parse."""


class ModelError(AMCError):
    """A model cannot be built, loaded or traced."""


class WeightsError(ModelError):
    """Weights do not fit the model, or hold values that are not finite."""


class DataError(AMCError):
    """A dataset cannot be read or split."""


class BudgetError(AMCError):
    """No plan meets the budget."""


class UnitError(AMCError):
    """There is no unit to prune, or a unit does not allow the width."""


class PlanError(AMCError):
    """A plan does not belong to this network."""


class VerificationError(AMCError):
    """A sliced network differs from its masked twin, or an exported one from PyTorch."""


class EvaluationError(AMCError):
    """A quality or a reward is not a finite number."""


class RunError(AMCError):
    """A run folder is missing, already taken, incomplete or not writable."""
