"""ASGI: the middleware, and what it knows of frameworks."""
