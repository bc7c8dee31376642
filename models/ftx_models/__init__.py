"""Weights and sample data of ftx: files alone, each folder with its licence and source."""
