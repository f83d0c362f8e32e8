"""Models that are kept, judged against each other, and served."""
