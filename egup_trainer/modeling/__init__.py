"""The model's side: loading, the one forward pass, the scan, the reference."""
