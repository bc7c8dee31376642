"""A data set before training: what is probably wrong with it, shown as a page, and what its owner chose to do."""
