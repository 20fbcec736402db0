"""What one trains: each file has one task, its batches, its loss and its metrics."""
