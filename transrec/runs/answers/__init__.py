"""The answers of a trained model to a query: the next items, the probability of clicks, or the targets of a task."""
