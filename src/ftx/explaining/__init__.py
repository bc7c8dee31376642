"""What a model's answers come from: maps of the image, and pictures of them."""
