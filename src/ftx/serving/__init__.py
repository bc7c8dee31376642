"""Models behind HTTP: requests are checked, images decoded and batched, and models exchanged while they answer."""
