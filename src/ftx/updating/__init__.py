"""On a device: an adapter merged into the constants of a base IR, without torch."""
