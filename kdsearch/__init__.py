"""Hyperparameter search for knowledge distillation of quantized networks."""
