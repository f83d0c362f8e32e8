"""The version of the program: the one place that says it."""

VERSION = "0.2.0"
