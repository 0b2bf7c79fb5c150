"""Memory, time and cost of a training, told from the model's config before anything is downloaded."""
