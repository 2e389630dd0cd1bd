"""Models in the form of a runtime: written, checked against their model, and run without torch."""
