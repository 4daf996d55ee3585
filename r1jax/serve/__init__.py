"""Serving a checkpoint: an OpenAI-compatible server over the engine of `r1jax.sample`, a page, and a chat in the terminal.

A request's way: `app` (HTTP) → `asked` (is it well-formed?) → `service` (is there room? messages → tokens) → `worker` (a thread that
owns the device) → `text` (tokens → text, stops, thinking) → `replies` (text → OpenAI's JSON).

Nothing here is imported by training.
"""
