"""Vision Transformers of timm: building them, their weights, their digest, and where their layers are."""
