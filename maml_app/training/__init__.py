"""From labelled cases to a trained network."""
