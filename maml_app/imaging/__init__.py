"""Volumes, geometry, files, the preprocessing pipeline and augmentation."""
