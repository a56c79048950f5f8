"""Studies of the metrics: the paper's disturbances, published numbers."""
