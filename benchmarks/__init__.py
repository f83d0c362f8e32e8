"""Long studies and speed, each with a committed result in docs/results; run by hand."""
