"""Measurements of training and inference steps, their memory, the input pipeline, checkpoints and start-up."""
