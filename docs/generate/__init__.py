"""Parts of the documentation that are generated from the code. Pages request them with `<!-- generated: NAME -->`."""
