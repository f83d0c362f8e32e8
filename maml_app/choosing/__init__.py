"""Which case to label next."""
