"""Unlearning with real pretrained models, SmolLM2-135M-Instruct and Gemma 3 270M, against retrained models."""
