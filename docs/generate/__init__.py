"""What the site takes from the code: tables of options and flags. Pages ask for them by `<!-- generated: NAME -->`."""
