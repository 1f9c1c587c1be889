"""Whether a run without hyper-parameters ends where one with the best of six learning rates does, on ten pairs."""
