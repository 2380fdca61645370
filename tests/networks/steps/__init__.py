"""The steps a random graph is drawn of: what exporters write, on the shapes that come up."""
