"""Adapters and bases that other libraries wrote, opened as ours."""
