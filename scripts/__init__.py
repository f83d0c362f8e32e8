"""Scripts of the project; see each for what it does."""
