"""Talking to the trained assistants: a model process, and the client with which the page reaches it."""
