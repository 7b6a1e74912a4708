"""Expert iteration, the default agent."""
