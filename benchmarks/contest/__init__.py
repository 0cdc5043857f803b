"""A contest of latency models on recorded steps: splits, rivals, scores, tables, pictures."""
