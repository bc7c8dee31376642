"""The recipe: everything that decides a training run, read from YAML, flags and ``--set``."""
