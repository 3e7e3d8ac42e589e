"""The log store.  Synchronous: imports neither trio nor h11."""
