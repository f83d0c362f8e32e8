"""Training, evaluation, the split, the model registry and uncertainty."""
