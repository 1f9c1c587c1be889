"""Records of unlearning runs: what they hold, the files beside a saved model, and the model card."""
