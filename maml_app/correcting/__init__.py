"""Clicks and scribbles that mend a label, seen in all modalities of its case."""
