"""Access to the web app and the endpoint: login, sessions, allowed hosts, request limits and security headers.

This package does not depend on gradio.
"""
