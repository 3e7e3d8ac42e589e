"""The v1 API: resources below /v1/.  `api` routes, the others do; docs/api.md is the reference."""
