"""The commands of `python -m maml_app`, one module a group; `__main__.py` joins them."""
