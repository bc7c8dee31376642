"""What a task is made of: labels, head width, loss, decoding, metrics, metadata."""
