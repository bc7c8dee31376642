"""``ftx tune``: the search for a recipe, its trials and its study."""
