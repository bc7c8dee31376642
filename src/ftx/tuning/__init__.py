"""Recipes that are searched for: which keys, in which trials, by which study."""
