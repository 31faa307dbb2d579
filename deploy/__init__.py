"""Deploying: Hugging Face Spaces, Docker, Ray Serve."""
