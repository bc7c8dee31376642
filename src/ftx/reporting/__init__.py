"""``ftx report``: one HTML file about a run, or about several next to each other."""
