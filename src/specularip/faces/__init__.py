"""Photos and the faces in them: reading, detection, alignment, identity embeddings."""
