"""What a trained model answers to a query: the next items, the probability of clicks, or the targets of a task."""
