"""A MONAI Label app that segments a case from all of its modalities (MAML, arXiv 2107.09842)."""
