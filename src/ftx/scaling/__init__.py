"""More images than one process answers in good time: predictions in parts, by several workers, into one file."""
