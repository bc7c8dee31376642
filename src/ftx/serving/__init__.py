"""``ftx serve``: models over HTTP, in the Open Inference Protocol and with a page."""
