"""How timm, Keras and facenet name, lay out and store their weights."""
