"""Labels with their images as data sets that other programs read: one module a layout."""
