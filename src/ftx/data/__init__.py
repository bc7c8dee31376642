"""Images and their labels: reading, splitting, and THE image path."""
