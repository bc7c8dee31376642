"""The run folder: manifest, hashes, lineage, the artifacts and what each holds."""
