"""Host side: sources of text, tokenizers, packing and the pipeline of batches."""
