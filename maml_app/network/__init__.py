"""Networks, losses, sliding window and checkpoints. Only torch, no images."""
