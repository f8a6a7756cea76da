"""Linear, k-NN and few-shot probes, fine-tuning, health of embeddings."""
