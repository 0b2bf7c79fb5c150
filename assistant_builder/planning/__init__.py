"""Memory, time and cost of a training, computed from the model's config before anything is downloaded."""
