"""Predictions for more images than one process can do in time: in parts, by several workers, into one file."""
