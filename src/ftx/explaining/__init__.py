"""What a model's predictions come from: maps of the image, and pictures of them."""
