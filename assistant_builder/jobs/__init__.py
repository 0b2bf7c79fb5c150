"""Run the steps of a study, each as its own process, here or (later) elsewhere."""
