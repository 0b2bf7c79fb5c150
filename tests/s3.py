"""What the environment has to hold for the S3-compatible server of the tests."""

from __future__ import annotations

SECRET = "canary-secret-access-key"


def s3_environment(endpoint: str) -> dict[str, str]:
    """Variables by name; the secret is one that can be looked for."""
    return {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "canary-key-id", "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
