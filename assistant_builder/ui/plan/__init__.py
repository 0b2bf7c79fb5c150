"""The Plan tab: memory, time and cost of each method before anything is trained."""
