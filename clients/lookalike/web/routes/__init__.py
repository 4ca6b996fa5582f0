"""The routes, by noun. Each module has `routes()`."""
