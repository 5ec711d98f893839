"""Measurements that anyone can repeat: `data`, how fast images become batches, on `photographs` made for it."""
