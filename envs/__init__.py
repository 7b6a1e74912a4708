"""The pruning environment. Only here is Gymnasium's interface implemented."""
