"""Names, layout and files of timm's, Keras' and facenet's weights."""
