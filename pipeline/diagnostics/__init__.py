"""What the runs of a grid say without labels: which to take, and how healthy their embeddings are."""
