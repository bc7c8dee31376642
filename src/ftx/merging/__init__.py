"""From adapters to dense weights, with proof; several adapters of one base; adapters side by side."""
